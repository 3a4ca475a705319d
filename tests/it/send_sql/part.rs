//! A claim that reads only some of a slice's members: the others stay, and everybody ends exactly once.

use carillon::db::PgPool;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{APP, Claim, LINE, assert_clean, let_leases_expire, outcomes, run, settle, shop, state},
};

/// Claims at most `most` members with a window of two.
async fn claim_some(pool: &PgPool, broadcast: Uuid, channel: &str, most: i32, key_secs: f64) -> Option<Claim> {
    let sql = format!(
        "select s.* from lane l, claim_slice('{broadcast}', '{channel}', l.epoch, 2, 60, {key_secs}, {}, {most}) s
          where l.broadcast_id = '{broadcast}' and l.channel = '{channel}'",
        key_secs > 0.0
    );
    sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(pool).await.unwrap()
}

async fn accept_all(pool: &PgPool, broadcast: Uuid, channel: &str, claim: &Claim) -> String {
    let everybody = (claim.customers.as_slice(), "accepted");
    settle(pool, broadcast, channel, claim, everybody, (None, None)).await
}

#[tokio::test]
async fn whoever_is_not_read_is_claimed_next() {
    let db = database().await;
    let pool = db.pool.clone();
    let shop = shop(&pool, 10, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let mut sent = Vec::new();
    for most in [3, 1, 4, 5] {
        let claimed = claim_some(&pool, broadcast, "app", most, 0.0).await.unwrap();
        assert_eq!(claimed.slice_no, 0);
        assert_eq!(claimed.in_flight, claimed.customers[..claimed.customers.len().min(2)]);
        sent.push(claimed.customers.len());
        accept_all(&pool, broadcast, "app", &claimed).await;
    }
    assert_eq!(sent, [3, 1, 4, 2]);
    assert!(claim_some(&pool, broadcast, "app", 5, 0.0).await.is_none());
    assert_eq!(outcomes(&pool, broadcast).await, ["accepted 10"]);
    assert_eq!(state(&pool, broadcast).await, "completed");
    assert_eq!(shop.available().await, 90);
    assert_clean(&pool).await;
}

#[tokio::test]
async fn a_claim_goes_on_behind_members_who_all_left_meanwhile() {
    let db = database().await;
    let pool = db.pool.clone();
    let shop = shop(&pool, 10, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let left = &shop.customers[..7];
    run(
        &pool,
        &format!("update customer set opted_out = true where id <= {}", left[6]),
    )
    .await;
    let claimed = claim_some(&pool, broadcast, "app", 3, 0.0).await.unwrap();
    // The third time it looked at the seventh and the two behind.
    assert_eq!(claimed.customers, shop.customers[7..9]);
    accept_all(&pool, broadcast, "app", &claimed).await;
    run(&pool, "update customer set opted_out = true").await;
    assert!(claim_some(&pool, broadcast, "app", 3, 0.0).await.is_none());
    assert_eq!(outcomes(&pool, broadcast).await, ["accepted 2", "skipped opted_out 8"]);
    assert_eq!(state(&pool, broadcast).await, "completed");
    assert_eq!(shop.available().await, 98);
    assert_clean(&pool).await;
}

#[tokio::test]
async fn who_is_in_flight_is_read_however_few_are_asked_for() {
    let db = database().await;
    let pool = db.pool.clone();
    let shop = shop(&pool, 10, 100).await;
    let keyed = shop.opened(&[LINE], 10).await;
    let unkeyed = shop.opened(&[APP], 10).await;
    for (broadcast, channel, key_secs) in [(keyed, "line", 3600.0), (unkeyed, "app", 0.0)] {
        let first = claim_some(&pool, broadcast, channel, 4, key_secs).await.unwrap();
        assert_eq!(first.customers, shop.customers[..4]);
        let_leases_expire(&pool, broadcast).await;
        let again = claim_some(&pool, broadcast, channel, 1, key_secs).await.unwrap();
        if key_secs > 0.0 {
            assert_eq!((again.repeats, &again.in_flight), (1, &first.in_flight));
            assert_eq!(again.customers, shop.customers);
        } else {
            assert_eq!(again.customers, shop.customers[2..]);
        }
        accept_all(&pool, broadcast, channel, &again).await;
        assert_eq!(state(&pool, broadcast).await, "completed");
    }
    assert_eq!(outcomes(&pool, keyed).await, ["accepted 10"]);
    assert_eq!(outcomes(&pool, unkeyed).await, ["accepted 8", "unknown interrupted 2"]);
    assert_clean(&pool).await;
}
