//! Events are told with their facts and never without, and who reads by cursor hears each once, in one order, whatever
//! overlaps.

use std::collections::BTreeSet;

use carillon::{
    db::PgPool,
    event::{EventsConfig, forget_old, publish_settings},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{APP, LINE, one, open, run, send_rest, shop},
    wait::until,
};

#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Event {
    pub(crate) cursor: String,
    pub(crate) shop_id: Uuid,
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) data: Value,
}

pub(crate) async fn read(pool: &PgPool, after: &str, limit: i32) -> Vec<Event> {
    sqlx::query_as("select cursor, shop_id, kind, subject, data from read_events($1, $2)")
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await
        .unwrap()
}

/// Everything after a cursor, once `count` events can be read: transactions of other tests on this server hold them up.
pub(crate) async fn told(pool: &PgPool, after: &str, count: usize) -> Vec<Event> {
    until("the events can be read", async || {
        read(pool, after, 1000).await.len() >= count
    })
    .await;
    let events = read(pool, after, 1000).await;
    assert_eq!(events.len(), count, "{events:?}");
    events
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

#[tokio::test]
async fn tokens_that_come_are_told_in_the_transaction_that_brings_them() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    run(
        &db.pool,
        &format!(
            "begin; select ledger_top_up('{0}', 40, 'order-1'); rollback;
             select ledger_top_up('{0}', 50, 'order-2'); select ledger_top_up('{0}', 50, 'order-2');
             select ledger_refill('{0}', '2999-11', 100); select ledger_refill('{0}', '2999-12', 200)",
            shop.id
        ),
    )
    .await;
    let events = told(&db.pool, "", 3).await;
    assert!(events.iter().all(|event| event.shop_id == shop.id));
    let facts: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.subject.as_str(), event.data.clone()))
        .collect();
    assert_eq!(
        facts,
        [
            ("refill_done", "2999-11", json!({"granted": 100, "available": 100})),
            ("top_up_settled", "order-2", json!({"tokens": 50, "available": 150})),
            ("refill_done", "2999-12", json!({"granted": 200, "available": 250})),
        ]
    );
}

#[tokio::test]
async fn a_low_balance_is_told_once_a_period_and_as_configured() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    let hold = |tokens: i32| format!("select ledger_hold('{}', '{}', {tokens});", Uuid::now_v7(), shop.id);
    // 20 of 100 are not below a fifth; 19 are; 5 are not told again.
    run(&db.pool, &hold(80)).await;
    assert_eq!(kinds(&told(&db.pool, "", 1).await), ["refill_done"]);
    run(&db.pool, &hold(1)).await;
    run(&db.pool, &hold(14)).await;
    let events = told(&db.pool, "", 2).await;
    assert_eq!(
        (
            events[1].kind.as_str(),
            events[1].subject.as_str(),
            events[1].data.clone()
        ),
        ("balance_low", "2999-11", json!({"granted": 100, "available": 19}))
    );
    // The next period is another one, and what is low is the operator's to say.
    run(
        &db.pool,
        &format!("select ledger_refill('{}', '2999-12', 100)", shop.id),
    )
    .await;
    let config = EventsConfig {
        balance_low_percent: 99,
        keep_days: 90,
    };
    publish_settings(&db.pool, &config).await.unwrap();
    run(&db.pool, &hold(2)).await;
    let events = told(&db.pool, "", 4).await;
    assert_eq!(
        (events[3].kind.as_str(), events[3].subject.as_str()),
        ("balance_low", "2999-12")
    );
    let never = EventsConfig {
        balance_low_percent: 0,
        ..config
    };
    publish_settings(&db.pool, &never).await.unwrap();
    run(
        &db.pool,
        &format!("select ledger_refill('{}', '3000-01', 100)", shop.id),
    )
    .await;
    run(&db.pool, &hold(100)).await;
    assert_eq!(kinds(&told(&db.pool, "", 5).await)[4], "refill_done");
}

