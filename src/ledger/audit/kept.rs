//! What audits found, kept in `audit_report`: for the figures at `/metrics`, and for whoever asks what was true last Tuesday.
//!
//! Written after the snapshot is closed: the audit itself only reads. A report once kept is never changed.

use carillon_jobs::AuditPeriod;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor, types::Json};

use super::{AuditError, Report};

/// The outcome of the newest report, for figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct LastAudit {
    /// Postgres' time of its snapshot.
    pub taken_at: DateTime<Utc>,
    /// Comparisons that failed.
    pub broken: i64,
    /// By how much, over all of them: tokens, deliveries or rows.
    pub off_by: i64,
}

/// Keeps a report of the whole database; false when the period has one already. One of a single shop says nothing about
/// the books and is not kept.
pub async fn keep(db: impl PgExecutor<'_>, report: &Report, period: Option<&AuditPeriod>) -> Result<bool, AuditError> {
    if report.shop.is_some() {
        return Ok(false);
    }
    let sum =
        |number: fn(&super::CheckReport) -> i64| report.checks.iter().map(number).fold(0_i64, i64::saturating_add);
    let done = sqlx::query(
        "insert into audit_report (period, taken_at, examined, broken, off_by, checks) values ($1, $2, $3, $4, $5, $6)
         on conflict (period) do nothing",
    )
    .bind(period.map(AuditPeriod::as_str))
    .bind(report.taken_at)
    .bind(sum(|check| check.examined))
    .bind(sum(|check| check.broken))
    .bind(sum(|check| check.off))
    .bind(Json(&report.checks))
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether a period was audited.
pub async fn is_kept(db: impl PgExecutor<'_>, period: &AuditPeriod) -> Result<bool, AuditError> {
    Ok(
        sqlx::query_scalar("select exists (select from audit_report where period = $1)")
            .bind(period.as_str())
            .fetch_one(db)
            .await?,
    )
}

/// The newest report's outcome; none before the first one.
pub async fn last(db: impl PgExecutor<'_>) -> Result<Option<LastAudit>, sqlx::Error> {
    sqlx::query_as("select taken_at, broken, off_by from audit_report order by id desc limit 1")
        .fetch_optional(db)
        .await
}
