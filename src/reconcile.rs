//! What Postgres says should be running, turned into bells.
//!
//! Redis may be lost at any moment and workers may die anywhere: whatever waits has its time in Postgres, and this loop
//! rings again for what is overdue and in nobody's hands. It takes no input and remembers nothing, so any number of
//! schedulers may run it, and a bell too many is harmless. It never waits for a row: somebody who sits on one broadcast
//! (a frontend in the middle of its transaction) must not keep all the others from being rung for.

use std::time::Duration;

use carillon_jobs::{
    BroadcastId, BroadcastSend, Envelope, MediaFetch, MonthlyTokenRefill, SenderId, TopUpSettlement, TraceParent,
    WebhookIngest,
};
use sqlx::types::Uuid;

use crate::{
    broadcast::turn,
    db::PgPool,
    delivery::{
        DeliveryConfig, receipt,
        store::{self, Ringing},
    },
    inbox::{self, media, webhook},
    ledger::refill,
    queue::{Queue, Rung},
    telemetry,
};

/// How often it looks.
pub const EVERY: Duration = Duration::from_secs(2);

/// What one look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Scheduled broadcasts whose time has come.
    pub due: usize,
    /// Broadcasts nobody is planning (or clearing away).
    pub unplanned: usize,
    /// Lanes nobody is working on.
    pub lanes: usize,
    /// Broadcasts that had ended without anybody noticing.
    pub finished: usize,
    /// Periods with shops that are due and nobody refills.
    pub refills: usize,
    /// Bells for top-up orders that are due; one is for all of them.
    pub top_ups: usize,
    /// Bells for webhooks that wait longer than they should; one is for all of them.
    pub webhooks: usize,
    /// Bells for what customers attached; one is for all of it.
    pub media: usize,
    /// Receipts that wait for the result of their send and were tried again.
    pub receipts: usize,
    /// Conversations given to somebody who came to work.
    pub assigned: usize,
}

