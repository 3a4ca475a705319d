//! Looking at the queue without touching it: how many jobs lie where, and since when the first of them waits.

use carillon_jobs::{Envelope, Kind};
use chrono::{DateTime, Utc};
use redis::RedisError;
use uuid::Uuid;

use super::{Queue, QueueError, entry, keys::KindKeys};

/// How many jobs of one kind lie where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    /// The kind.
    pub kind: Kind,
    /// Jobs that may run now.
    pub ready: u64,
    /// Jobs that are delayed, snoozed or waiting for a retry.
    pub delayed: u64,
    /// Jobs that are claimed.
    pub running: u64,
}

impl Queue {
    /// How many jobs lie where, for each kind.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        let mut pipeline = redis::pipe();
        for kind in Kind::ALL {
            let keys = KindKeys::new(&self.prefix, kind.name());
            pipeline.llen(keys.ready).zcard(keys.due).hlen(keys.run);
        }
        let replies = self.redis.pipeline(&pipeline).await?;
        let numbers = replies
            .into_iter()
            .map(|reply| redis::from_redis_value::<u64>(reply).map_err(RedisError::from))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Kind::ALL
            .iter()
            .zip(numbers.chunks(3))
            .filter_map(|(kind, numbers)| match numbers {
                [ready, delayed, running] => Some(Depth {
                    kind: *kind,
                    ready: *ready,
                    delayed: *delayed,
                    running: *running,
                }),
                _ => None,
            })
            .collect())
    }

    /// How many jobs of a kind may run now and wait for a slot.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn waiting(&self, kind: Kind) -> Result<u64, QueueError> {
        let mut command = redis::cmd("LLEN");
        command.arg(KindKeys::new(&self.prefix, kind.name()).ready);
        let reply = self.redis.send(&command).await?;
        Ok(redis::from_redis_value(reply).map_err(RedisError::from)?)
    }

    /// Since when the job at the head of the ready list is there, as far as it can be known: when it was first claimed,
    /// or when its id (a UUIDv7, as this program makes them) was made and its `run_at` had come. `None`: nothing is
    /// ready, or its producer left no trace of the time.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn oldest_ready(&self, kind: Kind) -> Result<Option<DateTime<Utc>>, QueueError> {
        let mut command = redis::cmd("LINDEX");
        command.arg(KindKeys::new(&self.prefix, kind.name()).ready).arg(0);
        let reply = self.redis.send(&command).await?;
        let head: Option<Vec<u8>> = redis::from_redis_value(reply).map_err(RedisError::from)?;
        Ok(head.and_then(|entry| ready_since(kind, &entry)))
    }
}

fn ready_since(kind: Kind, entry: &[u8]) -> Option<DateTime<Utc>> {
    let (history, text) = entry::split(entry, "", u64::MAX);
    if !history.fresh {
        return DateTime::from_timestamp_millis(i64::try_from(history.first_ms).ok()?);
    }
    let job = Envelope::parse(kind, text).ok()?;
    let made = Uuid::try_parse(job.id.as_deref()?).ok()?.get_timestamp()?;
    let (secs, nanos) = made.to_unix();
    let made = DateTime::from_timestamp(i64::try_from(secs).ok()?, nanos)?;
    Some(job.run_at.map_or(made, |run_at| run_at.max(made)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_age_of_a_job_is_told_only_where_it_is_known() {
        let kind = Kind::BroadcastSend;
        let args = r#""args":{"broadcast_id":"0197a1b2-0000-7000-8000-000000000000"}"#;
        let since = |text: &str| ready_since(kind, text.as_bytes()).map(|at| at.timestamp_millis());
        let made = 0x0197_a1b2_0000;
        let id = r#""id":"0197a1b2-0000-7000-8000-000000000001""#;
        assert_eq!(since(&format!("{{{id},{args}}}")), Some(made));
        assert_eq!(
            since(&format!(r#"{{{id},{args},"run_at":"2026-01-01T00:00:00Z"}}"#)),
            Some(1_767_225_600_000)
        );
        assert_eq!(since(&format!("{{{args}}}")), None);
        assert_eq!(since(&format!(r#"{{"id":"mine",{args}}}"#)), None);
        assert_eq!(since("not a job"), None);
        assert_eq!(
            since(&format!("\u{1}1 0 0 1700000000000 tag -\n{{{args}}}")),
            Some(1_700_000_000_000)
        );
    }
}
