//! Send, pause, resume, cancel.
//!
//! Why it exists: what a person may do to a broadcast, each one statement or one short transaction, legal at any
//! moment: the moves themselves are guarded by the database.
//!
//! It must never touch deliveries: workers see the new state and act on it.

use carillon_jobs::BroadcastId;
use sqlx::types::Uuid;

use super::state::BroadcastState;
use crate::db::{self, PgConnection, PgPool};

/// What a person asked of a broadcast could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such broadcast.
    #[error("broadcast_not_found: there is no broadcast {0}")]
    NotFound(BroadcastId),
    /// Not in this state.
    #[error("wrong_state: a broadcast that is {state} cannot be {asked}")]
    WrongState {
        /// Where it is.
        state: BroadcastState,
        /// What was asked: `paused`, `resumed`, `cancelled`.
        asked: &'static str,
    },
    /// Postgres failed or is away.
    #[error("the database could not be used: {0}")]
    Database(#[from] sqlx::Error),
}

/// Sends a draft: now, or at its time. One that is on its way already stays as it is. Returns the state; the caller
/// rings.
pub async fn send(pool: &PgPool, broadcast: BroadcastId) -> Result<BroadcastState, ControlError> {
    let mut tx = db::begin(pool).await?;
    let found = state_of(&mut tx, broadcast).await?;
    let state = match found {
        BroadcastState::Draft | BroadcastState::Scheduled => {
            sqlx::query_scalar("select send_broadcast($1)")
                .bind(broadcast.0)
                .fetch_one(&mut *tx)
                .await?
        }
        _ => found,
    };
    tx.commit().await?;
    Ok(state)
}

/// Holds a broadcast where it is; paused already is no error.
pub async fn pause(pool: &PgPool, broadcast: BroadcastId) -> Result<BroadcastState, ControlError> {
    let mut tx = db::begin(pool).await?;
    let state = match state_of(&mut tx, broadcast).await? {
        BroadcastState::Paused => BroadcastState::Paused,
        state => {
            let paused = sqlx::query_scalar("select pause_broadcast($1)")
                .bind(broadcast.0)
                .fetch_one(&mut *tx)
                .await?;
            refuse_unless(paused, state, "paused")?;
            BroadcastState::Paused
        }
    };
    tx.commit().await?;
    Ok(state)
}

/// Pauses every broadcast that is on its way, or whose time has come, each by itself, and returns them. For a database that was
/// restored from a backup: it does not know what was sent since, so a person decides for each.
pub async fn pause_all(pool: &PgPool) -> Result<Vec<BroadcastId>, ControlError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select b.id
           from (select id from broadcast
                  where state in ('queued', 'planning', 'sending') or (state = 'scheduled' and scheduled_at <= now())
                  order by id) b
          where pause_broadcast(b.id)",
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BroadcastId).collect())
}

/// Lets a paused broadcast go on where it was, with its lanes due now. Returns the state; the caller rings.
pub async fn resume(pool: &PgPool, broadcast: BroadcastId) -> Result<BroadcastState, ControlError> {
    let mut tx = db::begin(pool).await?;
    let resumed: bool = sqlx::query_scalar("select resume_broadcast($1)")
        .bind(broadcast.0)
        .fetch_one(&mut *tx)
        .await?;
    let state = state_of(&mut tx, broadcast).await?;
    refuse_unless(resumed, state, "resumed")?;
    tx.commit().await?;
    Ok(state)
}

/// Ends a broadcast: what has not left never will. Cancelled already is no error. Returns the state; the caller rings,
/// so that workers give back the tokens of what is left.
pub async fn cancel(pool: &PgPool, broadcast: BroadcastId) -> Result<BroadcastState, ControlError> {
    let mut tx = db::begin(pool).await?;
    let state = state_of(&mut tx, broadcast).await?;
    if state != BroadcastState::Cancelled {
        let cancelled = sqlx::query_scalar("select cancel_broadcast($1)")
            .bind(broadcast.0)
            .fetch_one(&mut *tx)
            .await?;
        refuse_unless(cancelled, state, "cancelled")?;
    }
    tx.commit().await?;
    Ok(BroadcastState::Cancelled)
}

async fn state_of(conn: &mut PgConnection, broadcast: BroadcastId) -> Result<BroadcastState, ControlError> {
    sqlx::query_scalar("select state from broadcast where id = $1")
        .bind(broadcast.0)
        .fetch_optional(conn)
        .await?
        .ok_or(ControlError::NotFound(broadcast))
}

fn refuse_unless(done: bool, state: BroadcastState, asked: &'static str) -> Result<(), ControlError> {
    if done {
        Ok(())
    } else {
        Err(ControlError::WrongState { state, asked })
    }
}
