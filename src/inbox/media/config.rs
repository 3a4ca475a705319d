//! Section `media` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    config::{Report, Section},
    secret::Hidden,
};

/// `[media]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaConfig {
    /// Where files are kept, unless a bucket is named.
    pub folder: String,
    /// The bucket they are kept in; empty: the folder.
    pub s3_bucket: String,
    /// Scheme and host of the object store.
    pub s3_endpoint_url: String,
    /// Its region.
    pub s3_region: String,
    /// The name of its key.
    pub s3_access_key: String,
    /// The key.
    pub s3_secret_key: Hidden,
    /// A larger file is not fetched.
    pub max_bytes: usize,
    /// How long one file may take.
    pub timeout_secs: u64,
    /// Files fetched at once by one job.
    pub in_flight: usize,
    /// Tries before a file counts as lost.
    pub attempts: i32,
    /// Whether addresses inside private networks are refused.
    pub only_public: bool,
    /// Scheme and host LINE serves content from.
    pub line_url: String,
    /// Where WhatsApp says what a media id stands for.
    pub whatsapp_url: String,
}

impl MediaConfig {
    /// How long one file may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }
}

impl Section for MediaConfig {
    fn check(&self, report: &mut Report<'_>) {
        if self.s3_bucket.is_empty() {
            report.required("folder", &self.folder, "name a folder, or a bucket in media.s3_bucket");
        } else {
            report.url("s3_endpoint_url", &self.s3_endpoint_url, &["http", "https"]);
            for (name, value) in [
                ("s3_region", self.s3_region.as_str()),
                ("s3_access_key", &self.s3_access_key),
                ("s3_secret_key", self.s3_secret_key.expose()),
            ] {
                report.required(name, value, "a bucket needs its region and a key");
            }
        }
        report.url("line_url", &self.line_url, &["http", "https"]);
        report.url("whatsapp_url", &self.whatsapp_url, &["http", "https"]);
        report.range("max_bytes", self.max_bytes, 1_024..=209_715_200);
        report.range("timeout_secs", self.timeout_secs, 1..=300);
        report.range("in_flight", self.in_flight, 1..=64);
        report.range("attempts", self.attempts, 1..=50);
    }
}
