//! What mail servers report of mails that were really sent: that they came back, that they arrived, that they are late. Which
//! delivery a report is about stands only in the address the mail was sent from, as it came over the wire.
//! It must never report on a mail that no server took, nor learn from our books what was sent.

use std::sync::Arc;

use carillon::channel::{DeliveryMark, ReturnPathKey};
use carillon_sandbox::{
    ReceivedMessage, ReceivedQuery,
    webhooks::{Signer, mail},
};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    Manner, Webhook,
    book::{Event, What},
    deliver, wait_for_room,
};
use crate::{
    accounts::BOUNCE_SECRET,
    dice::Dice,
    load::{rest, until_answered},
    provider::Provider,
    town::Town,
};

/// Mailboxes looked into at once.
const LOOK: usize = 200;
/// Of a hundred mails so many are reported on.
const SHARE: u64 = 15;

/// A mailbox, and whose relay mails to it leave over.
type Mailbox = (Uuid, String);

/// Reports until told to stop.
pub(super) async fn bring(town: Arc<Town>, stop: CancellationToken) {
    let mailboxes = until_answered(|| mailboxes(&town)).await;
    let mut outstanding = JoinSet::new();
    for some in mailboxes.chunks(LOOK).cycle() {
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
    let news = news(town, &mailboxes(town).await?);
    join_all(
        news.into_iter()
            .map(|(webhook, manner)| deliver(town, stop.clone(), webhook, manner)),
    )
    .await;
    Ok(())
}

async fn mailboxes(town: &Town) -> sqlx::Result<Vec<Mailbox>> {
    sqlx::query_as(
        "select a.sender_id, a.address from address a join sender s on s.id = a.sender_id and s.channel = 'email' order by a.id",
    )
    .fetch_all(&town.pool)
    .await
}

/// What is to be reported of mails in these mailboxes that nobody has looked at.
fn news(town: &Town, mailboxes: &[Mailbox]) -> Vec<(Webhook, Manner)> {
    let mut news = Vec::new();
    for (sender, address) in mailboxes {
        let query = ReceivedQuery {
            recipient: Some(address.clone()),
            ..ReceivedQuery::default()
        };
        for mail in town.providers().received(Provider::Email.wire(), &query) {
            if town.book.is_new_mail(mail.serial) {
                news.extend(reports(town, *sender, &mail));
            }
        }
    }
    news
}

/// What is reported of one mail; of most nothing.
fn reports(town: &Town, sender: Uuid, mail: &ReceivedMessage) -> Vec<(Webhook, Manner)> {
    let path = mail
        .body
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("Return-Path: <"));
    let path = path.and_then(|path| path.strip_suffix('>')).unwrap_or_default();
    let Some(mark) = ReturnPathKey::new(BOUNCE_SECRET).read(path) else {
        town.book.wrong("a mail left with no return path of its own".to_owned());
        return Vec::new();
    };
    // The broadcast's name, not its id: that is another one in every run.
    let name = mail.text.split('#').nth(1).unwrap_or_default();
    let name = name
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(257) + u64::from(byte));
    let mut dice = Dice::of(town.seed, &[11, name, u64::try_from(mark.customer.0).unwrap()]);
    if !dice.chance(SHARE) {
        return Vec::new();
    }
    let (full, gone, arrived, late) = (
        ("failed", "5.2.2"),
        ("failed", "5.1.1"),
        ("delivered", "2.0.0"),
        ("delayed", "4.4.1"),
    );
    let mut said = match dice.between(1, 100) {
        1..=50 => vec![full],
        51..=65 => vec![gone],
        66..=80 => vec![arrived],
        81..=92 => vec![arrived, full],
        _ => vec![late],
    };
    dice.shuffle(&mut said);
    said.into_iter()
        .map(|report| (webhook(sender, mark, path, mail, report), Manner::of(&mut dice)))
        .collect()
}

fn webhook(
    sender: Uuid,
    mark: DeliveryMark,
    path: &str,
    about: &ReceivedMessage,
    (action, status): (&'static str, &str),
) -> Webhook {
    let date = chrono::Utc::now().to_rfc2822();
    let body = mail::report(path, &about.recipient, action, status, &date);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("to", path)
        .finish();
    Webhook {
        path: format!("/webhooks/email/{sender}"),
        request: Signer::Store(BOUNCE_SECRET.to_owned()).sign(query, "message/rfc822", body),
        events: vec![Event {
            sender,
            key: format!("{mark}:{action}"),
            what: What::Report {
                broadcast: mark.broadcast.0,
                customer: mark.customer.0,
                state: (action != "delayed").then_some(action),
            },
        }],
        forged: false,
    }
}
