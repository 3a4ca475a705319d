//! Turns of jobs in this process: begun, how they ended, how long they took, and the leases on them.

use std::time::Duration;

use carillon_jobs::Kind;
use prometheus::{Histogram, IntCounter, IntGauge, Registry, Result};

use super::{
    grid::{Grid, Label, counters, gauges, histograms},
    own,
};

/// How a turn of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Finished and forgotten.
    Done,
    /// More to do: to the tail of the list.
    Again,
    /// Nothing to do before a time.
    Snooze,
    /// Failed, and will be tried again.
    Retry,
    /// Nobody will run it again by itself.
    Dead,
    /// Back to the head of the list: the process stops, or the lease was lost.
    GivenBack,
    /// The worker that ran it never said; another one has taken the job over.
    Crashed,
}

impl End {
    const NAMES: [&'static str; 7] = ["done", "again", "snooze", "retry", "dead", "given_back", "crashed"];
}

/// Turns last from milliseconds to the minutes a kind allows.
const TURN_SECONDS: [f64; 11] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

pub(super) struct Jobs {
    attempts: Grid<IntCounter>,
    outcomes: Grid<IntCounter>,
    seconds: Grid<Histogram>,
    held: Grid<IntGauge>,
    lost: Grid<IntCounter>,
    taken_over: Grid<IntCounter>,
}

impl Jobs {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let names: Vec<&'static str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let kind = || Label("kind", &names);
        Ok(Self {
            attempts: counters(
                registry,
                "carillon_job_attempts_total",
                "Turns of jobs that a handler of this process was given.",
                &[kind()],
            )?,
            outcomes: counters(
                registry,
                "carillon_job_outcomes_total",
                "How turns of jobs ended. crashed: the worker before never said, this one took the job over.",
                &[kind(), Label("outcome", &End::NAMES)],
            )?,
            seconds: histograms(
                registry,
                "carillon_job_seconds",
                "From the claim of a job to the end of its turn.",
                &kind(),
                &TURN_SECONDS,
            )?,
            held: gauges(
                registry,
                "carillon_leases_held",
                "Jobs this process holds a lease on now.",
                &[kind()],
            )?,
            lost: counters(
                registry,
                "carillon_leases_lost_total",
                "Leases that were no longer this process' own when the turn ended.",
                &[kind()],
            )?,
            taken_over: counters(
                registry,
                "carillon_leases_taken_over_total",
                "Jobs taken over because the lease of the worker before had run out.",
                &[kind()],
            )?,
        })
    }
}

fn add(grid: &Grid<IntCounter>, kind: Kind, count: u64) {
    if let Some(counter) = grid.at(kind as usize, 0) {
        counter.inc_by(count);
    }
}

/// A handler is given so many jobs of a kind.
pub fn begun(kind: Kind, count: u32) {
    let Some(own) = own() else { return };
    add(&own.jobs.attempts, kind, count.into());
    if let Some(held) = own.jobs.held.at(kind as usize, 0) {
        held.add(count.into());
    }
}

/// A handler's turn is over. `lost`: its lease was somebody else's by then.
pub fn ended(kind: Kind, end: End, took: Duration, lost: bool) {
    let Some(own) = own() else { return };
    outcome(kind, end);
    if let Some(seconds) = own.jobs.seconds.at(kind as usize, 0) {
        seconds.observe(took.as_secs_f64());
    }
    if let Some(held) = own.jobs.held.at(kind as usize, 0) {
        held.dec();
    }
    if lost {
        add(&own.jobs.lost, kind, 1);
    }
}

/// A job ended without a turn: malformed, or poison.
pub fn outcome(kind: Kind, end: End) {
    let Some(own) = own() else { return };
    if let Some(counter) = own.jobs.outcomes.at(kind as usize, end as usize) {
        counter.inc();
    }
}

/// The lease of another worker had run out, and its jobs are this process' now.
pub fn taken_over(kind: Kind, count: u64) {
    let Some(own) = own() else { return };
    add(&own.jobs.taken_over, kind, count);
    if let Some(counter) = own.jobs.outcomes.at(kind as usize, End::Crashed as usize) {
        counter.inc_by(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_by_their_place() {
        for (place, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
        assert_eq!(End::Crashed as usize + 1, End::NAMES.len());
    }
}
