//! What must hold for each broadcast and lane: counters against rows, money against deliveries.
//!
//! A broadcast counts as opened once it has a `sending_at`. Before that its deliveries may be half planned, or half
//! purged, and prove nothing; what is proved of it is that it has sent and spent nothing.

use super::Group;

/// Lanes, holds and captures agree with the deliveries that are there.
pub(super) const LANES: Group = Group {
    checks: &[
        ("delivery_has_broadcast", "each delivery and result belongs to a broadcast"),
        ("lane_is_its_plan", "each lane has the deliveries, the price and the sender that were planned"),
        ("delivery_has_slice", "each lane's slices own as many deliveries as the lane has"),
        ("lane_remaining_is_unfinished", "what remains of a lane is its deliveries without a result, and those not posted yet"),
        ("captured_is_charged", "captures less refunds are what the deliveries were charged and the slices have posted, channel by channel"),
        ("hold_is_price_of_deliveries", "a broadcast's hold was the price of its deliveries"),
        ("open_hold_is_unfinished", "what is open of a hold is the price of the deliveries without a result, and of those not posted yet"),
        ("finished_has_nothing_left", "a finished broadcast has no delivery without a result, an unfinished one has some"),
        ("unopened_sends_nothing", "a broadcast that was never opened has no lane, no result and no capture"),
    ],
    sql: "
with b as (select id as broadcast_id, shop_id, state, resume_state, sending_at, finished_at
             from broadcast where $1::uuid is null or shop_id = $1),
planned as (
    select broadcast_id, channel, count(*) as n from delivery
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1) group by 1, 2),
ended as (
    select broadcast_id, channel, count(*) as n, sum(charged_tokens)::bigint as charged from delivery_result
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1) group by 1, 2),
sliced as (
    select broadcast_id, channel, sum(planned)::bigint as n, sum(unposted)::bigint as unposted from slice
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1) group by 1, 2),
spent as (
    select broadcast_id, channel, -sum(allowance + extra)::bigint as tokens from ledger_entry
     where broadcast_id is not null and kind in ('capture', 'refund') and ($1::uuid is null or shop_id = $1) group by 1, 2),
part as (
    select broadcast_id, channel, b.shop_id, b.broadcast_id is not null as known, b.sending_at is not null as opened,
           b.finished_at is not null as finished, coalesce(p.n, 0) as planned, coalesce(r.n, 0) as ended,
           coalesce(r.charged, 0) as charged, coalesce(s.n, 0) as sliced,
           coalesce(s.unposted, 0) as unposted, coalesce(t.tokens, 0) as spent,
           coalesce(c.planned, 0) as meant, coalesce(c.tokens, 0) as price, c.sender_id as meant_sender,
           l.broadcast_id is not null as has_lane, coalesce(l.planned, 0) as lane_planned,
           coalesce(l.remaining, 0) as lane_remaining, coalesce(l.tokens, 0) as lane_price, l.sender_id as lane_sender
      from planned p
      full join ended r using (broadcast_id, channel)
      full join sliced s using (broadcast_id, channel)
      full join spent t using (broadcast_id, channel)
      full join (select * from lane where $1::uuid is null or shop_id = $1) l using (broadcast_id, channel)
      full join (select * from broadcast_channel where $1::uuid is null
                    or broadcast_id in (select id from broadcast where shop_id = $1)) c using (broadcast_id, channel)
      left join b using (broadcast_id)),
whole as (
    select b.broadcast_id, b.shop_id, b.sending_at is not null as opened, b.finished_at is not null as finished,
           coalesce(p.price, 0) as price, coalesce(p.open_price, 0) as open_price, coalesce(p.left_over, 0) as left_over,
           coalesce(h.allowance + h.extra, 0) as held, coalesce(h.open_allowance + h.open_extra, 0) as open_held
      from b
      left join (select broadcast_id, sum(planned * price)::bigint as price, sum((planned - ended + unposted) * price)::bigint as open_price,
                        sum(planned - ended + unposted)::bigint as left_over from part group by 1) p using (broadcast_id)
      left join token_hold h using (broadcast_id))
