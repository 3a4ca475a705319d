//! The ledger under concurrency, and against callers who would cheat.

use std::sync::Arc;

use carillon::db::PgPool;
use carillon::ledger::{self, EntryKind, LedgerError, Page, Period};
use carillon_jobs::ShopId;
use futures::future::join_all;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{assert_clean, one, run, shop},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_holds_at_once_exactly_those_succeed_that_fit() {
    let db = database().await;
    // Eleven fit: 7 from the allowance of 72 with 2 left over, the rest with extra tokens, 9 left over.
    let shop = shop(&db.pool, 0, 72).await;
    ledger::top_up(&db.pool, ShopId(shop.id), 47, "order-1").await.unwrap();
    let missing: Vec<i64> = join_all((0..20).map(|_| {
        let (pool, id) = (db.pool.clone(), shop.id);
        async move { one(&pool, &format!("select ledger_hold('{}', '{id}', 10)", Uuid::now_v7())).await }
    }))
    .await;
    assert_eq!(missing.iter().filter(|&&missing| missing == 0).count(), 11);
    assert!(
        missing.iter().all(|&missing| missing == 0 || missing == 1),
        "{missing:?}"
    );
    assert_eq!(shop.available().await, 9);
    assert_eq!(
        one::<i64>(&db.pool, "select sum(allowance)::bigint from token_hold").await,
        72
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settles_and_a_refill_at_once_lose_and_invent_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 1000).await;
    let broadcast = Uuid::now_v7();
    assert_eq!(
        one::<i64>(
            &db.pool,
            &format!("select ledger_hold('{broadcast}', '{}', 400)", shop.id)
        )
        .await,
        0
    );
    let pool = Arc::new(db.pool.clone());
    let settles = (0..40).map(|n| {
        let sql = format!("select ledger_settle('{broadcast}', 'line', 6, 4, '{n}')");
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { run(&pool, &sql).await })
    });
    let refills = (0..5).map(|_| {
        let (pool, shop) = (Arc::clone(&pool), ShopId(shop.id));
        tokio::spawn(async move {
            ledger::refill(&*pool, shop, Period::new(2999, 12).unwrap(), 300)
                .await
                .unwrap();
        })
    });
    for task in settles.chain(refills).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let balance = ledger::balance(&db.pool, ShopId(shop.id)).await.unwrap();
    // Whatever came back before the refill expired with the old period, whatever came back after it expired at once.
    assert_eq!((balance.allowance, balance.held(), balance.available()), (300, 0, 300));
    let grants: i64 = one(
        &db.pool,
        "select count(*) from ledger_entry where operation = 'grant:2999-12'",
    )
    .await;
    assert_eq!(grants, 1);
    let drift = ledger::audit(&db.pool, None).await.unwrap();
    for name in [
        "balance_is_sum_of_entries",
        "entry_follows_entry",
        "held_is_open_holds",
        "hold_is_its_entries",
    ] {
        let check = drift.checks.iter().find(|check| check.name == name).unwrap();
        assert!(check.broken == 0 && check.examined > 0, "{check:?}");
    }
}

