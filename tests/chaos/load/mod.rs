//! The kinds of work that keep coming while things break. **To add one**: a file here, a variant, a line in `LOADS`; the
//! compiler names the rest. A load brings its work for as long as the run lasts, says what of it is not finished, and
//! judges what became of it.
//! It must never wait for another load, nor give up because Postgres or Redis is away: it tries again, as a frontend would.

mod audits;
mod broadcasts;
mod periods;
mod refills;
mod top_ups;
mod webhooks;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use self::{periods::schedules, webhooks::Book};
use super::{
    deliveries,
    outcome::Outcome,
    told::{Arrival, Fault},
    town::Town,
};

/// How often a frontend that was refused tries again, and looks whether something has ended.
const AGAIN: Duration = Duration::from_millis(250);

/// A kind of work.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Broadcasts of all shops on all six channels, of several sizes, some paused, resumed, scheduled or cancelled.
    Broadcasts,
    /// Shops whose monthly tokens fall due, some suspended or changing their plan meanwhile.
    Refills,
    /// Orders of extra tokens: paid, reported several times at once and out of order, failed, refunded, due soon or later.
    TopUps,
    /// Periods of schedules that come due.
    Periods,
    /// What customers write and providers report of messages, told by webhook: shuffled, several times, with wrong signatures.
    Webhooks,
    /// Audits in the middle of it all.
    Audits,
}

/// Every kind of work of a run.
pub const LOADS: &[Load] = &[
    Load::Broadcasts,
    Load::Refills,
    Load::TopUps,
    Load::Periods,
    Load::Webhooks,
    Load::Audits,
];

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
            Self::Refills => refills::run(town, stop).await,
            Self::TopUps => top_ups::run(town, stop).await,
            Self::Periods => periods::run(town, stop).await,
            Self::Webhooks => webhooks::run(town, stop).await,
            Self::Audits => audits::run(town, stop).await,
        }
    }

    /// Lets go of what it held back on purpose, so that all of it can finish.
    pub async fn let_go(self, town: &Town) -> sqlx::Result<()> {
        match self {
            Self::Broadcasts => broadcasts::let_go(town).await,
            Self::Refills => refills::let_go(town).await,
            Self::Webhooks => webhooks::let_go(town).await,
            Self::TopUps | Self::Periods | Self::Audits => Ok(()),
        }
    }

    /// What is not finished, each as a sentence.
    pub async fn left(self, town: &Town) -> sqlx::Result<Vec<String>> {
        match self {
            Self::Broadcasts => broadcasts::left(town).await,
            Self::Refills => refills::left(town).await,
            Self::TopUps => top_ups::left(town).await,
            Self::Periods => periods::left(town).await,
            Self::Webhooks => webhooks::left(town).await,
            // What waits or runs in Redis is looked at for all loads.
            Self::Audits => Ok(Vec::new()),
        }
    }

    /// Looks at every piece of its work and writes what it finds into the outcome.
    pub async fn judge(self, town: &Town, told: &Told<'_>, outcome: &mut Outcome) {
        match self {
            Self::Broadcasts => deliveries::judge(town, told, outcome).await,
            Self::Refills => refills::judge(town, outcome).await,
            Self::TopUps => top_ups::judge(town, outcome).await,
            Self::Periods => periods::judge(town, outcome).await,
            Self::Webhooks => webhooks::judge(town, told, outcome).await,
            Self::Audits => audits::judge(town, outcome).await,
        }
    }
}

/// A bell, as a program in any language rings it. Where Redis is away it is lost, and the scheduler rings.
async fn ring(town: &Town, kind: &str, args: Value) {
    let Ok(mut redis) = town.services.redis().await else {
        return;
    };
    let _ = redis::cmd("RPUSH")
        .arg(format!("{{carillon}}:ready:{kind}"))
        .arg(json!({ "args": args }).to_string())
        .query_async::<i64>(&mut redis)
        .await;
}

/// Asks Postgres until it has answered. A question it refuses is a mistake of the load, and ends the run.
async fn until_answered<T, F>(ask: impl Fn() -> F) -> T
where
    F: Future<Output = sqlx::Result<T>>,
{
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                let refused =
                    code.is_some_and(|code| ["22", "23", "42", "P0"].iter().any(|class| code.starts_with(class)));
                assert!(!refused, "refused: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Waits so many milliseconds.
async fn rest(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Milliseconds as Postgres takes them: a number to multiply an interval with.
fn millis(ms: u64) -> f64 {
    f64::from(u32::try_from(ms).unwrap())
}
