//! The `[queue]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::{
    config::{RedisConfig, Report, Section},
    retry::RetryPolicy,
};

/// How a process uses the queue. Defaults and reasons stand in `config/default.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// What every key in Redis begins with. Its braces keep all of them in one slot of a cluster. From `[redis]`.
    #[serde(skip)]
    pub key_prefix: String,
    /// Jobs a worker process runs at once.
    pub concurrency: u32,
    /// The longest wait of an idle worker before it looks for jobs that nobody announced, in milliseconds.
    pub poll_ms: u64,
    /// The lease of every kind, in milliseconds, in place of each kind's own.
    #[serde(deserialize_with = "zero_is_none")]
    pub lease_ms: Option<u64>,
    /// How often an abandoned or delayed job is looked for while a worker is busy, in milliseconds.
    pub sweep_ms: u64,
    /// Takeovers after which a job counts as poison.
    pub max_crashes: u32,
    /// The ceiling of the first retry delay, in milliseconds.
    pub retry_first_ms: u64,
    /// The ceiling of every later retry delay, in seconds.
    pub retry_longest_secs: u64,
    /// How long running jobs may go on after SIGTERM before they are aborted and given back, in seconds.
    pub drain_secs: u64,
    /// How long a `unique` key is believed when the job that holds it has vanished, in seconds.
    pub unique_hold_secs: u64,
    /// How long a connection to Redis may take, in milliseconds. From `[redis]`.
    #[serde(skip)]
    pub connect_timeout_ms: u64,
    /// How long an answer from Redis may take, in milliseconds. From `[redis]`.
    #[serde(skip)]
    pub response_timeout_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            key_prefix: "{carillon}".to_owned(),
            concurrency: 50,
            poll_ms: 100,
            lease_ms: None,
            sweep_ms: 25,
            max_crashes: 3,
            retry_first_ms: 1_000,
            retry_longest_secs: 600,
            drain_secs: 15,
            unique_hold_secs: 30,
            connect_timeout_ms: 1_000,
            response_timeout_ms: 2_000,
        }
    }
}

impl QueueConfig {
    /// What is wrong with the values, one sentence each; empty when nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: &str| {
            if !ok {
                problems.push(format!("queue.{problem}"));
            }
        };
        check(
            is_hash_tagged(&self.key_prefix),
            "key_prefix must hold a word in braces, such as {carillon}, and no blanks",
        );
        check(
            (1..=10_000).contains(&self.concurrency),
            "concurrency must be 1 to 10000",
        );
        check((10..=10_000).contains(&self.poll_ms), "poll_ms must be 10 to 10000");
        check(
            self.lease_ms.is_none_or(|ms| (300..=3_600_000).contains(&ms)),
            "lease_ms must be 300 to 3600000",
        );
        check((1..=10_000).contains(&self.sweep_ms), "sweep_ms must be 1 to 10000");
        check((1..=100).contains(&self.max_crashes), "max_crashes must be 1 to 100");
        check(self.retry_first_ms >= 1, "retry_first_ms must be at least 1");
        check(
            (1..=86_400).contains(&self.retry_longest_secs),
            "retry_longest_secs must be 1 to 86400",
        );
        check(
            self.drain_secs <= 18,
            "drain_secs must be at most 18: what is given back must still reach Redis before the platform kills",
        );
        check(
            (1..=86_400).contains(&self.unique_hold_secs),
            "unique_hold_secs must be 1 to 86400",
        );
        check(
            (10..=10_000).contains(&self.connect_timeout_ms),
            "connect_timeout_ms must be 10 to 10000",
        );
        check(
            (100..=10_000).contains(&self.response_timeout_ms),
            "response_timeout_ms must be 100 to 10000",
        );
        problems
    }

    /// With what `[redis]` says about keys and patience.
    #[must_use]
    pub fn on(mut self, redis: &RedisConfig) -> Self {
        self.key_prefix = redis.hash_tag();
        self.connect_timeout_ms = redis.connect_timeout_ms;
        self.response_timeout_ms = redis.response_timeout_ms;
        self
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            first: Duration::from_millis(self.retry_first_ms),
            longest: Duration::from_secs(self.retry_longest_secs),
            ..RetryPolicy::default()
        }
    }
}

impl Section for QueueConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.sentences(self.problems());
    }
}

fn zero_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    Ok((ms > 0).then_some(ms))
}

fn is_hash_tagged(prefix: &str) -> bool {
    let tag = prefix
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag);
    tag.is_some_and(|tag| !tag.is_empty()) && !prefix.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_file_holds_these_defaults() {
        #[derive(Deserialize)]
        struct File {
            queue: QueueConfig,
        }
        let file = include_str!("../../config/default.toml");
        let parsed = toml::from_str::<File>(file).map(|file| file.queue);
        assert_eq!(parsed, Ok(QueueConfig::default()));
    }

    #[test]
    fn defaults_are_valid_and_every_problem_is_told_at_once() {
        assert!(QueueConfig::default().problems().is_empty());
        let bad = QueueConfig {
            key_prefix: "carillon".to_owned(),
            concurrency: 0,
            drain_secs: 60,
            ..QueueConfig::default()
        };
        assert_eq!(bad.problems().len(), 3);
    }
}
