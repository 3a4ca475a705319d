//! The claim loop: as many jobs as there are free slots, as soon as there is either.
//!
//! What it brings is parsed here and either handed to the worker or settled at once: malformed, poison, not yet due.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::Envelope;
use redis::RedisError;
use tokio::sync::mpsc;

use super::{
    JobContext, Lease,
    backend::Work,
    dead::DeadReason,
    engine::Engine,
    entry,
    renewer::Suspect,
    settler,
    slots::Free,
    store::{Answers, Claimed, STEP, Sweep, Verb},
    ticket::{Claim, Ticket, millis},
};
use crate::metrics::jobs::{self, End};

/// How long to wait after Redis failed to answer.
const AWAY: Duration = Duration::from_millis(200);
/// How long after Redis is back nobody's work is taken over. Every living worker renews within a fraction of this.
const GRACE: Duration = Duration::from_secs(3);

/// How often, at most, a claim waits once more because further handlers have ended.
const GATHER: u32 = 4;

/// Free slots that are worth a claim.
const ENOUGH: u32 = 16;

/// Runs until the process stops. Whatever a claim brings after that is given back at once.
pub(crate) async fn run(engine: Arc<Engine>, work: mpsc::UnboundedSender<Work>) {
    let mut claimer = Claimer::new(engine, work);
    // A kind that is paused must not have its jobs begun because this worker has not asked yet.
    claimer
        .engine
        .stop
        .run_until_cancelled(claimer.engine.resting.asked())
        .await;
    while !claimer.engine.stop.is_cancelled() {
        claimer.turn().await;
    }
}

pub(crate) struct Claimer {
    engine: Arc<Engine>,
    work: mpsc::UnboundedSender<Work>,
    swept: Option<Instant>,
    more_due: bool,
}

impl Drop for Claimer {
    fn drop(&mut self) {
        self.engine.outbox.leave();
    }
}

impl Claimer {
    pub(crate) fn new(engine: Arc<Engine>, work: mpsc::UnboundedSender<Work>) -> Self {
        engine.outbox.collect();
        Self {
            engine,
            work,
            swept: None,
            more_due: false,
        }
    }

