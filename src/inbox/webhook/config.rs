//! Settings of webhooks.

use std::time::Duration;

use serde::Deserialize;

use crate::config::{Report, Section};

/// Section `webhook` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Largest request body.
    pub max_body_bytes: usize,
    /// How long a request's body may take to arrive.
    pub body_timeout_secs: u64,
    /// Verified requests a second that one web process takes of one sender.
    pub per_sender_per_sec: u32,
    /// For how long a web process believes what it knows of a sender's secrets.
    pub secrets_secs: u64,
    /// How long raw requests are kept.
    pub keep_days: u16,
}

impl WebhookConfig {
    /// How long a request's body may take to arrive.
    #[must_use]
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_secs)
    }

    /// For how long a web process believes what it knows of a sender's secrets.
    #[must_use]
    pub const fn secrets_life(&self) -> Duration {
        Duration::from_secs(self.secrets_secs)
    }
}

impl Section for WebhookConfig {
    fn check(&self, report: &mut Report<'_>) {
        // `store_webhook` and what a job may hold in memory end at 8 MiB.
        report.range("max_body_bytes", self.max_body_bytes, 65_536..=8_388_608);
        report.range("body_timeout_secs", self.body_timeout_secs, 1..=28);
        report.range("per_sender_per_sec", self.per_sender_per_sec, 1..=1_000_000);
        report.range("secrets_secs", self.secrets_secs, 0..=60);
        report.range("keep_days", self.keep_days, 1..=365);
    }
}
