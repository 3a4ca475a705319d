//! Orders of extra tokens, by the shops that send: placed, paid with several reports at once, failed before, after and beside
//! that, given back, due in a moment or tomorrow.
//! It must never credit: it only says what a frontend, a payment provider and an operator say.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{millis, rest, until_answered};
use crate::{
    dice::Dice,
    notes::Fact,
    outcome::{Once, Outcome},
    town::Town,
};

/// So many orders are under way side by side.
const TRACKS: u64 = 4;
/// When an order that is not due in the run is due.
const TOMORROW_MS: u64 = 86_400_000;

/// What becomes of an order's payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whim {
    /// Nobody pays.
    Leave,
    /// Declined.
    Fail,
    /// Declined, then paid.
    FailThenPay,
    /// Declined and paid, reported at once in any order.
    FailAndPay,
    Pay,
}

/// What is given back, and when.
#[derive(Debug, Clone, Copy)]
struct Refund {
    after_ms: u64,
    tokens: Option<i64>,
}

/// What one order is like.
struct Brief {
    blocks: i32,
    quantity: i32,
    whim: Whim,
    /// A payment is reported after each of these, by the card of that number.
    reports: Vec<(u64, u64)>,
    credit_in_ms: u64,
    bells: u64,
    refund: Option<Refund>,
    rest_ms: u64,
}

impl Brief {
    fn of(dice: &mut Dice) -> Self {
        let cards = if dice.chance(15) { 2 } else { 1 };
        let early = dice.chance(10);
        Self {
            blocks: dice.pick(&[1, 5, 10]),
            quantity: dice.pick(&[1, 1, 3]),
            whim: match dice.between(1, 100) {
                1..=10 => Whim::Leave,
                11..=20 => Whim::Fail,
                21..=30 => Whim::FailThenPay,
                31..=40 => Whim::FailAndPay,
                _ => Whim::Pay,
            },
            reports: (0..dice.between(1, 5))
                .map(|_| (dice.pick(&[0, 0, 0, 50, 1_500]), dice.between(1, cards)))
                .collect(),
            credit_in_ms: if early { TOMORROW_MS } else { dice.between(0, 4_000) },
            bells: dice.between(0, 3),
            refund: dice.chance(20).then(|| Refund {
                after_ms: dice.between(0, 5_000),
                tokens: dice.pick(&[None, Some(1), Some(12_500)]),
            }),
            rest_ms: dice.between(0, 1_000),
        }
    }
}

/// Brings orders until told to stop.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    let mut tracks = tokio::task::JoinSet::new();
    for track in 0..TRACKS {
        let (town, stop) = (town.clone(), stop.clone());
        tracks.spawn(async move {
            stop.run_until_cancelled(bring(&town, track)).await;
        });
    }
    tracks.join_all().await;
}

async fn bring(town: &Town, track: u64) {
    for n in 0_u64.. {
        let mut dice = Dice::of(town.seed, &[4, track, n]);
        let shop = dice.pick(&town.shops);
        let brief = Brief::of(&mut dice);
        // A yes that was lost leaves an order nobody pays.
        let id = until_answered(|| request(town, shop, &brief)).await;
        town.notes.add(Fact::Ordered, &id);
        match brief.whim {
            Whim::Leave => {}
            Whim::Fail => fail(town, id).await,
            Whim::FailThenPay => {
                fail(town, id).await;
                pay(town, id, &brief).await;
            }
            Whim::FailAndPay => {
                tokio::join!(fail(town, id), pay(town, id, &brief));
            }
            Whim::Pay => pay(town, id, &brief).await,
        }
        rest(brief.rest_ms).await;
    }
}

async fn request(town: &Town, shop: Uuid, brief: &Brief) -> sqlx::Result<Uuid> {
    sqlx::query_scalar("select request_top_up($1, $2, $3)")
        .bind(shop)
        .bind(brief.blocks)
        .bind(brief.quantity)
        .fetch_one(&town.pool)
        .await
}

/// Told twice at once.
async fn fail(town: &Town, id: Uuid) {
    let one = || {
        until_answered(|| async move {
            sqlx::query_scalar::<_, String>("select fail_top_up($1, 'declined', 'chaos')")
                .bind(id)
                .fetch_one(&town.pool)
                .await
        })
    };
    tokio::join!(one(), one());
}

/// All reports of its payment, then the bells and the refund.
async fn pay(town: &Town, id: Uuid, brief: &Brief) {
    town.notes.add(Fact::MayBePaid, &id);
    join_all(brief.reports.iter().map(|(after_ms, card)| async move {
        rest(*after_ms).await;
        until_answered(|| charge(town, id, *card, brief.credit_in_ms)).await;
        // Whatever the answer: this payment counts, or one before it did.
        town.notes.add(Fact::Paid, &id);
    }))
    .await;
    for _ in 0..brief.bells {
        super::ring(town, "top-up-settlement", json!({ "order_id": id })).await;
    }
    if let Some(Refund { after_ms, tokens }) = brief.refund {
        rest(after_ms).await;
        until_answered(|| async move {
            sqlx::query_scalar::<_, String>("select outcome from refund_top_up($1, $2, 'sent back', 'chaos')")
                .bind(id)
                .bind(tokens)
                .fetch_one(&town.pool)
                .await
        })
        .await;
    }
}

