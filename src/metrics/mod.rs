//! What this process counts, for `/metrics` in Prometheus' text form.
//!
//! Why it exists: a person must see from outside what waits, what is slow and what went wrong, and be called before
//! merchants call. `config/alerts.yml` holds rules over these names and `docs/runbook.md` says what to do about each.
//!
//! - `jobs`: turns of jobs and the leases on them
//! - `sends`: messages, permits, what providers answered
//! - `webhooks`: what providers were answered
//! - `parts`: this process and whether it reaches Redis and Postgres
//! - `grid`: a series for every value of a closed label, made once
//! - `config`: section `[metrics]`
//!
//! Every series is there from the first scrape on, at nought: a rule over a series that never was would never fire.
//! Labels are closed enums (kind, channel, class); never the id of a shop, a broadcast, a sender or a person: those have
//! no end. Nothing here may wait, allocate or fail on the way of a message: a count is one atomic addition.

mod config;
pub(crate) mod grid;
pub mod jobs;
pub mod parts;
pub mod sends;
pub mod webhooks;

use std::sync::LazyLock;

use prometheus::{Registry, TextEncoder, proto::MetricFamily};

pub use config::MetricsConfig;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The process' own series. One table for the process, as there is one log: whoever counts need not be handed anything.
struct Own {
    registry: Registry,
    jobs: jobs::Jobs,
    sends: sends::Sends,
    parts: parts::Parts,
    webhooks: webhooks::Webhooks,
}

impl Own {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        Ok(Self {
            jobs: jobs::Jobs::new(&registry)?,
            sends: sends::Sends::new(&registry)?,
            parts: parts::Parts::new(&registry)?,
            webhooks: webhooks::Webhooks::new(&registry)?,
            registry,
        })
    }
}

/// `None` only if a name or a label here is not one; a test looks.
static OWN: LazyLock<Option<Own>> = LazyLock::new(|| Own::new().ok());

fn own() -> Option<&'static Own> {
    OWN.as_ref()
}

/// All series of this process as Prometheus reads them, and those of the fleet ([`crate::fleet::series`]) behind them.
#[must_use]
pub fn text(fleet: Vec<MetricFamily>) -> String {
    let mut families = own().map(|own| own.registry.gather()).unwrap_or_default();
    families.extend(fleet);
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_label_is_one() {
        assert_eq!(Own::new().err().map(|error| error.to_string()), None);
    }

    #[test]
    fn every_series_is_there_from_the_start_and_no_label_is_an_id() {
        let text = text(crate::fleet::every_series());
        for line in [
            "carillon_sends_total{channel=\"line\",class=\"accepted\"} 0",
            "carillon_job_outcomes_total{kind=\"broadcast-send\",outcome=\"crashed\"} 0",
            "carillon_send_seconds_count{channel=\"email\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let known = [
            "kind", "channel", "class", "outcome", "le", "version", "state", "place", "reason", "check", "found",
            "provider", "answer",
        ];
        for label in text.lines().filter(|line| !line.starts_with('#')).flat_map(labels) {
            assert!(known.contains(&label), "{label} is not one of the closed labels");
        }
        assert!(text.lines().count() < 760, "{} lines", text.lines().count());
    }

    fn labels(line: &str) -> impl Iterator<Item = &str> {
        let inside = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map_or("", |(inside, _)| inside);
        inside
            .split("\",")
            .filter_map(|pair| pair.split_once('=').map(|(name, _)| name))
    }
}
