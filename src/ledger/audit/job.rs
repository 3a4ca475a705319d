//! The `audit` job: prove the books for a period and keep what was found.
//!
//! Level-triggered: a period that has its report is done, so a job that comes twice does nothing. What it finds it never
//! mends; drift is told in the log, kept, and shown at `/metrics`.

use std::time::Duration;

use carillon_jobs::Audit;
use tokio_util::sync::CancellationToken;

use super::{AuditError, audit_until, is_kept, keep};
use crate::{
    db::{self, PgPool},
    queue::{JobContext, JobError, Outcome},
};

/// How long the job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(10);

/// Runs one `audit` job.
pub async fn audit_period(pool: &PgPool, args: Audit, context: &JobContext) -> Result<Outcome, JobError> {
    context.about_to("prove the books").await;
    let halt = CancellationToken::new();
    let lost = context.lease.lost();
    let watch = async {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = lost.cancelled() => {}
        }
        halt.cancel();
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = prove(pool, &args, &halt) => result,
        () = watch => Ok(Outcome::GiveBack),
    };
    match result {
        Ok(outcome) => Ok(outcome),
        Err(AuditError::Stopped) => Ok(Outcome::GiveBack),
        // Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
        Err(AuditError::Database(error)) if db::may_pass(&error) => Ok(Outcome::SnoozeFor { wait: DATABASE_REST }),
        Err(AuditError::Database(error)) => Err(JobError::retry(db::describe(&error))),
        Err(error @ AuditError::NoShop(_)) => Err(JobError::dead(error.to_string())),
    }
}

async fn prove(pool: &PgPool, args: &Audit, halt: &CancellationToken) -> Result<Outcome, AuditError> {
    if is_kept(pool, &args.period).await? {
        return Ok(Outcome::Done);
    }
    let report = audit_until(pool, None, halt).await?;
    keep(pool, &report, Some(&args.period)).await?;
    let broken: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.broken > 0)
        .map(|check| check.name)
        .collect();
    if broken.is_empty() {
        tracing::info!(period = %args.period, "The audit found the books in order");
    } else {
        tracing::error!(
            period = %args.period,
            checks = broken.join(", "),
            "The audit found drift; `carillon audit` names the rows"
        );
    }
    Ok(Outcome::Done)
}
