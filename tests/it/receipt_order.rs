//! Receipts against a plain model: in whatever order they come, in whatever batches, however often, and whether before or after
//! the result of their send, every delivery ends the same and the books agree.

use std::collections::BTreeMap;

use carillon::{
    channel::webhook::{ReceiptState, WebhookEvent},
    db::PgPool,
};
use carillon_jobs::SenderId;
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use uuid::Uuid;

use crate::{
    fixture_db::database,
    receipt_scene::{MESSENGER, apply, echo, failed, mark, marked, named, retry, sender, shop, stands, up_to},
    scene::{Claim, Shop, assert_clean, claim, let_leases_expire, run, settle},
};

/// Customers of a case.
const PEOPLE: usize = 4;

/// What is told of one customer's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Sent,
    Delivered,
    Read,
    Failed(&'static str),
    Echo,
    /// A receipt that knows only the provider's id: it can find its message once a receipt with both has been there.
    ById(bool),
    /// Everything until before the send, or until after it.
    UpTo {
        read: bool,
        after: bool,
    },
}

/// How a send ended for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Accepted,
    Unknown,
    Failed,
    /// The worker died: what was told by then is proof.
    Interrupted,
}

#[derive(Debug, Clone)]
struct Case {
    sends: Vec<Sent>,
    /// Whose, and what.
    told: Vec<(usize, Told)>,
    /// The order in which events are applied, some of them more than once; a number names one of `told`.
    order: Vec<usize>,
    /// After how many of them the worker writes its results.
    settled_after: usize,
    batch: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    let told = prop_oneof![
        2 => Just(Told::Sent),
        3 => Just(Told::Delivered),
        3 => Just(Told::Read),
        2 => prop_oneof![Just(Told::Failed("131026")), Just(Told::Failed("130472"))],
        2 => Just(Told::Echo),
        2 => any::<bool>().prop_map(Told::ById),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(read, after)| Told::UpTo { read, after }),
    ];
    let sent = prop_oneof![
        4 => Just(Sent::Accepted),
        3 => Just(Sent::Unknown),
        1 => Just(Sent::Failed),
        2 => Just(Sent::Interrupted),
    ];
    (
        prop::collection::vec(sent, PEOPLE),
        prop::collection::vec((0..PEOPLE, told), 1..14),
        any::<prop::sample::Index>(),
        1..6usize,
    )
        .prop_flat_map(|(sends, told, settled_after, batch)| {
            let all: Vec<usize> = (0..told.len()).collect();
            let again = prop::collection::vec(0..told.len(), 0..5);
            (
                Just((sends, told, settled_after, batch)),
                again.prop_flat_map(move |again| Just([all.clone(), again].concat()).prop_shuffle()),
            )
        })
        .prop_map(|((sends, told, settled_after, batch), order)| Case {
            sends,
            told,
            settled_after: settled_after.index(order.len() + 1),
            order,
            batch,
        })
}

/// What must come of one customer's message, as `stands` tells it. `early`: what was applied before the result was written.
fn expected(sent: Sent, told: &[Told], early: &[Told]) -> String {
    let known = |told: &[Told]| told.contains(&Told::Echo);
    let failure = told
        .iter()
        .filter_map(|one| {
            if let Told::Failed(code) = one {
                Some(*code)
            } else {
                None
            }
        })
        .min();
    // By id alone it is found only where an echo has told the id.
    let said = told.iter().filter_map(|one| match one {
        Told::Sent | Told::Echo => Some(0),
        Told::Delivered => Some(1),
        Told::Read => Some(2),
        Told::ById(read) if known(told) => Some(1 + usize::from(*read)),
        Told::ById(_) | Told::Failed(_) | Told::UpTo { .. } => None,
    });
    let reached = said.max();
    let seen = told.iter().filter_map(|one| match one {
        Told::UpTo { read, after: true } => Some(1 + usize::from(*read)),
        _ => None,
    });
    let proof = |told: &[Told]| {
        told.iter()
            .any(|one| matches!(one, Told::Sent | Told::Delivered | Told::Read | Told::Echo))
            && !told.iter().any(|one| matches!(one, Told::Failed(_)))
    };
    let charged = match sent {
        Sent::Accepted => 5,
        Sent::Interrupted if proof(early) => 5,
        Sent::Unknown | Sent::Interrupted | Sent::Failed => 0,
    };
    match (sent, failure, reached) {
        (Sent::Failed, ..) => "failed 0 recipient".to_owned(),
        (_, Some(code), _) => format!("failed 0 recipient {code}"),
        (Sent::Unknown, None, None) => "unknown 0 recipient".to_owned(),
        (Sent::Interrupted, None, None) => "unknown 0 interrupted".to_owned(),
        (_, None, reached) => {
            let furthest = reached.into_iter().chain(seen).max().unwrap_or(0);
            format!("{} {charged}", ["accepted", "delivered", "read"][furthest])
        }
    }
}

struct World {
    shop: Shop,
    page: SenderId,
    broadcast: Uuid,
    /// When the messages count as sent.
    sent_at: DateTime<Utc>,
}

