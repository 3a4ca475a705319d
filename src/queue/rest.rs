//! The loop that reads which kinds are paused, so that this worker claims none of their jobs.
//!
//! Postgres is asked twice a second and what it says is kept until it answers again: a pause holds while Postgres is away. It
//! must never let a first claim pass before it has asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carillon_jobs::Kind;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use crate::db::PgPool;
use crate::pause;

/// A pause is heard of within this time.
const EVERY: Duration = Duration::from_millis(500);
/// How long the first claim waits for the first answer. Without Postgres no job gets anything done anyway.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Which of a worker's kinds rest, in its order.
#[derive(Debug)]
pub(crate) struct Resting {
    kinds: Vec<AtomicBool>,
    /// Cancelled once it was asked for.
    asked: CancellationToken,
}

impl Resting {
    pub(crate) fn new(kinds: usize) -> Self {
        Self {
            kinds: (0..kinds).map(|_| AtomicBool::new(false)).collect(),
            asked: CancellationToken::new(),
        }
    }

    /// Waits until the first answer is there, or is not to be expected.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    pub(crate) fn rests(&self, kind: usize) -> bool {
        self.kinds.get(kind).is_some_and(|rests| rests.load(Ordering::Acquire))
    }

    /// Takes in an answer; true when a kind may be claimed again.
    fn learn(&self, all: &[Kind], paused: &[Kind]) -> bool {
        let mut woken = false;
        for (kind, rests) in all.iter().zip(&self.kinds) {
            let now = paused.contains(kind);
            let before = rests.swap(now, Ordering::AcqRel);
            if now != before {
                tracing::info!(
                    job.kind = kind.name(),
                    paused = now,
                    "A kind of job was paused or resumed"
                );
            }
            woken |= before && !now;
        }
        woken
    }
}

/// Runs until `finish` is cancelled.
pub(crate) async fn run(engine: Arc<Engine>, pool: PgPool, finish: CancellationToken) {
    let mut first = true;
    loop {
        let ask = pause::kinds(&pool, &engine.kinds);
        let asked = tokio::select! {
            () = finish.cancelled() => return,
            asked = tokio::time::timeout(FIRST_ANSWER, ask) => asked,
        };
        match asked {
            Ok(Ok(paused)) => {
                if engine.resting.learn(&engine.kinds, &paused) {
                    engine.wake.notify_one();
                }
            }
            Ok(Err(_)) | Err(_) if first => {
                tracing::warn!("PostgreSQL does not say yet which kinds of job are paused; taking jobs all the same");
            }
            // That Postgres is away is told by those who need it for more than this.
            Ok(Err(_)) | Err(_) => {}
        }
        first = false;
        engine.resting.asked.cancel();
        tokio::select! {
            () = finish.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