#[tokio::test]
async fn every_end_of_a_broadcast_is_told_once_with_its_counts() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 40).await;
    let tail = told(&db.pool, "", 1).await[0].cursor.clone();

    let done = shop.opened(&[LINE, APP], 5).await;
    send_rest(&db.pool, done, "line").await;
    assert_eq!(read(&db.pool, &tail, 10).await.len(), 0, "one lane is not the end");
    send_rest(&db.pool, done, "app").await;
    let stopped = shop.opened(&[APP], 5).await;
    run(&db.pool, &format!("select cancel_broadcast('{stopped}')")).await;
    run(
        &db.pool,
        &format!("select drain_slice('{stopped}', 'app', 'cancelled')"),
    )
    .await;
    let unsent = shop.planned(&[APP], 5).await;
    run(&db.pool, &format!("select cancel_broadcast('{unsent}')")).await;
    run(&db.pool, &format!("select cancel_broadcast('{unsent}')")).await;
    let short = shop.planned(&[LINE], 5).await;
    run(&db.pool, "update broadcast_channel set tokens = 50 where planned > 0").await;
    assert_eq!(open(&db.pool, short).await, "short");

    let mut events = told(&db.pool, &tail, 4).await;
    // When exactly the balance got low is another test's.
    events.retain(|event| event.kind == "broadcast_finished");
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.subject.parse::<Uuid>().unwrap(), event.data.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (
                done,
                json!({"state": "completed", "charged_tokens": 18, "deliveries": {"accepted": 6}})
            ),
            (
                stopped,
                json!({"state": "cancelled", "charged_tokens": 0, "deliveries": {"cancelled": 3}})
            ),
            (unsent, json!({"state": "cancelled"})),
            (
                short,
                json!({"state": "failed", "reason": "tokens_short", "missing_tokens": 128})
            ),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_late_is_not_passed_over() {
    let db = database().await;
    let shop = Uuid::now_v7();
    let emit = |subject: &str| format!("select emit_event('{shop}', 'refill_done', '{subject}', '{{}}')");
    let mut late = db.pool.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(emit("late")))
        .execute(&mut *late)
        .await
        .unwrap();
    run(&db.pool, &emit("early")).await;
    // A reader that went by ids alone would hand out the second and never come back to the first.
    assert_eq!(
        read(&db.pool, "", 10).await.len(),
        0,
        "an older transaction is still open"
    );
    late.commit().await.unwrap();
    let subjects: Vec<_> = told(&db.pool, "", 2).await.into_iter().map(|e| e.subject).collect();
    assert_eq!(subjects, ["late", "early"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_leave_no_gap_and_nothing_twice() {
    let db = database().await;
    let writers = (0..6).map(|writer| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            let mut committed = Vec::new();
            for n in 0..25 {
                let subject = format!("{writer}-{n}");
                let mut tx = pool.begin().await.unwrap();
                sqlx::query("select emit_event($1, 'refill_done', $2, '{}') from generate_series(1, 1)")
                    .bind(Uuid::now_v7())
                    .bind(&subject)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                // Out of step with each other, so that commits come in another order than the ids.
                sqlx::query("select 1 from generate_series(1, $1)")
                    .bind((writer * 7 + n * 13) % 2_000)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                if n % 5 == 4 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                    committed.push(subject);
                }
            }
            committed
        })
    });
    let writers: Vec<_> = writers.collect();
    let (mut heard, mut cursor) = (Vec::new(), String::new());
    until("all committed events were heard", async || {
        for event in read(&db.pool, &cursor, 7).await {
            cursor.clone_from(&event.cursor);
            heard.push(event.subject);
        }
        heard.len() >= 120
    })
    .await;
    let mut committed = BTreeSet::new();
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    assert_eq!(read(&db.pool, &cursor, 10).await.len(), 0);
    assert_eq!(heard.len(), 120, "nothing twice");
    assert_eq!(heard.into_iter().collect::<BTreeSet<_>>(), committed);
}

#[tokio::test]
async fn a_cursor_that_was_never_given_out_is_refused_and_now_is_a_place_to_begin() {
    let db = database().await;
    run(
        &db.pool,
        &format!("select emit_event('{}', 'refill_done', 'old', '{{}}')", Uuid::now_v7()),
    )
    .await;
    told(&db.pool, "", 1).await;
    let now: String = one(&db.pool, "select events_from_now()").await;
    assert_eq!(read(&db.pool, &now, 10).await.len(), 0);
    run(
        &db.pool,
        &format!("select emit_event('{}', 'refill_done', 'new', '{{}}')", Uuid::now_v7()),
    )
    .await;
    assert_eq!(told(&db.pool, &now, 1).await[0].subject, "new");
    for (cursor, why) in [
        ("x", "an event cursor is"),
        ("1-2-", "an event cursor is"),
        ("1-2-3-4", "an event cursor is"),
        ("9000000000000000000-1", "is ahead of this database"),
    ] {
        let error = sqlx::query("select * from read_events($1)")
            .bind(cursor)
            .fetch_all(&db.pool)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(why), "{cursor}: {error}");
    }
}

#[tokio::test]
async fn old_events_are_forgotten_and_young_ones_kept() {
    let db = database().await;
    run(
        &db.pool,
        "insert into event (shop_id, kind, subject, at)
         select gen_random_uuid(), 'refill_done', n::text, now() - n * interval '1 day' from generate_series(80, 100) n",
    )
    .await;
    let config = EventsConfig {
        balance_low_percent: 20,
        keep_days: 90,
    };
    // The one of ninety days ago is older than that by now.
    assert_eq!(forget_old(&db.pool, &config).await.unwrap(), 11);
    assert_eq!(one::<i64>(&db.pool, "select count(*) from event").await, 10);
    assert_eq!(forget_old(&db.pool, &config).await.unwrap(), 0);
    // One row of three shops is three events, and goes as one.
    run(
        &db.pool,
        "insert into event (kind, subject, shop_ids, granted, available, at)
         select 'refill_done', 'p', array_agg(gen_random_uuid()), array_agg(5), array_agg(5), now() - age * interval '1 day'
           from generate_series(1, 3), unnest(array[91, 89]) as age group by age",
    )
    .await;
    assert_eq!(forget_old(&db.pool, &config).await.unwrap(), 3);
    assert_eq!(one::<i64>(&db.pool, "select count(*) from event").await, 11);
}
