//! Top-up orders: paid once or never, credited exactly once, whatever is reported twice, late, out of order or at once.

use carillon::{
    ledger,
    top_up::{self, TopUpError, TopUpState, credit_at},
};
use carillon_jobs::{ShopId, TopUpId};
use chrono::{TimeDelta, Utc};
use futures::future::join_all;

use crate::{
    fixture_db::database,
    scene::{assert_clean, one, run, shop},
    top_up_scene::{RULES, charge, credits, due, hold, long_ago, new, requested, states},
};

#[tokio::test]
async fn the_table_of_states_is_the_databases() {
    let db = database().await;
    for from in TopUpState::ALL {
        for to in TopUpState::ALL {
            let sql = format!("select top_up_may_move('{from}', '{to}')");
            assert_eq!(one::<bool>(&db.pool, &sql).await, from.may_move(to), "{from} -> {to}");
        }
    }
}

#[tokio::test]
async fn an_order_is_priced_paid_credited_and_given_back() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    let order = top_up::request(&db.pool, &new(shop.id, 10, 3)).await.unwrap();
    assert_eq!(
        (
            order.state,
            order.blocks,
            order.tokens,
            order.package_price_twd,
            order.price_twd
        ),
        (TopUpState::Requested, 30, 375_000, 6_790, 20_370)
    );
    assert_eq!(order.price_version, "blocks-2025-09-01");
    assert!(matches!(
        top_up::settle(&db.pool, order.id).await,
        Err(TopUpError::WrongState {
            state: TopUpState::Requested,
            ..
        })
    ));
    let moved = charge(&db.pool, order.id, "BANK-1", None).await.unwrap();
    let charged_at = moved.order.charged_at.unwrap();
    assert!(moved.changed && (Utc::now() - charged_at).abs() < TimeDelta::minutes(1));
    assert_eq!(moved.order.credit_at, Some(credit_at(charged_at, 30, &RULES)));
    let early = top_up::settle(&db.pool, order.id).await;
    assert!(matches!(early, Err(TopUpError::NotDue { .. })), "{early:?}");
    assert_eq!(credits(&db.pool, order.id).await, (0, 0));

    // Another one of the same shop, whose time has come.
    let paid = due(&db.pool, shop.id, 4, "BANK-2").await;
    assert!(top_up::settle(&db.pool, paid).await.unwrap().changed);
    assert!(!top_up::settle(&db.pool, paid).await.unwrap().changed);
    assert_eq!(credits(&db.pool, paid).await, (1, 50_000));
    let refunded = top_up::refund(&db.pool, paid, None, "wrong card", "bob").await.unwrap();
    assert_eq!((refunded.changed, refunded.order.refunded_tokens), (true, Some(50_000)));
    assert_eq!(credits(&db.pool, paid).await, (1, 0));
    assert_eq!(
        states(&db.pool, paid).await,
        ["requested", "charged", "settled", "refunded"]
    );
    let history = top_up::history(&db.pool, paid).await.unwrap();
    let who: Vec<&str> = history.iter().map(|entry| entry.by.as_str()).collect();
    assert_eq!(who, ["anna", "anna", "carillon", "bob"]);
    // And before the credit, as a whole.
    let refunded = top_up::refund(&db.pool, order.id, None, "changed their mind", "bob")
        .await
        .unwrap();
    assert_eq!(
        (refunded.order.refunded_tokens, credits(&db.pool, order.id).await),
        (Some(0), (0, 0))
    );
    let balance = ledger::balance(&db.pool, ShopId(shop.id)).await.unwrap();
    assert_eq!((balance.extra, balance.allowance), (0, 100));
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn what_operators_did_is_in_their_log_once_each() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 100).await;
    let order = top_up::request(&db.pool, &new(shop.id, 1, 1)).await.unwrap();
    let failing = top_up::request(&db.pool, &new(shop.id, 1, 1)).await.unwrap();
    for _ in 0..2 {
        charge(&db.pool, order.id, "BANK-1", None).await.unwrap();
        top_up::fail(&db.pool, failing.id, "no answer", "bob").await.unwrap();
    }
    for _ in 0..2 {
        top_up::refund(&db.pool, order.id, None, "a mistake", "bob")
            .await
            .unwrap();
    }
    let log: String = one(
        &db.pool,
        "select string_agg(concat_ws('|', actor, action, replace(subject, 'top_up_order ', ''), reason), E'\n' order by id)
           from operator_action",
    )
    .await;
    let (a, b) = (order.id, failing.id);
    assert_eq!(
        log,
        format!(
            "anna|top_up.request|{a}|1 of 1 blocks, 799 TWD\nanna|top_up.request|{b}|1 of 1 blocks, 799 TWD\n\
             anna|top_up.mark_charged|{a}|payment reference BANK-1\nbob|top_up.fail|{b}|no answer\n\
             bob|top_up.refund|{a}|a mistake"
        )
    );
}

