//! What must hold between what operators did, the log of it, and the ledger.

use super::Group;

/// Corrections by hand were asked for, agreed to and told; what the log tells has happened.
pub(super) const OPERATORS: Group = Group {
    checks: &[
        ("adjustment_is_its_entry", "each approved adjustment is one entry of just that, and there is no other"),
        ("adjustment_is_told", "who asked for an adjustment and who decided it stand in the operators' log, once each"),
        ("action_has_happened", "what the operators' log tells of an order or an adjustment stands there"),
    ],
    // An order's moves are told by the program, those of an adapter by nobody: so this looks from the log to the order only.
    sql: "
with a as (select *, 'adjustment ' || id as subject from token_adjustment where $1::uuid is null or shop_id = $1),
told as (
    select a.id, count(*) filter (where l.action = 'adjust.request' and l.actor = btrim(a.requested_by)) as requests,
           count(*) filter (where l.actor = btrim(a.decided_by)
               and l.action = case a.state when 'applied' then 'adjust.approve' else 'adjust.reject' end) as decisions,
           count(l.id) as lines
      from a left join operator_action l on l.subject = a.subject and l.action like 'adjust.%' group by 1),
entry as (
    select id, shop_id, operation, allowance, extra from ledger_entry
     where kind = 'adjust' and ($1::uuid is null or shop_id = $1))
select v.name, shop_id, null::uuid as broadcast_id, coalesce(e.id, a.id) as place,
       format('%s %s', coalesce(a.subject, 'entry ' || e.id || ' without a request:'), v.what) as what,
       v.expected::text as expected, v.actual::text as actual, abs(v.expected - v.actual) as off
  from (select *, 'adjust:' || id as operation from a) a full join entry e using (shop_id, operation)
  left join told t on t.id = a.id
 cross join lateral (values
    (true, 'adjustment_is_its_entry', 'allowance', case a.state when 'applied' then a.allowance else 0 end, coalesce(e.allowance, 0)),
    (true, 'adjustment_is_its_entry', 'extra', case a.state when 'applied' then a.extra else 0 end, coalesce(e.extra, 0)),
    (true, 'adjustment_is_its_entry', 'entries', coalesce(a.state = 'applied', false)::int::bigint, (e.id is not null)::int::bigint),
    (a.id is not null, 'adjustment_is_told', 'requests in the log', 1, t.requests),
    (a.id is not null, 'adjustment_is_told', 'decisions in the log', (a.state <> 'requested')::int::bigint, t.decisions),
    (a.id is not null, 'adjustment_is_told', 'lines in the log', 1 + (a.state <> 'requested')::int::bigint, t.lines)
    ) as v (applies, name, what, expected, actual)
 where v.applies
union all
select 'action_has_happened', o.shop_id, null, l.id, format('action %s: %s of %s', l.id, l.action, l.subject), 'it happened',
       case when found.n > 0 then 'it happened' else 'it did not' end, (found.n = 0)::int
  from operator_action l
  left join top_up_order o on l.subject = 'top_up_order ' || o.id
  left join token_adjustment a on l.subject = 'adjustment ' || a.id
 cross join lateral (
    select case when l.action like 'adjust.%' then (a.id is not null)::int
                else (select count(*) from top_up_history h where h.order_id = o.id and h.state = case l.action
                         when 'top_up.request' then 'requested' when 'top_up.mark_charged' then 'charged'
                         when 'top_up.fail' then 'failed' when 'top_up.refund' then 'refunded' end) end as n) as found
 where (l.action like 'adjust.%' or l.action in ('top_up.request', 'top_up.mark_charged', 'top_up.fail', 'top_up.refund'))
   and ($1::uuid is null or coalesce(o.shop_id, a.shop_id) = $1)",
};
