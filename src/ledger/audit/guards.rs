//! What stands guard in the database itself: the triggers and constraints that keep the ledger append-only and its one door
//! shut, its operations unique and its balances above zero, and orders, adjustments and prices as they were agreed.
//!
//! The other checks prove the rows there are; these prove that nobody could have bent them unseen and nobody can now. A
//! trigger that was switched off for an hour leaves rows that may all agree.

use super::Group;

/// Every guard exists and is switched on.
pub(super) const GUARDS: Group = Group {
    checks: &[(
        "guards_stand",
        "each trigger, constraint and unique index that keeps tokens and deliveries honest is there and switched on",
    )],
    sql: "
with wanted (place, sort, owner, name) as (values
    (1, 'trigger', 'ledger_entry', 'ledger_append_only'),
    (2, 'trigger', 'ledger_entry', 'ledger_no_truncate'),
    (3, 'constraint', 'ledger_entry', 'ledger_entry_pkey'),
    (4, 'constraint', 'ledger_entry', 'ledger_entry_shop_id_operation_key'),
    (5, 'constraint', 'ledger_entry', 'kind_moves_its_own_way'),
    (6, 'constraint', 'token_account', 'allowance_not_overdrawn'),
    (7, 'constraint', 'token_account', 'extra_not_overdrawn'),
    (8, 'constraint', 'token_hold', 'token_hold_pkey'),
    (9, 'constraint', 'token_hold', 'hold_adds_up'),
    (10, 'constraint', 'token_hold', 'refund_within_capture'),
    (11, 'constraint', 'token_hold', 'closed_hold_is_empty'),
    (12, 'constraint', 'delivery', 'delivery_pkey'),
    (13, 'constraint', 'delivery_result', 'delivery_result_pkey'),
    (14, 'constraint', 'delivery_result', 'only_arrived_is_charged'),
    (15, 'trigger', 'delivery_result', 'delivery_state_moves'),
    (16, 'trigger', 'broadcast', 'broadcast_state_moves'),
    (17, 'trigger', 'broadcast', 'broadcast_tells'),
    (18, 'trigger', 'ledger_entry', 'ledger_entry_tells'),
    (19, 'trigger', 'ledger_move', 'ledger_moves'),
    (20, 'trigger', 'ledger_refill_move', 'ledger_refill_moves'),
    (21, 'trigger', 'ledger_entry', 'entries_have_one_door'),
    (22, 'trigger', 'token_account', 'balances_have_one_door'),
    (23, 'trigger', 'token_account', 'accounts_begin_empty'),
    (24, 'trigger', 'token_account', 'accounts_stay'),
    (25, 'trigger', 'token_hold', 'holds_have_one_door'),
    (26, 'trigger', 'token_hold', 'holds_stay'),
    (27, 'trigger', 'token_hold', 'closed_holds_stay_closed'),
    (28, 'trigger', 'operator_action', 'operator_action_append_only'),
    (29, 'trigger', 'operator_action', 'operator_action_no_truncate'),
    (30, 'trigger', 'token_adjustment', 'token_adjustment_moves'),
    (31, 'trigger', 'token_adjustment', 'token_adjustment_is_told'),
    (32, 'trigger', 'token_adjustment', 'token_adjustment_stays'),
    (33, 'constraint', 'token_adjustment', 'adjustment_needs_a_second_person'),
    (34, 'constraint', 'token_adjustment', 'adjustment_is_decided_by_somebody'),
    (35, 'trigger', 'top_up_order', 'top_up_order_guard'),
    (36, 'trigger', 'top_up_order', 'top_up_order_recorded'),
    (37, 'trigger', 'top_up_order', 'top_up_order_no_truncate'),
    (38, 'trigger', 'top_up_history', 'top_up_history_append_only'),
    (39, 'trigger', 'top_up_history', 'top_up_history_no_truncate'),
    (40, 'constraint', 'top_up_order', 'top_up_price_adds_up'),
    (41, 'constraint', 'top_up_order', 'top_up_paid_is_charged'),
    (42, 'constraint', 'top_up_order', 'top_up_credited_after_charge'),
    (43, 'constraint', 'top_up_order', 'top_up_settled_has_time'),
    (44, 'constraint', 'top_up_order', 'top_up_refund_within_credit'),
    (45, 'index', 'top_up_order', 'top_up_order_payment'),
    (46, 'trigger', 'price_table', 'price_table_never_changes'),
    (47, 'trigger', 'price_table', 'price_table_no_truncate')),
found as (
    select 'trigger' as sort, c.relname::text as owner, t.tgname::text as name,
           case when t.tgenabled in ('O', 'A') then 'on' else 'switched off' end as state
      from pg_trigger t join pg_class c on c.oid = t.tgrelid and c.relnamespace = 'public'::regnamespace
     where not t.tgisinternal
    union all
    select 'constraint', c.relname, k.conname,
           case when coalesce(i.indisvalid, true) then 'on' else 'its index is invalid' end
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid and c.relnamespace = 'public'::regnamespace
      left join pg_index i on i.indexrelid = k.conindid and k.contype in ('p', 'u')
    union all
    select 'index', t.relname, c.relname, case when not i.indisunique then 'not unique' when i.indisvalid then 'on' else 'invalid' end
      from pg_index i
      join pg_class c on c.oid = i.indexrelid
      join pg_class t on t.oid = i.indrelid and t.relnamespace = 'public'::regnamespace)
select 'guards_stand' as name, null::uuid as shop_id, null::uuid as broadcast_id, place::bigint,
       format('%s %s of %s', sort, w.name, owner) as what, 'on' as expected, coalesce(f.state, 'gone') as actual,
       (coalesce(f.state, 'gone') <> 'on')::int::bigint as off
  from wanted w left join found f using (sort, owner, name)
 -- Of the database, not of a shop.
 where $1::uuid is null",
};
