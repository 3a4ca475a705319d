//! Settling: once, by the owner of the claim, and the last lane ends the broadcast.

use sqlx::AssertSqlSafe;

use super::{KEY_SECS, accept, somebody_waits_for_a_lock};
use crate::{
    fixture_db::database,
    scene::{APP, LINE, assert_clean, claim, let_leases_expire, one, outcomes, run, send_rest, settle, shop, state},
};

#[tokio::test]
async fn a_broadcast_is_sent_and_charged_and_closed() {
    let db = database().await;
    let shop = shop(&db.pool, 7, 100).await;
    let broadcast = shop.opened(&[LINE, APP], 3).await;
    assert_eq!(shop.available().await, 100 - 7 * 6);
    assert_clean(&db.pool).await;

    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    assert_eq!((first.slice_no, first.epoch, first.intent_no), (0, 1, 1));
    assert_eq!(
        (first.customers.as_slice(), first.in_flight.as_slice()),
        (&shop.customers[..3], &shop.customers[..2])
    );
    assert_clean(&db.pool).await;
    let next = &first.customers[2..];
    let after = settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (&first.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(after, "sending");
    assert_clean(&db.pool).await;
    assert_eq!(
        settle(&db.pool, broadcast, "line", &first, (next, "failed"), (None, None)).await,
        "sending"
    );
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "sending");
    assert_eq!(send_rest(&db.pool, broadcast, "app").await, "completed");

    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 13", "failed recipient 1"]
    );
    assert_eq!(shop.available().await, 100 - 6 * 5 - 7);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_settle_under_a_stale_epoch_writes_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let lost = claim(&db.pool, broadcast, "line", 3, KEY_SECS).await.unwrap();
    assert!(
        claim(&db.pool, broadcast, "line", 3, KEY_SECS).await.is_none(),
        "a live lease is nobody else's"
    );
    let_leases_expire(&db.pool, broadcast).await;
    let owner = claim(&db.pool, broadcast, "line", 3, KEY_SECS).await.unwrap();
    assert_eq!(
        accept(&db.pool, broadcast, "line", &lost, &lost.in_flight).await,
        "stale"
    );
    assert!(outcomes(&db.pool, broadcast).await.is_empty());
    assert_eq!(
        accept(&db.pool, broadcast, "line", &owner, &owner.in_flight).await,
        "completed"
    );
    assert_eq!(
        accept(&db.pool, broadcast, "line", &owner, &owner.in_flight).await,
        "stale",
        "settled is settled"
    );
    assert_eq!(shop.available().await, 85);
    assert_clean(&db.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_lanes_that_empty_at_once_exactly_one_completes_the_broadcast() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE, APP], 10).await;
    let line = claim(&db.pool, broadcast, "line", 4, KEY_SECS).await.unwrap();
    let app = claim(&db.pool, broadcast, "app", 4, 0.0).await.unwrap();

    let mut first = db.pool.begin().await.unwrap();
    let after = settle(
        &mut *first,
        broadcast,
        "line",
        &line,
        (&line.in_flight, "accepted"),
        (None, None),
    )
    .await;
    assert_eq!(after, "sending", "the other lane has not committed");
    let pool = db.pool.clone();
    let second = tokio::spawn(async move { accept(&pool, broadcast, "app", &app, &app.in_flight).await });
    somebody_waits_for_a_lock(&db.pool, 1).await;
    assert!(!second.is_finished());
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), "completed");
    assert_clean(&db.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_records_twice_and_a_lane_that_ends_do_not_wait_for_each_other() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE, APP], 2).await;
    run(
        &db.pool,
        "update address set state = 'suppressed' where address like 'line%'",
    )
    .await;
    run(
        &db.pool,
        "update slice set due_at = now() + interval '1 hour' where channel = 'app' and slice_no = 1",
    )
    .await;
    let app = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    accept(&db.pool, broadcast, "app", &app, &app.in_flight).await;
    run(&db.pool, "update slice set due_at = now() where slice_no = 1").await;
    let app = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();

    // Both must have tokens to move, so both stand in the queue for the hold.
    let mut gate = db.pool.begin().await.unwrap();
    sqlx::query("select from token_hold for update")
        .execute(&mut *gate)
        .await
        .unwrap();
    let pool = db.pool.clone();
    let skipping = tokio::spawn(async move { claim(&pool, broadcast, "line", 2, KEY_SECS).await.is_none() });
    somebody_waits_for_a_lock(&db.pool, 1).await;
    let pool = db.pool.clone();
    let ending = tokio::spawn(async move { accept(&pool, broadcast, "app", &app, &app.in_flight).await });
    somebody_waits_for_a_lock(&db.pool, 2).await;
    gate.commit().await.unwrap();
    assert!(skipping.await.unwrap());
    ending.await.unwrap();
    assert_eq!(state(&db.pool, broadcast).await, "completed");
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 4", "skipped suppressed 4"]
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_drained_claim_cannot_settle_any_more() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let lost = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    run(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await;
    let drain = format!("select drain_slice('{broadcast}', 'line', 'cancelled')");
    assert!(
        !one::<bool>(&db.pool, &drain).await,
        "a live claim is left to its worker"
    );
    let_leases_expire(&db.pool, broadcast).await;
    assert!(one::<bool>(&db.pool, &drain).await);
    assert_eq!(
        accept(&db.pool, broadcast, "line", &lost, &lost.in_flight).await,
        "stale"
    );
    assert_eq!(outcomes(&db.pool, broadcast).await, ["unknown interrupted 2"]);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_result_is_written_once_and_moves_only_forward() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    send_rest(&db.pool, broadcast, "line").await;
    for (sql, constraint) in [
        (
            "insert into delivery_result select * from delivery_result limit 1",
            "_pkey",
        ),
        (
            "update delivery_result set state = 'cancelled', charged_tokens = 0",
            "delivery_state_moves",
        ),
        (
            "update delivery_result set state = 'failed', reason = 'recipient'",
            "only_arrived_is_charged",
        ),
        ("update broadcast set state = 'sending'", "broadcast_state_moves"),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&db.pool)
            .await
            .expect_err(sql)
            .into_database_error()
            .unwrap();
        assert!(error.constraint().unwrap().ends_with(constraint), "{sql}: {error}");
    }
}

