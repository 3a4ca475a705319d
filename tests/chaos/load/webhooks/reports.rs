//! What providers report of messages that were really sent: mails that came back, arrived, are late; echoes of Messenger, statuses of
//! WhatsApp, callbacks of text messages. Which delivery a report is about stands only in the mark the message carried over the wire.
//! It must never report on a message that no provider took, nor learn from our books what was sent.

use std::sync::Arc;

use carillon::channel::{DeliveryMark, ReturnPathKey};
use carillon_sandbox::{ReceivedMessage, ReceivedQuery};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Manner, Webhook,
    book::{Event, What},
    deliver, receipts, wait_for_room,
};
use crate::{
    accounts::BOUNCE_SECRET,
    dice::Dice,
    load::{rest, until_answered},
    provider::Provider,
    town::Town,
};

/// Mailboxes and other addresses looked at at once.
const LOOK: usize = 400;

/// An address, by whose sender messages to it leave.
struct Inbox {
    sender: Uuid,
    provider: Provider,
    address: String,
}

/// Reports until told to stop.
pub(super) async fn bring(town: Arc<Town>, stop: CancellationToken) {
    let inboxes = until_answered(|| inboxes(&town)).await;
    let mut outstanding = JoinSet::new();
    for some in inboxes.chunks(LOOK).cycle() {
        if stop.is_cancelled() {
            break;
        }
        for (webhook, manner) in news(&town, some) {
            outstanding.spawn(deliver(town.clone(), stop.clone(), webhook, manner));
        }
        rest(100).await;
        wait_for_room(&mut outstanding).await;
    }
    outstanding.join_all().await;
}

/// Reports on what was sent since: much of a short run leaves only when everything is healed.
pub(super) async fn bring_the_rest(town: &Town) -> sqlx::Result<()> {
    let stop = CancellationToken::new();
    stop.cancel();
    let news = news(town, &inboxes(town).await?);
    join_all(
        news.into_iter()
            .map(|(webhook, manner)| deliver(town, stop.clone(), webhook, manner)),
    )
    .await;
    Ok(())
}

/// Every address whose provider reports.
async fn inboxes(town: &Town) -> sqlx::Result<Vec<Inbox>> {
    let rows: Vec<(Uuid, String, String)> = sqlx::query_as(
        "select a.sender_id, s.name, a.address from address a join sender s on s.id = a.sender_id order by a.id",
    )
    .fetch_all(&town.pool)
    .await?;
    let of = |(sender, name, address): (Uuid, String, String)| {
        let provider = Provider::of_sender(&name).filter(|provider| receipts::share(*provider) > 0)?;
        Some(Inbox {
            sender,
            provider,
            address,
        })
    };
    Ok(rows.into_iter().filter_map(of).collect())
}

/// What is to be reported of messages to these addresses that nobody has looked at.
fn news(town: &Town, inboxes: &[Inbox]) -> Vec<(Webhook, Manner)> {
    let mut news = Vec::new();
    for inbox in inboxes {
        let query = ReceivedQuery {
            recipient: Some(inbox.provider.given(&inbox.address)),
            ..ReceivedQuery::default()
        };
        for message in town.providers().received(inbox.provider.wire(), &query) {
            if town.book.is_new(inbox.provider, message.serial) {
                news.extend(reports(town, inbox, &message));
            }
        }
    }
    news
}

/// What is reported of one message; of most nothing.
fn reports(town: &Town, inbox: &Inbox, message: &ReceivedMessage) -> Vec<(Webhook, Manner)> {
    let provider = inbox.provider;
    let Some((mark, written)) = mark(provider, message) else {
        town.book
            .wrong(format!("a message left on {} with no mark of its own", provider.name()));
        return Vec::new();
    };
    // The broadcast's name, not its id: that is another one in every run.
    let name = message.text.split('#').nth(1).unwrap_or_default();
    let name = name
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(257) + u64::from(byte));
    let whom = u64::try_from(mark.customer.0).unwrap();
    let mut dice = Dice::of(town.seed, &[11, name, whom, provider as u64]);
    if !dice.chance(receipts::share(provider)) {
        return Vec::new();
    }
    let id = format!("{:016x}{:016x}", dice.next(), dice.next());
    let mut said = receipts::words(provider, &mut dice);
    dice.shuffle(&mut said);
    let about = receipts::About {
        sender: inbox.sender,
        provider,
        to: message,
        mark: &written,
        id: &id,
    };
    said.into_iter()
        .map(|word| {
            let webhook = Webhook {
                path: format!("/webhooks/{}/{}", provider.name(), inbox.sender),
                request: about.request(word),
                events: vec![Event {
                    sender: inbox.sender,
                    key: format!("{mark}:{}", word.said),
                    what: What::Report {
                        of: (mark.broadcast.0, provider, mark.customer.0),
                        state: word.state,
                    },
                }],
                forged: false,
            };
            (webhook, Manner::of(&mut dice))
        })
        .collect()
}

/// Which delivery a message is, and how that was written over the wire.
fn mark(provider: Provider, message: &ReceivedMessage) -> Option<(DeliveryMark, String)> {
    if provider != Provider::Email {
        return Some((message.body.parse().ok()?, message.body.clone()));
    }
    let path = message.body.lines().next()?.strip_prefix("Return-Path: <")?;
    let path = path.strip_suffix('>')?;
    Some((ReturnPathKey::new(BOUNCE_SECRET).read(path)?, path.to_owned()))
}
