//! What providers tell of messages that left: moved on, given back, resolved; whatever comes twice, early, late or in disorder.

use carillon::{channel::webhook::ReceiptState, delivery::DeliveryState};
use chrono::{TimeDelta, Utc};

use crate::{
    fixture_db::database,
    receipt_scene::{
        MESSENGER, accept_unposted, apply, echo, failed, mark, marked, named, retry, sender, shop, stands, up_to,
    },
    scene::{APP, LINE, assert_clean, claim, let_leases_expire, one, run, send_rest, settle},
};

#[tokio::test]
async fn the_moves_in_postgres_are_those_of_the_code() {
    let db = database().await;
    for from in DeliveryState::ALL {
        for to in DeliveryState::ALL {
            let sql = format!("select delivery_may_move('{}', '{}')", from.as_str(), to.as_str());
            assert_eq!(
                one::<bool>(&db.pool, &sql).await,
                from.may_move(to),
                "{from:?} -> {to:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_receipt_with_our_mark_moves_its_delivery_and_no_other() {
    let db = database().await;
    let tea = shop(&db.pool, 3).await;
    let id = tea.opened(&[LINE, APP], 10).await;
    send_rest(&db.pool, id, "line").await;
    send_rest(&db.pool, id, "app").await;
    let line = sender(&tea, "line").await;
    let who = tea.customers[1];
    let applied = apply(&db.pool, line, &[marked(mark(id, who), ReceiptState::Delivered)]).await;
    assert_eq!((applied.moved, applied.refunded, applied.waiting), (1, 0, 0));
    assert_eq!(stands(&db.pool, id, "line", who).await, "delivered 5");
    apply(&db.pool, line, &[marked(mark(id, who), ReceiptState::Read)]).await;
    assert_eq!(stands(&db.pool, id, "line", who).await, "read 5");
    let applied = apply(&db.pool, line, &[marked(mark(id, who), ReceiptState::Delivered)]).await;
    assert_eq!((applied.moved, applied.known), (0, 1), "nothing goes back");
    assert_eq!(stands(&db.pool, id, "line", who).await, "read 5");
    assert_eq!(stands(&db.pool, id, "app", who).await, "accepted 1", "another channel");
    assert_eq!(stands(&db.pool, id, "line", tea.customers[0]).await, "accepted 5");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_failure_gives_the_tokens_back_once_however_often_it_is_told() {
    let db = database().await;
    let tea = shop(&db.pool, 3).await;
    let id = tea.opened(&[LINE], 10).await;
    send_rest(&db.pool, id, "line").await;
    let line = sender(&tea, "line").await;
    let told = [
        marked(mark(id, tea.customers[0]), failed("131026")),
        marked(mark(id, tea.customers[2]), failed("131026")),
    ];
    assert_eq!(tea.available().await, 1_000 - 15);
    let applied = apply(&db.pool, line, &told).await;
    assert_eq!((applied.moved, applied.refunded), (2, 10));
    let applied = apply(&db.pool, line, &told).await;
    assert_eq!((applied.moved, applied.refunded), (0, 0));
    assert_eq!(
        stands(&db.pool, id, "line", tea.customers[0]).await,
        "failed 0 recipient 131026"
    );
    assert_eq!(tea.available().await, 1_000 - 5);
    // And one more of the same broadcast, in a batch of its own.
    apply(&db.pool, line, &[marked(mark(id, tea.customers[1]), failed("131026"))]).await;
    assert_eq!(tea.available().await, 1_000);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_failure_of_what_is_accepted_and_not_posted_yet_posts_it_first() {
    let db = database().await;
    let tea = shop(&db.pool, 12).await;
    let ids = [tea.opened(&[MESSENGER], 4).await, tea.opened(&[MESSENGER], 12).await];
    let page = sender(&tea, "messenger").await;
    for id in ids {
        let claimed = claim(&db.pool, id, "messenger", 2, 0.0).await.unwrap();
        let next = &claimed.customers[2..4];
        accept_unposted(&db.pool, id, "messenger", &claimed, &claimed.in_flight, next).await;
    }
    assert_clean(&db.pool).await;
    assert_eq!(
        one::<i64>(&db.pool, "select count(*) from ledger_entry where kind = 'capture'").await,
        0
    );
    let [a, b] = tea.customers[..2] else { panic!() };
    let told = [
        marked(mark(ids[0], a), failed("1")),
        marked(mark(ids[1], a), failed("1")),
        marked(mark(ids[1], b), failed("1")),
        marked(mark(ids[0], b), ReceiptState::Read),
    ];
    let applied = apply(&db.pool, page, &told).await;
    assert_eq!((applied.moved, applied.refunded), (4, 15));
    assert_eq!(stands(&db.pool, ids[0], "messenger", b).await, "read 5");
    assert_clean(&db.pool).await;
    for id in ids {
        let_leases_expire(&db.pool, id).await;
        send_rest(&db.pool, id, "messenger").await;
    }
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn an_unknown_that_arrived_is_not_charged_any_more() {
    let db = database().await;
    let tea = shop(&db.pool, 4).await;
    let id = tea.opened(&[MESSENGER], 10).await;
    let claimed = claim(&db.pool, id, "messenger", 4, 0.0).await.unwrap();
    settle(
        &db.pool,
        id,
        "messenger",
        &claimed,
        (&claimed.customers, "unknown"),
        (None, None),
    )
    .await;
    let page = sender(&tea, "messenger").await;
    let [a, b, c, d] = claimed.customers[..] else { panic!() };
    apply(
        &db.pool,
        page,
        &[echo(mark(id, a), "m_a"), marked(mark(id, c), ReceiptState::Read)],
    )
    .await;
    apply(
        &db.pool,
        page,
        &[
            marked(mark(id, b), failed("551")),
            named("m_a", ReceiptState::Delivered),
        ],
    )
    .await;
    assert_eq!(stands(&db.pool, id, "messenger", a).await, "delivered 0");
    assert_eq!(stands(&db.pool, id, "messenger", b).await, "failed 0 recipient 551");
    assert_eq!(stands(&db.pool, id, "messenger", c).await, "read 0");
    assert_eq!(stands(&db.pool, id, "messenger", d).await, "unknown 0 recipient");
    assert_eq!(tea.available().await, 1_000);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_receipt_that_overtakes_the_result_of_its_send_waits_for_it() {
    let db = database().await;
    let tea = shop(&db.pool, 4).await;
    let id = tea.opened(&[MESSENGER], 10).await;
    let page = sender(&tea, "messenger").await;
    let claimed = claim(&db.pool, id, "messenger", 4, 0.0).await.unwrap();
    let [a, b, c, d] = claimed.customers[..] else { panic!() };
    let early = [
        echo(mark(id, a), "m_a"),
        marked(mark(id, b), ReceiptState::Delivered),
        marked(mark(id, c), failed("551")),
    ];
    assert_eq!(apply(&db.pool, page, &early).await.waiting, 3);
    assert_eq!(apply(&db.pool, page, &early).await.waiting, 3);
    assert_eq!(retry(&db.pool).await, 3, "told twice, each waits once");
    assert_eq!(stands(&db.pool, id, "messenger", a).await, "none");
    // The worker dies. Who is proven to have it is charged, for the receipt came first; the others are not.
    let_leases_expire(&db.pool, id).await;
    run(
        &db.pool,
        &format!("select cancel_broadcast('{id}'); select drain_slice('{id}', 'messenger', 'cancelled')"),
    )
    .await;
    assert_eq!(stands(&db.pool, id, "messenger", a).await, "accepted 5");
    assert_eq!(stands(&db.pool, id, "messenger", b).await, "accepted 5");
    assert_eq!(stands(&db.pool, id, "messenger", c).await, "unknown 0 interrupted");
    assert_eq!(stands(&db.pool, id, "messenger", d).await, "unknown 0 interrupted");
    assert_clean(&db.pool).await;
    assert_eq!(retry(&db.pool).await, 3);
    assert_eq!(retry(&db.pool).await, 0);
    assert_eq!(stands(&db.pool, id, "messenger", a).await, "accepted 5");
    assert_eq!(stands(&db.pool, id, "messenger", b).await, "delivered 5");
    assert_eq!(stands(&db.pool, id, "messenger", c).await, "failed 0 recipient 551");
    assert_eq!(stands(&db.pool, id, "messenger", d).await, "unknown 0 interrupted");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn what_matches_nothing_is_given_up_after_ten_minutes_and_kept() {
    let db = database().await;
    let tea = shop(&db.pool, 2).await;
    let id = tea.opened(&[MESSENGER], 10).await;
    let page = sender(&tea, "messenger").await;
    let strays = [
        named("m_unknown", ReceiptState::Read),
        marked(mark(uuid::Uuid::now_v7(), 1), ReceiptState::Read),
        marked(mark(id, tea.customers[0]), ReceiptState::Read),
    ];
    assert_eq!(apply(&db.pool, page, &strays).await.waiting, 3);
    let waits = "select extract(epoch from max(due_at) - now())::float8 from pending_receipt";
    assert!(one::<f64>(&db.pool, waits).await <= 1.0);
    run(
        &db.pool,
        "update pending_receipt set received_at = now() - interval '11 minutes'",
    )
    .await;
    assert_eq!(retry(&db.pool).await, 3);
    let kept = "select array_agg((due_at is null)::text || coalesce(broadcast_id::text, '') order by due_at nulls first, broadcast_id nulls first)
                  from pending_receipt";
    let kept: Vec<String> = one(&db.pool, kept).await;
    assert!(kept[0].starts_with("true") && kept[1].starts_with("true"), "{kept:?}");
    assert_eq!(
        kept[2],
        format!("false{id}"),
        "its delivery is planned and may still be sent"
    );
    run(
        &db.pool,
        "update pending_receipt set received_at = now() - interval '31 days'",
    )
    .await;
    retry(&db.pool).await;
    assert_eq!(one::<i64>(&db.pool, "select count(*) from pending_receipt").await, 1);
}

#[tokio::test]
async fn receipts_of_another_sender_or_of_long_ago_move_nothing() {
    let db = database().await;
    let (tea, cake) = (shop(&db.pool, 2).await, shop(&db.pool, 2).await);
    let id = tea.opened(&[LINE, MESSENGER], 10).await;
    send_rest(&db.pool, id, "line").await;
    send_rest(&db.pool, id, "messenger").await;
    run(
        &db.pool,
        &format!("update delivery_result set provider_id = 'm' || customer_id where broadcast_id = '{id}'"),
    )
    .await;
    let who = tea.customers[0];
    let told = [
        marked(mark(id, who), failed("1")),
        named(&format!("m{who}"), failed("1")),
    ];
    for other in [sender(&cake, "line").await, sender(&cake, "messenger").await] {
        assert_eq!(apply(&db.pool, other, &told).await.waiting, 2);
    }
    assert_eq!(stands(&db.pool, id, "messenger", who).await, "accepted 5");
    run(
        &db.pool,
        &format!("update broadcast set finished_at = now() - interval '31 days' where id = '{id}'"),
    )
    .await;
    let page = sender(&tea, "messenger").await;
    assert_eq!(apply(&db.pool, page, &told).await.late, 2);
    assert_eq!(stands(&db.pool, id, "messenger", who).await, "accepted 5");
    run(
        &db.pool,
        &format!("update broadcast set finished_at = now() - interval '29 days' where id = '{id}'"),
    )
    .await;
    assert_eq!(apply(&db.pool, page, &told).await.refunded, 5);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_watermark_is_about_everything_that_was_sent_by_then_and_proves_no_unknown() {
    let db = database().await;
    let tea = shop(&db.pool, 2).await;
    let page = sender(&tea, "messenger").await;
    let first = tea.opened(&[MESSENGER], 10).await;
    send_rest(&db.pool, first, "messenger").await;
    let lost = tea.opened(&[MESSENGER], 10).await;
    let claimed = claim(&db.pool, lost, "messenger", 2, 0.0).await.unwrap();
    settle(
        &db.pool,
        lost,
        "messenger",
        &claimed,
        (&claimed.customers, "unknown"),
        (None, None),
    )
    .await;
    let seen = Utc::now() + TimeDelta::milliseconds(1);
    let who = tea.customers[0];
    let from = format!("messenger{who}");
    let applied = apply(
        &db.pool,
        page,
        &[
            up_to(&from, seen, ReceiptState::Read),
            up_to(&from, seen, ReceiptState::Delivered),
        ],
    )
    .await;
    assert_eq!(applied.moved, 1);
    assert_eq!(stands(&db.pool, first, "messenger", who).await, "read 5");
    assert_eq!(
        stands(&db.pool, first, "messenger", tea.customers[1]).await,
        "accepted 5"
    );
    assert_eq!(stands(&db.pool, lost, "messenger", who).await, "unknown 0 recipient");
    // Once the echo proves that it was sent, what was said of that time counts for it, too.
    apply(&db.pool, page, &[echo(mark(lost, who), "m_1")]).await;
    assert_eq!(stands(&db.pool, lost, "messenger", who).await, "read 0");
    let later = tea.opened(&[MESSENGER], 10).await;
    send_rest(&db.pool, later, "messenger").await;
    apply(&db.pool, page, &[up_to(&from, seen, ReceiptState::Read)]).await;
    assert_eq!(
        stands(&db.pool, later, "messenger", who).await,
        "accepted 5",
        "sent after it"
    );
    // A settle that began before a watermark and commits after it is looked for once more.
    run(
        &db.pool,
        &format!(
            "update delivery_result set settled_at = '{}' where broadcast_id = '{later}';
             update broadcast set sending_at = sending_at - interval '1 hour' where id = '{later}';
             update receipt_watermark set recheck_at = now()",
            (seen - TimeDelta::milliseconds(1)).to_rfc3339()
        ),
    )
    .await;
    retry(&db.pool).await;
    assert_eq!(stands(&db.pool, later, "messenger", who).await, "read 5");
    assert_clean(&db.pool).await;
}

/// Receipts count outcomes in their order. A settle that counted in another could hold what a receipt waits for while it waits for
/// what the receipt holds.
#[tokio::test]
async fn a_settle_counts_in_the_order_in_which_receipts_count() {
    let db = database().await;
    let tea = shop(&db.pool, 6).await;
    let id = tea.opened(&[MESSENGER], 6).await;
    let claimed = claim(&db.pool, id, "messenger", 6, 0.0).await.unwrap();
    let reasons = [
        "recipient",
        "throttled",
        "content",
        "unreachable",
        "quota",
        "credentials",
    ];
    sqlx::query(
        "select settle_window($1, 'messenger', $2, $3, $4, array_fill('failed'::delivery_state, array[6]), $5,
                array_fill(null::text, array[6]), array_fill(null::text, array[6]), null, $6, '{}', '{}', 0, 60)",
    )
    .bind(id)
    .bind(claimed.slice_no)
    .bind(claimed.epoch)
    .bind(&claimed.customers)
    .bind(reasons)
    .bind(claimed.intent_no)
    .execute(&db.pool)
    .await
    .unwrap();
    let counted: Vec<String> = one(
        &db.pool,
        "select array_agg(reason order by ctid) from tally where stage = 'send'",
    )
    .await;
    let mut sorted = reasons;
    sorted.sort_unstable();
    assert_eq!(counted, sorted);
    assert_clean(&db.pool).await;
}
