//! Windows in which everybody was accepted: their results stand at once, their tokens and counters follow, whatever happens.

use carillon::db::PgPool;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{APP, Claim, Shop, assert_clean, claim, let_leases_expire, one, outcomes, run, settle, shop, state},
};

/// Ends the third window of [`six_of_ten`], and with it the claim.
async fn end(
    pool: &PgPool,
    broadcast: Uuid,
    claim: &Claim,
    ended: (&[i64], &str),
    uncertain: Option<&[i64]>,
) -> String {
    let mut claim = claim.clone();
    claim.intent_no += 2;
    settle(pool, broadcast, "app", &claim, ended, (None, uncertain)).await
}

/// Settles an accepted window of an app claim and begins the next; `step` counts the windows of the claim.
async fn accepted(
    db: impl sqlx::PgExecutor<'_>,
    broadcast: Uuid,
    claim: &Claim,
    step: i32,
    (back, next, flying): (&[i64], &[i64], &[i64]),
) -> String {
    let ids: Vec<String> = back.iter().map(|customer| format!("m{customer}")).collect();
    sqlx::query_scalar("select settle_accepted($1, 'app', $2, $3, $4, $5, $6, $7, $8, '{}', 60)")
        .bind(broadcast)
        .bind(claim.slice_no)
        .bind(claim.epoch)
        .bind(back)
        .bind(ids)
        .bind(next)
        .bind(claim.intent_no + step)
        .bind(flying)
        .fetch_one(db)
        .await
        .unwrap()
}

/// Captured tokens, deliveries left on the lane, and accepted ones in the counters.
async fn posted(pool: &PgPool, broadcast: Uuid) -> (i64, i64, i64) {
    let sql = format!(
        "select array[(select captured_allowance + captured_extra from token_hold where broadcast_id = '{broadcast}'),
                      (select remaining from lane where broadcast_id = '{broadcast}'),
                      (select coalesce(sum(n), 0)::bigint from tally
                        where broadcast_id = '{broadcast}' and stage = 'send' and outcome = 'accepted')]"
    );
    let figures: Vec<i64> = one(pool, &sql).await;
    (figures[0], figures[1], figures[2])
}