select v.name, shop_id, broadcast_id, 0::bigint as place, concat_ws(' ', channel, v.what) as what,
       v.expected::text as expected, v.actual::text as actual, abs(v.expected - v.actual) as off
  from part
 cross join lateral (values
    (true, 'delivery_has_broadcast', 'rows without a broadcast', 0, case when known then 0 else planned + ended end),
    (opened, 'lane_is_its_plan', 'deliveries', meant, planned),
    (opened, 'lane_is_its_plan', 'lane planned', meant, lane_planned),
    (opened and has_lane, 'lane_is_its_plan', 'lane tokens a message', price::bigint, lane_price::bigint),
    (opened and has_lane, 'lane_is_its_plan', 'lanes of another sender', 0,
        (lane_sender is distinct from meant_sender)::int::bigint),
    (opened, 'delivery_has_slice', 'deliveries of slices', planned, sliced),
    (opened, 'lane_remaining_is_unfinished', 'lane remaining', planned - ended + unposted, lane_remaining),
    (known, 'captured_is_charged', 'captures less refunds', charged - unposted * lane_price, spent),
    (known and not opened, 'unopened_sends_nothing', 'lanes, results and tokens spent', 0,
        has_lane::int + ended + abs(spent))
    ) as v (applies, name, what, expected, actual)
 where v.applies
union all
select v.name, shop_id, broadcast_id, 0::bigint, v.what, v.expected::text, v.actual::text, abs(v.expected - v.actual)
  from whole
 cross join lateral (values
    (opened, 'hold_is_price_of_deliveries', 'held', price, held),
    (true, 'open_hold_is_unfinished', 'open hold', case when opened then open_price else 0 end, open_held),
    (finished and opened, 'finished_has_nothing_left', 'deliveries without a result', 0, left_over),
    (opened and not finished, 'finished_has_nothing_left', 'unfinished broadcasts with nothing left', 0,
        (left_over = 0)::int::bigint)
    ) as v (applies, name, what, expected, actual)
 where v.applies",
};

/// The kept counters of outcomes are the results.
pub(super) const TALLIES: Group = Group {
    checks: &[(
        "tally_is_results",
        "the counter of each channel, outcome and reason is its number of results, but for those not posted yet",
    )],
    sql: "
with result as (
    select broadcast_id, channel, state as outcome, coalesce(reason, '') as reason, count(*) as n from delivery_result
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1) group by 1, 2, 3, 4),
counter as (
    select broadcast_id, channel, outcome, reason, sum(n)::bigint as n
      from (select broadcast_id, channel, outcome, coalesce(reason, '') as reason, n from tally where stage = 'send'
            union all
            select broadcast_id, channel, 'accepted', '', unposted from slice where unposted > 0) c
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1)
     group by 1, 2, 3, 4)
select 'tally_is_results' as name, b.shop_id, broadcast_id, 0::bigint as place,
       concat_ws(' ', channel, outcome, nullif(reason, '')) as what, coalesce(r.n, 0)::text as expected,
       coalesce(c.n, 0)::text as actual, abs(coalesce(r.n, 0) - coalesce(c.n, 0)) as off
  from result r full join counter c using (broadcast_id, channel, outcome, reason)
  left join broadcast b on b.id = broadcast_id",
};

/// The kept counters of planning are the customers it skipped.
pub(super) const SKIPPED: Group = Group {
    checks: &[("tally_is_skipped", "the counter of each skip reason is its number of customers")],
    sql: "
with customer as (
    select broadcast_id, reason, count(*) as n from skipped_customer
     where $1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1) group by 1, 2),
counter as (
    select broadcast_id, coalesce(reason, '') as reason, sum(n)::bigint as n from tally
     where stage = 'plan' and outcome = 'skipped'
       and ($1::uuid is null or broadcast_id in (select id from broadcast where shop_id = $1))
     group by 1, 2)
select 'tally_is_skipped' as name, b.shop_id, broadcast_id, 0::bigint as place, reason as what,
       coalesce(s.n, 0)::text as expected, coalesce(c.n, 0)::text as actual, abs(coalesce(s.n, 0) - coalesce(c.n, 0)) as off
  from customer s full join counter c using (broadcast_id, reason)
  join broadcast b on b.id = broadcast_id and b.sending_at is not null",
};
