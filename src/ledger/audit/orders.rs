//! What must hold between top-up orders, their history and the ledger.

use super::Group;

/// Bought tokens came once, for an order that was paid; what was given back was taken back.
pub(super) const ORDERS: Group = Group {
    checks: &[
        ("order_is_credited_once", "each settled order brought exactly its tokens by one entry, any other order none"),
        ("order_refund_is_its_entry", "what a refunded order says was taken back stands in the ledger"),
        ("credit_has_its_order", "each credit and each refund under an order's id belongs to an order of its shop"),
        ("order_follows_its_history", "each order went from state to state as it may, and is where its history ends"),
    ],
    // A credit under a name that is no order's id (a UUIDv7) was given by hand. `top_up:` has 7 characters, the refund's 14.
    sql: "
with o as (select * from top_up_order where $1::uuid is null or shop_id = $1),
entry as (
    select *, case when named ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$' then named::uuid end as order_id
      from (select id, shop_id, kind, extra, substr(operation, length(kind) + 2) as named from ledger_entry
             where kind in ('top_up', 'top_up_refund') and ($1::uuid is null or shop_id = $1)) e),
brought as (
    select order_id, sum(extra) filter (where kind = 'top_up')::bigint as credited,
           count(*) filter (where kind = 'top_up') as credits,
           -sum(extra) filter (where kind = 'top_up_refund')::bigint as taken
      from entry where order_id is not null group by 1),
history as (
    select order_id,
           count(*) filter (where not case when before is null then state = 'requested'
                                           else top_up_may_move(before, state) end) as wrong,
           (array_agg(state order by id desc))[1] as last
      from (select h.order_id, h.id, h.state, lag(h.state) over (partition by h.order_id order by h.id) as before
              from top_up_history h join o on o.id = h.order_id) h
     group by 1)
select v.name, o.shop_id, null::uuid as broadcast_id, 0::bigint as place, format('order %s %s', o.id, v.what) as what,
       v.expected, v.actual, v.off
  from o left join brought b on b.order_id = o.id left join history h on h.order_id = o.id
 cross join lateral (values
    ('order_is_credited_once', 'tokens', case when o.settled_at is null then 0 else o.tokens end, coalesce(b.credited, 0)),
    ('order_is_credited_once', 'entries', (o.settled_at is not null)::int::bigint, coalesce(b.credits, 0)),
    ('order_refund_is_its_entry', 'tokens taken back', coalesce(o.refunded_tokens, 0), coalesce(b.taken, 0)),
    ('order_follows_its_history', 'moves out of order', 0, coalesce(h.wrong, 0))
    ) as n (name, what, expected, actual)
 cross join lateral (select n.name, n.what, n.expected::text, n.actual::text, abs(n.expected - n.actual) as off) as v
union all
select 'order_follows_its_history', o.shop_id, null, 0, format('order %s state', o.id), coalesce(h.last, 'no history'), o.state,
       (h.last is distinct from o.state)::int
  from o left join history h on h.order_id = o.id
union all
select 'credit_has_its_order', e.shop_id, null, e.id, format('entry %s %s:%s', e.id, e.kind, e.named), 'an order of the shop',
       case when t.id is null then 'none' else 'one' end, (t.id is null)::int
  from entry e left join top_up_order t on t.id = e.order_id and t.shop_id = e.shop_id
 where e.order_id is not null or e.kind = 'top_up_refund'",
};
