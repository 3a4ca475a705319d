//! What is told in two transactions at once: one of them is held open at its worst moment, and what comes out is what would have
//! come out one after the other.

use std::time::Duration;

use carillon::{
    channel::webhook::{ReceiptState, What},
    db::{self, PgPool},
};
use carillon_jobs::SenderId;
use chrono::Utc;
use sqlx::Executor as _;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    inbox::{Scene, wrote},
    receipt_scene::{MESSENGER, apply, at, echo, event, mark, sender, shop, stands, up_to},
    scene::{Shop, claim, one, settle},
    wait::until,
};

/// Waits until a task waits for a lock, or has ended without one.
async fn meets<T>(pool: &PgPool, task: &JoinHandle<T>) {
    until("it waits for the other one, or has ended", async || {
        let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        task.is_finished() || one::<bool>(pool, waits).await
    })
    .await;
}

/// A shop with one delivery on Messenger that nobody knows the end of; the sender, the broadcast, the customer.
async fn with_unknown(pool: &PgPool) -> (Shop, SenderId, Uuid, i64) {
    let shop = shop(pool, 1).await;
    let page = sender(&shop, "messenger").await;
    let id = shop.opened(&[MESSENGER], 10).await;
    let claimed = claim(pool, id, "messenger", 4, 0.0).await.unwrap();
    let whom = (&claimed.customers[..], "unknown");
    settle(pool, id, "messenger", &claimed, whom, (None, None)).await;
    let customer = shop.customers[0];
    assert!(stands(pool, id, "messenger", customer).await.starts_with("unknown"));
    (shop, page, id, customer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_counts_for_what_is_found_to_have_left_at_the_same_moment() {
    let db = database().await;
    let (_shop, page, id, customer) = with_unknown(&db.pool).await;
    let mut found = db::begin(&db.pool).await.unwrap();
    let sql = format!(
        "select receipt_move(array['{page}']::uuid[], array['{id}']::uuid[], array['messenger']::channel[], array[{customer}]::bigint[],
                             array['accepted']::delivery_state[], null, null, null)"
    );
    found.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    let pool = db.pool.clone();
    let read = tokio::spawn(async move {
        let read = up_to(&format!("messenger{customer}"), Utc::now(), ReceiptState::Read);
        apply(&pool, page, &[read]).await
    });
    meets(&db.pool, &read).await;
    found.commit().await.unwrap();
    read.await.unwrap();
    assert_eq!(stands(&db.pool, id, "messenger", customer).await, "read 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_to_have_left_counts_the_watermark_told_at_the_same_moment() {
    let db = database().await;
    let (_shop, page, id, customer) = with_unknown(&db.pool).await;
    let mut told = db::begin(&db.pool).await.unwrap();
    let sql = format!(
        "select apply_receipts('{page}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',
                array['messenger{customer}'], array[true], array[now()], '{{}}', '{{}}', '{{}}', '{{}}', array['messenger{customer}'])"
    );
    told.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    let pool = db.pool.clone();
    let left = tokio::spawn(async move { apply(&pool, page, &[echo(mark(id, customer), "m_1")]).await });
    meets(&db.pool, &left).await;
    told.commit().await.unwrap();
    left.await.unwrap();
    assert_eq!(stands(&db.pool, id, "messenger", customer).await, "read 0");
}

#[tokio::test]
async fn a_watermark_alone_says_nothing_of_what_nobody_knows_to_have_left() {
    let db = database().await;
    let (_shop, page, id, customer) = with_unknown(&db.pool).await;
    let read = up_to(&format!("messenger{customer}"), Utc::now(), ReceiptState::Read);
    assert_eq!(apply(&db.pool, page, &[read]).await.moved, 0);
    assert!(stands(&db.pool, id, "messenger", customer).await.starts_with("unknown"));
}

/// One event as Postgres takes it.
fn raw(scene: &Scene, what: &str, person: &str, id: &str) -> String {
    format!(
        r#"select count(*) from apply_events('{}', '[{{"n": 0, "key": "{}", "at": "2026-01-31T12:00:00Z", "address": "{person}", "what": "{what}",
            "thread": "social", "order_number": "", "message_id": "{id}", "text": "hi"}}]')"#,
        scene.sender,
        Uuid::now_v7()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_their_address_is_being_made_has_left() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    let mut met = db::begin(&db.pool).await.unwrap();
    met.execute(sqlx::AssertSqlSafe(raw(&scene, "message", "U1", "m1")))
        .await
        .unwrap();
    let settle = format!("select settle_standing('{}', '{{U1}}')", scene.sender);
    met.execute(sqlx::AssertSqlSafe(settle)).await.unwrap();
    let (pool, who) = (db.pool.clone(), scene.sender);
    let left = at(event(Some("U1"), What::Unfollowed), 50);
    let leaving = tokio::spawn(async move { Scene::at(pool, who).apply(&[left]).await });
    meets(&db.pool, &leaving).await;
    met.commit().await.unwrap();
    leaving.await.unwrap();
    let state: String = scene.get("select state from address where address = 'U1'").await;
    assert_eq!(state, "suppressed");
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_and_single_changes_keep_only_their_own_kind_waiting() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    let mut held = db::begin(&db.pool).await.unwrap();
    held.execute(sqlx::AssertSqlSafe(raw(&scene, "message", "U1", "m1")))
        .await
        .unwrap();
    let mut changed = db::begin(&db.pool).await.unwrap();
    changed
        .execute(sqlx::AssertSqlSafe(raw(&scene, "edited", "U2", "m2")))
        .await
        .unwrap();
    let (new, edited) = (wrote("U3", "m3", "hello", 0), wrote("U4", "m4", "hello", 0));
    let edit = carillon::channel::webhook::WebhookEvent {
        key: "edit of m4".to_owned(),
        what: What::Edited {
            message_id: "m4".to_owned(),
            text: "hello again".to_owned(),
        },
        ..edited.clone()
    };
    let others = async {
        for one in [new, edited, edit] {
            assert_eq!(scene.apply(&[one]).await.new, 1);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), others)
        .await
        .expect("others wait for nobody");
    // The same person does wait, and is met once.
    let (pool, who) = (db.pool.clone(), scene.sender);
    let same = tokio::spawn(async move { Scene::at(pool, who).apply(&[wrote("U1", "m5", "me again", 1)]).await });
    meets(&db.pool, &same).await;
    assert!(!same.is_finished());
    held.commit().await.unwrap();
    changed.commit().await.unwrap();
    same.await.unwrap();
    assert_eq!(scene.get::<i64>("select count(*) from customer").await, 3);
}
