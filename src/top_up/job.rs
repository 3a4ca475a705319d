//! The `top-up-settlement` job: credit what is due, one order after the other.
//!
//! Level-triggered: what is due is read from Postgres, so a job that comes twice, late or for nothing does no harm, and one that
//! never comes is rung again by `reconcile`. Each order is a transaction of its own, so one that cannot be credited keeps no other
//! from being credited.
//!
//! It must never hold two orders at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{TopUpId, TopUpSettlement};
use uuid::Uuid;

use super::{TopUpError, TopUpState, moves::settle};
use crate::{
    db::{self, PgPool, Presence},
    queue::{JobContext, JobError, Outcome},
    telemetry,
};

/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);
/// How long a job credits before it goes to the tail of its queue.
const BUDGET: Duration = Duration::from_secs(5);
/// How many due orders are looked up at once.
const ORDERS: i32 = 100;
/// For how long an order whose credit was refused is let be. A person has to look; the log says so each time.
const PUT_OFF_SECS: f64 = 600.0;

/// The parts the job needs; clones share them.
#[derive(Debug, Clone)]
pub struct TopUpWork {
    /// Postgres.
    pub db: PgPool,
    /// Whether Postgres answers, for the log.
    pub postgres: Arc<Presence>,
}

impl TopUpWork {
    /// Credits the order named, or all that are due.
    pub async fn run(&self, args: TopUpSettlement, context: &JobContext) -> Result<Outcome, JobError> {
        let done = match args.order_id {
            Some(order) => self.settle_one(order, context).await,
            None => self.settle_due(context).await,
        };
        match done {
            // Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
            Err(TopUpError::Database(error)) if db::may_pass(&error) => {
                self.postgres.away(&db::describe(&error));
                return Ok(Outcome::SnoozeFor { wait: DATABASE_REST });
            }
            _ => self.postgres.answered(),
        }
        match done {
            Ok(outcome) => Ok(outcome),
            // A bell for what was never paid is somebody's mistake, and worth being seen among the dead jobs.
            Err(error @ (TopUpError::NotFound(_) | TopUpError::WrongState { .. })) => {
                Err(JobError::dead(error.to_string()))
            }
            Err(error) => Err(JobError::retry(error.to_string())),
        }
    }

    async fn settle_one(&self, order: TopUpId, context: &JobContext) -> Result<Outcome, TopUpError> {
        telemetry::note("top_up.id", order);
        context.about_to("credit one order").await;
        match settle(&self.db, order).await {
            // Its day has not come; reconcile rings when it has. Given back in the meantime: nothing to do either.
            Err(
                TopUpError::NotDue { .. }
                | TopUpError::WrongState {
                    state: TopUpState::Refunded,
                    ..
                },
            ) => Ok(Outcome::Done),
            settled => settled.map(|_| Outcome::Done),
        }
    }

    async fn settle_due(&self, context: &JobContext) -> Result<Outcome, TopUpError> {
        context.about_to("credit the orders that are due").await;
        let began_at = Instant::now();
        loop {
            let due: Vec<Uuid> = sqlx::query_scalar("select order_id from due_top_ups($1)")
                .bind(ORDERS)
                .fetch_all(&self.db)
                .await?;
            if due.is_empty() {
                return Ok(Outcome::Done);
            }
            for order in due.into_iter().map(TopUpId) {
                if context.stop.is_cancelled() || context.lease.lost().is_cancelled() || began_at.elapsed() > BUDGET {
                    return Ok(Outcome::Again);
                }
                self.settle_or_put_off(order).await?;
            }
        }
    }

    /// Whoever is refused must not be met again and again: it is put off, and the others go on.
    async fn settle_or_put_off(&self, order: TopUpId) -> Result<(), TopUpError> {
        let why = match settle(&self.db, order).await {
            Ok(moved) if moved.changed => {
                tracing::info!(top_up.id = %order, shop.id = %moved.order.shop_id, tokens = moved.order.tokens, "A top-up was credited");
                return Ok(());
            }
            // Somebody else was there first, with the credit or with a refund.
            Ok(_) | Err(TopUpError::WrongState { .. }) => return Ok(()),
            Err(TopUpError::Database(error)) if db::may_pass(&error) => return Err(error.into()),
            Err(error) => error,
        };
        tracing::error!(top_up.id = %order, error = %why, "A paid top-up cannot be credited; it is tried again in ten minutes");
        sqlx::query("select put_off_top_up($1, $2)")
            .bind(order.0)
            .bind(PUT_OFF_SECS)
            .execute(&self.db)
            .await?;
        Ok(())
    }
}