async fn charge(town: &Town, id: Uuid, card: u64, credit_in_ms: u64) -> sqlx::Result<String> {
    sqlx::query_scalar("select charge_top_up($1, 'chaos', $2, now(), now() + $3 * interval '1 millisecond', 'chaos')")
        .bind(id)
        .bind(format!("{id}/{card}"))
        .bind(millis(credit_in_ms))
        .fetch_one(&town.pool)
        .await
}

/// Orders that are paid and due, or will be in a moment.
pub(super) async fn left(town: &Town) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('the top-up %s is paid and due since %s', id, due_at)
           from top_up_order where state = 'charged' and due_at < now() + interval '1 minute'",
    )
    .fetch_all(&town.pool)
    .await
}

#[derive(sqlx::FromRow)]
struct Order {
    id: Uuid,
    state: String,
    tokens: i64,
    is_due: bool,
    credit_at: Option<DateTime<Utc>>,
    settled_at: Option<DateTime<Utc>>,
    refunded_tokens: Option<i64>,
    credits: i64,
    credited: i64,
    refunds: i64,
    taken_back: i64,
}

/// Each order that is paid and due has one credit over its tokens, and no other has any.
pub(super) async fn judge(town: &Town, outcome: &mut Outcome) {
    let orders: Vec<Order> = sqlx::query_as(
        "select o.id, o.state, o.tokens, coalesce(o.credit_at < now() + interval '1 minute', false) as is_due, o.credit_at,
                o.settled_at, o.refunded_tokens,
                count(*) filter (where e.kind = 'top_up') as credits,
                coalesce(sum(e.extra) filter (where e.kind = 'top_up'), 0)::bigint as credited,
                count(*) filter (where e.kind = 'top_up_refund') as refunds,
                coalesce(-sum(e.extra) filter (where e.kind = 'top_up_refund'), 0)::bigint as taken_back
           from top_up_order o
           left join ledger_entry e on e.shop_id = o.shop_id and e.kind in ('top_up', 'top_up_refund')
                and split_part(e.operation, ':', 2) = o.id::text
          group by o.id",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let strangers: Vec<String> = sqlx::query_scalar(
        "select e.operation from ledger_entry e where e.kind in ('top_up', 'top_up_refund') and e.operation <> 'top_up:chaos'
            and not exists (select from top_up_order o where o.shop_id = e.shop_id and o.id::text = split_part(e.operation, ':', 2))",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let once = outcome.once.entry("top-ups").or_default();
    let (ordered, may_be_paid, paid) = (
        town.notes.all(Fact::Ordered),
        town.notes.all(Fact::MayBePaid),
        town.notes.all(Fact::Paid),
    );
    for order in &orders {
        let id = order.id.to_string();
        look(order, may_be_paid.contains(&id), paid.contains(&id), once);
    }
    for operation in strangers {
        once.undue
            .add(|| format!("{operation} belongs to no order of that shop"));
    }
    let there: std::collections::BTreeSet<String> = orders.iter().map(|order| order.id.to_string()).collect();
    for id in ordered.difference(&there) {
        once.missing
            .add(|| format!("order {id} was confirmed and is not there"));
    }
}

fn look(order: &Order, may_be_paid: bool, paid: bool, once: &mut Once) {
    let Order {
        id,
        state,
        tokens,
        credits,
        credited,
        ..
    } = order;
    let count = match state.as_str() {
        "requested" => "unpaid",
        "failed" => "failed",
        "charged" => "not due",
        "settled" => "settled",
        _ => "refunded",
    };
    *once.counts.entry(count).or_default() += 1;
    let noted = matches!(state.as_str(), "charged" | "settled" | "refunded");
    if paid && !noted {
        once.missing.add(|| format!("order {id} is paid, and {state}"));
    }
    if noted && !may_be_paid {
        once.undue.add(|| format!("nobody paid order {id}, which is {state}"));
    }
    // An order that was given back before its time earns nothing.
    let earns = noted && order.is_due && (state != "refunded" || order.settled_at.is_some());
    once.due += u64::from(earns);
    once.done += u64::from(*credits > 0);
    match (earns, credits) {
        (true, 0) => once.missing.add(|| format!("order {id} is {state} and has no credit")),
        (false, 1..) => once
            .undue
            .add(|| format!("order {id} is {state} and has {credits} credits")),
        (_, 2..) => once.twice.add(|| format!("order {id} has {credits} credits")),
        (true, _) if credited != tokens => {
            once.undue
                .add(|| format!("order {id} of {tokens} tokens brought {credited}"));
        }
        _ => {}
    }
    if state == "charged" && order.is_due {
        once.missing.add(|| format!("order {id} is due and was not settled"));
    }
    if order.taken_back != order.refunded_tokens.unwrap_or(0) || order.refunds > 1 {
        let (n, taken, told) = (order.refunds, order.taken_back, order.refunded_tokens);
        once.undue
            .add(|| format!("order {id}: {n} refunds took {taken} tokens, the order says {told:?}"));
    }
    if let Some(took) = order.settled_at.zip(order.credit_at).map(|(at, due_at)| at - due_at) {
        once.slowest_ms = once.slowest_ms.max(u64::try_from(took.num_milliseconds()).unwrap_or(0));
    }
}
