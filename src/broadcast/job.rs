//! The `broadcast-send` job: look at this broadcast, or at one of its lanes, and do what is still to do.
//!
//! Level-triggered: everything is read from Postgres, so a job that comes twice, late, or for a broadcast that ended long
//! ago does no harm, and one that never comes is rung again by `reconcile`.

use std::{sync::Arc, time::Duration};

use carillon_jobs::{BroadcastId, BroadcastSend, Kind, SenderId, TraceParent};

use super::{
    plan::{Advance, PlanError, Planner},
    turn,
};
use crate::{
    db::{self, PgPool, Presence},
    delivery::{
        Crowd, Delivery, DeliveryError,
        store::{self, Ringing},
    },
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
    /// Jobs this process runs at once.
    pub slots: u32,
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
        context.about_to(&breadcrumb(&args)).await;
        let done = if let Some(sender) = args.sender_id {
            self.send(args.broadcast_id, sender, context).await
        } else {
            self.plan(args.broadcast_id, context).await
        };
        match done? {
            Turn::Ended(outcome) => Ok(outcome),
            Turn::RingLanes(rest) => Ok(match self.ring_lanes(&args, context.traceparent).await? {
                // Reconcile looks every few seconds: a sender of two messages a second would wait for it most of the
                // time, so the lane's own bell comes back by itself.
                Outcome::Done if !rest.is_zero() && rest < EVERY => Outcome::SnoozeFor { wait: rest },
                outcome => outcome,
            }),
        }
    }

    async fn send(&self, broadcast: BroadcastId, sender: SenderId, context: &JobContext) -> Result<Turn, TurnError> {
        telemetry::note("sender.id", sender);
        let halt = context.stop.child_token();
        let crowd = Crowd {
            // Redis away: whatever waits there cannot be claimed by anybody.
            waiting: self.queue.waiting(Kind::BroadcastSend).await.unwrap_or(0),
            slots: self.slots,
        };
        let lost = context.lease.lost();
        // The lane's own lease fences what is written; a lost job only means that this worker stops early.
        let watch = async {
            lost.cancelled().await;
            halt.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = self.delivery.work_lane(broadcast, sender, crowd, &halt) => send_turn(result),
            () = watch => Ok(Turn::Ended(Outcome::Done)),
        }
    }

    async fn plan(&self, broadcast: BroadcastId, context: &JobContext) -> Result<Turn, TurnError> {
        let advanced = self.planner.advance(broadcast, &context.stop).await;
        if matches!(advanced, Ok(Advance::Opened | Advance::NothingToDo(_) | Advance::Again)) {
            self.ring_next_plan(broadcast).await;
        }
        plan_turn(broadcast, advanced)
    }

    /// Rings for the lanes whose turn it is: of this shop, and of whoever waits for the sender a turn has ended on. The lane
    /// just left goes to the tail with them. The turns of a broadcast are all children of the span that started it, not each of
    /// the one before it.
    async fn ring_lanes(&self, args: &BroadcastSend, started: Option<TraceParent>) -> Result<Outcome, TurnError> {
        let worked_on = args.broadcast_id;
        let ringing = Ringing::Beside(worked_on, args.sender_id);
        let lanes = store::lanes_to_ring(&self.db, ringing, self.delivery.config.places())
            .await?
            .ok_or_else(|| missing(worked_on))?;
        for (broadcast, sender) in lanes {
            let trace = started.or_else(telemetry::here).filter(|_| broadcast == worked_on);
            self.ring(broadcast, Some(sender), trace).await;
        }
        Ok(Outcome::Done)
    }

    /// A shop plans one broadcast at a time: the next one's turn comes when this one's ends. What goes wrong here is mended by
    /// reconcile.
    async fn ring_next_plan(&self, broadcast: BroadcastId) {
        match turn::to_ring(&self.db, Some(broadcast), self.delivery.config.bell_stale()).await {
            Ok(next) => {
                for broadcast in next {
                    self.ring(broadcast, None, None).await;
                }
            }
            Err(error) => tracing::debug!(error = %crate::db::describe(&error), "The next plan was not rung for"),
        }
    }

    async fn ring(&self, broadcast: BroadcastId, sender: Option<SenderId>, trace: Option<TraceParent>) {
        if let Err(error) = ring_within(&self.queue, broadcast, sender, trace).await {
            // Redis is away; reconcile rings for what is marked as rung and was not heard.
            tracing::debug!(%error, "A bell did not reach Redis");
        }
    }
}

/// What is shown when a worker dies of this job.
fn breadcrumb(args: &BroadcastSend) -> String {
    match args.sender_id {
        Some(sender) => format!("send on the lane of sender {sender}"),
        None => "look at the broadcast: plan, open, complete".to_owned(),
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
        Ok(Advance::NotItsTurn) => Ok(Turn::Ended(Outcome::Done)),
        Ok(Advance::Missing) => Err(missing(broadcast).into()),
        Ok(Advance::Opened | Advance::NothingToDo(_)) => Ok(Turn::RingLanes(Duration::ZERO)),
        Err(PlanError::Database(error)) => Err(error.into()),
        Err(error @ PlanError::UnknownAnswer(_)) => Err(JobError::retry(error.to_string()).into()),
    }
}

fn missing(broadcast: BroadcastId) -> JobError {
    JobError::dead(format!("there is no broadcast {broadcast}"))
}
