//! What must hold for each slice, result and mailbox.

use super::Group;

/// Slices cut the deliveries without gap or overlap, and know what is left of them.
pub(super) const SLICES: Group = Group {
    checks: &[
        (
            "slice_is_its_range",
            "each slice has as many deliveries in its range of customers as were planned",
        ),
        (
            "slice_remaining_is_unfinished",
            "what remains of a slice is the deliveries in its range without a result",
        ),
        (
            "slices_do_not_overlap",
            "no customer of a lane is in the ranges of two slices",
        ),
        (
            "in_flight_is_unfinished",
            "who is in flight is a delivery of the slice without a result",
        ),
    ],
    // A range count each: both keys end in the customer, so this reads the two primary keys once, in order.
    sql: "
select v.name, shop_id, broadcast_id, slice_no as place, format('%s slice %s', channel, slice_no) as what,
       v.expected::text as expected, v.actual::text as actual, abs(v.expected - v.actual) as off
  from (select s.*, b.shop_id,
               (select count(*) from delivery d where d.broadcast_id = s.broadcast_id and d.channel = s.channel
                   and d.customer_id between s.first_customer and s.last_customer) as in_range,
               (select count(*) from delivery_result r where r.broadcast_id = s.broadcast_id and r.channel = s.channel
                   and r.customer_id between s.first_customer and s.last_customer) as ended,
               coalesce((select count(*) from unnest(s.in_flight) as c
                          where c not between s.first_customer and s.last_customer
                             or not exists (select from delivery d where d.broadcast_id = s.broadcast_id
                                               and d.channel = s.channel and d.customer_id = c)
                             or exists (select from delivery_result r where r.broadcast_id = s.broadcast_id
                                           and r.channel = s.channel and r.customer_id = c)), 0) as not_flying,
               max(s.last_customer) over (partition by s.broadcast_id, s.channel order by s.first_customer, s.slice_no
                                          rows between unbounded preceding and 1 preceding) as before
          from slice s join broadcast b on b.id = s.broadcast_id and b.sending_at is not null
         where $1::uuid is null or b.shop_id = $1) s
 cross join lateral (values
    ('slice_is_its_range', in_range, planned::bigint),
    ('slice_remaining_is_unfinished', in_range - ended, remaining::bigint),
    ('slices_do_not_overlap', 0, greatest(coalesce(before, first_customer - 1) - first_customer + 1, 0)),
    ('in_flight_is_unfinished', 0, not_flying)) as v (name, expected, actual)",
};

/// Every result is of a delivery.
pub(super) const RESULTS: Group = Group {
    checks: &[("result_has_delivery", "each result belongs to a planned delivery")],
    sql: "
select 'result_has_delivery' as name, b.shop_id, r.broadcast_id, r.customer_id as place,
       format('%s customer %s', r.channel, r.customer_id) as what, 'a delivery' as expected, 'none' as actual,
       (d.broadcast_id is null)::int::bigint as off
  from delivery_result r
  left join delivery d using (broadcast_id, channel, customer_id)
  left join broadcast b on b.id = r.broadcast_id
 where $1::uuid is null or r.broadcast_id in (select id from broadcast where shop_id = $1)",
};

/// Every result was charged its lane's price or nothing.
pub(super) const CHARGES: Group = Group {
    checks: &[(
        "charged_is_price_or_nothing",
        "each delivery was charged its lane's price or nothing",
    )],
    // Apart from the check above: one comparison a row of the largest table costs half as much as two.
    sql: "
select 'charged_is_price_or_nothing' as name, l.shop_id, r.broadcast_id, r.customer_id as place,
       format('%s customer %s', r.channel, r.customer_id) as what, '0 or ' || coalesce(l.tokens, 0) as expected,
       r.charged_tokens::text as actual,
       case when r.charged_tokens in (0, l.tokens) then 0
            else least(abs(r.charged_tokens), abs(r.charged_tokens - coalesce(l.tokens, 0))) end::bigint as off
  from delivery_result r left join lane l using (broadcast_id, channel)
 where $1::uuid is null or r.broadcast_id in (select id from broadcast where shop_id = $1)",
};

/// Nobody's mailbox gets a broadcast twice because two customers share it.
pub(super) const MAILBOXES: Group = Group {
    checks: &[(
        "one_message_per_mailbox",
        "of customers who share an address one at most has a delivery in a broadcast",
    )],
    sql: "
select 'one_message_per_mailbox' as name, b.shop_id, d.broadcast_id, coalesce(d.twin_of, a.twin_of) as place,
       format('%s address %s and its twins', d.channel, coalesce(d.twin_of, a.twin_of)) as what, '1' as expected,
       count(*)::text as actual, count(*) - 1 as off
  from delivery d
  join broadcast b on b.id = d.broadcast_id and b.sending_at is not null
  left join (select id, twin_of from address where twin_of is not null) a on a.id = d.address_id
 where coalesce(d.twin_of, a.twin_of) is not null and ($1::uuid is null or b.shop_id = $1)
 group by b.shop_id, d.broadcast_id, d.channel, coalesce(d.twin_of, a.twin_of)",
};
