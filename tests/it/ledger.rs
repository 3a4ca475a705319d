//! The ledger under concurrency, and against callers who would cheat.

use carillon::ledger::{self, EntryKind, LedgerError, Page, Period};
use carillon_jobs::ShopId;
use futures::future::join_all;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{LINE, assert_clean, one, open, run, shop},
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
async fn of_twenty_broadcasts_that_open_at_once_exactly_those_begin_that_fit() {
    let db = database().await;
    // A broadcast to four on LINE costs 20. Eleven fit and 9 are left over: ten from the allowance of 200, one from extra tokens.
    let shop = shop(&db.pool, 4, 200).await;
    ledger::top_up(&db.pool, ShopId(shop.id), 29, "order-1").await.unwrap();
    let mut broadcasts = Vec::new();
    for _ in 0..20 {
        broadcasts.push(shop.planned(&[LINE], 4).await);
    }
    let ends: Vec<String> = join_all(broadcasts.iter().map(|id| open(&db.pool, *id))).await;
    assert_eq!(ends.iter().filter(|end| *end == "opened").count(), 11, "{ends:?}");
    assert_eq!(ends.iter().filter(|end| *end == "short").count(), 9, "{ends:?}");
    assert_eq!(
        one::<i64>(&db.pool, "select count(*) from broadcast where missing_tokens = 11").await,
        9,
        "each is told how many are missing"
    );
    assert_eq!(shop.available().await, 9);
    assert_clean(&db.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_captures_and_a_refill_at_once_lose_and_invent_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 10_000).await;
    ledger::top_up(&db.pool, ShopId(shop.id), 2_000, "order-1")
        .await
        .unwrap();
    let broadcast = Uuid::now_v7();
    let hold = format!("select ledger_hold('{broadcast}', '{}', 11000)", shop.id);
    assert_eq!(one::<i64>(&db.pool, &hold).await, 0);
    let capture = |n: usize| {
        // Who waits for the disk here waits for it a thousand times, one after the other.
        let sql =
            format!("set local synchronous_commit = off; select ledger_settle('{broadcast}', 'line', 6, 4, '{n}')");
        let pool = db.pool.clone();
        tokio::spawn(async move { run(&pool, &sql).await })
    };
    let refill = || {
        let (pool, shop) = (db.pool.clone(), ShopId(shop.id));
        tokio::spawn(async move {
            ledger::refill(&pool, shop, Period::new(2999, 12).unwrap(), 300)
                .await
                .unwrap();
        })
    };
    // Five refills in the middle of the thousand.
    let mut tasks: Vec<_> = (0..500).map(capture).collect();
    tasks.extend((0..5).map(|_| refill()));
    tasks.extend((500..1_000).map(capture));
    for task in tasks {
        task.await.unwrap();
    }
    let balance = ledger::balance(&db.pool, ShopId(shop.id)).await.unwrap();
    // Extra tokens come back whenever they do. Allowance that came back before the refill expired with the old period, what came
    // back after it expired at once; what is open still is the thousand that nobody settled.
    let open: i64 = one(&db.pool, "select open_allowance + open_extra from token_hold").await;
    assert_eq!((open, balance.held()), (1_000, 1_000));
    let spent: i64 = one(&db.pool, "select captured_allowance + captured_extra from token_hold").await;
    assert_eq!(spent, 6_000);
    assert_eq!(balance.allowance - balance.held_allowance, 300);
    let counts = "select array[count(*) filter (where kind = 'capture'), count(*) filter (where kind = 'release'),
                               count(*) filter (where operation = 'grant:2999-12')] from ledger_entry";
    assert_eq!(one::<Vec<i64>>(&db.pool, counts).await, [1_000, 1_000, 1]);
    let drift = ledger::audit(&db.pool, None).await.unwrap();
    for name in [
        "balance_is_sum_of_entries",
        "entry_follows_entry",
        "entry_overdraws_nothing",
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
