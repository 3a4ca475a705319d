//! Receipts beside settles, a cancel and each other: the books are right whoever comes first.

use carillon::channel::webhook::{ReceiptState, WebhookEvent};
use futures::future::join_all;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    receipt_scene::{MESSENGER, accept_unposted, apply, echo, failed, mark, marked, retry, sender, shop},
    scene::{assert_clean, claim, one, run, settle},
};

/// Workers settle, receipts come from several sides, waiting ones are tried, and somebody cancels: nobody waits for another
/// for ever, and the books agree.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_beside_settles_a_cancel_and_each_other_leave_the_books_right() {
    let db = database().await;
    let pool = &db.pool;
    let shop = shop(pool, 60).await;
    let page = sender(&shop, "messenger").await;
    let sends = [shop.opened(&[MESSENGER], 10).await, shop.opened(&[MESSENGER], 10).await];
    let all: Vec<WebhookEvent> = (0..3)
        .flat_map(|round| {
            sends
                .iter()
                .flat_map(move |id| (0..60).map(move |who| (round, *id, who)))
        })
        .map(|(round, id, who)| {
            let mark = mark(id, shop.customers[who]);
            match (round, who % 4) {
                (0, _) => echo(mark, &format!("m_{id}_{who}")),
                (1, 0) => marked(mark, failed("131026")),
                (1, _) => marked(mark, ReceiptState::Delivered),
                _ => marked(mark, ReceiptState::Read),
            }
        })
        .collect();
    let tell = async |shift: usize| {
        // Each side in an order of its own, everything twice.
        let turned: Vec<WebhookEvent> = (0..all.len() * 2)
            .map(|n| all[(n * 7 + shift * 53) % all.len()].clone())
            .collect();
        for batch in turned.chunks(13) {
            apply(pool, page, batch).await;
        }
    };
    let work = async |id: Uuid| {
        let mut outcome = ["accepted", "unknown", "accepted"].iter().cycle();
        while let Some(mut claimed) = claim(pool, id, "messenger", 4, 0.0).await {
            let mut first = claimed.customers.clone();
            let rest = first.split_off(claimed.in_flight.len());
            let then = &rest[..rest.len().min(4)];
            if !then.is_empty() {
                accept_unposted(pool, id, "messenger", &claimed, &first, then).await;
                claimed.intent_no += 1;
            }
            let last = if then.is_empty() { &first[..] } else { then };
            settle(
                pool,
                id,
                "messenger",
                &claimed,
                (last, outcome.next().unwrap()),
                (None, None),
            )
            .await;
        }
    };
    let stop = async {
        run(pool, &format!("select cancel_broadcast('{}')", sends[1])).await;
        while one::<bool>(
            pool,
            &format!("select drain_slice('{}', 'messenger', 'cancelled')", sends[1]),
        )
        .await
        {}
    };
    let again = async {
        for _ in 0..20 {
            retry(pool).await;
        }
    };
    futures::future::join4(
        join_all((0..3).map(tell)),
        join_all([work(sends[0]), work(sends[0])]),
        stop,
        again,
    )
    .await;
    work(sends[0]).await;
    for _ in 0..2 {
        retry(pool).await;
    }
    assert_clean(pool).await;
    let wrong = format!(
        "select count(*) from delivery_result where broadcast_id = '{}' and case when customer_id = any ('{{{}}}')
            then state <> 'failed' or charged_tokens <> 0 else state <> 'read' end",
        sends[0],
        shop.customers
            .iter()
            .step_by(4)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    );
    assert_eq!(one::<i64>(pool, &wrong).await, 0);
}
