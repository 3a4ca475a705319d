//! What the audit must find: each a lie in one table that the rest of the database contradicts.

/// A lie, told past every trigger, and the checks that must notice, in alphabetical order. `B` is the busy broadcast.
pub(crate) const LIES: &[(&str, &[&str])] = &[
    ("update token_account set extra = extra + 1", &["balance_is_sum_of_entries"]),
    (
        "update token_account set held_extra = held_extra + 1, extra = extra + 1",
        &["balance_is_sum_of_entries", "held_is_open_holds"],
    ),
    (
        "update ledger_entry set extra_after = extra_after + 3 where id = (select min(id) from ledger_entry where kind = 'top_up')",
        &["entry_follows_entry"],
    ),
    (
        "delete from ledger_entry where kind = 'top_up'",
        &["balance_is_sum_of_entries", "entry_follows_entry", "order_is_credited_once"],
    ),
    (
        "update ledger_entry set held_extra_after = extra_after + 1 where kind = 'top_up'",
        &["entry_follows_entry", "entry_overdraws_nothing"],
    ),
    ("update token_account set allowance_period = '9999-01' where allowance_period <> ''", &["period_is_granted"]),
    ("update token_account set granted = granted - 1", &["period_is_granted"]),
    (
        "alter table ledger_entry drop constraint kind_moves_its_own_way;
         update ledger_entry set operation = 'grant:' || operation where kind = 'top_up'",
        &["entry_names_its_cause", "guards_stand", "order_is_credited_once"],
    ),
    (
        "alter table token_hold drop constraint hold_adds_up; update token_hold set released = released + 2 where broadcast_id = B",
        &["guards_stand", "hold_adds_up", "hold_is_its_entries"],
    ),
    (
        "update token_hold set captured_extra = captured_extra + 1, captured_allowance = captured_allowance - 1
          where captured_allowance > 5 and captured_extra >= refunded_extra",
        &["hold_is_its_entries"],
    ),
    (
        "update broadcast set cost_tokens = cost_tokens + 9 where id = B",
        &["hold_is_cost_of_broadcast"],
    ),
    ("update token_hold set state = 'open' where state = 'closed'", &["hold_closes_with_broadcast"]),
    (
        "update token_hold set shop_id = (select id from shop where id <> token_hold.shop_id) where state = 'closed'",
        &["hold_is_cost_of_broadcast"],
    ),
    ("update lane set tokens = tokens + 1 where broadcast_id = B and channel = 'app'", &["lane_is_its_plan"]),
    (
        "update broadcast_channel set planned = planned + 1 where broadcast_id = B and channel = 'app'",
        &["lane_is_its_plan"],
    ),
    ("update lane set remaining = remaining + 1 where broadcast_id = B and channel = 'app'", &["lane_remaining_is_unfinished"]),
    (
        "update slice set remaining = remaining - 1 where broadcast_id = B and channel = 'line' and slice_no = 1",
        &["slice_remaining_is_unfinished"],
    ),
    (
        "update slice set planned = planned + 1 where broadcast_id = B and channel = 'line' and slice_no = 1",
        &["delivery_has_slice", "slice_is_its_range"],
    ),
    (
        "update slice set last_customer = last_customer + 1 where broadcast_id = B and channel = 'line' and slice_no = 1",
        &["slice_is_its_range", "slice_remaining_is_unfinished", "slices_do_not_overlap"],
    ),
    (
        "update slice set in_flight = array[0::bigint], first_attempt_at = now() where broadcast_id = B and channel = 'line' and slice_no = 1",
        &["in_flight_is_unfinished"],
    ),
    (
        "delete from slice where broadcast_id = B and channel = 'line' and slice_no = 1",
        &["delivery_has_slice"],
    ),
    (
        "delete from delivery where broadcast_id = B and channel = 'line'
            and customer_id = (select max(customer_id) from delivery where broadcast_id = B)",
        &[
            "delivery_has_slice",
            "hold_is_price_of_deliveries",
            "lane_is_its_plan",
            "lane_remaining_is_unfinished",
            "open_hold_is_unfinished",
            "slice_is_its_range",
            "slice_remaining_is_unfinished",
        ],
    ),
    (
        "insert into delivery_result (broadcast_id, customer_id, channel, state, charged_tokens, reason)
         values (B, 999999, 'line', 'failed', 0, 'recipient')",
        &["lane_remaining_is_unfinished", "open_hold_is_unfinished", "result_has_delivery", "tally_is_results"],
    ),
    (
        "delete from delivery_result where broadcast_id = B and channel = 'line'
            and customer_id = (select max(customer_id) from delivery_result where broadcast_id = B and channel = 'line')",
        &["lane_remaining_is_unfinished", "open_hold_is_unfinished", "slice_remaining_is_unfinished", "tally_is_results"],
    ),
    (
        "update delivery_result set charged_tokens = 0 where charged_tokens = 1
            and broadcast_id = (select min(broadcast_id::text)::uuid from delivery_result)",
        &["captured_is_charged"],
    ),
    (
        "update delivery_result set charged_tokens = charged_tokens + 2 where charged_tokens = 5",
        &["captured_is_charged", "charged_is_price_or_nothing"],
    ),
    (
        "update delivery_result set state = 'unknown', reason = 'interrupted' where state = 'failed' and broadcast_id = B",
        &["tally_is_results"],
    ),
    ("update tally set n = n + 1 where stage = 'send' and broadcast_id = B", &["tally_is_results"]),
    ("update tally set reason = 'no_reason' where stage = 'plan' and broadcast_id = B", &["tally_is_skipped"]),
    ("delete from skipped_customer where broadcast_id = B", &["tally_is_skipped"]),
    (
        "update broadcast set state = 'completed', finished_at = now() where id = B",
        &["finished_has_nothing_left", "hold_closes_with_broadcast"],
    ),
    (
        "update broadcast set state = 'sending', finished_at = null where state = 'completed'",
        &["finished_has_nothing_left", "hold_closes_with_broadcast"],
    ),
    (
        "insert into lane (broadcast_id, sender_id, shop_id, channel, tokens, planned, remaining)
         select broadcast_id, sender_id, b.shop_id, channel, tokens, 1, 1 from broadcast_channel
           join broadcast b on b.id = broadcast_id where b.state = 'planning'",
        &["unopened_sends_nothing"],
    ),
    (
        "insert into token_hold (broadcast_id, shop_id, period, allowance, extra, open_allowance, open_extra)
         select id, shop_id, '2999-12', 3, 0, 3, 0 from broadcast where state = 'planning'",
        &[
            "held_is_open_holds",
            "hold_closes_with_broadcast",
            "hold_is_cost_of_broadcast",
            "hold_is_its_entries",
            "open_hold_is_unfinished",
        ],
    ),
    (
        "insert into delivery select '01900000-0000-7000-8000-000000000000', customer_id, address_id, twin_of, channel from delivery limit 1",
        &["delivery_has_broadcast"],
    ),
    (
        "update top_up_order set state = 'settled', settled_at = now() where state = 'charged'",
        &["order_follows_its_history", "order_is_credited_once"],
    ),
    (
        "update ledger_entry set operation = 'top_up:01900000-0000-7000-8000-000000000000' where operation = 'top_up:order-1'",
        &["credit_has_its_order"],
    ),
    (
        "update ledger_entry set operation = 'top_up_refund:mine' where kind = 'top_up_refund'",
        &["credit_has_its_order", "order_refund_is_its_entry"],
    ),
    (
        "update top_up_order set refunded_tokens = refunded_tokens + 1 where refunded_tokens > 0",
        &["order_refund_is_its_entry"],
    ),
    (
        "delete from top_up_history where state = 'charged'",
        &["action_has_happened", "order_follows_its_history"],
    ),
    ("delete from top_up_history where state = 'settled'", &["order_follows_its_history"]),
    ("update token_adjustment set extra = extra + 1 where state = 'applied'", &["adjustment_is_its_entry"]),
    (
        "update token_adjustment set state = 'requested', decided_by = null where state = 'applied'",
        &["adjustment_is_its_entry", "adjustment_is_told"],
    ),
    ("delete from token_adjustment where state = 'applied'", &["action_has_happened", "adjustment_is_its_entry"]),
    ("delete from operator_action where action = 'adjust.approve'", &["adjustment_is_told"]),
    ("update operator_action set actor = 'Eve' where action = 'adjust.reject'", &["adjustment_is_told"]),
    (
        "insert into operator_action (actor, action, subject, reason) values ('Eve', 'top_up.refund', 'top_up_order 1', 'why')",
        &["action_has_happened"],
    ),
    (
        "update address set twin_of = 77 where channel_is_line(sender_id) and customer_id in
            (select customer_id from delivery where broadcast_id = B order by 1 limit 4)",
        &["one_message_per_mailbox"],
    ),
];
