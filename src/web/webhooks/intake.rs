//! From the socket to the disk: webhooks that come at once share one statement, one commit and one round trip to Redis.
//!
//! Why it exists: a commit costs the same for one row as for two hundred, and a provider that sends a thousand requests a
//! second waits for each answer. Whoever waits here is answered after the commit and not before; nobody waits for Redis.
//!
//! It must never say that something is stored which is not, and never hold more than a bounded number of bytes.

use std::{sync::Arc, time::Duration};

use async_channel::{Receiver, Sender};
use carillon_jobs::{Envelope, TraceParent, WebhookId, WebhookIngest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    db::{self, PgPool, Presence},
    inbox::webhook::{self, NewWebhook},
    queue::Queue,
};

/// Requests that wait for the disk.
const MOST_WAITING: usize = 4_096;
/// Requests in one statement, and their bytes.
const MOST_AT_ONCE: usize = 256;
const MOST_BYTES_AT_ONCE: usize = 4 * 1_024 * 1_024;
/// Statements under way at once: while one commits the next is filled.
const WRITERS: usize = 2;
/// Bells that wait for Redis; those beyond are rung by the scheduler.
const MOST_BELLS: usize = 20_000;
/// How long a statement may take, the wait for a connection included. Providers give up after 2 to 15 seconds.
const STORE_LIMIT: Duration = Duration::from_secs(6);
/// Bytes of bodies in memory at once, in KiB.
const MOST_HELD_KIB: u32 = 96 * 1_024;

/// It could not be stored: the provider has to tell it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotStored;

struct Waiting {
    webhook: NewWebhook,
    trace: Option<TraceParent>,
    answer: oneshot::Sender<Result<(), NotStored>>,
}

struct Bell {
    id: WebhookId,
    trace: Option<TraceParent>,
}

/// The way to the disk. Ends when the last clone is gone.
#[derive(Clone)]
pub(super) struct Intake {
    waiting: Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Intake {
    /// Starts what writes and what rings. Without a queue nobody rings but the scheduler.
    pub(super) fn start(db: &PgPool, queue: Option<Queue>) -> Self {
        let (waiting, writes) = async_channel::bounded(MOST_WAITING);
        let (bells, rings) = async_channel::bounded(MOST_BELLS);
        let postgres = Arc::new(Presence::default());
        for _ in 0..WRITERS {
            tokio::spawn(write(db.clone(), writes.clone(), bells.clone(), postgres.clone()));
        }
        if let Some(queue) = queue {
            tokio::spawn(ring(queue, rings));
        }
        Self {
            waiting,
            room: Arc::new(Semaphore::new(MOST_HELD_KIB as usize)),
        }
    }

    /// Room for so many KiB of a body, for as long as the result lives; none while too much is held already.
    pub(super) fn room_for(&self, kib: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(MOST_HELD_KIB);
        self.room.clone().try_acquire_many_owned(kib).ok()
    }

    /// Stores one; it is on disk when this returns.
    pub(super) async fn store(&self, webhook: NewWebhook, trace: Option<TraceParent>) -> Result<(), NotStored> {
        let (answer, stored) = oneshot::channel();
        let one = Waiting { webhook, trace, answer };
        self.waiting.try_send(one).map_err(|_| NotStored)?;
        stored.await.unwrap_or(Err(NotStored))
    }
}

async fn write(db: PgPool, waiting: Receiver<Waiting>, bells: Sender<Bell>, postgres: Arc<Presence>) {
    while let Ok(first) = waiting.recv().await {
        let mut bytes = first.webhook.body.len();
        let mut batch = vec![first];
        while batch.len() < MOST_AT_ONCE
            && bytes < MOST_BYTES_AT_ONCE
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.webhook.body.len();
            batch.push(next);
        }
        if let Err(refused) = write_together(&db, batch, &bells, &postgres).await {
            // One of them is to blame, and the others are not.
            for one in refused {
                let _ = write_together(&db, vec![one], &bells, &postgres).await;
            }
        }
    }
}

/// Stores a batch and answers everybody in it; hands back those that may succeed one by one.
async fn write_together(
    db: &PgPool,
    batch: Vec<Waiting>,
    bells: &Sender<Bell>,
    postgres: &Presence,
) -> Result<(), Vec<Waiting>> {
    let (mut webhooks, mut people) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for one in batch {
        webhooks.push(one.webhook);
        people.push((one.trace, one.answer));
    }
    let stored = tokio::time::timeout(STORE_LIMIT, webhook::store(db, &webhooks)).await;
    let stored = stored.unwrap_or(Err(sqlx::Error::PoolTimedOut));
    match stored {
        Ok(ids) if ids.len() == people.len() => {
            postgres.answered();
            for (id, (trace, answer)) in ids.into_iter().zip(people) {
                let _ = answer.send(Ok(()));
                // Full while Redis is away: the scheduler rings.
                let _ = bells.try_send(Bell { id, trace });
            }
            return Ok(());
        }
        Err(error) if !db::may_pass(&error) && people.len() > 1 => {
            return Err(webhooks
                .into_iter()
                .zip(people)
                .map(|(webhook, (trace, answer))| Waiting { webhook, trace, answer })
                .collect());
        }
        Err(error) if db::may_pass(&error) => postgres.away(&db::describe(&error)),
        Err(error) => {
            let code = error
                .as_database_error()
                .and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            tracing::error!(
                postgres.code = code,
                "A webhook cannot be stored; its provider was asked to tell it again"
            );
        }
        Ok(_) => tracing::error!("Storing webhooks was answered with another number of ids"),
    }
    for (_, answer) in people {
        let _ = answer.send(Err(NotStored));
    }
    Ok(())
}

async fn ring(queue: Queue, bells: Receiver<Bell>) {
    let mut away = false;
    while let Ok(first) = bells.recv().await {
        let mut batch = vec![first];
        while batch.len() < MOST_AT_ONCE
            && let Ok(next) = bells.try_recv()
        {
            batch.push(next);
        }
        let jobs = batch.into_iter().map(|bell| {
            let mut job = Envelope::new(WebhookIngest {
                webhook_id: Some(bell.id),
            });
            job.traceparent = bell.trace;
            job
        });
        match (queue.ring_many(jobs).await, away) {
            (Ok(_), true) => {
                away = false;
                tracing::info!("Ringing for webhooks again");
            }
            (Err(error), false) => {
                away = true;
                tracing::warn!(%error, "Cannot ring for webhooks; they are stored, and the scheduler rings for them");
            }
            (Ok(_), false) | (Err(_), true) => {}
        }
    }
}
