//! The monthly refill: the `monthly-token-refill` job, and the questions that ring for it.
//!
//! Why it exists: each shop's allowance is set to what its plan gives once per period, whoever comes, late or twice. What is
//! due stands in Postgres (`token_account.refill_due_at`); the rule is SQL (`ledger_refill_moves`), because a hold posts its shop's
//! due refill in its own transaction, and because a million shops are refilled in steps of thousands, not one by one.
//!
//! It must never decide whose period it is: Postgres' clock and the shop's calendar do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{MonthlyTokenRefill, PeriodName, ShopId};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::{PgExecutor, types::Uuid};

use crate::{
    config::{Report, Section},
    db::{self, PgPool, Presence},
    queue::{JobContext, JobError, Outcome},
    telemetry,
};

/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);

/// Section `refill` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefillConfig {
    /// Shops refilled in one transaction.
    pub step_shops: u32,
    /// How long one job refills before it goes to the tail of its queue, in milliseconds.
    pub turn_ms: u64,
}

impl Section for RefillConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.range("step_shops", self.step_shops, 1..=50_000);
        report.range("turn_ms", self.turn_ms, 100..=60_000);
    }
}

/// How far the steps of a job have come among the shops that are due.
pub type Cursor = (DateTime<Utc>, Uuid);

/// What one step did, in shops.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Looked at. None: nobody is due for this period but those somebody else has in hand.
    pub looked: u32,
    /// Refilled.
    pub refilled: u32,
    /// Of those, after the day on which it fell due.
    pub late: u32,
    /// Where the next step goes on; none when this one looked at nobody.
    pub last: Option<Cursor>,
}

/// Refills up to `limit` shops that are due and whose current period this is, after those of the step before (none: from the
/// longest due on); a transaction of its own.
pub async fn refill_due(
    db: &PgPool,
    period: &PeriodName,
    limit: u32,
    after: Option<Cursor>,
) -> Result<Step, sqlx::Error> {
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let row: StepRow = sqlx::query_as(
        "select looked, refilled, late, nullif(last_due, '-infinity'), last_shop
           from refill_due_shops($1, $2, coalesce($3, '-infinity'), coalesce($4, '00000000-0000-0000-0000-000000000000'))",
    )
    .bind(period.as_str())
    .bind(limit)
    .bind(after.map(|(due, _)| due))
    .bind(after.map(|(_, shop)| shop))
    .fetch_one(db)
    .await?;
    let (looked, refilled, late, last_due, last_shop) = row;
    let [looked, refilled, late] = [looked, refilled, late].map(|n| u32::try_from(n).unwrap_or(0));
    Ok(Step {
        looked,
        refilled,
        late,
        last: last_due.zip(last_shop),
    })
}

/// As [`refill_due`] selects it.
type StepRow = (i32, i32, i32, Option<DateTime<Utc>>, Option<Uuid>);

/// Refills one shop if this is its current period; `refilled`, or why nothing was done. None: there is no such shop.
pub async fn refill_shop(
    db: impl PgExecutor<'_>,
    shop: ShopId,
    period: &PeriodName,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select refill_shop($1, $2)")
        .bind(shop.0)
        .bind(period.as_str())
        .fetch_one(db)
        .await
}

/// The periods that have overdue shops and no bell out for this long; they count as rung for.
pub async fn periods_to_ring(db: &PgPool, stale: Duration) -> Result<Vec<PeriodName>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar("select refills_to_ring($1)")
        .bind(stale.as_secs_f64())
        .fetch_all(db)
        .await?;
    Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
}

/// The parts the job needs; clones share them.
#[derive(Clone)]
pub struct RefillWork {
    /// Postgres.
    pub db: PgPool,
    /// How much is done at a time.
    pub config: RefillConfig,
    /// Whether Postgres answers, for the log.
    pub postgres: Arc<Presence>,
}

impl RefillWork {
    /// Does one turn.
    pub async fn run(&self, args: MonthlyTokenRefill, context: &JobContext) -> Result<Outcome, JobError> {
        telemetry::note("refill.period", &args.period);
        let done = match args.shop_id {
            Some(shop) => self.one(shop, &args.period).await,
            None => self.all(&args.period, context).await.map(Ok),
        };
        match done {
            Ok(outcome) => {
                self.postgres.answered();
                outcome
            }
            // Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
            Err(error) if db::may_pass(&error) => {
                self.postgres.away(&db::describe(&error));
                Ok(Outcome::SnoozeFor { wait: DATABASE_REST })
            }
            Err(error) => Err(JobError::retry(db::describe(&error))),
        }
    }

    async fn one(&self, shop: ShopId, period: &PeriodName) -> Result<Result<Outcome, JobError>, sqlx::Error> {
        let Some(outcome) = refill_shop(&self.db, shop, period).await? else {
            return Ok(Err(JobError::dead(format!("there is no shop {shop}"))));
        };
        tracing::info!(shop.id = %shop, refill.period = %period, outcome, "Looked at a shop's refill");
        Ok(Ok(Outcome::Done))
    }

    async fn all(&self, period: &PeriodName, context: &JobContext) -> Result<Outcome, sqlx::Error> {
        context.about_to("refill the shops that are due").await;
        let turn_ends = Instant::now() + Duration::from_millis(self.config.turn_ms);
        let mut done = Step::default();
        let mut after = None;
        let outcome = loop {
            if context.stop.is_cancelled() || context.lease.lost().is_cancelled() {
                break Outcome::GiveBack;
            }
            let step = refill_due(&self.db, period, self.config.step_shops, after).await?;
            done.refilled += step.refilled;
            done.late += step.late;
            // At the end once more from the beginning, for whoever was locked when this came by.
            if step.looked == 0 && after.is_none() {
                break Outcome::Done;
            }
            after = step.last;
            if Instant::now() >= turn_ends {
                break Outcome::Again;
            }
        };
        if done.refilled > 0 {
            tracing::info!(
                refill.period = %period,
                shops = done.refilled,
                late = done.late,
                "Refilled shops"
            );
        }
        Ok(outcome)
    }
}
