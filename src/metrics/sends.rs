//! Messages on their way out: what providers answered and how long they took, permits, and slices that went to others.
//!
//! On the way of every message: see `tests/bench/metrics.rs` for what a call costs.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, Registry, Result};

use super::{
    grid::{Grid, Label, counters, histograms},
    own,
};
use crate::channel::{Channel, ErrorClass, SendOutcome};

/// From a provider next door to the longest time-out.
const SEND_SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// The class of a message that was accepted; those of refusals follow in the order of [`ErrorClass::ALL`].
const ACCEPTED: usize = 0;

pub(super) struct Sends {
    outcomes: Grid<IntCounter>,
    seconds: Grid<Histogram>,
    granted: Grid<IntCounter>,
    waited: Grid<IntCounter>,
    stale: Grid<IntCounter>,
}

/// The names of the channels, in the order of their numbers.
pub(crate) fn channels() -> Vec<&'static str> {
    Channel::ALL.iter().map(|channel| channel.as_str()).collect()
}

impl Sends {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let names = channels();
        let channel = || Label("channel", &names);
        let mut classes = vec!["accepted"];
        classes.extend(ErrorClass::ALL.iter().map(|class| class.as_str()));
        Ok(Self {
            outcomes: counters(
                registry,
                "carillon_sends_total",
                "Messages begun, by what became of them; each recipient of a multicast is one.",
                &[channel(), Label("class", &classes)],
            )?,
            seconds: histograms(
                registry,
                "carillon_send_seconds",
                "From the request to the provider's answer; a multicast is one request.",
                &channel(),
                &SEND_SECONDS,
            )?,
            granted: counters(
                registry,
                "carillon_permits_granted_total",
                "Requests the rate limits let go; a multicast is one.",
                &[channel()],
            )?,
            waited: counters(
                registry,
                "carillon_permits_waited_total",
                "Times the rate limits said to wait: the rate is used up, the sender is closed, or Redis is away.",
                &[channel()],
            )?,
            stale: counters(
                registry,
                "carillon_slices_stale_total",
                "Slices that went to another worker while this one sent them; it wrote nothing.",
                &[channel()],
            )?,
        })
    }
}

/// A request came back.
pub fn answered(channel: Channel, took: Duration) {
    if let Some(seconds) = own().and_then(|own| own.sends.seconds.at(channel as usize, 0)) {
        seconds.observe(took.as_secs_f64());
    }
}

/// What became of so many messages.
pub fn ended(channel: Channel, outcome: &SendOutcome, messages: usize) {
    let class = match outcome {
        SendOutcome::Accepted { .. } => ACCEPTED,
        SendOutcome::Refused(refusal) => refusal.class as usize + 1,
    };
    if let Some(counter) = own().and_then(|own| own.sends.outcomes.at(channel as usize, class)) {
        counter.inc_by(messages as u64);
    }
}

/// The rate limits let so many requests go; `None`: they said to wait.
pub fn permits(channel: Channel, granted: Option<u32>) {
    let Some(sends) = own().map(|own| &own.sends) else {
        return;
    };
    let (grid, count) = match granted {
        Some(count) => (&sends.granted, count.into()),
        None => (&sends.waited, 1),
    };
    if let Some(counter) = grid.at(channel as usize, 0) {
        counter.inc_by(count);
    }
}

/// A slice went to another worker while it was being sent here.
pub fn stale(channel: Channel) {
    if let Some(counter) = own().and_then(|own| own.sends.stale.at(channel as usize, 0)) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_and_classes_are_counted_by_their_place() {
        for (place, channel) in Channel::ALL.iter().enumerate() {
            assert_eq!(*channel as usize, place);
        }
        for (place, class) in ErrorClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, place);
        }
    }
}