#[tokio::test]
async fn refill_and_top_up_happen_once_and_read_back_newest_first() {
    let db = database().await;
    let shop = ShopId(shop(&db.pool, 0, 100).await.id);
    let december = Period::new(2999, 12).unwrap();
    assert!(ledger::refill(&db.pool, shop, december, 50).await.unwrap());
    assert!(!ledger::refill(&db.pool, shop, december, 50).await.unwrap());
    assert!(
        !ledger::refill(&db.pool, shop, Period::new(2999, 11).unwrap(), 50)
            .await
            .unwrap(),
        "a period that is over"
    );
    assert!(ledger::top_up(&db.pool, shop, 7, "order-9").await.unwrap());
    assert!(!ledger::top_up(&db.pool, shop, 7, "order-9").await.unwrap());
    let balance = ledger::balance(&db.pool, shop).await.unwrap();
    assert_eq!(
        (balance.allowance, balance.extra, balance.period),
        (50, 7, Some(december))
    );

    let newest = ledger::entries(&db.pool, shop, Page { before: None, limit: 2 })
        .await
        .unwrap();
    assert_eq!([newest[0].kind, newest[1].kind], [EntryKind::TopUp, EntryKind::Grant]);
    let older = ledger::entries(
        &db.pool,
        shop,
        Page {
            before: Some(newest[1].id),
            limit: 100,
        },
    )
    .await
    .unwrap();
    assert_eq!(
        older.iter().map(|entry| entry.kind).collect::<Vec<_>>(),
        [EntryKind::Expire, EntryKind::Grant]
    );
    assert_eq!(older[0].allowance_after, 0);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_shop_that_does_not_exist_and_a_nameless_operation_are_named_errors() {
    let db = database().await;
    let nobody = ShopId::new();
    assert!(matches!(ledger::balance(&db.pool, nobody).await, Err(LedgerError::NoAccount(id)) if id == nobody));
    let refilled = ledger::refill(&db.pool, nobody, Period::new(2999, 12).unwrap(), 5).await;
    assert!(matches!(refilled, Err(LedgerError::NoAccount(id)) if id == nobody));
    assert!(matches!(
        ledger::top_up(&db.pool, nobody, 5, "").await,
        Err(LedgerError::InvalidOperation)
    ));
}

/// The constraint or message with which Postgres refuses a statement.
async fn refusal(pool: &PgPool, sql: &str) -> String {
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .expect_err(sql);
    let error = error.into_database_error().unwrap();
    error
        .constraint()
        .map_or_else(|| error.message().to_owned(), ToOwned::to_owned)
}

#[tokio::test]
async fn the_database_itself_refuses_to_bend_the_ledger() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    let (id, broadcast) = (shop.id, Uuid::now_v7());
    run(&db.pool, &format!("select ledger_hold('{broadcast}', '{id}', 60)")).await;
    run(
        &db.pool,
        &format!("select ledger_settle('{broadcast}', 'line', 5, 5, 'a')"),
    )
    .await;
    let never = "ledger entries are never changed or deleted; post a refund or an adjustment instead";
    let cases = [
        ("update ledger_entry set allowance = 1".to_owned(), never),
        ("delete from ledger_entry".to_owned(), never),
        ("truncate ledger_entry".to_owned(), never),
        (
            "update token_account set allowance = -1".to_owned(),
            "allowance_not_overdrawn",
        ),
        (
            "update token_account set allowance = held_allowance - 1".to_owned(),
            "allowance_not_overdrawn",
        ),
        (
            "update token_account set held_extra = 1".to_owned(),
            "extra_not_overdrawn",
        ),
        (
            format!("select ledger_post('{id}', 'adjust', 'adjust:x', null, null, -51, 0, 0, 0)"),
            "allowance_not_overdrawn",
        ),
        (
            format!("select ledger_post('{id}', 'grant', 'grant:2999-11', null, null, 1, 0, 0, 0)"),
            "ledger_entry_shop_id_operation_key",
        ),
        (
            format!("select ledger_post('{id}', 'grant', 'grant:y', null, null, -1, 0, 0, 0)"),
            "kind_moves_its_own_way",
        ),
        (
            format!("select ledger_settle('{broadcast}', 'line', 1, 0, 'a')"),
            "ledger_entry_shop_id_operation_key",
        ),
        (
            format!("select ledger_settle('{broadcast}', 'line', 51, 0, 'b')"),
            "token_hold_open_allowance_check",
        ),
        (
            format!("select ledger_settle('{broadcast}', 'line', -1, 0, 'c')"),
            "captured and released are numbers of tokens, not -1 and 0",
        ),
        (
            format!("select ledger_refund('{broadcast}', 'line', 6, 'd')"),
            "refund_within_capture",
        ),
        (
            format!("select ledger_refund('{broadcast}', 'line', 0, 'e')"),
            "a refund is a positive number of tokens, not 0",
        ),
        (
            format!("select ledger_hold('{broadcast}', '{id}', 1)"),
            "token_hold_pkey",
        ),
        (
            format!("select ledger_hold('{}', '{id}', -1)", Uuid::now_v7()),
            "token_hold_allowance_check",
        ),
        (
            format!("update token_hold set state = 'closed' where broadcast_id = '{broadcast}'"),
            "closed_hold_is_empty",
        ),
        (
            format!("update token_hold set released = 50 where broadcast_id = '{broadcast}'"),
            "hold_adds_up",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(refusal(&db.pool, &sql).await, expected, "{sql}");
    }
    assert_eq!(shop.available().await, 45);
}
