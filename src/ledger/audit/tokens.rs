//! What must hold among accounts, entries and holds alone.

use super::Group;

/// An account is the sum of its entries, and holds exactly what is open.
pub(super) const ACCOUNTS: Group = Group {
    checks: &[
        (
            "balance_is_sum_of_entries",
            "each balance is the sum of the shop's entries",
        ),
        (
            "held_is_open_holds",
            "what an account holds is the sum of its open holds",
        ),
        (
            "period_is_granted",
            "the period of each allowance is the last one that was granted, and what was granted in it is known",
        ),
    ],
    sql: "
with account as (select * from token_account where $1::uuid is null or shop_id = $1),
entry as (
    select shop_id, sum(allowance)::bigint as allowance, sum(extra)::bigint as extra,
           sum(held_allowance)::bigint as held_allowance, sum(held_extra)::bigint as held_extra,
           max(substr(operation, 7, 7)) filter (where kind = 'grant') as granted_period,
           sum(allowance) filter (where kind = 'grant' and substr(operation, 7, 7) = allowance_period)::bigint as granted
      from (select e.*, a.allowance_period from ledger_entry e left join account a using (shop_id)
             where $1::uuid is null or shop_id = $1) e group by shop_id),
hold as (
    select shop_id, sum(open_allowance)::bigint as allowance, sum(open_extra)::bigint as extra
      from token_hold where $1::uuid is null or shop_id = $1 group by shop_id)
select v.name, shop_id, null::uuid as broadcast_id, 0::bigint as place, v.what,
       coalesce(v.expected, 0)::text as expected, coalesce(v.actual, 0)::text as actual,
       abs(coalesce(v.expected, 0) - coalesce(v.actual, 0)) as off
  from account a full join entry e using (shop_id) full join hold h using (shop_id)
 cross join lateral (values
    ('balance_is_sum_of_entries', 'allowance', e.allowance, a.allowance),
    ('balance_is_sum_of_entries', 'extra', e.extra, a.extra),
    ('balance_is_sum_of_entries', 'held allowance', e.held_allowance, a.held_allowance),
    ('balance_is_sum_of_entries', 'held extra', e.held_extra, a.held_extra),
    ('held_is_open_holds', 'held allowance', h.allowance, a.held_allowance),
    ('held_is_open_holds', 'held extra', h.extra, a.held_extra),
    ('period_is_granted', format('allowances of %s where the last grant is of %s', coalesce(nullif(a.allowance_period, ''), 'no period'),
        coalesce(e.granted_period, 'none')), 0, (coalesce(a.allowance_period, '') <> coalesce(e.granted_period, ''))::int::bigint),
    -- Accounts from before it was kept say nothing here.
    ('period_is_granted', 'granted in the period', e.granted, coalesce(a.granted, e.granted))
    ) as v (name, what, expected, actual)",
};

/// Each entry stands on the one before it, and no entry ever overdrew.
pub(super) const ENTRIES: Group = Group {
    checks: &[
        ("entry_follows_entry", "each entry's balances are those of the shop's entry before it plus its own change"),
        ("entry_overdraws_nothing", "after no entry was more held than there was, or anything below zero"),
        ("entry_names_its_cause", "each entry's operation says the kind of entry it is"),
    ],
    sql: "
select v.name, shop_id, broadcast_id, id as place, 'entry ' || id as what, v.expected, v.actual, v.off
  from (select *, lag(allowance_after, 1, 0::bigint) over chain as allowance_before,
               lag(extra_after, 1, 0::bigint) over chain as extra_before,
               lag(held_allowance_after, 1, 0::bigint) over chain as held_allowance_before,
               lag(held_extra_after, 1, 0::bigint) over chain as held_extra_before
          from ledger_entry where $1::uuid is null or shop_id = $1
        window chain as (partition by shop_id order by id)) e
 cross join lateral (values
    ('entry_follows_entry',
     format('allowance %s (held %s), extra %s (held %s)', allowance_before + allowance,
            held_allowance_before + held_allowance, extra_before + extra, held_extra_before + held_extra),
     format('allowance %s (held %s), extra %s (held %s)', allowance_after, held_allowance_after, extra_after, held_extra_after),
     abs(allowance_before + allowance - allowance_after) + abs(extra_before + extra - extra_after)
     + abs(held_allowance_before + held_allowance - held_allowance_after)
     + abs(held_extra_before + held_extra - held_extra_after)),
    ('entry_overdraws_nothing', 'nothing overdrawn',
     format('allowance %s (held %s), extra %s (held %s)', allowance_after, held_allowance_after, extra_after, held_extra_after),
     greatest(held_allowance_after - allowance_after, 0) + greatest(held_extra_after - extra_after, 0)
     + greatest(-held_allowance_after, 0) + greatest(-held_extra_after, 0)),
    ('entry_names_its_cause', kind || ':…', operation, (not starts_with(operation, kind || ':'))::int::bigint)
    ) as v (name, expected, actual, off)",
};