impl World {
    async fn new(pool: &PgPool) -> Self {
        let shop = shop(pool, i32::try_from(PEOPLE).unwrap()).await;
        let broadcast = shop.opened(&[MESSENGER], 10).await;
        let sent_at = Utc::now() - TimeDelta::minutes(5);
        let sql = format!(
            "update broadcast set sending_at = '{0}' where id = '{broadcast}'",
            (sent_at - TimeDelta::hours(1)).to_rfc3339()
        );
        run(pool, &sql).await;
        Self {
            page: sender(&shop, "messenger").await,
            shop,
            broadcast,
            sent_at,
        }
    }

    fn event(&self, place: usize, who: usize, told: Told) -> WebhookEvent {
        let customer = self.shop.customers[who];
        let (mark, id) = (mark(self.broadcast, customer), format!("m_{customer}"));
        let mut event = match told {
            Told::Sent => marked(mark, ReceiptState::Sent),
            Told::Delivered => marked(mark, ReceiptState::Delivered),
            Told::Read => marked(mark, ReceiptState::Read),
            Told::Failed(code) => marked(mark, failed(code)),
            Told::Echo => echo(mark, &id),
            Told::ById(read) => named(
                &id,
                if read {
                    ReceiptState::Read
                } else {
                    ReceiptState::Delivered
                },
            ),
            Told::UpTo { read, after } => {
                let off = TimeDelta::seconds(if after { 30 } else { -30 });
                let state = if read {
                    ReceiptState::Read
                } else {
                    ReceiptState::Delivered
                };
                up_to(&format!("messenger{customer}"), self.sent_at + off, state)
            }
        };
        event.key = format!("{place}");
        event
    }

    /// The worker writes what it knows; whom it was at when it died is recovered by whoever comes next.
    async fn settle(&self, claimed: &Claim, sends: &[Sent]) {
        let pool = &self.shop.pool;
        let mut claimed = claimed.clone();
        let mut left: Vec<i64> = self.shop.customers.clone();
        for (outcome, sent) in [
            ("accepted", Sent::Accepted),
            ("unknown", Sent::Unknown),
            ("failed", Sent::Failed),
        ] {
            let whose: Vec<i64> = (0..PEOPLE)
                .filter(|who| sends[*who] == sent)
                .map(|who| self.shop.customers[who])
                .collect();
            if whose.is_empty() {
                continue;
            }
            left.retain(|customer| !whose.contains(customer));
            settle(
                pool,
                self.broadcast,
                "messenger",
                &claimed,
                (&whose, outcome),
                (Some(&left), None),
            )
            .await;
            claimed.intent_no += 1;
        }
        if !left.is_empty() {
            let_leases_expire(pool, self.broadcast).await;
            let id = self.broadcast;
            run(
                pool,
                &format!("select cancel_broadcast('{id}'); select drain_slice('{id}', 'messenger', 'cancelled')"),
            )
            .await;
        }
        let sql = format!(
            "update delivery_result set settled_at = '{}' where broadcast_id = '{}'",
            self.sent_at.to_rfc3339(),
            self.broadcast
        );
        run(pool, &sql).await;
    }

    async fn run(&self, case: &Case) -> BTreeMap<usize, (String, String)> {
        let pool = &self.shop.pool;
        let claimed = claim(pool, self.broadcast, "messenger", 10, 0.0).await.unwrap();
        let (before, after) = case.order.split_at(case.settled_after);
        for (part, settles) in [(before, true), (after, false)] {
            for batch in part.chunks(case.batch) {
                let events: Vec<WebhookEvent> = batch
                    .iter()
                    .map(|place| self.event(*place, case.told[*place].0, case.told[*place].1))
                    .collect();
                apply(pool, self.page, &events).await;
            }
            if settles {
                self.settle(&claimed, &case.sends).await;
            }
        }
        // Twice: what is known by the provider's id only is found once the one with both has been there.
        for _ in 0..2 {
            let again = format!(
                "update receipt_watermark set recheck_at = now() where sender_id = '{}'",
                self.page
            );
            run(pool, &again).await;
            retry(pool).await;
        }
        let told = |who: usize, order: &[usize]| -> Vec<Told> {
            order
                .iter()
                .map(|place| case.told[*place])
                .filter(|(whose, _)| *whose == who)
                .map(|(_, told)| told)
                .collect()
        };
        let mut found = BTreeMap::new();
        for who in 0..PEOPLE {
            let wanted = expected(case.sends[who], &told(who, &case.order), &told(who, before));
            found.insert(
                who,
                (
                    wanted,
                    stands(pool, self.broadcast, "messenger", self.shop.customers[who]).await,
                ),
            );
        }
        found
    }
}

#[test]
fn any_order_of_receipts_ends_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(database());
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&cases(), |case| {
            let found = runtime.block_on(async {
                let world = World::new(&db.pool).await;
                world.run(&case).await
            });
            for (who, (wanted, stands)) in found {
                prop_assert_eq!(wanted, stands, "customer {}", who);
            }
            Ok(())
        })
        .unwrap();
    runtime.block_on(assert_clean(&db.pool));
}