/// Ten customers, of whom a claim has sent to six in windows of three, three more being in flight.
async fn six_of_ten(pool: &PgPool) -> (Shop, Uuid, Claim) {
    let shop = shop(pool, 10, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let claimed = claim(pool, broadcast, "app", 3, 0.0).await.unwrap();
    let of = |range: std::ops::Range<usize>| claimed.customers[range].to_vec();
    for (step, windows) in [(1, (of(0..3), of(3..6))), (2, (of(3..6), of(6..9)))] {
        let (back, next) = windows;
        let settled = accepted(pool, broadcast, &claimed, step, (&back, &next, &[])).await;
        assert_eq!(settled, "sending");
    }
    (shop, broadcast, claimed)
}

#[tokio::test]
async fn what_was_accepted_is_posted_when_the_claim_ends() {
    let db = database().await;
    let (shop, broadcast, claimed) = six_of_ten(&db.pool).await;
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 6"]);
    assert_eq!(posted(&db.pool, broadcast).await, (0, 10, 0), "nothing is posted yet");
    assert_clean(&db.pool).await;
    let (back, rest) = (&claimed.customers[6..9], &claimed.customers[9..]);
    end(&db.pool, broadcast, &claimed, (back, "failed"), None).await;
    assert_eq!(
        posted(&db.pool, broadcast).await,
        (6, 1, 6),
        "with the first that is not plain"
    );
    assert_clean(&db.pool).await;
    let last = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    assert_eq!(last.customers, rest);
    // Everybody was accepted, and nobody is left: that is more than a window.
    assert_eq!(
        accepted(&db.pool, broadcast, &last, 1, (rest, &[], &[])).await,
        "completed"
    );
    assert_eq!(posted(&db.pool, broadcast).await, (7, 0, 7));
    assert_eq!(shop.available().await, 93);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_window_told_twice_counts_once_and_an_older_one_not_at_all() {
    let db = database().await;
    let (_shop, broadcast, claimed) = six_of_ten(&db.pool).await;
    let of = |range: std::ops::Range<usize>| claimed.customers[range].to_vec();
    let again = accepted(&db.pool, broadcast, &claimed, 2, (&of(3..6), &of(6..9), &[])).await;
    assert_eq!(again, "sending", "its answer was lost");
    let late = accepted(&db.pool, broadcast, &claimed, 1, (&of(0..3), &of(3..6), &[])).await;
    assert_eq!(late, "stale");
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 6"]);
    assert_clean(&db.pool).await;
    let settled = accepted(&db.pool, broadcast, &claimed, 3, (&of(6..9), &of(9..10), &[])).await;
    assert_eq!(settled, "sending");
    assert_eq!(
        accepted(&db.pool, broadcast, &claimed, 4, (&of(9..10), &[], &[])).await,
        "completed"
    );
    assert_eq!(posted(&db.pool, broadcast).await, (10, 0, 10));
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn after_a_crash_the_next_claim_posts_what_the_dead_worker_had_not() {
    let db = database().await;
    let (_shop, broadcast, _) = six_of_ten(&db.pool).await;
    let_leases_expire(&db.pool, broadcast).await;
    let next = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 6", "unknown interrupted 3"]
    );
    assert_eq!(posted(&db.pool, broadcast).await, (6, 1, 6));
    assert_clean(&db.pool).await;
    assert_eq!(
        accepted(&db.pool, broadcast, &next, 1, (&next.customers, &[], &[])).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_claim_that_ends_with_nothing_new_posts_what_is_left() {
    let db = database().await;
    let (_shop, broadcast, claimed) = six_of_ten(&db.pool).await;
    let back: &[i64] = &[];
    let uncertain = &claimed.customers[6..9];
    end(&db.pool, broadcast, &claimed, (back, "accepted"), Some(uncertain)).await;
    assert_eq!(posted(&db.pool, broadcast).await, (6, 4, 6));
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_cancel_between_two_windows_ends_with_every_token_accounted_for() {
    let db = database().await;
    let (shop, broadcast, claimed) = six_of_ten(&db.pool).await;
    run(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await;
    // The worker hears of it with its next window: nobody new is begun, and what there was is posted.
    let (back, next) = (&claimed.customers[6..9], &claimed.customers[9..]);
    assert_eq!(
        accepted(&db.pool, broadcast, &claimed, 3, (back, next, &[])).await,
        "cancelled"
    );
    assert_eq!(posted(&db.pool, broadcast).await, (9, 1, 9));
    assert_clean(&db.pool).await;
    let drained: bool = one(
        &db.pool,
        &format!("select drain_slice('{broadcast}', 'app', 'cancelled')"),
    )
    .await;
    assert!(drained);
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 9", "cancelled 1"]);
    assert_eq!(
        (state(&db.pool, broadcast).await.as_str(), shop.available().await),
        ("cancelled", 91)
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_cancelled_slice_of_a_dead_worker_is_drained_and_posted() {
    let db = database().await;
    let (shop, broadcast, _) = six_of_ten(&db.pool).await;
    run(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await;
    let_leases_expire(&db.pool, broadcast).await;
    let drained: bool = one(
        &db.pool,
        &format!("select drain_slice('{broadcast}', 'app', 'cancelled')"),
    )
    .await;
    assert!(drained);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 6", "cancelled 1", "unknown interrupted 3"]
    );
    assert_eq!(
        (posted(&db.pool, broadcast).await, shop.available().await),
        ((6, 0, 6), 94)
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn posting_a_slice_on_demand_takes_nothing_from_its_claim() {
    let db = database().await;
    let (_shop, broadcast, claimed) = six_of_ten(&db.pool).await;
    let customer = claimed.customers[4];
    let post = format!("select post_slices('{broadcast}', 'app', '{{{customer}}}')");
    for _ in 0..2 {
        run(&db.pool, &post).await;
        assert_eq!(posted(&db.pool, broadcast).await, (6, 4, 6));
        assert_clean(&db.pool).await;
    }
    let (back, next) = (&claimed.customers[6..9], &claimed.customers[9..]);
    assert_eq!(
        accepted(&db.pool, broadcast, &claimed, 3, (back, next, &[])).await,
        "sending"
    );
    assert_eq!(
        accepted(&db.pool, broadcast, &claimed, 4, (next, &[], &[])).await,
        "completed"
    );
    assert_eq!(posted(&db.pool, broadcast).await, (10, 0, 10));
    assert_clean(&db.pool).await;
}
