//! A transaction that nobody waits for any more.

use carillon::db;

use crate::{
    broadcast_scene::{one, run},
    fixture_db::database,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_nobody_waits_for_leaves_no_open_transaction_behind() {
    let db = database().await;
    let pool: db::PgPool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&db.url)
        .await
        .unwrap()
        .into();
    for round in 0..300 {
        // Dropped at another moment each time: some before BEGIN is sent, some before the answer, some after.
        let begun = tokio::time::timeout(std::time::Duration::from_micros(round * 7), db::begin(&pool));
        drop(begun.await);
        // The one connection again. What is set for a transaction is gone with the statement, if none is open.
        run(&pool, "set local carillon.probe = 'open'").await;
        let probe: Option<String> = one(&pool, "select current_setting('carillon.probe', true)").await;
        assert_ne!(
            probe.as_deref(),
            Some("open"),
            "round {round} left its transaction open"
        );
    }
}
