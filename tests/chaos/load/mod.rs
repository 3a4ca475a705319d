//! The kinds of work that keep coming while things break. **To add one**: a file here, a variant, a line in `LOADS`; the
//! compiler names the rest. A load brings its work for as long as the run lasts, says what of it is not finished, and
//! judges what became of it.
//! It must never wait for another load, nor give up because Postgres or Redis is away: it tries again, as a frontend would.

mod broadcasts;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    deliveries,
    outcome::Outcome,
    told::{Arrival, Fault},
    town::Town,
};

/// A kind of work.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Broadcasts of all shops on all channels, of several sizes, some paused, resumed, scheduled or cancelled.
    Broadcasts,
}

/// Every kind of work of a run.
pub const LOADS: &[Load] = &[Load::Broadcasts];

/// What has gone by when everything is quiet: what happened, to judge by.
pub struct Told<'a> {
    /// Every fault and when it was healed.
    pub faults: &'a [Fault],
    /// Everything the providers took.
    pub arrivals: &'a [Arrival],
}

impl Load {
    /// Brings work until told to stop.
    pub async fn run(self, town: Arc<Town>, stop: CancellationToken) {
        match self {
            Self::Broadcasts => broadcasts::run(town, stop).await,
        }
    }

    /// Lets go of what it held back on purpose, so that all of it can finish.
    pub async fn let_go(self, town: &Town) -> sqlx::Result<()> {
        match self {
            Self::Broadcasts => broadcasts::let_go(town).await,
        }
    }

    /// What is not finished, each as a sentence.
    pub async fn left(self, town: &Town) -> sqlx::Result<Vec<String>> {
        match self {
            Self::Broadcasts => broadcasts::left(town).await,
        }
    }

    /// Looks at every piece of its work and writes what it finds into the outcome.
    pub async fn judge(self, town: &Town, told: &Told<'_>, outcome: &mut Outcome) {
        match self {
            Self::Broadcasts => deliveries::judge(town, told, outcome).await,
        }
    }
}