/// The connection broke in the middle of a settle, it was sent again, and the next window was settled, too; only now the
/// server comes to the first. It must not bring back the intent of then: those who began since would not be in flight.
#[tokio::test]
async fn a_settle_that_comes_after_a_later_one_is_stale() {
    let db = database().await;
    let shop = shop(&db.pool, 5, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    let customers = &shop.customers;
    let settle = |customer: i64, next: &str, intent: i32, flying: i64| {
        format!(
            "select settle_window('{broadcast}', 'app', {}, {}, '{{{customer}}}', '{{accepted}}', '{{null}}', '{{null}}', '{{null}}',
                '{{{next}}}', {intent}, '{{{flying}}}', '{{}}', 0, 60)",
            first.slice_no, first.epoch
        )
    };
    let early = settle(
        customers[0],
        &customers[2].to_string(),
        first.intent_no + 1,
        customers[1],
    );
    assert_eq!(one::<String>(&db.pool, &early).await, "sending");
    assert_eq!(
        one::<String>(&db.pool, &early).await,
        "sending",
        "asked again after a lost answer"
    );
    let later = settle(
        customers[1],
        &format!("{},{}", customers[3], customers[4]),
        first.intent_no + 2,
        customers[2],
    );
    assert_eq!(one::<String>(&db.pool, &later).await, "sending");
    assert_eq!(one::<String>(&db.pool, &early).await, "stale");
    assert_eq!(
        one::<Vec<i64>>(&db.pool, "select in_flight from slice").await,
        [customers[3], customers[4], customers[2]]
    );
    assert_clean(&db.pool).await;
}

/// Two of a customer's three addresses close at once, the older one first: the third takes over.
#[tokio::test]
async fn of_two_addresses_that_close_at_once_neither_stays_the_current_one() {
    let db = database().await;
    let shop = shop(&db.pool, 1, 100).await;
    let customer = shop.customers[0];
    let put = |address: &str| {
        format!("select put_address((select id from sender where channel = 'app'), {customer}, '{address}')")
    };
    let second: i64 = one(&db.pool, &put("second")).await;
    let third: i64 = one(&db.pool, &put("third")).await;
    let mut gate = db.pool.begin().await.unwrap();
    let close = |id: i64| format!("select close_address({id}, 'suppressed', 'dead')");
    assert!(one::<bool>(&mut *gate, &close(second)).await);
    let (pool, sql) = (db.pool.clone(), close(third));
    let closing = tokio::spawn(async move { one::<bool>(&pool, &sql).await });
    somebody_waits_for_a_lock(&db.pool, 1).await;
    gate.commit().await.unwrap();
    assert!(closing.await.unwrap());
    let current: Vec<String> = one(
        &db.pool,
        &format!(
            "select array_agg(a.state) from address a join sender s on s.id = a.sender_id
              where s.channel = 'app' and a.customer_id = {customer} and a.is_current"
        ),
    )
    .await;
    assert_eq!(current, ["active"]);
}
