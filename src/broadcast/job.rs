//! The `broadcast-send` job: look at this broadcast, or at one of its lanes, and do what is still to do.
//!
//! Level-triggered: everything is read from Postgres, so a job that comes twice, late, or for a broadcast that ended long
//! ago does no harm, and one that never comes is rung again by `reconcile`.

use std::{sync::Arc, time::Duration};

use carillon_jobs::{BroadcastId, BroadcastSend, TraceParent};

use super::plan::{Advance, PlanError, Planner};
use crate::{
    db::{self, PgPool, Presence},
    delivery::{Delivery, DeliveryError, store},
    queue::{JobContext, JobError, Outcome, Queue},
    reconcile::{EVERY, ring_within},
    telemetry,
};

/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);

/// The parts the job needs; clones share them.
#[derive(Clone)]
pub struct BroadcastWork {
    /// Postgres.
    pub db: PgPool,
    /// Redis, to ring for the next lane.
    pub queue: Queue,
    /// What plans.
    pub planner: Planner,
    /// What sends.
    pub delivery: Delivery,
    /// Whether Postgres answers, for the log.
    pub postgres: Arc<Presence>,
}

/// Why a turn came to nothing.
enum TurnError {
    Database(sqlx::Error),
    Job(JobError),
}

impl From<sqlx::Error> for TurnError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<JobError> for TurnError {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

/// What a turn came to.
enum Turn {
    /// Look whether lanes wait for a bell. The lane that was worked on rests for this long.
    RingLanes(Duration),
    /// Nothing more.
    Ended(Outcome),
}

impl BroadcastWork {
    /// Does one turn.
    pub async fn run(&self, args: BroadcastSend, context: &JobContext) -> Result<Outcome, JobError> {
        match self.turn(args, context).await {
            // Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
            Err(TurnError::Database(error)) if db::may_pass(&error) => {
                self.postgres.away(&db::describe(&error));
                Ok(Outcome::SnoozeFor { wait: DATABASE_REST })
            }
            Err(TurnError::Database(error)) => Err(JobError::retry(db::describe(&error))),
            Err(TurnError::Job(error)) => {
                self.postgres.answered();
                Err(error)
            }
            Ok(outcome) => {
                self.postgres.answered();
                Ok(outcome)
            }
        }
    }

    async fn turn(&self, args: BroadcastSend, context: &JobContext) -> Result<Outcome, TurnError> {
        telemetry::note("broadcast.id", args.broadcast_id);
        let turn = match args.sender_id {
            Some(sender) => {
                telemetry::note("sender.id", sender);
                let halt = context.stop.child_token();
                let lost = context.lease.lost();
                // The lane's own lease fences what is written; a lost job only means that this worker stops early.
                let watch = async {
                    lost.cancelled().await;
                    halt.cancel();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    result = self.delivery.work_lane(args.broadcast_id, sender, &halt) => send_turn(result),
                    () = watch => Ok(Turn::Ended(Outcome::Done)),
                }
            }
            None => plan_turn(
                args.broadcast_id,
                self.planner.advance(args.broadcast_id, &context.stop).await,
            ),
        };
        match turn? {
            Turn::Ended(outcome) => Ok(outcome),
            Turn::RingLanes(rest) => Ok(match self.ring_lanes(args.broadcast_id, context.traceparent).await? {
                // Reconcile looks every few seconds: a sender of two messages a second would wait for it most of the
                // time, so the lane's own bell comes back by itself.
                Outcome::Done if !rest.is_zero() && rest < EVERY => Outcome::SnoozeFor { wait: rest },
                outcome => outcome,
            }),
        }
    }

    /// Rings for the lanes of this shop whose turn it is; the lane just left goes to the tail with them. The turns of a
    /// broadcast are all children of the span that started it, not each of the one before it.
    async fn ring_lanes(&self, worked_on: BroadcastId, started: Option<TraceParent>) -> Result<Outcome, TurnError> {
        let config = &self.delivery.config;
        let lanes = store::lanes_beside(&self.db, worked_on, config.lanes_per_shop, config.bell_stale())
            .await?
            .ok_or_else(|| missing(worked_on))?;
        for (broadcast, sender) in lanes {
            let trace = started.or_else(telemetry::here).filter(|_| broadcast == worked_on);
            if let Err(error) = ring_within(&self.queue, broadcast, Some(sender), trace).await {
                // Redis is away; reconcile rings for what is marked as rung and was not heard.
                tracing::debug!(%error, "A lane's bell did not reach Redis");
            }
        }
        Ok(Outcome::Done)
    }
}

fn send_turn(result: Result<Duration, DeliveryError>) -> Result<Turn, TurnError> {
    match result {
        Ok(rest) => Ok(Turn::RingLanes(rest)),
        Err(DeliveryError::Db(error)) => Err(error.into()),
        Err(error @ (DeliveryError::Sender(_) | DeliveryError::Content(_))) => {
            Err(JobError::retry(error.to_string()).into())
        }
    }
}

fn plan_turn(broadcast: BroadcastId, result: Result<Advance, PlanError>) -> Result<Turn, TurnError> {
    match result {
        Ok(Advance::Again) => Ok(Turn::Ended(Outcome::Again)),
        Ok(Advance::WaitUntil(until)) => Ok(Turn::Ended(Outcome::Snooze { until })),
        Ok(Advance::Missing) => Err(missing(broadcast).into()),
        Ok(Advance::Opened | Advance::NothingToDo(_)) => Ok(Turn::RingLanes(Duration::ZERO)),
        Err(PlanError::Database(error)) => Err(error.into()),
        Err(error @ PlanError::UnknownAnswer(_)) => Err(JobError::retry(error.to_string()).into()),
    }
}

fn missing(broadcast: BroadcastId) -> JobError {
    JobError::dead(format!("there is no broadcast {broadcast}"))
}
