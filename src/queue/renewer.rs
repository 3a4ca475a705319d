//! The renew loop: leases of running jobs, every third of their length, and the watch over those that are lost.
//!
//! It runs beside the claims and the handlers, never inside them: a handler that blocks must not cost its neighbours
//! their leases.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    lease::Lease,
    store::{STEP, StoredKind},
};

/// How often deadlines are looked at, at most.
const WATCH: Duration = Duration::from_millis(250);

/// Running jobs without a lease that one call of `renew.lua` gives one, at most.
const MENDED: usize = 100;

/// The one job of a handler that must be heard at once.
#[derive(Debug, Clone)]
pub(crate) struct Suspect {
    pub(crate) engine: Arc<Engine>,
    pub(crate) kind: usize,
    pub(crate) number: u64,
}

impl Suspect {
    /// Brings the lease's word to Redis now. With Redis away it waits as long as an answer may take, and goes on.
    pub(crate) async fn tell(&self, lease: &Lease) {
        if let Some(kind) = self.engine.store.kinds.get(self.kind) {
            renew(&self.engine, kind, &[(self.number, lease.clone())]).await;
        }
    }
}

/// Runs until `finish` is cancelled.
pub(crate) async fn run(engine: Arc<Engine>, finish: CancellationToken) {
    let third = engine.shortest_lease() / 3;
    let mut ticks = tokio::time::interval(WATCH.min(third));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = finish.cancelled() => return,
            _ = ticks.tick() => {}
        }
        engine.held.supervise();
        if renewed.elapsed() >= third {
            let started = Instant::now();
            // On failure the next tick tries again: a third of a lease later it might be too late.
            if renew_all(&engine).await {
                renewed = started;
            }
        }
    }
}

async fn renew_all(engine: &Engine) -> bool {
    let mut answered = true;
    for (index, kind) in engine.store.kinds.iter().enumerate() {
        let held = engine.held.of(index);
        if held.is_empty() {
            // Even then once: it mends jobs whose lease was deleted.
            answered &= renew(engine, kind, &[]).await;
        }
        for chunk in held.chunks(STEP - MENDED) {
            answered &= renew(engine, kind, chunk).await;
        }
    }
    answered
}

async fn renew(engine: &Engine, kind: &StoredKind, held: &[(u64, Lease)]) -> bool {
    let words: Vec<(u64, Option<String>)> = held.iter().map(|(number, lease)| (*number, lease.word())).collect();
    let deadline = Instant::now() + Duration::from_millis(kind.lease_ms);
    let result = engine.store.renew(kind, &words).await;
    engine.redis.note(&result);
    let Ok(lost) = result else { return false };
    for (number, lease) in held {
        if lost.contains(number) {
            lease.lose();
        } else {
            lease.extend(deadline);
        }
    }
    true
}
