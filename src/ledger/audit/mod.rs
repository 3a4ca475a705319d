//! Proves over the whole database that tokens and deliveries agree, and names the first rows that do not.
//!
//! Everything is read in one repeatable-read snapshot, so workers may go on while it runs. Every check is set-based SQL
//! over aggregates on small keys, run once; the rows that break a check are fetched, a few at most, only when there are
//! any. Memory stays flat however large the tables are.
//!
//! It must never write to what it looks at, and never mend: a drift is evidence of a bug, and evidence is kept.

mod broadcast;
mod delivery;
mod guards;
mod job;
mod kept;
mod operators;
mod orders;
mod tokens;

use std::collections::HashMap;

use carillon_jobs::{BroadcastId, ShopId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use job::audit_period;
pub use kept::{LastAudit, is_kept, keep, last};

use crate::db::{PgConnection, PgPool};

/// How many of the rows that break a check a report names.
const NAMED_ROWS: i64 = 10;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The shop asked for does not exist.
    #[error("there is no shop {0}")]
    NoShop(ShopId),
    /// It was told to stop.
    #[error("the audit was stopped")]
    Stopped,
    /// Postgres could not be asked.
    #[error("the audit could not read the database")]
    Database(#[from] sqlx::Error),
}

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Postgres' time of the snapshot.
    pub taken_at: DateTime<Utc>,
    /// The one shop looked at; none for the whole database.
    pub shop: Option<ShopId>,
    /// Every check, in a fixed order, whether it held or not.
    pub checks: Vec<CheckReport>,
}

impl Report {
    /// Whether every check held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.checks.iter().all(|check| check.broken == 0)
    }
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Its stable name.
    pub name: &'static str,
    /// What it proves, as a sentence.
    pub proves: &'static str,
    /// Comparisons made.
    pub examined: i64,
    /// Comparisons that failed.
    pub broken: i64,
    /// The sum over all failed comparisons of how far off they are.
    pub off: i64,
    /// The first failed comparisons by shop, broadcast and row, at most ten.
    pub first: Vec<Drift>,
}

/// One failed comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// The shop it belongs to, where one is known.
    pub shop_id: Option<ShopId>,
    /// The broadcast it belongs to, if any.
    pub broadcast_id: Option<BroadcastId>,
    /// Which row and number, such as `line slice 3`.
    pub what: String,
    /// What the other rows say it must be.
    pub expected: String,
    /// What it is.
    pub actual: String,
    /// How far off: tokens, deliveries or rows.
    pub off: i64,
}

/// Checks that share one reading of the tables.
struct Group {
    /// Name and sentence of each check.
    checks: &'static [(&'static str, &'static str)],
    /// Yields a row per comparison: `name, shop_id, broadcast_id, place, what, expected, actual, off`; `off` 0 means it
    /// held, `place` orders the rows of a broadcast. `$1` is the shop, or null for all.
    sql: &'static str,
}

/// The table of contents of what is proved.
const GROUPS: [&Group; 13] = [
    &guards::GUARDS,
    &tokens::ACCOUNTS,
    &tokens::ENTRIES,
    &tokens::HOLDS,
    &orders::ORDERS,
    &operators::OPERATORS,
    &broadcast::LANES,
    &broadcast::TALLIES,
    &broadcast::SKIPPED,
    &delivery::SLICES,
    &delivery::RESULTS,
    &delivery::CHARGES,
    &delivery::MAILBOXES,
];

/// Runs every check over the database, or over one shop.
pub async fn audit(pool: &PgPool, shop: Option<ShopId>) -> Result<Report, AuditError> {
    audit_until(pool, shop, &CancellationToken::new()).await
}

/// As [`audit()`], given up as soon as `halt` is cancelled; the query that runs then ends in the database as well.
pub async fn audit_until(pool: &PgPool, shop: Option<ShopId>, halt: &CancellationToken) -> Result<Report, AuditError> {
    let mut snapshot = crate::db::begin(pool).await?;
    // Before anything is asked: the first question takes the snapshot.
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await?;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *snapshot)
        .await?;
    let report = {
        let proved = prove(&mut snapshot, shop);
        tokio::pin!(proved);
        tokio::select! {
            report = &mut proved => report?,
            () = halt.cancelled() => {
                // Asked on another connection; this one is waited for, so that it goes back clean.
                sqlx::query("select pg_cancel_backend($1)").bind(backend).execute(pool).await?;
                let _ = proved.await;
                return Err(AuditError::Stopped);
            }
        }
    };
    snapshot.commit().await?;
    Ok(report)
}

