//! Webhooks: what this process answered to whom, and how long events take from the socket to where they are seen.

use prometheus::{Histogram, IntCounter, Registry, Result};

use super::{
    grid::{Grid, Label, counters, histograms},
    own,
};
use crate::channel::webhook::Provider;

/// How a webhook was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk.
    Stored,
    /// Meta asked whether the address is ours, and it is.
    Challenge,
    /// There is no such sender.
    Unknown,
    /// Its signature is missing or wrong.
    Unsigned,
    /// Meta asked with another token.
    Forbidden,
    /// Its body is not what it says it is.
    Malformed,
    /// Its body is too large.
    TooLarge,
    /// Its body came too slowly.
    TooSlow,
    /// Its sender is told too much at once.
    Flood,
    /// Postgres is away, or too much waits for it.
    Away,
}

impl Answer {
    const NAMES: [&'static str; 10] = [
        "stored",
        "challenge",
        "unknown",
        "unsigned",
        "forbidden",
        "malformed",
        "too_large",
        "too_slow",
        "flood",
        "away",
    ];
}

/// What came of events, in the order of [`Events`].
const OUTCOMES: [&str; 3] = ["new", "repeated", "unknown"];
/// From the socket to the end of the job: milliseconds, or the length of an outage.
const WAITED_SECONDS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 600.0, 3_600.0];

/// What came of a batch of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// All of them.
    pub told: usize,
    /// Those that were not told before.
    pub new: usize,
    /// Of the new ones, those of a type nobody here knows.
    pub unknown: usize,
}

pub(super) struct Webhooks {
    answers: Grid<IntCounter>,
    events: Grid<IntCounter>,
    waited: Grid<Histogram>,
}

impl Webhooks {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let mut providers: Vec<&'static str> = Provider::ALL.iter().map(|provider| provider.as_str()).collect();
        providers.push("none");
        Ok(Self {
            answers: counters(
                registry,
                "carillon_webhooks_total",
                "Requests of providers this process answered, by what it said. none: the address names no provider.",
                &[Label("provider", &providers), Label("answer", &Answer::NAMES)],
            )?,
            events: counters(
                registry,
                "carillon_webhook_events_total",
                "Events this worker applied: new, told before, or of a type it does not know (which are new, too).",
                &[Label("provider", &providers), Label("outcome", &OUTCOMES)],
            )?,
            waited: histograms(
                registry,
                "carillon_webhook_seconds",
                "From a webhook's arrival to when everything it says was applied.",
                &Label("kind", &["webhook-ingest"]),
                &WAITED_SECONDS,
            )?,
        })
    }
}

/// A webhook was answered.
pub fn answered(provider: Option<Provider>, answer: Answer) {
    let row = provider.map_or(Provider::ALL.len(), |provider| provider as usize);
    if let Some(counter) = own().and_then(|own| own.webhooks.answers.at(row, answer as usize)) {
        counter.inc();
    }
}

/// Events were applied.
pub fn applied(provider: Provider, events: Events) {
    let Some(webhooks) = own().map(|own| &own.webhooks) else {
        return;
    };
    let counts = [
        events.new - events.unknown.min(events.new),
        events.told.saturating_sub(events.new),
        events.unknown,
    ];
    for (column, count) in counts.into_iter().enumerate() {
        if let Some(counter) = webhooks.events.at(provider as usize, column) {
            counter.inc_by(count as u64);
        }
    }
}

/// A webhook is done, so long after it came.
pub fn waited(secs: f64) {
    if let Some(histogram) = own().and_then(|own| own.webhooks.waited.at(0, 0)) {
        histogram.observe(secs.max(0.0));
    }
}
