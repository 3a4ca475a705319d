//! What ended in a window, written to Postgres: one round trip and one transaction, whatever follows from it.
//!
//! The most frequent one is the cheap one: everybody was accepted and the claim goes on (`migrations/0018_unposted.sql`).
//!
//! It must never begin anybody: who begins is committed here first, and sent to by the caller afterwards.

use std::time::Duration;

use crate::{
    db::PgPool,
    delivery::{
        receipt,
        store::{ClaimedSlice, TakenLane},
        verdict::Ended,
    },
};

/// What a settle says about going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Written; the broadcast goes on.
    Going,
    /// Written; the broadcast is no longer sending, so no new intent was taken.
    Stopped,
    /// Nothing was written: the slice belongs to somebody else now.
    Stale,
}

/// How a claim goes on after a window.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next<'a> {
    /// Keep the claim without beginning anything, while waiting for permits.
    Hold,
    /// Begin these members.
    Send(&'a [i64]),
    /// Give the slice back, due again after the wait.
    GiveBack(Duration),
}

/// Members in flight beside those who begin now.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight<'a> {
    /// On their way; the claim lasts at least until they are back.
    pub(super) flying: &'a [i64],
    /// Their outcome is open and their key will be repeated: they stay in flight whatever comes next.
    pub(super) uncertain: &'a [i64],
    /// Number of the latest intent, that of those who begin now included.
    pub(super) intent_no: i32,
}

/// Writes what ended in a window and what comes next, all or nothing. An outcome nobody knows is `accepted`, and charged, where a
/// receipt that came first proves it.
pub(super) async fn settle_window(
    db: &PgPool,
    lane: &TakenLane,
    slice: &ClaimedSlice,
    ended: &[Ended],
    next: Next<'_>,
    in_flight: InFlight<'_>,
    lease: Duration,
) -> sqlx::Result<Settled> {
    let going_on = match next {
        Next::Hold => Some(&[][..]),
        Next::Send(members) => Some(members),
        Next::GiveBack(_) => None,
    };
    let all_accepted = !ended.is_empty() && ended.iter().all(Ended::is_plainly_accepted);
    if let (Some(next), true) = (going_on, all_accepted) {
        return settle_accepted(db, lane, slice, ended, next, in_flight, lease).await;
    }
    let ended = &*receipt::with_proof(db, lane, ended).await?;
    let customers: Vec<i64> = ended.iter().map(|e| e.customer).collect();
    let states: Vec<&str> = ended.iter().map(|e| e.state.as_str()).collect();
    let reasons: Vec<Option<&str>> = ended.iter().map(|e| e.reason).collect();
    let codes: Vec<Option<&str>> = ended.iter().map(|e| e.code.as_deref()).collect();
    let provider_ids: Vec<Option<&str>> = ended.iter().map(|e| e.provider_id.as_deref()).collect();
    let (next, wait) = match next {
        Next::Hold => (Some(&[][..]), Duration::ZERO),
        Next::Send(members) => (Some(members), Duration::ZERO),
        Next::GiveBack(wait) => (None, wait),
    };
    let state: String = sqlx::query_scalar(
        "select settle_window($1, $2, $3, $4, $5, $6::text[]::delivery_state[], $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(lane.broadcast.0)
    .bind(lane.channel)
    .bind(slice.slice_no)
    .bind(slice.epoch)
    .bind(customers)
    .bind(states)
    .bind(reasons)
    .bind(codes)
    .bind(provider_ids)
    .bind(next)
    .bind(in_flight.intent_no)
    .bind(in_flight.flying)
    .bind(in_flight.uncertain)
    .bind(wait.as_secs_f64())
    .bind(lease.as_secs_f64())
    .fetch_one(db)
    .await?;
    Ok(settled(&state))
}

/// The most frequent settle: everybody was accepted and the claim goes on (`migrations/0018_unposted.sql`).
async fn settle_accepted(
    db: &PgPool,
    lane: &TakenLane,
    slice: &ClaimedSlice,
    accepted: &[Ended],
    next: &[i64],
    in_flight: InFlight<'_>,
    lease: Duration,
) -> sqlx::Result<Settled> {
    let customers: Vec<i64> = accepted.iter().map(|e| e.customer).collect();
    let provider_ids: Vec<Option<&str>> = accepted.iter().map(|e| e.provider_id.as_deref()).collect();
    let state: String = sqlx::query_scalar("select settle_accepted($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(lane.broadcast.0)
        .bind(lane.channel)
        .bind(slice.slice_no)
        .bind(slice.epoch)
        .bind(customers)
        .bind(provider_ids)
        .bind(next)
        .bind(in_flight.intent_no)
        .bind(in_flight.flying)
        .bind(in_flight.uncertain)
        .bind(lease.as_secs_f64())
        .fetch_one(db)
        .await?;
    Ok(settled(&state))
}

fn settled(state: &str) -> Settled {
    match state {
        "stale" => Settled::Stale,
        "sending" => Settled::Going,
        _ => Settled::Stopped,
    }
}