async fn prove(snapshot: &mut PgConnection, shop: Option<ShopId>) -> Result<Report, AuditError> {
    for setting in [
        // An audit of years takes as long as it takes, whatever limit the pool sets on a request.
        "set local statement_timeout = 0",
        // Sorts and hashes of whole tables: this much each and process, then disk.
        "set local work_mem = '32MB'",
        "set local hash_mem_multiplier = 1",
        // The results of a month join the deliveries of that month only.
        "set local enable_partitionwise_join = on",
        "set local enable_partitionwise_aggregate = on",
        // Compiling costs more than it saves on all but the largest databases.
        "set local jit = off",
        // A worker that dies must not leave a query of hours behind.
        "set local client_connection_check_interval = '10s'",
    ] {
        sqlx::query(setting).execute(&mut *snapshot).await?;
    }
    let taken_at = sqlx::query_scalar("select now()").fetch_one(&mut *snapshot).await?;
    if let Some(shop) = shop {
        let known: bool = sqlx::query_scalar("select exists (select from shop where id = $1)")
            .bind(shop.0)
            .fetch_one(&mut *snapshot)
            .await?;
        if !known {
            return Err(AuditError::NoShop(shop));
        }
    }
    let mut checks = Vec::new();
    for group in GROUPS {
        run(&mut *snapshot, group, shop, &mut checks).await?;
    }
    Ok(Report { taken_at, shop, checks })
}

async fn run(
    snapshot: &mut PgConnection,
    group: &Group,
    shop: Option<ShopId>,
    checks: &mut Vec<CheckReport>,
) -> Result<(), sqlx::Error> {
    // Not prepared: with the shop in hand the planner drops what does not concern it.
    let counts: Vec<(String, i64, i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
        "select name, count(*), count(*) filter (where off <> 0), least(sum(off), 9223372036854775807)::bigint
           from ({}) as comparison group by name",
        group.sql
    )))
    .bind(shop.map(|shop| shop.0))
    .persistent(false)
    .fetch_all(&mut *snapshot)
    .await?;
    let counts: HashMap<String, (i64, i64, i64)> = counts
        .into_iter()
        .map(|(name, examined, broken, off)| (name, (examined, broken, off)))
        .collect();
    for &(name, proves) in group.checks {
        let (examined, broken, off) = counts.get(name).copied().unwrap_or_default();
        let first = if broken > 0 {
            first_rows(snapshot, group, name, shop).await?
        } else {
            Vec::new()
        };
        checks.push(CheckReport {
            name,
            proves,
            examined,
            broken,
            off,
            first,
        });
    }
    Ok(())
}

async fn first_rows(
    snapshot: &mut PgConnection,
    group: &Group,
    name: &str,
    shop: Option<ShopId>,
) -> Result<Vec<Drift>, sqlx::Error> {
    let rows: Vec<DriftRow> = sqlx::query_as(AssertSqlSafe(format!(
        "select shop_id, broadcast_id, what, expected, actual, off from ({}) as comparison
          where off <> 0 and name = $2 order by shop_id, broadcast_id, place, what limit $3",
        group.sql
    )))
    .bind(shop.map(|shop| shop.0))
    .bind(name)
    .bind(NAMED_ROWS)
    .persistent(false)
    .fetch_all(snapshot)
    .await?;
    Ok(rows.into_iter().map(Drift::from).collect())
}

#[derive(FromRow)]
struct DriftRow {
    shop_id: Option<Uuid>,
    broadcast_id: Option<Uuid>,
    what: String,
    expected: String,
    actual: String,
    off: i64,
}

impl From<DriftRow> for Drift {
    fn from(row: DriftRow) -> Self {
        Self {
            shop_id: row.shop_id.map(ShopId),
            broadcast_id: row.broadcast_id.map(BroadcastId),
            what: row.what,
            expected: row.expected,
            actual: row.actual,
            off: row.off,
        }
    }
}
