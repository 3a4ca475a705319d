//! Ringing: what pushes jobs into the queue from Rust. Frontends in other languages do the same with one command.

use std::time::Duration;

use carillon_jobs::{Envelope, Kind};
use redis::RedisError;
use uuid::Uuid;

use super::{
    QueueConfig, QueueError, RedisConn,
    connection::Script,
    keys::{self, KindKeys},
    store::STEP,
    ticket::millis,
};

/// A handle for pushing jobs and for looking at the queue. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(super) redis: RedisConn,
    pub(super) prefix: String,
    hold: Duration,
    push: Script,
}

/// What became of a bell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    /// The job was queued.
    Queued {
        /// Its id: the one it had, or the one it was given.
        id: String,
    },
    /// A job with the same `unique` key already waits.
    AlreadyWaiting,
}

impl Queue {
    /// A queue at this connection.
    #[must_use]
    pub fn new(redis: RedisConn, config: &QueueConfig) -> Self {
        Self {
            redis,
            prefix: config.key_prefix.clone(),
            hold: Duration::from_secs(config.unique_hold_secs),
            push: Script::new(include_str!("push.lua")),
        }
    }

    /// Queues one job. Accepts a [`carillon_jobs::Job`], a payload, or an [`Envelope`] with options.
    ///
    /// # Errors
    /// [`QueueError::Contract`] before anything happened; [`QueueError::Redis`], after which the job may have been
    /// queued or not: ring again, a job that comes twice does no harm.
    pub async fn ring(&self, job: impl Into<Envelope> + Send) -> Result<Rung, QueueError> {
        let rung = self.ring_many([job]).await?;
        Ok(rung.into_iter().next().unwrap_or(Rung::AlreadyWaiting))
    }

    /// Whether Redis can be rung now. Asked twice: the first answer may only be that a connection broke while idle.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn answers(&self) -> Result<(), QueueError> {
        let ping = redis::cmd("PING");
        if self.redis.send(&ping).await.is_err() {
            self.redis.send(&ping).await?;
        }
        Ok(())
    }

    /// Queues many jobs in one round trip per 500; the results are in their order.
    ///
    /// # Errors
    /// As [`Queue::ring`]. All jobs are checked before the first is pushed.
    pub async fn ring_many<E: Into<Envelope>>(
        &self,
        jobs: impl IntoIterator<Item = E> + Send,
    ) -> Result<Vec<Rung>, QueueError> {
        let bells = jobs
            .into_iter()
            .map(|job| Bell::new(job.into()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut rung = Vec::with_capacity(bells.len());
        for chunk in bells.chunks(STEP) {
            rung.extend(self.push(chunk).await?);
        }
        Ok(rung)
    }

    /// Pushes a text as it is, as a frontend in another language would, and wakes the workers. For tests and tools; the
    /// text is not checked.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn push_raw(&self, kind: &str, text: &[u8]) -> Result<(), QueueError> {
        let mut pipeline = redis::pipe();
        pipeline
            .rpush(KindKeys::new(&self.prefix, kind).ready, text)
            .publish(keys::wake(&self.prefix), kind);
        self.redis.pipeline(&pipeline).await?;
        Ok(())
    }

    async fn push(&self, bells: &[Bell]) -> Result<Vec<Rung>, RedisError> {
        match self.push_once(bells).await {
            // The server was restarted or its scripts were flushed. Only unique jobs use one, and no script ran.
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(self.push.code());
                self.redis.send(&load).await?;
                let again: Vec<Bell> = bells.iter().filter(|bell| bell.unique.is_some()).cloned().collect();
                let mut rung = self.push_once(&again).await?.into_iter();
                Ok(bells
                    .iter()
                    .map(|bell| match bell.unique {
                        None => bell.queued(),
                        Some(_) => rung.next().unwrap_or(Rung::AlreadyWaiting),
                    })
                    .collect())
            }
            other => other,
        }
    }

    async fn push_once(&self, bells: &[Bell]) -> Result<Vec<Rung>, RedisError> {
        let mut pipeline = redis::pipe();
        let mut rings_now = None;
        for bell in bells {
            let keys = KindKeys::new(&self.prefix, bell.kind.name());
            if bell.due_ms.is_none() {
                rings_now = Some(bell.kind);
            }
            match (&bell.unique, bell.due_ms) {
                (None, None) => {
                    pipeline.rpush(keys.ready, &bell.text);
                }
                (None, Some(due_ms)) => {
                    pipeline.zadd(keys.due, &bell.text, due_ms);
                }
                (Some(unique), due_ms) => {
                    let held = keys::held_by(&self.prefix, bell.kind.name(), unique);
                    let mut call = self.push.call(&[keys.ready, keys.due, held]);
                    call.arg(&bell.text)
                        .arg(&bell.id)
                        .arg(self.hold_ms(due_ms))
                        .arg(due_ms.map(|ms| ms.to_string()).unwrap_or_default());
                    pipeline.add_command(call);
                }
            }
        }
        if let Some(kind) = rings_now {
            // Every worker looks at every queue, so one bell is enough for all of them.
            pipeline.publish(keys::wake(&self.prefix), kind.name()).ignore();
        }
        let replies = self.redis.pipeline(&pipeline).await?;
        bells
            .iter()
            .zip(replies)
            .map(|(bell, reply)| {
                let waiting = bell.unique.is_some() && redis::from_redis_value::<i64>(reply)? == 0;
                Ok(if waiting { Rung::AlreadyWaiting } else { bell.queued() })
            })
            .collect()
    }

    /// A delayed job holds its key until it is due; after that the hold is short, see `push.lua`.
    fn hold_ms(&self, due_ms: Option<u64>) -> u64 {
        let hold = u64::try_from(self.hold.as_millis()).unwrap_or(30_000);
        let wait = due_ms.map_or(0, |due| due.saturating_sub(millis(chrono::Utc::now())));
        hold + wait
    }
}

/// A checked job, ready to push.
#[derive(Debug, Clone)]
struct Bell {
    kind: Kind,
    id: String,
    text: String,
    due_ms: Option<u64>,
    unique: Option<String>,
}

impl Bell {
    fn new(mut envelope: Envelope) -> Result<Self, QueueError> {
        let id = envelope.id.take().unwrap_or_else(|| Uuid::now_v7().to_string());
        envelope.id = Some(id.clone());
        Ok(Self {
            kind: envelope.job.kind(),
            text: envelope.to_text()?,
            // One that is due already takes its place in the list.
            due_ms: envelope.run_at.filter(|at| *at > chrono::Utc::now()).map(millis),
            unique: envelope.unique,
            id,
        })
    }

    fn queued(&self) -> Rung {
        Rung::Queued { id: self.id.clone() }
    }
}
