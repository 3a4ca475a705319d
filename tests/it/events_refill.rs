//! A refill of many shops is told in one row of `event`: a reader must hear it as one event a shop all the same, at any size
//! of page, and whoever posts a grant in any other way must still be told by the trigger.

use std::collections::BTreeSet;

use carillon::db::PgPool;
use serde_json::json;
use uuid::Uuid;

use crate::{
    events::{Event, read, told},
    fixture_db::database,
    scene::{one, run},
    wait::until,
};

/// New shops, which are due at once.
async fn due_shops(pool: &PgPool, count: usize) -> BTreeSet<Uuid> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    sqlx::query("insert into shop (id, name, url, plan) select id, 'Tea', 'u', 'core' from unnest($1) as id")
        .bind(&ids)
        .execute(pool)
        .await
        .unwrap();
    ids.into_iter().collect()
}

const PERIOD: &str = "select period_at(now(), 'Asia/Taipei', 1)";

/// One step of the job; how many were refilled.
const STEP: &str = "select refilled from refill_due_shops(period_at(now(), 'Asia/Taipei', 1), $1)";

async fn step(pool: &PgPool, limit: i32) -> i32 {
    sqlx::query_scalar(STEP).bind(limit).fetch_one(pool).await.unwrap()
}

fn parts(event: &Event) -> usize {
    event.cursor.split('-').count()
}

#[tokio::test]
async fn a_step_of_five_thousand_is_one_row_and_five_thousand_events_at_any_page() {
    let db = database().await;
    let pool = &db.pool;
    let shops = due_shops(pool, 5000).await;
    let period: String = one(pool, PERIOD).await;
    let first = *shops.iter().next().unwrap();
    let top_up = |order: &str| format!("select ledger_top_up('{first}', 7, '{order}')");
    run(pool, &top_up("before")).await;
    assert_eq!(step(pool, 5000).await, 5000);
    run(pool, &top_up("after")).await;
    assert_eq!(one::<i64>(pool, "select count(*) from event").await, 3);

    // A cursor of the release before stands behind the whole row.
    let behind: String = one(pool, "select tx || '-' || id from event where shop_id is null").await;
    assert_eq!(told(pool, &behind, 1).await[0].subject, "after");
    let before = read(pool, "", 1).await;
    assert_eq!(before[0].subject, "before");
    let mut heard: Vec<Event> = Vec::new();
    let mut cursor = before[0].cursor.clone();
    // A hand may ask for more than there are in a page; it gets a thousand.
    for limit in [999, 1, 1000, 7, 5000, 1000] {
        let page = read(pool, &cursor, limit).await;
        assert_eq!(i32::try_from(page.len()).unwrap(), limit.min(1000));
        assert_eq!(
            page.iter().map(|event| &event.cursor).collect::<Vec<_>>(),
            read(pool, &cursor, limit)
                .await
                .iter()
                .map(|event| &event.cursor)
                .collect::<Vec<_>>(),
            "the same cursor gives the same events"
        );
        assert!(page.iter().all(|event| parts(event) == 3), "in the middle of the row");
        cursor.clone_from(&page.last().unwrap().cursor);
        heard.extend(page);
    }
    // The rest of the row and what came after it in one page, which ends with the last there is.
    let rest = read(pool, &cursor, 1000).await;
    assert_eq!((rest.len(), rest[993].subject.as_str()), (994, "after"));
    assert_eq!(
        rest[992].cursor, behind,
        "after the last of its shops a cursor is like any other"
    );
    assert_eq!(read(pool, &rest.last().unwrap().cursor, 10).await.len(), 0);
    heard.extend(rest.into_iter().filter(|event| event.kind == "refill_done"));
    assert_eq!(heard.len(), 5000);
    assert_eq!(heard.iter().map(|event| event.shop_id).collect::<BTreeSet<_>>(), shops);
    for event in heard {
        let available = if event.shop_id == first { 5007 } else { 5000 };
        assert_eq!(event.subject, period);
        assert_eq!(event.data, json!({"granted": 5000, "available": available}));
    }
}

