//! Ringing for periods whose work has not been reported as done.
//!
//! Level-triggered: the rows say what is left to do, and a look rings for that. A row counts as rung only when Redis has
//! taken its bell, so a crash on either side of that rings twice rather than never; it counts as done only when a worker
//! says so, so a Redis that lost the bell is made good by the next one. It must never ring inside a transaction, and never
//! for a period whose job lies among the dead: a person has to look at that first.

use std::time::Duration;

use carillon_jobs::Kind;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{list, work::PeriodId};
use crate::{
    db::PgPool,
    queue::{Depth, Queue},
    reconcile::ReconcileError,
};

/// Bells in one look.
const MOST: i64 = 200;
/// The longest wait between two bells for one period.
const LONGEST_WAIT_SECS: f64 = 600.0;

/// For how long work that was begun is believed to be under way, in seconds; beyond its kind's time-out while the queue holds any
/// of its kind.
const BEGUN_SECS: f64 = 60.0;

/// What a look rang.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rang {
    /// Bells Redis took.
    pub rung: usize,
    /// Periods given up: nobody could ring for them within their schedule's grace.
    pub given_up: usize,
}

/// A period somebody has to ring for.
#[derive(sqlx::FromRow)]
struct Waiting {
    schedule: String,
    period: String,
    kind: String,
    args: Value,
}

/// Rings for every period that nobody works on, the oldest first. `stale`: how long the first bell may go unanswered. `at`
/// is the calendar's time, Postgres' own if not given.
pub async fn ring(
    db: &PgPool,
    queue: &Queue,
    stale: Duration,
    at: Option<DateTime<Utc>>,
) -> Result<Rang, ReconcileError> {
    let given_up = sqlx::query(
        "update schedule_period set state = 'skipped'
          where state = 'due' and rings = 0 and give_up_at < coalesce($1, now())",
    )
    .bind(at)
    .execute(db)
    .await?
    .rows_affected();
    let lost = kinds_lost(db, queue).await?;
    let waiting = waiting(db, stale, &lost).await?;
    if !waiting.is_empty() {
        // One answer for all: while Redis is away nothing is tried row by row.
        queue.answers().await?;
    }
    let mut rung = 0;
    for period in &waiting {
        rung += usize::from(ring_one(db, queue, period).await?);
    }
    Ok(Rang {
        rung,
        given_up: usize::try_from(given_up).unwrap_or(usize::MAX),
    })
}

/// Rings for one period, whether or not it is its turn.
pub(super) async fn ring_now(db: &PgPool, queue: &Queue, id: &PeriodId) -> Result<(), ReconcileError> {
    let period: Option<Waiting> = sqlx::query_as(
        "select schedule, period, kind, args from schedule_period where schedule = $1 and period = $2 and state = 'due'",
    )
    .bind(&id.schedule)
    .bind(&id.period)
    .fetch_optional(db)
    .await?;
    if let Some(period) = period {
        ring_one(db, queue, &period).await?;
    }
    Ok(())
}

/// Kinds of which something was begun a while ago and the queue holds nothing at all: it was lost, and nobody has to wait until
/// the work could have ended. Asks Redis only when there is something to know.
async fn kinds_lost(db: &PgPool, queue: &Queue) -> Result<Vec<Kind>, ReconcileError> {
    let begun: bool = sqlx::query_scalar(
        "select exists (select from schedule_period where state = 'begun' and begun_at < now() - $1 * interval '1 second')",
    )
    .bind(BEGUN_SECS)
    .fetch_one(db)
    .await?;
    if !begun {
        return Ok(Vec::new());
    }
    let depths = queue.depths().await?;
    let is_empty = |depth: &&Depth| depth.ready + depth.delayed + depth.running == 0;
    Ok(depths.iter().filter(is_empty).map(|depth| depth.kind).collect())
}

/// Rows whose work is not under way as far as anybody can tell.
async fn waiting(db: &PgPool, stale: Duration, lost: &[Kind]) -> sqlx::Result<Vec<Waiting>> {
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    // An attempt that runs longer is aborted; the next one is soon begun, and says so.
    let runs: Vec<f64> = Kind::ALL
        .iter()
        .map(|kind| {
            let runs_secs = if lost.contains(kind) {
                0.0
            } else {
                f64::from(kind.policy().timeout_secs)
            };
            runs_secs + BEGUN_SECS
        })
        .collect();
    // A time ahead of now was written before the clock was put back: it says nothing.
    sqlx::query_as(
        "select p.schedule, p.period, p.kind, p.args
           from schedule_period p join unnest($1::text[], $2::float8[]) as k(kind, run_secs) using (kind)
          where p.state in ('due', 'rung', 'begun')
            and (p.rung_at is null or p.rung_at not between
                    now() - least($3 * 2 ^ least(p.rings - 1, 20), $4) * interval '1 second' and now() + interval '1 minute')
            and (p.state <> 'begun' or p.begun_at not between
                    now() - k.run_secs * interval '1 second' and now() + interval '1 minute')
            and (p.state = 'due' or not exists (select from pause s
                    where s.resumed_at is null and (s.scope = 'everything' or s.kind = p.kind)))
            and (p.state = 'due' or not exists (select from dead_job d
                    where d.kind = p.kind and d.job_id = 'schedule/' || p.schedule || '/' || p.period and d.replayed_at is null))
          order by p.due_at, p.schedule limit $5",
    )
    .bind(kinds)
    .bind(runs)
    .bind(stale.as_secs_f64())
    .bind(LONGEST_WAIT_SECS)
    .bind(MOST)
    .fetch_all(db)
    .await
}

/// Rings, and takes note of it; false when its row holds what no worker would take.
async fn ring_one(db: &PgPool, queue: &Queue, period: &Waiting) -> Result<bool, ReconcileError> {
    let id = PeriodId::new(&period.schedule, &period.period);
    let taken = match period
        .kind
        .parse()
        .and_then(|kind: Kind| list::bell(kind, &id.job_id(), &period.args))
    {
        Ok(bell) => {
            queue.ring(bell).await?;
            true
        }
        Err(error) => {
            // The list was checked; only a kind whose payload has changed since the row was written comes here.
            tracing::error!(
                schedule.name = period.schedule,
                schedule.period = period.period,
                %error,
                "This period's payload is no longer one its kind takes; ring it anew with `carillon schedule run --again`"
            );
            false
        }
    };
    sqlx::query(
        "update schedule_period
            set state = case when $3 and state = 'due' then 'rung' else state end, rung_at = now(), rings = rings + 1
          where schedule = $1 and period = $2 and state in ('due', 'rung', 'begun')",
    )
    .bind(&period.schedule)
    .bind(&period.period)
    .bind(taken)
    .execute(db)
    .await?;
    Ok(taken)
}