/// Why a look was cut short. The next one does what is left.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Postgres did not answer.
    #[error("{}", crate::db::describe(.0))]
    Db(#[from] sqlx::Error),
    /// Redis did not take a bell.
    #[error(transparent)]
    Queue(#[from] crate::queue::QueueError),
}

/// Looks once.
pub async fn look(db: &PgPool, queue: &Queue, config: &DeliveryConfig) -> Result<Found, ReconcileError> {
    let due = start_scheduled(db).await?;
    let finished = finish_unnoticed(db).await?;
    // Asked before anything is marked as rung: a bell that could not be rung would count as out for seconds.
    queue.answers().await?;
    let unplanned = turn::to_ring(db, None, config.bell_stale()).await?;
    for broadcast in &unplanned {
        ring(queue, *broadcast, None).await?;
    }
    let lanes = ring_lanes(db, queue, config, Ringing::Everybody).await?;
    let refills = ring_refills(db, queue, config).await?;
    let top_ups = ring_top_ups(db, queue).await?;
    let webhooks = ring_webhooks(db, queue).await?;
    let media = ring_media(db, queue).await?;
    // Last: whatever it meets, the bells are out.
    let receipts = receipt::retry(db).await?;
    let assigned = inbox::assign_waiting(db).await?;
    Ok(Found {
        due,
        unplanned: unplanned.len(),
        lanes,
        finished,
        refills,
        top_ups,
        webhooks,
        media,
        receipts: usize::try_from(receipts).unwrap_or(usize::MAX),
        assigned,
    })
}

/// Rings for every period that has shops whose refill is due, and says how many those were.
async fn ring_refills(db: &PgPool, queue: &Queue, config: &DeliveryConfig) -> Result<usize, ReconcileError> {
    let periods = refill::periods_to_ring(db, config.bell_stale()).await?;
    for period in &periods {
        let mut bell = carillon_jobs::Envelope::new(MonthlyTokenRefill {
            period: period.clone(),
            shop_id: None,
        });
        bell.unique = Some(period.to_string());
        bell.traceparent = telemetry::here();
        queue.ring(bell).await?;
    }
    Ok(periods.len())
}

/// Rings for the lanes that are due and in nobody's hands, as many as there are places, and says how many those were.
pub async fn ring_lanes(
    db: &PgPool,
    queue: &Queue,
    config: &DeliveryConfig,
    ringing: Ringing,
) -> Result<usize, ReconcileError> {
    let lanes = store::lanes_to_ring(db, ringing, config.places())
        .await?
        .unwrap_or_default();
    for (broadcast, sender) in &lanes {
        ring(queue, *broadcast, Some(*sender)).await?;
    }
    Ok(lanes.len())
}

/// Rings for a broadcast as a whole, or for one of its lanes. While such a bell waits another one is not queued.
pub async fn ring(
    queue: &Queue,
    broadcast: BroadcastId,
    sender: Option<SenderId>,
) -> Result<(), crate::queue::QueueError> {
    ring_within(queue, broadcast, sender, telemetry::here()).await
}

/// As [`ring`], as part of this trace instead of the one this runs in.
pub async fn ring_within(
    queue: &Queue,
    broadcast: BroadcastId,
    sender: Option<SenderId>,
    trace: Option<TraceParent>,
) -> Result<(), crate::queue::QueueError> {
    let mut bell = carillon_jobs::Envelope::new(BroadcastSend {
        broadcast_id: broadcast,
        sender_id: sender,
    });
    bell.unique = Some(match sender {
        None => broadcast.to_string(),
        Some(sender) => format!("{broadcast}/{sender}"),
    });
    bell.traceparent = trace;
    queue.ring(bell).await?;
    Ok(())
}

/// Rings once for all top-up orders that are due, unless a bell waits.
async fn ring_top_ups(db: &PgPool, queue: &Queue) -> Result<usize, ReconcileError> {
    let due: bool = sqlx::query_scalar("select exists (select from due_top_ups(1))")
        .fetch_one(db)
        .await?;
    if !due {
        return Ok(0);
    }
    let mut bell = Envelope::new(TopUpSettlement { order_id: None });
    bell.unique = Some("due".to_owned());
    let rung = queue.ring(bell).await?;
    Ok(usize::from(matches!(rung, Rung::Queued { .. })))
}

/// Rings once for all files that are due, unless a bell waits.
async fn ring_media(db: &PgPool, queue: &Queue) -> Result<usize, ReconcileError> {
    if !media::has_due(db).await? {
        return Ok(0);
    }
    let mut bell = Envelope::new(MediaFetch {});
    bell.unique = Some("due".to_owned());
    let rung = queue.ring(bell).await?;
    Ok(usize::from(matches!(rung, Rung::Queued { .. })))
}

/// Rings once for all webhooks that wait longer than they should, unless a bell waits.
async fn ring_webhooks(db: &PgPool, queue: &Queue) -> Result<usize, ReconcileError> {
    if !webhook::is_overdue(db).await? {
        return Ok(0);
    }
    let mut bell = Envelope::new(WebhookIngest { webhook_id: None });
    bell.unique = Some("overdue".to_owned());
    let rung = queue.ring(bell).await?;
    Ok(usize::from(matches!(rung, Rung::Queued { .. })))
}

/// Scheduled broadcasts become `queued` when their time has come, by Postgres' clock.
async fn start_scheduled(db: &PgPool) -> sqlx::Result<usize> {
    let done = sqlx::query(
        "update broadcast set state = 'queued', queued_at = now()
          where id in (select id from broadcast where state = 'scheduled' and scheduled_at <= now() for update skip locked)",
    )
    .execute(db)
    .await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

/// The check a settle makes when it empties its lane, made again for broadcasts that look ended and are not closed.
async fn finish_unnoticed(db: &PgPool) -> sqlx::Result<usize> {
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "select b.id from broadcast b
          where (b.state in ('sending', 'cancelled') or b.resume_state = 'sending')
            and b.sending_at is not null and b.finished_at is null
            and not exists (select from lane l where l.broadcast_id = b.id and l.remaining > 0)",
    )
    .fetch_all(db)
    .await?;
    let mut finished = 0;
    for id in ended {
        let mut tx = crate::db::begin(db).await?;
        let locked = sqlx::query("select from broadcast where id = $1 for update skip locked")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        if locked.is_none() {
            continue;
        }
        let done: bool = sqlx::query_scalar("select finish_broadcast($1)")
            .bind(id)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        finished += usize::from(done);
    }
    Ok(finished)
}
