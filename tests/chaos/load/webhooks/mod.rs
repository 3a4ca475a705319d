//! Webhooks: customers write, take back, follow and leave; shop fronts tell of messages beside orders; mail servers, Meta and the
//! carriers report what became of messages that were really sent. Each is told until it is answered, some several times at once,
//! late, in another body once more, or with a wrong signature. What is told follows from the seed; of what is reported, from the seed
//! and what was sent.
//! It must never give up what was not answered with 200, as no provider does, nor touch a row that a webhook is about.
//!
//! `talk` makes what persons tell (pure), `reports` and `receipts` what providers report, `book` keeps what was told, `judge` holds the
//! rows against it, and `moved` the deliveries.

mod book;
mod judge;
mod moved;
mod receipts;
mod reports;
mod talk;

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_sandbox::webhooks::Request;
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::book::Book;
pub(super) use self::judge::judge;
use self::{
    book::Event,
    talk::{Memory, Shop},
};
use super::{AGAIN, rest, until_answered};
use crate::{dice::Dice, town::Town};

/// So many providers tell of one shop side by side.
const TRACKS: u64 = 2;
/// A provider that waits for more answers tells nothing new.
const OUTSTANDING: usize = 20;
/// With everything healed, what is not taken within this is refused for good.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request, and what it says.
#[derive(Debug, Clone)]
struct Webhook {
    path: String,
    request: Request,
    events: Vec<Event>,
    /// Its signature is wrong: nothing of it may happen.
    forged: bool,
}

/// How one webhook is told.
#[derive(Debug, Clone, Copy)]
struct Manner {
    after_ms: u64,
    /// At once, to web processes one after the other.
    copies: usize,
    web: usize,
}

impl Manner {
    fn of(dice: &mut Dice) -> Self {
        Self {
            after_ms: if dice.chance(20) { dice.between(200, 3_000) } else { 0 },
            copies: if dice.chance(15) { dice.pick(&[2, 2, 3]) } else { 1 },
            web: usize::try_from(dice.between(0, 1)).unwrap(),
        }
    }
}

/// Tells until told to stop, and then until all of it was answered.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    let mut tracks = JoinSet::new();
    for shop in 0..town.shops.len() {
        for track in 0..TRACKS {
            tracks.spawn(bring(town.clone(), stop.clone(), shop, track));
        }
    }
    tracks.spawn(reports::bring(town, stop));
    tracks.join_all().await;
}

async fn bring(town: Arc<Town>, stop: CancellationToken, number: usize, track: u64) {
    let shop = until_answered(|| look_up(&town, town.shops[number])).await;
    let (mut memory, mut outstanding) = (Memory::default(), JoinSet::new());
    for n in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let mut dice = Dice::of(town.seed, &[10, number as u64, track, n]);
        let name = format!("{number}.{track}.{n}");
        for webhook in talk::webhooks(&mut dice, &shop, &name, &mut memory, || town.book.moment()) {
            outstanding.spawn(deliver(town.clone(), stop.clone(), webhook, Manner::of(&mut dice)));
        }
        rest(dice.between(100, 900)).await;
        wait_for_room(&mut outstanding).await;
    }
    outstanding.join_all().await;
}

async fn wait_for_room(outstanding: &mut JoinSet<()>) {
    while outstanding.try_join_next().is_some() {}
    while outstanding.len() > OUTSTANDING {
        outstanding.join_next().await;
    }
}

/// Tells one webhook as often as it is to be told.
async fn deliver(town: impl Deref<Target = Town>, stop: CancellationToken, webhook: Webhook, manner: Manner) {
    if !webhook.forged {
        town.book.will_tell(&webhook.events);
    }
    rest(manner.after_ms).await;
    let copies = (0..manner.copies).map(|copy| tell(&town, &stop, &webhook, manner.web + copy));
    join_all(copies).await;
}

/// Tells it to one web process after the other until it is answered.
async fn tell(town: &Town, stop: &CancellationToken, webhook: &Webhook, mut web: usize) {
    let mut stopped = None;
    loop {
        town.book.posted();
        match (
            town.door.tell(web, &webhook.path, &webhook.request).await,
            webhook.forged,
        ) {
            (Some(200), false) => return town.book.accepted(&webhook.events, town.clock.now_ms()),
            (Some(401), true) => return town.book.turned_away(),
            (Some(408 | 429 | 503) | None, _) => {}
            (Some(status), forged) => {
                let what = if forged { "a wrong signature" } else { "a webhook" };
                return town
                    .book
                    .wrong(format!("{what} for {} was answered with {status}", webhook.path));
            }
        }
        if stop.is_cancelled() && stopped.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return town
                .book
                .wrong(format!("a webhook for {} was never taken", webhook.path));
        }
        web += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

/// The senders of a shop that webhooks come to, and customers of it.
async fn look_up(town: &Town, shop: Uuid) -> sqlx::Result<Shop> {
    let sender = |channel: &'static str| {
        sqlx::query_scalar("select id from sender where shop_id = $1 and channel = $2::text::channel")
            .bind(shop)
            .bind(channel)
            .fetch_one(&town.pool)
    };
    let line: Uuid = sender("line").await?;
    let customers = sqlx::query_scalar("select address from address where sender_id = $1 order by id limit 200")
        .bind(line)
        .fetch_all(&town.pool)
        .await?;
    Ok(Shop {
        line,
        app: sender("app").await?,
        customers,
    })
}

/// What left since the end is reported on, too. Nobody waits for nothing: receipts that wait for the result of their send are tried again
/// after as long as they have waited, up to a minute, and webhooks that somebody died with in hand after one.
pub(super) async fn let_go(town: &Town) -> sqlx::Result<()> {
    for sql in [
        "update pending_receipt set due_at = now() + interval '2 seconds' where due_at > now() + interval '5 seconds'",
        "update webhook_pending set due_at = now() + interval '10 seconds'
          where due_at > now() + interval '20 seconds' and failed_at is null",
    ] {
        sqlx::query(sql).execute(&town.pool).await?;
    }
    reports::bring_the_rest(town).await
}

/// Webhooks that wait, and receipts that wait for the result of their send.
pub(super) async fn left(town: &Town) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('webhook %s waits until %s after %s attempts%s', webhook_id, due_at, attempts, ': ' || reason)
           from webhook_pending where failed_at is null
         union all
         select format('a receipt of broadcast %s waits until %s', broadcast_id, due_at)
           from pending_receipt where due_at is not null",
    )
    .fetch_all(&town.pool)
    .await
}
