//! Events of one sender, recorded once and turned into customers, conversations and messages.
//!
//! Why it exists: one call to Postgres (`apply_events` in `migrations/0020_inbox.sql`) does it for a whole batch, because
//! its locks have one order; here events are brought into the form it takes, and what is decided in plain Rust is decided:
//! phone numbers before, advertisements and assignment after.
//!
//! It must never be called twice in one transaction, or after something else was locked in it: two workers would wait for
//! each other.

use carillon_jobs::SenderId;
use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{assign, referral, row::Row};
use crate::{
    channel::webhook::{Referral, WebhookEvent, What},
    db::{PgPool, Transaction},
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

/// What `apply_events` says of an event that is new.
#[derive(Debug, sqlx::FromRow)]
struct Told {
    n: i32,
    conversation_id: Option<i64>,
    unassigned: bool,
}

/// Applies events of one sender, in the caller's transaction and as its first statement. Events that were applied before do
/// nothing; a batch holds at most some hundreds.
pub async fn apply(tx: &mut Transaction, sender: SenderId, events: &[WebhookEvent]) -> Result<Applied, InboxError> {
    if events.is_empty() {
        return Ok(Applied::default());
    }
    let rows: Vec<Row<'_>> = events.iter().enumerate().map(|(n, event)| Row::of(n, event)).collect();
    let told: Vec<Told> = sqlx::query_as("select n, conversation_id, unassigned from apply_events($1, $2)")
        .bind(sender.0)
        .bind(Json(rows))
        .fetch_all(&mut **tx)
        .await?;
    let fresh = || {
        told.iter()
            .filter_map(|told| Some((told, events.get(usize::try_from(told.n).ok()?)?)))
    };
    let referred: Vec<(i64, DateTime<Utc>, &Referral)> = fresh()
        .filter_map(|(told, event)| Some((told.conversation_id?, event.at, referral_of(event)?)))
        .collect();
    referral::keep(tx, &referred).await?;
    let mut pending: Vec<i64> = told
        .iter()
        .filter(|told| told.unassigned)
        .filter_map(|told| told.conversation_id)
        .collect();
    pending.sort_unstable();
    pending.dedup();
    Ok(Applied {
        new: told.len(),
        unknown: fresh()
            .filter(|(_, event)| matches!(event.what, What::Unknown(_)))
            .count(),
        assigned: assign::give_out(tx, &pending).await?,
    })
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
        | What::Receipt(_)
        | What::Unknown(_) => None,
    }
}