/// A hold is what its entries say, and belongs to a broadcast that was opened at that cost.
pub(super) const HOLDS: Group = Group {
    checks: &[
        ("hold_adds_up", "each hold's original is what is open, captured and released of it; a closed one is empty"),
        ("hold_is_its_entries", "what was held, captured, released and refunded of a hold stands in the ledger"),
        ("hold_is_cost_of_broadcast", "each opened broadcast holds its whole cost in its own shop, any other nothing"),
        ("hold_closes_with_broadcast", "a hold is open until its broadcast is finished, and no longer"),
    ],
    sql: "
with entry as (
    select broadcast_id, max(shop_id::text)::uuid as shop_id,
           coalesce(sum(held_allowance) filter (where kind = 'hold'), 0)::bigint as held_allowance,
           coalesce(sum(held_extra) filter (where kind = 'hold'), 0)::bigint as held_extra,
           coalesce(-sum(allowance) filter (where kind = 'capture'), 0)::bigint as captured_allowance,
           coalesce(-sum(extra) filter (where kind = 'capture'), 0)::bigint as captured_extra,
           coalesce(-sum(held_allowance + held_extra) filter (where kind = 'release'), 0)::bigint as released,
           coalesce(sum(allowance) filter (where kind = 'refund'), 0)::bigint as refunded_allowance,
           coalesce(sum(extra) filter (where kind = 'refund'), 0)::bigint as refunded_extra
      from ledger_entry where broadcast_id is not null and ($1::uuid is null or shop_id = $1) group by broadcast_id),
hold as (select * from token_hold where $1::uuid is null or shop_id = $1),
b as (select id as broadcast_id, shop_id, state, cost_tokens, sending_at, finished_at
        from broadcast where $1::uuid is null or shop_id = $1)
select v.name, coalesce(h.shop_id, e.shop_id, b.shop_id) as shop_id, broadcast_id, 0::bigint as place, v.what,
       coalesce(v.expected, 0)::text as expected, coalesce(v.actual, 0)::text as actual,
       abs(coalesce(v.expected, 0) - coalesce(v.actual, 0)) as off
  from b full join hold h using (broadcast_id) full join entry e using (broadcast_id)
 cross join lateral (values
    ('hold_adds_up', 'held', h.open_allowance + h.open_extra + h.captured_allowance + h.captured_extra + h.released,
                             h.allowance + h.extra),
    ('hold_adds_up', 'open when closed', 0, case h.state when 'closed' then h.open_allowance + h.open_extra end),
    ('hold_is_its_entries', 'held allowance', e.held_allowance, h.allowance),
    ('hold_is_its_entries', 'held extra', e.held_extra, h.extra),
    ('hold_is_its_entries', 'captured allowance', e.captured_allowance, h.captured_allowance),
    ('hold_is_its_entries', 'captured extra', e.captured_extra, h.captured_extra),
    ('hold_is_its_entries', 'released', e.released, h.released),
    ('hold_is_its_entries', 'refunded allowance', e.refunded_allowance, h.refunded_allowance),
    ('hold_is_its_entries', 'refunded extra', e.refunded_extra, h.refunded_extra),
    ('hold_is_cost_of_broadcast', 'held', case when b.sending_at is not null then b.cost_tokens end, h.allowance + h.extra),
    ('hold_is_cost_of_broadcast', 'holds of another shop', 0, (h.shop_id <> b.shop_id)::int::bigint),
    ('hold_closes_with_broadcast', 'open holds',
        case when h.broadcast_id is null then null
             when b.sending_at is not null and b.finished_at is null then 1 else 0 end,
        (h.state = 'open')::int::bigint)
    ) as v (name, what, expected, actual)",
};