    /// Waits for a free slot, claims once, and rests if there was nothing to claim.
    pub(crate) async fn turn(&mut self) {
        let engine = Arc::clone(&self.engine);
        let Some(free) = self.free().await else { return };
        let sweep = self.sweep();
        let first = engine.numbers(most(&free));
        let taken = engine.outbox.take_few();
        let sent = Instant::now();
        let rests = |kind| engine.resting.rests(kind);
        let answers = engine
            .store
            .settle_and_claim(taken.batch(), first, &free, rests, sweep)
            .await;
        let (settled, claimed) = match answers {
            Ok(Answers { settled, claimed }) => (settled, claimed),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        engine.redis.note(&claimed);
        match settled {
            Ok(stale) => settler::settled(&engine, taken, stale),
            // Back in the outbox; the settle loop repeats it.
            Err(_) => drop(taken),
        }
        match claimed {
            Ok(claimed) => {
                if sweep != Sweep::None {
                    self.swept = Some(sent);
                    self.more_due = claimed.more_due;
                }
                let idle = claimed.entries.iter().all(Vec::is_empty) && !self.more_due;
                self.accept(claimed, first, sent);
                // An empty claim without a sweep may have left due jobs behind; the next one sweeps.
                if idle && sweep != Sweep::None {
                    self.rest(Duration::from_millis(engine.config.poll_ms)).await;
                } else if idle {
                    self.swept = None;
                }
            }
            Err(error) => {
                self.disown(&error, first, &free);
                self.rest(AWAY).await;
                // A Redis that hangs does everything it was sent once it goes on. Another claim before it has answered for
                // this one would take further jobs that nobody runs, and one would follow the other for as long as it hangs.
                while !engine.outbox.is_settled() && !engine.stop.is_cancelled() {
                    self.rest(AWAY / 10).await;
                }
            }
        }
    }

    /// Waits for a free slot, and then a moment for the handlers that end together with the first: one claim for a few is
    /// cheaper than one each, for Redis too. But not for many, nor for more than half of all slots: while Redis answers for
    /// those, the handlers of the others keep this process busy. `None`: the process stops.
    async fn free(&self) -> Option<Free> {
        let engine = &self.engine;
        if engine.slots.free().total() == 0 {
            // Whatever ends from here on frees a slot; what waits already does not.
            engine.outbox.hand_over();
            tokio::select! {
                () = engine.stop.cancelled() => return None,
                () = engine.slots.freed.notified() => {}
            }
        }
        let mut free = engine.slots.free();
        for _ in 0..GATHER {
            let before = free.total();
            if before >= engine.slots.running().min(ENOUGH) {
                break;
            }
            tokio::task::yield_now().await;
            free = engine.slots.free();
            if free.total() == before {
                break;
            }
        }
        (free.total() > 0).then_some(free)
    }

    fn sweep(&self) -> Sweep {
        let pause = Duration::from_millis(self.engine.config.sweep_ms);
        let due = self.more_due || self.swept.is_none_or(|swept| swept.elapsed() >= pause);
        if !due {
            Sweep::None
        } else if self.engine.redis.is_fresh(GRACE.min(self.engine.shortest_lease() / 2)) {
            Sweep::Due
        } else {
            Sweep::DueAndAbandoned
        }
    }

    async fn rest(&self, longest: Duration) {
        self.engine.outbox.leave();
        tokio::select! {
            () = self.engine.stop.cancelled() => {}
            () = self.engine.wake.notified() => {}
            () = tokio::time::sleep(longest) => {}
        }
        self.engine.outbox.collect();
    }

    /// The claim may have happened and only its answer was lost. Whatever it took is given back, so that it is neither
    /// late by a lease nor counted as a crash.
    fn disown(&self, error: &RedisError, first: u64, free: &Free) {
        if error.is_connection_refusal() {
            return;
        }
        for kind in 0..self.engine.kinds.len() {
            for number in first..first + most(free) {
                self.engine.settle(kind, number, Verb::Head { header: None });
            }
        }
    }

    fn accept(&self, claimed: Claimed, first: u64, sent: Instant) {
        let engine = &self.engine;
        let stopping = engine.stop.is_cancelled();
        let mut number = first;
        for (kind, count) in engine.kinds.iter().zip(&claimed.taken_over) {
            jobs::taken_over(*kind, *count);
        }
        for (kind, entries) in claimed.entries.into_iter().enumerate() {
            let mut ready = Vec::with_capacity(entries.len());
            // Given back in reverse: each goes to the head, so the first must come last.
            if stopping {
                let numbers = number..number + entries.len() as u64;
                for number in numbers.rev() {
                    engine.settle(kind, number, Verb::Head { header: None });
                }
                number += entries.len() as u64;
                continue;
            }
            for entry in entries {
                let tag = engine.store.tag(number);
                let (history, text) = entry::split(&entry, &tag, claimed.now_ms);
                let start = entry.len() - text.len();
                let mut text = entry;
                text.drain(..start);
                let claim = Claim {
                    kind,
                    number,
                    history,
                    text,
                    job_id: None,
                    now_ms: claimed.now_ms,
                    claimed: sent,
                };
                number += 1;
                if let Some(work) = self.examine(claim) {
                    ready.push(work);
                }
            }
            let count = u32::try_from(ready.len()).unwrap_or(u32::MAX);
            engine.slots.take(kind, count);
            if let Some(kind) = engine.kinds.get(kind) {
                jobs::begun(*kind, count);
            }
            engine
                .held
                .insert(kind, ready.iter().map(|work| (work.number, work.context.lease.clone())));
            for work in ready {
                // The receiver lives as long as the worker; without it the ticket gives the job back.
                let _ = self.work.send(work);
            }
        }
    }

    /// Parses a claimed job. `None` when it was settled at once.
    fn examine(&self, mut claim: Claim) -> Option<Work> {
        let engine = &self.engine;
        let kind = *engine.kinds.get(claim.kind)?;
        let stored = engine.store.kinds.get(claim.kind)?;
        let envelope = match Envelope::parse(kind, &claim.text) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.bury(&claim, DeadReason::Malformed, &error.to_string());
                return None;
            }
        };
        claim.job_id.clone_from(&envelope.id);
        if envelope.traceparent_unreadable && claim.history.fresh {
            // Not the value: it may be anything.
            tracing::warn!(
                job.kind = kind.name(),
                job.id = claim.job_id,
                "a job's traceparent is no W3C trace context and is ignored; the job runs without"
            );
        }
        if claim.history.crashes >= kind.policy().max_crashes.unwrap_or(engine.config.max_crashes) {
            let error = format!(
                "{} workers in a row lost their lease while running it; {}",
                claim.history.crashes,
                claim.history.last_claim()
            );
            self.bury(&claim, DeadReason::Poison, &error);
            return None;
        }
        if let Some(run_at) = envelope.run_at
            && claim.history.fresh
            && millis(run_at) > claim.now_ms
        {
            let verb = Verb::At {
                due_ms: millis(run_at),
                header: claim.history.header(),
            };
            engine.settle(claim.kind, claim.number, verb);
            return None;
        }
        let policy = kind.policy();
        let lease = Lease::new(
            claim.claimed + Duration::from_millis(stored.lease_ms),
            Duration::from_secs(u64::from(policy.timeout_secs)),
        );
        let context = JobContext {
            id: envelope.id.unwrap_or_else(|| claim.history.reference.clone()),
            attempt: claim.history.attempts.saturating_add(1),
            lease: lease.clone(),
            stop: engine.stop.clone(),
            traceparent: envelope.traceparent,
            suspect: (claim.history.crashes > 0).then(|| Suspect {
                engine: Arc::clone(engine),
                kind: claim.kind,
                number: claim.number,
            }),
        };
        let max_attempts = envelope.max_attempts.unwrap_or(policy.max_attempts);
        Some(Work {
            number: claim.number,
            job: envelope.job,
            context,
            ticket: Some(Ticket::new(Arc::clone(engine), claim, max_attempts, lease)),
        })
    }

    fn bury(&self, claim: &Claim, reason: DeadReason, error: &str) {
        tracing::error!(
            job.id = claim.job_id,
            reason = reason.name(),
            error,
            "a job is dead; see `carillon jobs dead`"
        );
        let verb = claim.dead(&self.engine, reason, error);
        if let Some(kind) = self.engine.kinds.get(claim.kind) {
            jobs::outcome(*kind, End::Dead);
        }
        self.engine.settle(claim.kind, claim.number, verb);
    }
}

