//! The sections of the ground floor. Every other section is defined in the module it configures.

use std::time::Duration;

use serde::Deserialize;

use super::{Report, Section};
use crate::{app::ProcessKind, secret::Hidden};

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Where PostgreSQL is; holds a password.
    pub url: Hidden,
    /// Most connections of a web process.
    pub pool_web: u32,
    /// Most connections of a worker.
    pub pool_worker: u32,
    /// Most connections of a scheduler.
    pub pool_scheduler: u32,
    /// Most connections of an operator's command.
    pub pool_command: u32,
    /// How long to wait for a connection.
    pub acquire_timeout_secs: u64,
    /// How long one statement may run; 0 for no limit.
    pub statement_timeout_secs: u32,
    /// How long one statement may wait for a lock; 0 for no limit.
    pub lock_timeout_secs: u32,
    /// How long a transaction may sit idle; 0 for no limit.
    pub idle_in_transaction_timeout_secs: u32,
    /// Whether a pooler in transaction mode stands in front.
    pub transaction_pooler: bool,
}

impl DatabaseConfig {
    /// Most connections for one process of this kind.
    #[must_use]
    pub fn pool_size(&self, process: ProcessKind) -> u32 {
        match process {
            ProcessKind::Web => self.pool_web,
            ProcessKind::Worker => self.pool_worker,
            ProcessKind::Scheduler => self.pool_scheduler,
            ProcessKind::Command => self.pool_command,
        }
    }
}

impl Section for DatabaseConfig {
    fn check(&self, report: &mut Report<'_>) {
        let url = self.url.expose();
        report.required(
            "url",
            url,
            "set DATABASE_URL=postgres://user:password@host:5432/database",
        );
        if !url.is_empty() {
            report.url("url", url, &["postgres", "postgresql"]);
        }
        report.range("pool_web", self.pool_web, 1..=500);
        report.range("pool_worker", self.pool_worker, 2..=500);
        report.range("pool_scheduler", self.pool_scheduler, 1..=500);
        // A migration holds one connection for its lock and works on another.
        report.range("pool_command", self.pool_command, 2..=500);
        report.range("acquire_timeout_secs", self.acquire_timeout_secs, 1..=300);
        report.range("statement_timeout_secs", self.statement_timeout_secs, 0..=86_400);
        report.range("lock_timeout_secs", self.lock_timeout_secs, 0..=86_400);
        report.range(
            "idle_in_transaction_timeout_secs",
            self.idle_in_transaction_timeout_secs,
            0..=86_400,
        );
    }
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// Where Redis is; holds a password.
    pub url: Hidden,
    /// What all keys begin with, in braces.
    pub key_prefix: String,
    /// How long a connection attempt may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a command may take, in milliseconds.
    pub response_timeout_ms: u64,
}

impl RedisConfig {
    /// The prefix as one hash tag: `{carillon}`.
    #[must_use]
    pub fn hash_tag(&self) -> String {
        format!("{{{}}}", self.key_prefix)
    }
}

impl Section for RedisConfig {
    fn check(&self, report: &mut Report<'_>) {
        let url = self.url.expose();
        report.required("url", url, "set REDIS_URL=redis://host:6379");
        if !url.is_empty() {
            report.url("url", url, &["redis", "rediss", "unix", "redis+unix"]);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.key_prefix.is_empty() || self.key_prefix.len() > 64 || !self.key_prefix.chars().all(plain) {
            let what = format!("\"{}\" cannot begin a key", self.key_prefix);
            report.wrong(
                "key_prefix",
                what,
                "use 1 to 64 letters, digits, and _ - . only; no braces",
            );
        }
        report.range("connect_timeout_ms", self.connect_timeout_ms, 10..=10_000);
        report.range("response_timeout_ms", self.response_timeout_ms, 100..=10_000);
    }
}

/// `[web]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebConfig {
    /// The address to listen on.
    pub bind: std::net::IpAddr,
    /// The port to listen on; 0 lets the system choose.
    pub port: u16,
    /// How the outside reaches this installation, without a slash at the end.
    pub public_url: String,
    /// How long one request may take.
    pub request_timeout_secs: u64,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// How long running requests may take after SIGTERM.
    pub shutdown_secs: u64,
}

impl WebConfig {
    /// How long one request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_secs)
    }

    /// The address of a path of this installation: `path` begins with a slash.
    #[must_use]
    pub fn public_link(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.trim_end_matches('/'))
    }
}

impl Section for WebConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.url("public_url", &self.public_url, &["http", "https"]);
        report.range("request_timeout_secs", self.request_timeout_secs, 1..=29);
        report.range("max_body_bytes", self.max_body_bytes, 1_024..=104_857_600);
        report.range("shutdown_secs", self.shutdown_secs, 1..=24);
    }
}

/// `[secret]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// The keys, each `NAME:BASE64-OF-32-BYTES`; the first one seals and signs.
    pub keys: Vec<Hidden>,
}

impl Section for SecretConfig {
    fn check(&self, report: &mut Report<'_>) {
        if let Err(error) = crate::secret::Secrets::new(&self.keys) {
            report.wrong(
                "keys",
                error.to_string(),
                "make one with `carillon config new-key` and set CARILLON__SECRET__KEYS",
            );
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For a person at a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

impl Section for LogConfig {
    fn check(&self, report: &mut Report<'_>) {
        if let Err(error) = crate::telemetry::filter(&self.filter) {
            let what = format!("\"{}\" is not a filter: {error}", self.filter);
            report.wrong("filter", what, "write for example info, or info,carillon::queue=debug");
        }
    }
}
