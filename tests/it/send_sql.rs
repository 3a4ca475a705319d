//! The delivery pipeline's SQL functions, one rule a test: what a crash, a race, a cancel or a change of mind leaves.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{
        APP, Claim, LINE, assert_clean, claim, let_leases_expire, one, open, outcomes, run,
        send_rest, settle, shop, state,
    },
};

/// How long LINE remembers a key, with the margin the product keeps.
const KEY_SECS: f64 = 82_800.0;

async fn accept(
    pool: &PgPool,
    broadcast: Uuid,
    channel: &str,
    claim: &Claim,
    customers: &[i64],
) -> String {
    settle(
        pool,
        broadcast,
        channel,
        claim,
        (customers, "accepted"),
        (None, None),
    )
    .await
}

/// Waits until a session of this database waits for a lock.
async fn somebody_waits_for_a_lock(pool: &PgPool, sessions: i64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while one::<i64>(pool, waiting).await < sessions {
        assert!(Instant::now() < deadline, "nobody waits for a lock");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_broadcast_is_sent_and_charged_and_closed() {
    let db = database().await;
    let shop = shop(&db.pool, 7, 100).await;
    let broadcast = shop.opened(&[LINE, APP], 3).await;
    assert_eq!(shop.available().await, 100 - 7 * 6);
    assert_clean(&db.pool).await;

    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
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
        settle(
            &db.pool,
            broadcast,
            "line",
            &first,
            (next, "failed"),
            (None, None)
        )
        .await,
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
    let lost = claim(&db.pool, broadcast, "line", 3, KEY_SECS)
        .await
        .unwrap();
    assert!(
        claim(&db.pool, broadcast, "line", 3, KEY_SECS)
            .await
            .is_none(),
        "a live lease is nobody else's"
    );
    let_leases_expire(&db.pool, broadcast).await;
    let owner = claim(&db.pool, broadcast, "line", 3, KEY_SECS)
        .await
        .unwrap();
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
    let line = claim(&db.pool, broadcast, "line", 4, KEY_SECS)
        .await
        .unwrap();
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
    let second =
        tokio::spawn(async move { accept(&pool, broadcast, "app", &app, &app.in_flight).await });
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
    run(&db.pool, "update slice set due_at = now() + interval '1 hour' where channel = 'app' and slice_no = 1").await;
    let app = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    accept(&db.pool, broadcast, "app", &app, &app.in_flight).await;
    run(
        &db.pool,
        "update slice set due_at = now() where slice_no = 1",
    )
    .await;
    let app = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();

    // Both must have tokens to move, so both stand in the queue for the hold.
    let mut gate = db.pool.begin().await.unwrap();
    sqlx::query("select from token_hold for update")
        .execute(&mut *gate)
        .await
        .unwrap();
    let pool = db.pool.clone();
    let skipping =
        tokio::spawn(async move { claim(&pool, broadcast, "line", 2, KEY_SECS).await.is_none() });
    somebody_waits_for_a_lock(&db.pool, 1).await;
    let pool = db.pool.clone();
    let ending =
        tokio::spawn(async move { accept(&pool, broadcast, "app", &app, &app.in_flight).await });
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
async fn an_interrupted_keyed_intent_is_repeated_as_it_was() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    // He in flight and he behind him both leave, and somebody gets another name: only who was not in flight is skipped.
    let opted_out = format!(
        "update customer set opted_out = true where id in ({}, {})",
        shop.customers[0], shop.customers[2]
    );
    run(&db.pool, &opted_out).await;
    run(&db.pool, "update customer set first_name = 'Other'").await;

    let again = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    assert_eq!(
        (again.intent_no, again.repeats, again.epoch),
        (first.intent_no, 1, 2)
    );
    assert_eq!(again.in_flight, first.in_flight);
    assert_eq!(
        again.customers,
        [shop.customers[0], shop.customers[1], shop.customers[3]]
    );
    assert_eq!(again.first_names, ["N1", "N2", "N4"]);
    assert_eq!(outcomes(&db.pool, broadcast).await, ["skipped opted_out 1"]);
    let next = &again.customers[2..];
    settle(
        &db.pool,
        broadcast,
        "line",
        &again,
        (&again.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(
        accept(&db.pool, broadcast, "line", &again, next).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn somebody_erased_in_flight_is_unknown_and_the_others_keep_their_key() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    run(
        &db.pool,
        &format!(
            "delete from customer where id in ({}, {})",
            shop.customers[0], shop.customers[2]
        ),
    )
    .await;
    let again = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    assert_eq!(
        (again.intent_no, again.in_flight.as_slice()),
        (first.intent_no, &shop.customers[1..2])
    );
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["skipped erased 1", "unknown erased 1"]
    );
    assert_eq!(
        accept(&db.pool, broadcast, "line", &again, &again.in_flight).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn an_interrupted_unkeyed_intent_is_unknown_and_the_rest_goes_on() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    let rest = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    assert_eq!((rest.intent_no, rest.repeats), (first.intent_no + 1, 0));
    assert_eq!(rest.in_flight, &shop.customers[3..]);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["unknown interrupted 3"]
    );
    assert_eq!(
        accept(&db.pool, broadcast, "app", &rest, &rest.in_flight).await,
        "completed"
    );
    assert_eq!(shop.available().await, 99, "unknown is not charged");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_key_the_provider_has_forgotten_is_never_used_again() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    run(
        &db.pool,
        "update slice set first_attempt_at = now() - interval '24 hours'",
    )
    .await;
    assert!(
        claim(&db.pool, broadcast, "line", 2, KEY_SECS)
            .await
            .is_none()
    );
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["unknown key_expired 2"]
    );
    assert_eq!(state(&db.pool, broadcast).await, "completed");
    assert_eq!(shop.available().await, 100);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn uncertain_members_stay_in_flight_under_their_intent() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 3, KEY_SECS)
        .await
        .unwrap();
    let (sure, uncertain) = first.in_flight.split_at(1);
    settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (sure, "accepted"),
        (None, Some(uncertain)),
    )
    .await;
    assert_clean(&db.pool).await;
    let again = claim(&db.pool, broadcast, "line", 3, KEY_SECS)
        .await
        .unwrap();
    assert_eq!(
        (again.intent_no, again.in_flight.as_slice()),
        (first.intent_no, uncertain)
    );
    assert_eq!(
        accept(&db.pool, broadcast, "line", &again, uncertain).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn nobody_in_flight_is_no_intent() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    settle(
        &db.pool,
        broadcast,
        "app",
        &first,
        (&[], "accepted"),
        (Some(&[]), Some(&[])),
    )
    .await;
    assert!(
        one::<bool>(
            &db.pool,
            "select state = 'planned' and in_flight is null from slice"
        )
        .await
    );
    assert_eq!(send_rest(&db.pool, broadcast, "app").await, "completed");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_cancel_ends_what_was_in_flight_as_unknown_and_releases_everything() {
    let db = database().await;
    let shop = shop(&db.pool, 6, 100).await;
    let broadcast = shop.opened(&[LINE], 3).await;
    claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    assert!(one::<bool>(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await);
    let_leases_expire(&db.pool, broadcast).await;
    assert!(
        claim(&db.pool, broadcast, "line", 2, KEY_SECS)
            .await
            .is_none(),
        "nothing is repeated after a cancel"
    );
    let drain = format!("select drain_slice('{broadcast}', 'line', 'cancelled')");
    assert_clean(&db.pool).await;
    assert!(one::<bool>(&db.pool, &drain).await && one::<bool>(&db.pool, &drain).await);
    assert!(!one::<bool>(&db.pool, &drain).await);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["cancelled 4", "unknown interrupted 2"]
    );
    assert_eq!(
        (
            state(&db.pool, broadcast).await.as_str(),
            shop.available().await
        ),
        ("cancelled", 100)
    );
    assert!(one::<bool>(&db.pool, "select finished_at is not null from broadcast").await);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_drained_claim_cannot_settle_any_more() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let lost = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
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
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["unknown interrupted 2"]
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn past_its_deadline_a_broadcast_expires_lane_by_lane() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 2).await;
    let first = claim(&db.pool, broadcast, "line", 1, KEY_SECS)
        .await
        .unwrap();
    run(&db.pool, "update broadcast set deadline_at = now()").await;
    let next = &first.customers[1..];
    let after = settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (&first.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(after, "expired");
    assert!(
        claim(&db.pool, broadcast, "line", 1, KEY_SECS)
            .await
            .is_none()
    );
    let mode =
        format!("select mode from take_lane('{broadcast}', (select sender_id from lane), 30)");
    assert_eq!(one::<String>(&db.pool, &mode).await, "expired");
    let drain = format!("select drain_slice('{broadcast}', 'line', 'expired')");
    assert!(one::<bool>(&db.pool, &drain).await && one::<bool>(&db.pool, &drain).await);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 1", "expired 2"]
    );
    assert_eq!(
        (
            state(&db.pool, broadcast).await.as_str(),
            shop.available().await
        ),
        ("completed", 95)
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn who_leaves_between_planning_and_sending_is_skipped_and_costs_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let [a, b, c, _] = shop.customers[..] else {
        unreachable!()
    };
    run(
        &db.pool,
        &format!(
            "update customer set opted_out = true where id = {a};
             update address set state = 'suppressed' where customer_id = {b};
             delete from customer where id = {c}"
        ),
    )
    .await;
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "completed");
    let expected = [
        "accepted 1",
        "skipped erased 1",
        "skipped opted_out 1",
        "skipped suppressed 1",
    ];
    assert_eq!(outcomes(&db.pool, broadcast).await, expected);
    assert_eq!(shop.available().await, 95);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_suspended_shop_and_a_lost_sender_skip_everybody_a_paused_sender_waits() {
    let db = database().await;
    for (stop, reason) in [
        (
            "update shop set state = 'suspended'",
            "skipped shop_suspended 3",
        ),
        (
            "update shop set state = 'active'; update sender set state = 'disconnected'",
            "skipped sender_disconnected 3",
        ),
    ] {
        let shop = shop(&db.pool, 3, 100).await;
        let broadcast = shop.opened(&[LINE], 2).await;
        run(&db.pool, "update sender set state = 'paused'").await;
        assert!(
            claim(&db.pool, broadcast, "line", 2, KEY_SECS)
                .await
                .is_none()
        );
        assert!(outcomes(&db.pool, broadcast).await.is_empty());
        run(&db.pool, "update sender set state = 'connected'").await;
        run(&db.pool, stop).await;
        assert!(
            claim(&db.pool, broadcast, "line", 2, KEY_SECS)
                .await
                .is_none()
        );
        assert_eq!(outcomes(&db.pool, broadcast).await, [reason]);
        assert_eq!(
            (
                state(&db.pool, broadcast).await.as_str(),
                shop.available().await
            ),
            ("completed", 100)
        );
    }
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_pause_starts_nothing_new_and_resume_sends_exactly_the_rest() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS)
        .await
        .unwrap();
    run(&db.pool, &format!("select pause_broadcast('{broadcast}')")).await;
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
    assert_eq!(after, "paused");
    assert!(
        claim(&db.pool, broadcast, "line", 2, KEY_SECS)
            .await
            .is_none()
    );
    assert_clean(&db.pool).await;
    run(
        &db.pool,
        "update broadcast set state = resume_state, resume_state = null",
    )
    .await;
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "completed");
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 4"]);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_short_balance_sends_nothing_holds_nothing_and_says_how_much_is_missing() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 19).await;
    let broadcast = shop.planned(&[LINE], 10).await;
    assert_clean(&db.pool).await;
    assert_eq!(open(&db.pool, broadcast).await, "short");
    assert_eq!(
        one::<i64>(&db.pool, "select missing_tokens from broadcast").await,
        1
    );
    assert_eq!(
        (
            state(&db.pool, broadcast).await.as_str(),
            shop.available().await
        ),
        ("failed", 19)
    );
    assert_eq!(one::<i64>(&db.pool, "select count(*) from lane").await, 0);
    assert_eq!(open(&db.pool, broadcast).await, "stale");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_plan_over_its_budget_or_of_another_planner_or_cancelled_does_not_open() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let dear = shop.planned(&[LINE], 10).await;
    run(&db.pool, "update broadcast set budget_tokens = 19").await;
    assert_eq!(open(&db.pool, dear).await, "over_budget");
    let stale = shop.planned(&[LINE], 10).await;
    run(
        &db.pool,
        &format!("update broadcast set plan_epoch = 2 where id = '{stale}'"),
    )
    .await;
    assert_eq!(open(&db.pool, stale).await, "stale");
    let cancelled = shop.planned(&[LINE], 10).await;
    run(&db.pool, &format!("select cancel_broadcast('{cancelled}')")).await;
    assert_eq!(open(&db.pool, cancelled).await, "stale");
    assert_eq!(shop.available().await, 100);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_broadcast_to_nobody_completes_at_once() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    let broadcast = shop.planned(&[LINE], 10).await;
    assert_eq!(open(&db.pool, broadcast).await, "completed");
    assert_eq!(shop.available().await, 100);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_lane_has_one_worker_at_a_time() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let take = format!(
        "select (select epoch from take_lane('{broadcast}', (select sender_id from lane), 30))"
    );
    let renew = |epoch: i32| {
        format!("select renew_lane('{broadcast}', (select sender_id from lane), {epoch}, 30)")
    };
    assert_eq!(one::<Option<i32>>(&db.pool, &take).await, Some(1));
    assert_eq!(one::<Option<i32>>(&db.pool, &take).await, None);
    run(&db.pool, "update lane set lease_until = now()").await;
    assert_eq!(one::<Option<i32>>(&db.pool, &take).await, Some(2));
    assert!(!one::<bool>(&db.pool, &renew(1)).await && one::<bool>(&db.pool, &renew(2)).await);
    let leave = format!(
        "select count(*) from leave_lane('{broadcast}', (select sender_id from lane), 2, 0, 0) t where t is not null"
    );
    assert_eq!(one::<i64>(&db.pool, &leave).await, 1);
    assert!(!one::<bool>(&db.pool, &renew(2)).await);
    assert_eq!(one::<Option<i32>>(&db.pool, &take).await, Some(3));
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_a_lane_that_waits_for_its_provider() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    run(
        &db.pool,
        "update lane set due_at = now() + interval '1 hour'",
    )
    .await;
    assert!(one::<bool>(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await);
    assert_eq!(rung(&db.pool, 2).await, 1);
    let mode =
        format!("select mode from take_lane('{broadcast}', (select sender_id from lane), 30)");
    assert_eq!(one::<String>(&db.pool, &mode).await, "cancelled");
}

/// How many lanes a ringer that allows `per_shop` lanes of a shop at once rings for.
async fn rung(db: impl sqlx::PgExecutor<'_>, per_shop: i32) -> i64 {
    one(
        db,
        &format!("select count(*) from lanes_to_ring(null, {per_shop}, 60)"),
    )
    .await
}

#[tokio::test]
async fn ringers_ring_once_for_so_many_lanes_of_a_shop_and_never_wait_for_each_other() {
    let db = database().await;
    for _ in 0..2 {
        let shop = shop(&db.pool, 2, 100).await;
        shop.opened(&[LINE, APP], 10).await;
        shop.opened(&[LINE, APP], 10).await;
    }
    let mut first = db.pool.begin().await.unwrap();
    assert_eq!(rung(&mut *first, 3).await, 6);
    // The other one, meanwhile, leaves those locked lanes alone.
    assert_eq!(rung(&db.pool, 3).await, 0);
    first.commit().await.unwrap();
    assert_eq!(rung(&db.pool, 3).await, 0, "all places are taken");
    assert_eq!(rung(&db.pool, 4).await, 2);
    run(
        &db.pool,
        "update lane set rung_at = now() - interval '61 seconds'",
    )
    .await;
    assert_eq!(
        rung(&db.pool, 3).await,
        6,
        "bells nobody answered are rung again"
    );
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
        (
            "update broadcast set state = 'sending'",
            "broadcast_state_moves",
        ),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&db.pool)
            .await
            .expect_err(sql)
            .into_database_error()
            .unwrap();
        assert!(
            error.constraint().unwrap().ends_with(constraint),
            "{sql}: {error}"
        );
    }
}