/// How many jobs one claim can bring.
fn most(free: &Free) -> u64 {
    u64::from(free.total()).min(STEP as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::queue::{QueueConfig, RedisConn};

    #[tokio::test]
    async fn no_claim_follows_one_whose_fate_is_unknown() {
        // Takes connections and never says anything.
        let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = QueueConfig {
            concurrency: 4,
            connect_timeout_ms: 50,
            response_timeout_ms: 50,
            ..QueueConfig::default()
        };
        let redis = RedisConn::connect(&format!("redis://{}", hanging.local_addr().unwrap()), &config).unwrap();
        let engine = Engine::new(config, redis, "w1", CancellationToken::new());
        let mut claimer = Claimer::new(Arc::clone(&engine), mpsc::unbounded_channel().0);
        let mut turn = Box::pin(claimer.turn());
        assert!(
            tokio::time::timeout(AWAY * 4, &mut turn).await.is_err(),
            "the turn is over"
        );
        let given_back = engine.outbox.take();
        let all_tags = engine.slots.free().total() as usize * engine.kinds.len();
        assert_eq!(given_back.batch().len(), all_tags, "one claim may have happened");
        assert!(
            tokio::time::timeout(AWAY * 2, &mut turn).await.is_err(),
            "on its way is not answered"
        );
        given_back.arrived();
        turn.await;
    }
}
