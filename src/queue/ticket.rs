//! A ticket: one claimed job on its way through the process. It ends in exactly one settlement, whatever happens to it.

use std::{sync::Arc, time::Instant};

use chrono::Utc;

use super::{
    JobError, Lease, Outcome,
    dead::{DeadReason, Record},
    engine::Engine,
    entry::History,
    lease::Aborted,
    store::Verb,
};
use crate::metrics::jobs::{self, End};

/// How a turn ended when not with an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The handler said so.
    #[error(transparent)]
    Handler(JobError),
    /// The handler was aborted.
    #[error("the handler was aborted")]
    Aborted,
    /// The handler panicked.
    #[error("the handler panicked: {0}")]
    Panicked(String),
}

/// What is known of a job from its claim.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) kind: usize,
    pub(crate) number: u64,
    pub(crate) history: History,
    /// The producer's text.
    pub(crate) text: Vec<u8>,
    pub(crate) job_id: Option<String>,
    /// Redis' clock at the claim, in milliseconds, and ours.
    pub(crate) now_ms: u64,
    pub(crate) claimed: Instant,
}

impl Claim {
    /// What puts this job into the dead set.
    pub(crate) fn dead(&self, engine: &Engine, reason: DeadReason, error: &str) -> Verb {
        let elapsed_ms = u64::try_from(self.claimed.elapsed().as_millis()).unwrap_or(0);
        let kind = engine.kinds.get(self.kind).map_or("", |kind| kind.name());
        let record = Record::new(kind, self, reason, error, self.now_ms + elapsed_ms);
        Verb::Dead {
            reference: self.history.reference.clone(),
            record: record.to_bytes(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ticket {
    engine: Arc<Engine>,
    claim: Claim,
    max_attempts: u32,
    lease: Lease,
    settled: bool,
}

impl Ticket {
    pub(crate) fn new(engine: Arc<Engine>, claim: Claim, max_attempts: u32, lease: Lease) -> Self {
        Self {
            engine,
            claim,
            max_attempts,
            lease,
            settled: false,
        }
    }

    /// Settles the job by what became of its turn.
    pub(crate) fn settle(mut self, result: Result<Outcome, Failure>) {
        let well = result.is_ok();
        let verb = self.verdict(result);
        let end = end_of(&verb, well);
        self.finish(Some(verb), end);
    }

    fn verdict(&self, result: Result<Outcome, Failure>) -> Verb {
        let history = &self.claim.history;
        match result {
            Ok(Outcome::Done) => Verb::Done,
            // Whoever asks for another turn has got on: what failed before is behind it.
            Ok(Outcome::Again) => Verb::Tail {
                header: History {
                    attempts: 0,
                    crashes: 0,
                    ..history.clone()
                }
                .header(),
            },
            Ok(Outcome::Snooze { until }) => Verb::At {
                due_ms: millis(until),
                header: History {
                    snoozes: history.snoozes.saturating_add(1),
                    crashes: 0,
                    ..history.clone()
                }
                .header(),
            },
            Ok(Outcome::SnoozeFor { wait }) => Verb::After {
                delay_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                header: History {
                    snoozes: history.snoozes.saturating_add(1),
                    crashes: 0,
                    ..history.clone()
                }
                .header(),
            },
            Ok(Outcome::GiveBack) => Verb::Head { header: None },
            Err(Failure::Handler(JobError::Retry { error, after })) => self.failed(&error, after),
            Err(Failure::Handler(JobError::Dead { error })) => self.dead(DeadReason::Rejected, &error),
            Err(Failure::Panicked(message)) => self.failed(&format!("panicked: {message}"), None),
            Err(Failure::Aborted) => match self.lease.aborted() {
                Some(Aborted::TooLong) => self.failed("ran longer than its kind allows", None),
                Some(Aborted::LeaseLost | Aborted::Stopping) | None => Verb::Head { header: None },
            },
        }
    }

    fn failed(&self, error: &str, after: Option<std::time::Duration>) -> Verb {
        // An error of a handler that had lost its lease says nothing about the job.
        if self.lease.is_lost() {
            return Verb::Head { header: None };
        }
        let attempts = self.claim.history.attempts.saturating_add(1);
        if attempts >= self.max_attempts {
            return self.dead(DeadReason::Exhausted, error);
        }
        let policy = self.engine.config.retry_policy();
        let delay = policy.delay(attempts, after, rand::random());
        tracing::info!(
            job.id = self.claim.job_id,
            job.attempt = attempts,
            delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            error,
            "a job failed and will be tried again"
        );
        Verb::After {
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            header: History {
                attempts,
                ..self.claim.history.clone()
            }
            .header(),
        }
    }

    fn dead(&self, reason: DeadReason, error: &str) -> Verb {
        tracing::error!(
            job.id = self.claim.job_id,
            reason = reason.name(),
            error,
            "a job is dead; see `carillon jobs dead`"
        );
        self.claim.dead(&self.engine, reason, error)
    }

    fn finish(&mut self, verb: Option<Verb>, end: End) {
        self.settled = true;
        if let Some(kind) = self.engine.kinds.get(self.claim.kind) {
            jobs::ended(*kind, end, self.claim.claimed.elapsed(), self.lease.is_lost());
        }
        self.engine.held.remove(self.claim.kind, self.claim.number);
        if let Some(verb) = verb {
            self.engine.settle(self.claim.kind, self.claim.number, verb);
        }
        self.engine.slots.give(self.claim.kind);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // Given back, unless its handler still runs: then nobody else may have it until its lease has run out.
        let running = self.lease.is_running();
        self.lease.abort(Aborted::Stopping);
        self.finish((!running).then_some(Verb::Head { header: None }), End::GivenBack);
    }
}

/// What a settlement means in the counts. `well`: the handler did not fail.
fn end_of(verb: &Verb, well: bool) -> End {
    match verb {
        Verb::Done => End::Done,
        Verb::Tail { .. } => End::Again,
        Verb::At { .. } => End::Snooze,
        Verb::After { .. } if well => End::Snooze,
        Verb::After { .. } => End::Retry,
        Verb::Head { .. } => End::GivenBack,
        Verb::Dead { .. } => End::Dead,
    }
}

/// Milliseconds since 1970, as Redis' clock counts them.
pub(crate) fn millis(at: chrono::DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}
