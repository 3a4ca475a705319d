//! Rows that were written before a rule: what the migration that brings it makes of them.

use carillon::db::PgPool;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture_db::{TestDb, empty_database},
    migrating::files,
    scene::{LINE, claim, one, run, settle, shop},
};

/// A database as it was after this migration, and what is to be run to bring it up to date.
async fn as_of(last: u32) -> (TestDb, Vec<String>) {
    let db = empty_database().await;
    let mut later = Vec::new();
    for (number, text) in files() {
        if number <= last {
            run(&db.pool, &text).await;
        } else {
            later.push(text);
        }
    }
    (db, later)
}

async fn migrate(pool: &PgPool, later: &[String]) {
    for text in later {
        run(pool, &format!("begin; {text}; commit")).await;
    }
}

async fn lines(pool: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_line_broadcast_that_was_under_way_reserves_what_is_left_of_it() {
    let (db, later) = as_of(26).await;
    let shop = shop(&db.pool, 10, 100).await;
    let broadcast = shop.opened(&[LINE], 5).await;
    let claimed = claim(&db.pool, broadcast, "line", 5, 82_800.0).await.unwrap();
    settle(
        &db.pool,
        broadcast,
        "line",
        &claimed,
        (&claimed.customers, "accepted"),
        (None, None),
    )
    .await;
    let over = shop.opened(&[LINE], 10).await;
    run(&db.pool, &format!("select cancel_broadcast('{over}')")).await;
    while one::<bool>(&db.pool, &format!("select drain_slice('{over}', 'line', 'cancelled')")).await {}
    migrate(&db.pool, &later).await;
    let sender: Uuid = one(&db.pool, "select id from sender where channel = 'line'").await;
    let reserved = format!("select line_reserved('{sender}')");
    let rows = lines(
        &db.pool,
        "select broadcast_id || ' ' || messages || ' ' || counted from line_reservation",
    )
    .await;
    assert_eq!(rows, [format!("{broadcast} 10 0")]);
    assert_eq!(one::<i64>(&db.pool, &reserved).await, 10);
    let read =
        format!("select line_quota_read('{sender}', 100, 5, asked_at, sent) from line_before_asking('{sender}')");
    run(&db.pool, &read).await;
    assert_eq!(one::<i64>(&db.pool, &reserved).await, 5);
}
