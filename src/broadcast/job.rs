//! The `broadcast-send` job: look at this broadcast, or at one of its lanes, and do what is still to do.
//!
//! Level-triggered: everything is read from Postgres, so a job that comes twice, late, or for a broadcast that ended long
//! ago does no harm, and one that never comes is rung again by `reconcile`.

use std::time::Duration;

use carillon_jobs::{BroadcastId, BroadcastSend};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::plan::{Advance, Planner};
use crate::{
    delivery::{Delivery, DeliveryError, store},
    queue::{JobContext, JobError, Outcome, Queue},
    reconcile::ring,
};

/// Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
const DATABASE_REST: Duration = Duration::from_secs(3);

/// The parts the job needs; clones share them.
#[derive(Clone)]
pub struct BroadcastWork {
    /// Postgres.
    pub db: PgPool,
    /// Redis, to ring for the next lane.
    pub queue: Queue,
    /// Plans.
    pub planner: Planner,
    /// Sends.
    pub delivery: Delivery,
}

impl BroadcastWork {
    /// Does one turn.
    pub async fn run(&self, args: BroadcastSend, context: &JobContext) -> Result<Outcome, JobError> {
        let halt = context.stop.child_token();
        let lost = context.lease.lost();
        let work = async {
            match args.sender_id {
                Some(sender) => self.delivery.work_lane(args.broadcast_id, sender, &halt).await.map(|()| None),
                None => self.plan(args.broadcast_id, &halt).await,
            }
        };
        // The lane's own lease fences what is written; a lost job only means that this worker should stop early.
        let result = tokio::select! {
            biased;
            result = async { tokio::pin!(work); tokio::select! {
                result = &mut work => result,
                () = lost.cancelled() => { halt.cancel(); work.await }
            } } => result,
        };
        match result {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => {}
            Err(WorkError::Missing) => {
                return Err(JobError::Dead { error: format!("there is no broadcast {}", args.broadcast_id) });
            }
            Err(WorkError::Db(error)) if crate::db::may_pass(&error) => return Ok(rest()),
            Err(error) => return Err(JobError::Retry { error: error.to_string(), after: None }),
        }
        self.ring_lanes(args.broadcast_id).await
    }

    /// Plans for a turn. `None`: planning has ended, lanes may be waiting for a bell.
    async fn plan(&self, broadcast: BroadcastId, halt: &CancellationToken) -> Result<Option<Outcome>, WorkError> {
        Ok(match self.planner.advance(broadcast, halt).await? {
            Advance::Again => Some(Outcome::Again),
            Advance::WaitUntil(until) => Some(Outcome::Snooze { until }),
            Advance::Missing => return Err(WorkError::Missing),
            Advance::Opened | Advance::NothingToDo(_) => None,
        })
    }

    /// Rings for the lanes of this shop whose turn it is; the lane just left goes to the tail with them.
    async fn ring_lanes(&self, broadcast: BroadcastId) -> Result<Outcome, JobError> {
        let config = &self.delivery.config;
        let lanes = match store::lanes_beside(&self.db, broadcast, config.lanes_per_shop, config.bell_stale()).await {
            Ok(lanes) => lanes,
            Err(error) if crate::db::may_pass(&error) => return Ok(rest()),
            Err(error) => return Err(JobError::Retry { error: crate::db::describe(&error), after: None }),
        };
        for (broadcast, sender) in lanes {
            if let Err(error) = ring(&self.queue, broadcast, Some(sender)).await {
                // Redis is away; reconcile rings for what is marked as rung and was not heard.
                tracing::debug!(%error, "A lane's bell did not reach Redis");
            }
        }
        Ok(Outcome::Done)
    }
}

fn rest() -> Outcome {
    Outcome::Snooze { until: chrono::Utc::now() + DATABASE_REST }
}
