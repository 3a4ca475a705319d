//! The last step of planning, and whose turn a lane is.

use super::KEY_SECS;
use crate::{
    fixture_db::database,
    scene::{APP, LINE, assert_clean, claim, one, open, run, settle, shop, state},
};

#[tokio::test]
async fn a_short_balance_sends_nothing_holds_nothing_and_says_how_much_is_missing() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 19).await;
    let broadcast = shop.planned(&[LINE], 10).await;
    assert_clean(&db.pool).await;
    assert_eq!(open(&db.pool, broadcast).await, "short");
    assert_eq!(one::<i64>(&db.pool, "select missing_tokens from broadcast").await, 1);
    assert_eq!(
        (state(&db.pool, broadcast).await.as_str(), shop.available().await),
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
    let take = format!("select (select epoch from take_lane('{broadcast}', (select sender_id from lane), 30))");
    let renew = |epoch: i32| format!("select renew_lane('{broadcast}', (select sender_id from lane), {epoch}, 30)");
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
    run(&db.pool, "update lane set due_at = now() + interval '1 hour'").await;
    assert!(one::<bool>(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await);
    assert_eq!(rung(&db.pool, 2).await, 1);
    let mode = format!("select mode from take_lane('{broadcast}', (select sender_id from lane), 30)");
    assert_eq!(one::<String>(&db.pool, &mode).await, "cancelled");
}

/// How many lanes a ringer that allows `per_shop` lanes of a shop at once rings for.
async fn rung(db: impl sqlx::PgExecutor<'_>, per_shop: i32) -> i64 {
    one(db, &format!("select count(*) from lanes_to_ring(null, {per_shop}, 60)")).await
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
    run(&db.pool, "update lane set rung_at = now() - interval '61 seconds'").await;
    assert_eq!(rung(&db.pool, 3).await, 6, "bells nobody answered are rung again");
}

/// The lane alone would find nothing to probe with: its one message rests longer than the lane does.
#[tokio::test]
async fn who_has_looked_at_a_sender_wakes_what_waits_to_be_repeated_too() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 2).await;
    let mut claims = Vec::new();
    for _ in 0..2 {
        claims.push(claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.unwrap());
    }
    for claimed in &claims {
        let uncertain = Some(&claimed.in_flight[..]);
        settle(
            &db.pool,
            broadcast,
            "line",
            claimed,
            (&[], "accepted"),
            (None, uncertain),
        )
        .await;
    }
    let probe = "select probe_sender(sender_id) from lane";
    assert_eq!(one::<i64>(&db.pool, probe).await, 0, "nothing fails here");
    run(
        &db.pool,
        "update slice set due_at = now() + interval '5 minutes'; update lane set strikes = 3, due_at = now() + interval '20 seconds'",
    )
    .await;
    assert!(claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.is_none());
    assert_eq!(one::<i64>(&db.pool, probe).await, 1);
    for claimed in claims {
        let again = claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.unwrap();
        assert_eq!(
            (again.intent_no, again.in_flight),
            (claimed.intent_no, claimed.in_flight)
        );
    }
}
