//! The settle loop: outcomes to Redis, in batches, repeated until Redis has answered.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    store::{STEP, Settlement, Verb},
};

/// Runs until `finish` is cancelled and everything that was queued by then has been settled.
pub(crate) async fn run(
    engine: Arc<Engine>,
    mut settlements: mpsc::UnboundedReceiver<Settlement>,
    finish: CancellationToken,
) {
    let mut batch = Vec::with_capacity(STEP);
    loop {
        let received = tokio::select! {
            biased;
            received = settlements.recv_many(&mut batch, STEP) => received,
            () = finish.cancelled() => 0,
        };
        if received == 0 {
            return;
        }
        settle(&engine, &batch).await;
        if batch
            .iter()
            .any(|settlement| matches!(settlement.verb, Verb::Dead { .. }))
        {
            engine.died.notify_one();
        }
        batch.clear();
    }
}

async fn settle(engine: &Engine, batch: &[Settlement]) {
    loop {
        let result = engine.store.settle(batch).await;
        engine.redis.note(&result);
        match result {
            Ok(0) => return,
            Ok(stale) => {
                tracing::debug!(stale, "settlements of jobs that others had taken over were ignored");
                return;
            }
            // A batch that had been applied before its answer was lost finds its tags gone and changes nothing.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