#[tokio::test]
async fn a_charge_reported_five_times_before_and_after_the_credit_is_credited_once() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let id = requested(&db.pool, shop.id, 2).await;
    for n in 0..5 {
        let moved = charge(&db.pool, id, "PAY-1", Some(long_ago())).await.unwrap();
        assert_eq!(moved.changed, n == 0);
        top_up::settle(&db.pool, id).await.unwrap();
    }
    assert_eq!(credits(&db.pool, id).await, (1, 25_000));
    assert_eq!(states(&db.pool, id).await, ["requested", "charged", "settled"]);
    // After it was given back, too: the repeat says so and brings nothing.
    top_up::refund(&db.pool, id, None, "chargeback", "bob").await.unwrap();
    let repeat = charge(&db.pool, id, "PAY-1", Some(long_ago())).await.unwrap();
    assert_eq!((repeat.changed, repeat.order.state), (false, TopUpState::Refunded));
    let settled = top_up::settle(&db.pool, id).await;
    assert!(matches!(
        settled,
        Err(TopUpError::WrongState {
            state: TopUpState::Refunded,
            ..
        })
    ));
    assert_eq!(credits(&db.pool, id).await, (1, 0));
    assert_clean(&db.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_charges_settles_and_refunds_at_once_credit_and_take_back_once() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    // Two references fight for the order, and one of them for another order, too.
    let (id, other) = (
        requested(&db.pool, shop.id, 2).await,
        requested(&db.pool, shop.id, 1).await,
    );
    let calls = (0..50).map(|n| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            match n % 5 {
                0 | 1 => charge(&pool, id, "PAY-1", Some(long_ago())).await,
                2 => charge(&pool, id, "PAY-2", Some(long_ago())).await,
                3 => charge(&pool, other, "PAY-1", Some(long_ago())).await,
                _ => top_up::settle(&pool, id).await,
            }
        })
    });
    let results: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let unexpected = results.iter().filter_map(|result| result.as_ref().err()).find(|error| {
        !matches!(
            error,
            TopUpError::OtherPayment(_) | TopUpError::ReferenceUsed | TopUpError::WrongState { .. }
        )
    });
    assert!(unexpected.is_none(), "{unexpected:?}");
    let _ = top_up::settle(&db.pool, id).await;
    let _ = top_up::settle(&db.pool, other).await;
    assert_eq!(
        credits(&db.pool, id).await.0,
        i64::from(
            one::<bool>(
                &db.pool,
                &format!("select payment_reference is not null from top_up_order where id = '{id}'")
            )
            .await
        )
    );
    let paid: i64 = one(&db.pool, "select count(distinct payment_reference) from top_up_order").await;
    let credited: i64 = one(&db.pool, "select count(*) from ledger_entry where kind = 'top_up'").await;
    assert_eq!(paid, credited, "as many credits as payments");

    let due = due(&db.pool, shop.id, 3, "PAY-3").await;
    let settles = join_all((0..50).map(|_| {
        let pool = db.pool.clone();
        tokio::spawn(async move { top_up::settle(&pool, due).await.unwrap().changed })
    }))
    .await;
    assert_eq!(
        settles.into_iter().filter(|changed| *changed.as_ref().unwrap()).count(),
        1
    );
    assert_eq!(credits(&db.pool, due).await, (1, 37_500));
    let refunds = join_all((0..50).map(|_| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            top_up::refund(&pool, due, Some(30_000), "chargeback", "bob")
                .await
                .unwrap()
                .changed
        })
    }))
    .await;
    assert_eq!(
        refunds.into_iter().filter(|changed| *changed.as_ref().unwrap()).count(),
        1
    );
    assert_eq!(credits(&db.pool, due).await, (1, 7_500));
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_late_report_is_credited_for_the_day_of_the_charge() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let (small, large) = (
        requested(&db.pool, shop.id, 49).await,
        requested(&db.pool, shop.id, 50).await,
    );
    let at = long_ago();
    for (id, blocks) in [(small, 49), (large, 50)] {
        let moved = charge(&db.pool, id, &format!("PAY-{blocks}"), Some(at)).await.unwrap();
        let due_at = moved.order.credit_at.unwrap();
        assert_eq!(due_at, credit_at(moved.order.charged_at.unwrap(), blocks, &RULES));
        assert!(due_at < Utc::now());
    }
    let due: Vec<uuid::Uuid> = one(&db.pool, "select array_agg(order_id) from due_top_ups(10)").await;
    assert_eq!(due, [small.0, large.0], "the one that is due first comes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_of_a_credit_has_done_nothing_or_all_of_it() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let id = due(&db.pool, shop.id, 2, "PAY-1").await;
    // The connection is cut after the credit and before the state changes: a trigger stands between the two.
    run(
        &db.pool,
        "create function cut() returns trigger language plpgsql as $$
         begin
            if new.state = 'settled' then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); end if;
            return new;
         end $$;
         create trigger a_cut before update on top_up_order for each row execute function cut()",
    )
    .await;
    for _ in 0..3 {
        let cut = top_up::settle(&db.pool, id).await;
        assert!(matches!(cut, Err(TopUpError::Database(_))), "{cut:?}");
        assert_eq!(credits(&db.pool, id).await, (0, 0));
        assert_eq!(states(&db.pool, id).await, ["requested", "charged"]);
    }
    run(&db.pool, "drop trigger a_cut on top_up_order").await;
    assert!(top_up::settle(&db.pool, id).await.unwrap().changed);
    assert_eq!(credits(&db.pool, id).await, (1, 25_000));
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_refund_takes_at_most_what_is_neither_spent_nor_held() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 1_000).await;
    let id = due(&db.pool, shop.id, 1, "PAY-1").await;
    top_up::settle(&db.pool, id).await.unwrap();
    // The allowance and 2,500 of the extra tokens are set aside for a broadcast.
    hold(&db.pool, shop.id, 3_500).await;
    let refused = top_up::refund(&db.pool, id, None, "chargeback", "bob").await;
    assert!(
        matches!(
            refused,
            Err(TopUpError::TooMuch {
                asked: 12_500,
                left: 10_000
            })
        ),
        "{refused:?}"
    );
    let refused = top_up::refund(&db.pool, id, Some(10_001), "chargeback", "bob").await;
    assert!(
        matches!(
            refused,
            Err(TopUpError::TooMuch {
                asked: 10_001,
                left: 10_000
            })
        ),
        "{refused:?}"
    );
    assert_eq!(states(&db.pool, id).await, ["requested", "charged", "settled"]);
    assert!(
        top_up::refund(&db.pool, id, Some(10_000), "chargeback", "bob")
            .await
            .unwrap()
            .changed
    );
    let balance = ledger::balance(&db.pool, ShopId(shop.id)).await.unwrap();
    assert_eq!(
        (balance.extra, balance.held_extra, balance.available()),
        (2_500, 2_500, 0)
    );
    let newest = ledger::entries(&db.pool, ShopId(shop.id), ledger::Page::default())
        .await
        .unwrap();
    assert_eq!(newest[0].kind, ledger::EntryKind::TopUpRefund);
    assert_eq!(
        (newest[0].operation.clone(), newest[0].extra),
        (format!("top_up_refund:{id}"), -10_000)
    );
    let again = top_up::refund(&db.pool, id, Some(1), "again", "bob").await.unwrap();
    assert_eq!((again.changed, again.order.refunded_tokens), (false, Some(10_000)));
    // The hold is of no broadcast, so only what is said of tokens alone holds.
    let report = ledger::audit(&db.pool, None).await.unwrap();
    for name in [
        "balance_is_sum_of_entries",
        "held_is_open_holds",
        "entry_follows_entry",
        "entry_overdraws_nothing",
        "entry_names_its_cause",
        "hold_is_its_entries",
    ] {
        let check = report.checks.iter().find(|check| check.name == name).unwrap();
        assert!(check.broken == 0 && check.examined > 0, "{check:?}");
    }
}

#[tokio::test]
async fn nobody_is_found_under_an_unknown_id() {
    let db = database().await;
    let id = TopUpId::new();
    for result in [
        charge(&db.pool, id, "PAY-1", None).await,
        top_up::settle(&db.pool, id).await,
        top_up::fail(&db.pool, id, "no answer", "bob").await,
        top_up::refund(&db.pool, id, None, "chargeback", "bob").await,
    ] {
        assert!(
            matches!(result, Err(TopUpError::NotFound(missing)) if missing == id),
            "{result:?}"
        );
    }
    assert!(top_up::history(&db.pool, id).await.unwrap().is_empty());
}
