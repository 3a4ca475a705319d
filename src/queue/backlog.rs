//! The queue in figures for `/metrics`: how much lies where, since when, and what nobody renews any more.

use carillon_jobs::Kind;
use chrono::Utc;
use redis::{RedisError, Value};

use super::{Depth, Queue, QueueError, keys::KindKeys};

/// One kind of job in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Backlog {
    /// How many jobs lie where.
    pub depth: Depth,
    /// For how long the oldest job that may run has waited, as far as it is known.
    pub oldest_due_secs: f64,
    /// Jobs whose worker's lease has run out and that nobody has taken over.
    pub abandoned: u64,
}

impl Queue {
    /// Each kind's figures, in the order of [`Kind::ALL`].
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn backlogs(&self) -> Result<Vec<Backlog>, QueueError> {
        let depths = self.depths().await?;
        let now_ms = self.now_ms().await?;
        let mut seen = Vec::with_capacity(Kind::ALL.len());
        for (kind, depth) in Kind::ALL.iter().zip(depths) {
            let keys = KindKeys::new(&self.prefix, kind.name());
            let mut pipeline = redis::pipe();
            pipeline
                .zcount(&keys.lease, "-inf", now_ms)
                .zrange_withscores(&keys.due, 0, 0);
            let mut replies = self.redis.pipeline(&pipeline).await?.into_iter();
            let abandoned: u64 = read(replies.next())?;
            let first_due: Vec<(Vec<u8>, f64)> = read(replies.next())?;
            let ready_since = self.oldest_ready(*kind).await?;
            #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
            let overdue_secs = first_due
                .first()
                .map_or(0.0, |(_, due_ms)| (now_ms as f64 - due_ms) / 1_000.0);
            let ready_secs = ready_since.map_or(0.0, |since| (Utc::now() - since).as_seconds_f64());
            seen.push(Backlog {
                depth,
                oldest_due_secs: overdue_secs.max(ready_secs).max(0.0),
                abandoned,
            });
        }
        Ok(seen)
    }

    /// Bytes Redis uses, and may use; 0: it has no limit of its own, or does not tell.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn memory(&self) -> Result<(u64, u64), QueueError> {
        let mut command = redis::cmd("INFO");
        command.arg("memory");
        let info: String = read(Some(self.redis.send(&command).await?))?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Ok((field("used_memory"), field("maxmemory")))
    }

    /// Redis' clock, in milliseconds since 1970.
    pub(crate) async fn now_ms(&self) -> Result<u64, QueueError> {
        let (secs, micros): (u64, u64) = read(Some(self.redis.send(&redis::cmd("TIME")).await?))?;
        Ok(secs * 1_000 + micros / 1_000)
    }
}

pub(crate) fn read<T: redis::FromRedisValue>(reply: Option<Value>) -> Result<T, QueueError> {
    let value = reply.unwrap_or(Value::Nil);
    Ok(redis::from_redis_value(value).map_err(RedisError::from)?)
}
