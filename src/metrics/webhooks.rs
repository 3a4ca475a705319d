//! Webhooks: what this process answered to whom, and how long events take from the socket to where they are seen.

use prometheus::{IntCounter, Registry, Result};

use super::{
    grid::{Grid, Label, counters},
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

pub(super) struct Webhooks {
    answers: Grid<IntCounter>,
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
