//! A worker's side of a period: its row is told when a job of it begins and when it has ended.
//!
//! So a period is done when its work says so, not when a bell was pushed. A job knows its period by its own id. It must
//! never keep work from being done: a row that is missing is no reason to refuse a job, and only one that is done ends it.

use std::{fmt, future::Future, time::Duration};

use carillon_jobs::Kind;

use crate::{
    db::{self, PgPool},
    queue::{JobContext, JobError, Outcome},
};

/// What the id of every period's job begins with.
const PREFIX: &str = "schedule/";
/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);

/// The name of a period's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodId {
    /// The schedule's name.
    pub schedule: String,
    /// The period's name.
    pub period: String,
}

impl PeriodId {
    /// The row of this schedule and period.
    #[must_use]
    pub fn new(schedule: &str, period: &str) -> Self {
        Self {
            schedule: schedule.to_owned(),
            period: period.to_owned(),
        }
    }

    /// The id of its job, and the key that keeps a second one out of the queue.
    #[must_use]
    pub fn job_id(&self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The period a job is about, if it is about one.
    #[must_use]
    pub fn of_job(id: &str) -> Option<Self> {
        let (schedule, period) = id.strip_prefix(PREFIX)?.split_once('/')?;
        Some(Self::new(schedule, period))
    }
}

impl fmt::Display for PeriodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.schedule, self.period)
    }
}

/// Does a job's work; when the job is a period's, its row is kept. Other jobs are not touched, and cost nothing.
pub async fn keep_row<F>(db: &PgPool, kind: Kind, context: &JobContext, work: F) -> Result<Outcome, JobError>
where
    F: Future<Output = Result<Outcome, JobError>>,
{
    let Some(id) = PeriodId::of_job(&context.id) else {
        return work.await;
    };
    match begin(db, kind, &id).await {
        // The bell of an earlier look, come late: the work has been done.
        Ok(true) => return Ok(Outcome::Done),
        Ok(false) => {}
        Err(error) => return database(&error),
    }
    let ended = work.await;
    match ended {
        Ok(Outcome::Done) => match end(db, kind, &id).await {
            Ok(()) => Ok(Outcome::Done),
            // Said by nobody, it would be rung for again; the work finds nothing to do and says it then.
            Err(error) => database(&error),
        },
        other => {
            // The job is no longer this worker's, and where Redis was lost, nobody's: the next look rings for it.
            if context.lease.is_lost()
                && let Err(error) = put_back(db, kind, &id).await
            {
                tracing::debug!(
                    error = db::describe(&error),
                    "A period could not be put back; it is found later"
                );
            }
            other
        }
    }
}

fn database(error: &sqlx::Error) -> Result<Outcome, JobError> {
    if db::may_pass(error) {
        // Nothing was attempted, so nothing counts as an attempt.
        Ok(Outcome::SnoozeFor { wait: DATABASE_REST })
    } else {
        Err(JobError::retry(db::describe(error)))
    }
}

/// Notes that a worker is at it; whether it was done before.
async fn begin(db: &PgPool, kind: Kind, id: &PeriodId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "with begun as (update schedule_period set state = 'begun', begun_at = now()
                         where schedule = $1 and period = $2 and kind = $3 and state <> 'done')
         select exists (select from schedule_period where schedule = $1 and period = $2 and kind = $3 and state = 'done')",
    )
    .bind(&id.schedule)
    .bind(&id.period)
    .bind(kind.name())
    .fetch_one(db)
    .await
}

async fn end(db: &PgPool, kind: Kind, id: &PeriodId) -> sqlx::Result<()> {
    sqlx::query(
        "update schedule_period set state = 'done', done_at = now()
          where schedule = $1 and period = $2 and kind = $3 and state <> 'done'",
    )
    .bind(&id.schedule)
    .bind(&id.period)
    .bind(kind.name())
    .execute(db)
    .await?;
    Ok(())
}

async fn put_back(db: &PgPool, kind: Kind, id: &PeriodId) -> sqlx::Result<()> {
    sqlx::query(
        "update schedule_period set state = 'due', rung_at = null
          where schedule = $1 and period = $2 and kind = $3 and state = 'begun'",
    )
    .bind(&id.schedule)
    .bind(&id.period)
    .bind(kind.name())
    .execute(db)
    .await?;
    Ok(())
}
