//! The buckets in Redis and the two scripts that touch them.
//!
//! Why scripts: a bucket is read and written by every worker, and only inside Redis is that one step on one clock.
//! Never in here: a permit made up because Redis did not answer. Every failure is an error, and an error is no permit.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use redis::{FromRedisValue, Script, ScriptInvocation, aio::ConnectionManager};
use thiserror::Error;

use super::{LimitConfig, LimitKey, LimitStatus, bucket::Rules};

/// How long an unused bucket is remembered, and with it what 429s taught.
const KEEP_MS: u32 = 3_600_000;

/// Seconds and microseconds, as `TIME` answers.
type ServerTime = (i64, i64);
/// `rate`, `closed_until` and `throttled_at` of a bucket.
type Fields = (Option<f64>, Option<i64>, Option<i64>);

/// Why a bucket could not be asked.
#[derive(Debug, Error)]
pub enum LimitError {
    /// Redis refused or the connection broke.
    #[error("the rate limits' Redis failed: {0}")]
    Redis(#[from] redis::RedisError),
    /// Redis did not answer within `redis_timeout_ms`.
    #[error("the rate limits' Redis did not answer in time")]
    Timeout,
}

/// What one call to the bucket brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// Permits to use, perhaps none.
    pub(super) permits: u32,
    /// When the last of them may be used, counted from the moment the script ran.
    pub(super) last_in: Duration,
    /// With no permits: when to ask again.
    pub(super) wait: Duration,
    /// Permits a second they are spaced at.
    pub(super) rate_per_sec: f64,
    /// The script ran after this moment …
    pub(super) sent: Instant,
    /// … and before this one.
    pub(super) received: Instant,
}

/// The fleet's buckets.
#[derive(Debug, Clone)]
pub(super) struct Fleet {
    conn: ConnectionManager,
    key_prefix: String,
    timeout: Duration,
    lease: Script,
    throttle: Script,
}

impl Fleet {
    pub(super) fn new(conn: ConnectionManager, key_prefix: &str, config: &LimitConfig) -> Self {
        Self {
            conn,
            key_prefix: format!("{key_prefix}:limit:"),
            timeout: Duration::from_millis(config.redis_timeout_ms.get().into()),
            lease: Script::new(include_str!("lease.lua")),
            throttle: Script::new(include_str!("throttle.lua")),
        }
    }

    fn bucket_key(&self, key: &LimitKey) -> String {
        format!("{}{}:{}", self.key_prefix, key.sender, key.call)
    }

    /// Takes up to `wanted` permits; `clean` as in `Bucket::lease`.
    pub(super) async fn lease(
        &self,
        key: &LimitKey,
        rules: &Rules,
        wanted: u32,
        clean: bool,
    ) -> Result<Reply, LimitError> {
        let mut script = self.lease.key(self.bucket_key(key));
        script
            .arg(wanted)
            .arg(rules.configured_per_sec)
            .arg(rules.burst_us)
            .arg(rules.ahead_us)
            .arg(u8::from(clean));
        script
            .arg(rules.hold_us)
            .arg(rules.raise)
            .arg(rules.max_close_us)
            .arg(KEEP_MS);
        let sent = Instant::now();
        let (permits, last_in_us, wait_us, rate_per_sec, _now): (u32, u64, u64, f64, u64) =
            self.invoke(&script).await?;
        Ok(Reply {
            permits,
            last_in: Duration::from_micros(last_in_us),
            wait: Duration::from_micros(wait_us),
            rate_per_sec,
            sent,
            received: Instant::now(),
        })
    }

    /// Closes and slows the sender for everybody; answers for how long it is closed and the rate it has then.
    pub(super) async fn throttle(
        &self,
        key: &LimitKey,
        rules: &Rules,
        close: Duration,
    ) -> Result<(Duration, f64), LimitError> {
        let mut script = self.throttle.key(self.bucket_key(key));
        script
            .arg(rules.configured_per_sec)
            .arg(u64::try_from(close.as_micros()).unwrap_or(u64::MAX));
        script.arg(rules.hold_us).arg(rules.max_close_us).arg(KEEP_MS);
        let (closed_us, rate, _now): (u64, f64, u64) = self.invoke(&script).await?;
        Ok((Duration::from_micros(closed_us), rate))
    }

    async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, LimitError> {
        let mut conn = self.conn.clone();
        let call = async {
            match script.invoke_async(&mut conn.clone()).await {
                // A connection that broke while nobody used it says so once, whether or not Redis is back by now.
                Err(error) if error.is_connection_dropped() || error.is_io_error() => {
                    script.invoke_async(&mut conn).await
                }
                answer => answer,
            }
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(LimitError::Timeout),
        }
    }

    /// Reads a bucket without touching it.
    pub(super) async fn status(&self, key: &LimitKey) -> Result<LimitStatus, LimitError> {
        let mut conn = self.conn.clone();
        let mut pipe = redis::pipe();
        pipe.cmd("TIME")
            .cmd("HMGET")
            .arg(self.bucket_key(key))
            .arg(&["rate", "closed_until", "throttled_at"]);
        let read = pipe.query_async(&mut conn);
        let answer: Result<(ServerTime, Fields), _> = match tokio::time::timeout(self.timeout, read).await {
            Ok(answer) => answer,
            Err(_) => return Err(LimitError::Timeout),
        };
        let (time, (rate, closed_until, throttled_at)) = answer?;
        let now_us = time.0.saturating_mul(1_000_000).saturating_add(time.1);
        let configured_per_sec = key.rate.get();
        Ok(LimitStatus {
            configured_per_sec,
            effective_per_sec: rate.map_or(configured_per_sec, |rate| rate.min(configured_per_sec)),
            closed_until: closed_until
                .filter(|until| *until > now_us)
                .and_then(DateTime::<Utc>::from_timestamp_micros),
            last_throttled_at: throttled_at.and_then(DateTime::<Utc>::from_timestamp_micros),
        })
    }
}