/// Whatever grants, sets aside or adds: told by the trigger or, for many at once, by who posts; and once.
#[tokio::test]
async fn no_way_to_post_leaves_an_event_out_or_tells_it_twice() {
    let db = database().await;
    let pool = &db.pool;
    let shops: Vec<Uuid> = due_shops(pool, 5).await.into_iter().collect();
    let period: String = one(pool, PERIOD).await;
    let broadcast = Uuid::now_v7();
    run(
        pool,
        &format!(
            "begin; select refilled from refill_due_shops('{period}', 3); rollback;
             select refill_shop('{0}'); select refill_shop('{0}');
             select ledger_hold('{broadcast}', '{1}', 4500);
             select ledger_refill('{2}', '2999-01', 10);
             select refilled from refill_due_shops('{period}', 100);
             select change_plan('{3}', 'growth');
             -- A move somebody adds inside the ledger's door, who knows nothing of events.
             create view novel_move as select null::uuid as shop_id where false;
             create function novel_moves() returns trigger language plpgsql as $$ begin
                 perform ledger_post(new.shop_id, 'grant', 'grant:2999-02', null, null, 3, 0, 0, 0);
                 return new;
             end $$;
             create trigger novel_moves instead of insert on novel_move for each row execute function novel_moves();
             insert into novel_move values ('{2}')",
            shops[0], shops[1], shops[2], shops[3]
        ),
    )
    .await;
    let events = told(pool, "", 7).await;
    let heard: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.shop_id,
                event.kind.as_str(),
                event.subject.as_str(),
                event.data.clone(),
            )
        })
        .collect();
    let full = json!({"granted": 5000, "available": 5000});
    assert_eq!(
        heard,
        [
            (shops[0], "refill_done", period.as_str(), full.clone()),
            (shops[1], "refill_done", &period, full.clone()),
            (
                shops[1],
                "balance_low",
                &period,
                json!({"granted": 5000, "available": 500})
            ),
            (
                shops[2],
                "refill_done",
                "2999-01",
                json!({"granted": 10, "available": 10})
            ),
            (shops[3], "refill_done", &period, full.clone()),
            (shops[4], "refill_done", &period, full),
            (
                shops[2],
                "refill_done",
                "2999-02",
                json!({"granted": 3, "available": 13})
            ),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_and_other_writers_at_once_leave_no_gap_and_nothing_twice() {
    let db = database().await;
    let shops = due_shops(&db.pool, 600).await;
    let steps = (0..3).map(|_| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let mut tx = pool.begin().await.unwrap();
                let done: i32 = sqlx::query_scalar(STEP)
                    .bind(17 + n % 5)
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
                if n % 4 == 3 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                    if done == 0 {
                        return;
                    }
                }
            }
        })
    });
    let singles = (0..3).map(|writer| {
        let (pool, shops) = (db.pool.clone(), shops.clone());
        tokio::spawn(async move {
            for shop in shops.iter().skip(writer).step_by(7) {
                run(
                    &pool,
                    &format!("select refill_shop('{shop}'); select ledger_top_up('{shop}', 1, 'order-{writer}')"),
                )
                .await;
            }
        })
    });
    let writers: Vec<_> = steps.chain(singles).collect();
    let top_ups: usize = (0..3_usize).map(|writer| (600 - writer).div_ceil(7)).sum();
    let (mut heard, mut cursor) = (Vec::new(), String::new());
    until("all events were heard", async || {
        for event in read(&db.pool, &cursor, 7).await {
            cursor.clone_from(&event.cursor);
            heard.push((event.kind, event.shop_id, event.subject));
        }
        heard.len() >= 600 + top_ups
    })
    .await;
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(read(&db.pool, &cursor, 10).await.len(), 0);
    assert_eq!(heard.len(), 600 + top_ups);
    let refilled: BTreeSet<Uuid> = heard
        .iter()
        .filter(|(kind, ..)| kind == "refill_done")
        .map(|(_, shop, _)| *shop)
        .collect();
    assert_eq!(refilled, shops);
    assert_eq!(
        heard.into_iter().collect::<BTreeSet<_>>().len(),
        600 + top_ups,
        "nothing twice"
    );
}

#[tokio::test]
async fn an_event_is_of_one_shop_or_of_many() {
    let db = database().await;
    for wrong in [
        "(kind, subject) values ('refill_done', 'p')",
        "(kind, subject, shop_ids) values ('refill_done', 'p', array[gen_random_uuid()])",
        "(kind, subject, shop_ids, granted, available) values ('refill_done', 'p', array[gen_random_uuid()], '{1,2}', '{1}')",
        "(kind, subject, shop_ids, granted, available) values ('top_up_settled', 'p', array[gen_random_uuid()], '{1}', '{1}')",
        "(shop_id, kind, subject, granted) values (gen_random_uuid(), 'refill_done', 'p', '{1}')",
    ] {
        let sql = format!("insert into event {wrong}");
        let error = sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&db.pool)
            .await
            .expect_err(wrong);
        let error = error.into_database_error().unwrap();
        assert_eq!(error.constraint(), Some("event_is_of_one_or_many"), "{wrong}");
    }
}
