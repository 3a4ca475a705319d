//! Corrections by hand: one asks, another agrees, and it happens once.

use carillon::ledger::{
    self, AdjustError, AdjustmentState, Decided, Decision, NewAdjustment, adjustments, decide_adjustment,
    request_adjustment,
};
use carillon_jobs::ShopId;
use futures::future::join_all;

use crate::{
    fixture_db::database,
    scene::{assert_clean, one, run, shop},
};

fn ask(shop: ShopId, allowance: i64, extra: i64) -> NewAdjustment {
    NewAdjustment {
        shop,
        allowance,
        extra,
        reason: "the price was wrong on Monday".to_owned(),
        by: "Ann".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_approvals_at_once_move_the_tokens_once_and_the_log_names_both_persons() {
    let db = database().await;
    let shop = ShopId(shop(&db.pool, 0, 100).await.id);
    let id = request_adjustment(&db.pool, &ask(shop, -30, 12)).await.unwrap();
    assert_eq!(
        ledger::balance(&db.pool, shop).await.unwrap().allowance,
        100,
        "only asked for"
    );
    let own = decide_adjustment(&db.pool, id, Decision::Approve, "ann ").await;
    assert!(matches!(own, Err(AdjustError::SamePerson)), "{own:?}");
    let decided = join_all((0..10).map(|_| {
        let pool = db.pool.clone();
        async move { decide_adjustment(&pool, id, Decision::Approve, "Bob").await.unwrap() }
    }))
    .await;
    assert_eq!(
        decided.iter().filter(|one| **one == Decided::Done).count(),
        1,
        "{decided:?}"
    );
    assert!(
        decided
            .iter()
            .all(|one| matches!(one, Decided::Done | Decided::Repeated))
    );
    let late = decide_adjustment(&db.pool, id, Decision::Reject("no".to_owned()), "Eve")
        .await
        .unwrap();
    assert_eq!(late, Decided::Otherwise(AdjustmentState::Applied));
    let balance = ledger::balance(&db.pool, shop).await.unwrap();
    assert_eq!((balance.allowance, balance.extra), (70, 12));
    let log = "select array_agg(concat_ws(' ', actor, action, subject, reason) order by id) from operator_action";
    assert_eq!(
        one::<Vec<String>>(&db.pool, log).await,
        [
            format!("Ann adjust.request adjustment {id} the price was wrong on Monday"),
            format!("Bob adjust.approve adjustment {id} the price was wrong on Monday"),
        ]
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason_and_nothing_is_written() {
    let db = database().await;
    let shop = ShopId(shop(&db.pool, 0, 100).await.id);
    run(
        &db.pool,
        &format!("select ledger_hold(gen_random_uuid(), '{shop}', 80)"),
    )
    .await;
    let nobody = ShopId::new();
    assert!(matches!(
        request_adjustment(&db.pool, &ask(nobody, 1, 0)).await,
        Err(AdjustError::NoAccount(id)) if id == nobody
    ));
    assert!(matches!(
        request_adjustment(&db.pool, &ask(shop, 0, 0)).await,
        Err(AdjustError::Nothing)
    ));
    for (reason, by) in [("", "Ann"), (" ", "Ann"), ("why", " "), ("why", &*"x".repeat(61))] {
        let new = NewAdjustment {
            reason: reason.to_owned(),
            by: by.to_owned(),
            ..ask(shop, 1, 0)
        };
        assert!(
            matches!(request_adjustment(&db.pool, &new).await, Err(AdjustError::Text)),
            "{new:?}"
        );
    }
    assert!(matches!(
        decide_adjustment(&db.pool, 77, Decision::Approve, "Bob").await,
        Err(AdjustError::NoRequest(77))
    ));
    // 20 of the allowance are not held, and of the extra tokens there are none.
    for (allowance, extra) in [(-21, 0), (0, -1), (5, -1)] {
        let id = request_adjustment(&db.pool, &ask(shop, allowance, extra))
            .await
            .unwrap();
        let refused = decide_adjustment(&db.pool, id, Decision::Approve, "Bob").await;
        assert!(
            matches!(refused, Err(AdjustError::Overdrawn)),
            "{allowance} {extra}: {refused:?}"
        );
        let mine = decide_adjustment(&db.pool, id, Decision::Reject("a slip".to_owned()), "Ann").await;
        assert_eq!(mine.unwrap(), Decided::Done, "who asked may take it back");
    }
    assert!(adjustments(&db.pool, Some(shop), true).await.unwrap().is_empty());
    let all = adjustments(&db.pool, None, false).await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(
        all.iter()
            .all(|one| one.state == AdjustmentState::Rejected && one.decided_why.as_deref() == Some("a slip"))
    );
    let balance = ledger::balance(&db.pool, shop).await.unwrap();
    assert_eq!((balance.allowance, balance.extra, balance.held()), (100, 0, 80));
}
