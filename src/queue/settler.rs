//! The settle loop: outcomes to Redis, in batches, repeated until Redis has answered.
//!
//! A busy claim loop takes most of them along with its claims; this one sees to those that would have to wait for it.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{engine::Engine, outbox::Taken, store::Verb};

/// How long to wait after Redis failed to answer.
const AWAY: Duration = Duration::from_millis(200);

/// Runs until `finish` is cancelled and everything that was queued by then has been settled.
pub(crate) async fn run(engine: Arc<Engine>, finish: CancellationToken) {
    loop {
        let taken = engine.outbox.take();
        if taken.batch().is_empty() {
            drop(taken);
            if finish.is_cancelled() {
                return;
            }
            tokio::select! {
                () = engine.outbox.told.notified() => {}
                () = finish.cancelled() => {}
            }
            continue;
        }
        let result = engine.store.settle(taken.batch()).await;
        engine.redis.note(&result);
        if let Ok(stale) = result {
            settled(&engine, taken, stale);
        } else {
            // A batch that had been applied before its answer was lost finds its tags gone and changes nothing.
            drop(taken);
            tokio::time::sleep(AWAY).await;
        }
    }
}

/// Redis has taken a batch.
pub(crate) fn settled(engine: &Engine, taken: Taken<'_>, stale: u64) {
    if stale > 0 {
        tracing::debug!(stale, "settlements of jobs that others had taken over were ignored");
    }
    if taken
        .batch()
        .iter()
        .any(|settlement| matches!(settlement.verb, Verb::Dead { .. }))
    {
        engine.died.notify_one();
    }
    taken.arrived();
}
