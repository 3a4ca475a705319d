//! Events of one sender, recorded once and turned into customers, conversations, messages and moved deliveries.
//!
//! Why it exists: one call to Postgres (`apply_webhook` in `migrations/0024_ingest.sql`) does it for a whole batch, in one round
//! trip, because its locks have one order and are held while it works and no longer; here events are brought into the form it takes,
//! and what is decided in plain Rust is decided: phone numbers before, advertisements and assignment after.
//!
//! It must never apply half of a batch. Who gets a conversation is found afterwards, in a transaction of its own: that it waits for
//! somebody is noted in the first one, so whoever dies in between leaves it to [`super::assign_waiting`].

use carillon_jobs::{SenderId, WebhookId};
use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres, types::Json};

use super::{assign, referral, row::Row};
use crate::{
    channel::webhook::{Referral, WebhookEvent, What},
    db::{self, PgPool},
    delivery::receipt::{self, Receipts},
};

/// Why events could not be applied; nothing of the batch was.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// Postgres.
    #[error("{}", crate::db::describe(.0))]
    Db(#[from] sqlx::Error),
}

/// What became of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Events that were not known yet.
    pub new: usize,
    /// Of those, events of a type nobody here knows.
    pub unknown: usize,
    /// Conversations that were given to somebody.
    pub assigned: usize,
    /// What came of what the events say of deliveries.
    pub receipts: receipt::Applied,
}

/// Events that are applied together, in one transaction: all of one sender, at most some hundreds.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Whose they are.
    pub sender: SenderId,
    /// The events.
    pub events: &'a [WebhookEvent],
    /// Which webhook told them, and whether these are its last: then it is done with them. `None`: no webhook did.
    pub webhook: Option<(WebhookId, bool)>,
}

/// Forgets which events were applied when no provider tells them again, in short transactions; how many. Raw requests are kept
/// for `keep_days` and may be replayed until then, so this is kept for two days more.
pub async fn forget_applied(db: &PgPool, keep_days: u16) -> Result<i64, sqlx::Error> {
    let mut forgotten = 0;
    loop {
        let gone: i64 = sqlx::query_scalar("select forget_events_applied($1)")
            .bind(i32::from(keep_days) + 2)
            .fetch_one(db)
            .await?;
        if gone == 0 {
            return Ok(forgotten);
        }
        forgotten += gone;
    }
}

/// What `apply_webhook` says.
#[derive(Debug, sqlx::FromRow)]
struct Told {
    held: bool,
    /// The numbers of the events that are new, and the conversation of each.
    ns: Vec<i32>,
    conversations: Vec<Option<i64>>,
    unassigned: Option<Vec<i64>>,
    #[sqlx(flatten)]
    receipts: receipt::Applied,
}

/// Applies events of one sender. Events that were applied before do nothing. `None`: the webhook they were told by is done, put
/// aside, or in somebody's hands at this moment.
pub async fn apply(db: &PgPool, batch: Batch<'_>) -> Result<Option<Applied>, InboxError> {
    let told = if batch.events.iter().any(|event| referral_of(event).is_some()) {
        let mut tx = db::begin(db).await?;
        let told = tell(&mut *tx, batch).await?;
        let referred: Vec<(i64, DateTime<Utc>, &Referral)> = told
            .fresh(batch.events)
            .filter_map(|(conversation, event)| Some((conversation?, event.at, referral_of(event)?)))
            .collect();
        referral::keep(&mut tx, &referred).await?;
        tx.commit().await?;
        told
    } else {
        tell(db, batch).await?
    };
    if !told.held {
        return Ok(None);
    }
    let assigned = match &told.unassigned {
        None => 0,
        Some(waiting) => assign::give_out(db, waiting).await.unwrap_or_else(|error| {
            // They are marked, and the scheduler looks for those.
            tracing::debug!(error = db::describe(&error), "Conversations are given out later");
            0
        }),
    };
    Ok(Some(Applied {
        new: told.ns.len(),
        unknown: told
            .fresh(batch.events)
            .filter(|(_, event)| matches!(event.what, What::Unknown(_)))
            .count(),
        assigned,
        receipts: told.receipts,
    }))
}

async fn tell<'c>(executor: impl Executor<'c, Database = Postgres>, batch: Batch<'_>) -> Result<Told, sqlx::Error> {
    let rows: Vec<Row<'_>> = batch
        .events
        .iter()
        .enumerate()
        .map(|(n, event)| Row::of(n, event))
        .collect();
    let receipts = Receipts::of(batch.events);
    let query = sqlx::query_as(receipt::APPLY)
        .bind(batch.webhook.map(|(id, _)| id.0))
        .bind(batch.webhook.is_some_and(|(_, is_last)| is_last))
        .bind(batch.sender.0)
        .bind(Json(rows));
    receipts.bind(query).fetch_one(executor).await
}

impl Told {
    /// The events that are new, and their conversations.
    fn fresh<'a>(&self, events: &'a [WebhookEvent]) -> impl Iterator<Item = (Option<i64>, &'a WebhookEvent)> {
        let at = |n: &i32| events.get(usize::try_from(*n).ok()?);
        self.ns
            .iter()
            .zip(&self.conversations)
            .filter_map(move |(n, conversation)| Some((*conversation, at(n)?)))
    }
}

fn referral_of(event: &WebhookEvent) -> Option<&Referral> {
    match &event.what {
        What::Message(message) => message.referral.as_ref(),
        What::Postback(postback) => postback.referral.as_ref(),
        What::Referred(referral) => Some(referral),
        What::Echo(_)
        | What::Edited { .. }
        | What::Unsent { .. }
        | What::Followed
        | What::Unfollowed
        | What::Consent { .. }
        | What::Complained { .. }
        | What::Seen { .. }
        | What::Receipt(_)
        | What::Unknown(_) => None,
    }
}
