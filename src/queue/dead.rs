//! Dead jobs: rows in Postgres that people list, read, replay and delete.
//!
//! A job is dead when nobody will run it again by itself. Its text is kept as it was pushed, as far as 64 KiB, with its
//! whole length and digest.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row as _, postgres::PgRow};

use super::{Queue, QueueError};

use crate::db::{PgConnection, PgPool};

pub(crate) use super::dead_record::Record;

/// Why a job is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, serde::Serialize, serde::Deserialize)]
#[sqlx(type_name = "dead_reason", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The text breaks the contract.
    Malformed,
    /// Its attempts are used up.
    Exhausted,
    /// The workers that ran it died.
    Poison,
    /// Its handler said that no attempt can succeed.
    Rejected,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[Self::Malformed, Self::Exhausted, Self::Poison, Self::Rejected];

    /// Its name: `malformed`, `exhausted`, `poison`, `rejected`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Exhausted => "exhausted",
            Self::Poison => "poison",
            Self::Rejected => "rejected",
        }
    }
}

/// A dead job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadJob {
    /// The row's id, by which it is named.
    pub id: i64,
    /// The name of its kind.
    pub kind: String,
    /// The producer's id, if the text could be read that far.
    pub job_id: Option<String>,
    /// Why it is dead.
    pub reason: DeadReason,
    /// The last error.
    pub error: String,
    /// Failed attempts.
    pub attempts: i32,
    /// Takeovers.
    pub crashes: i32,
    /// Snoozes.
    pub snoozes: i32,
    /// The first 64 KiB of its text.
    pub raw: Vec<u8>,
    /// The length of the whole text, in bytes.
    pub raw_length: i64,
    /// The SHA-256 of the whole text.
    pub raw_sha256: Vec<u8>,
    /// When it was first claimed.
    pub first_at: DateTime<Utc>,
    /// When it died.
    pub died_at: DateTime<Utc>,
    /// When it was replayed last.
    pub replayed_at: Option<DateTime<Utc>>,
}

impl DeadJob {
    /// Whether the whole text is there, so that it can be pushed again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        i64::try_from(self.raw.len()).is_ok_and(|kept| kept == self.raw_length)
    }
}

/// Which dead jobs. Fields that are `None` do not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Those with these ids.
    pub ids: Option<Vec<i64>>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Dead for this reason.
    pub reason: Option<DeadReason>,
    /// Whose error contains this text, whatever its case.
    pub error_contains: Option<String>,
    /// That died at least so long ago.
    pub older_than: Option<Duration>,
    /// That died at most so long ago.
    pub within: Option<Duration>,
    /// Also those that were replayed already.
    pub replayed_too: bool,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Jobs pushed again.
    pub pushed: u64,
    /// Jobs left alone because only a part of their text was kept.
    pub cut: u64,
}

const COLUMNS: &str = "select id, kind, job_id, reason, error, attempts, crashes, snoozes, raw, raw_length, \
     raw_sha256, first_at, died_at, replayed_at from dead_job where ";
/// The filter as one condition over $1 … $7, so that listing, counting, replaying and deleting mean the same rows.
const MATCHES: &str = "($1::bigint[] is null or id = any($1)) and ($2::text is null or kind = $2) \
     and ($3::dead_reason is null or reason = $3) and ($4::text is null or position(lower($4) in lower(error)) > 0) \
     and ($5::float8 is null or died_at <= now() - make_interval(secs => $5)) \
     and ($6::float8 is null or died_at >= now() - make_interval(secs => $6)) and ($7 or replayed_at is null)";
/// Rows one replay transaction locks and pushes.
const REPLAY_STEP: i64 = 500;

macro_rules! bind_filter {
    ($query:expr, $filter:expr) => {
        $query
            .bind($filter.ids.as_deref())
            .bind($filter.kind.as_deref())
            .bind($filter.reason)
            .bind($filter.error_contains.as_deref())
            .bind($filter.older_than.map(|age| age.as_secs_f64()))
            .bind($filter.within.map(|age| age.as_secs_f64()))
            .bind($filter.replayed_too)
    };
}

fn sql(parts: &[&str]) -> sqlx::AssertSqlSafe<String> {
    // Only the constants of this file are ever put together; values are always bound.
    sqlx::AssertSqlSafe(parts.concat())
}

/// The newest dead jobs that match, with ids below `before` (for paging).
///
/// # Errors
/// [`QueueError::Database`].
pub async fn list(
    pool: &PgPool,
    filter: &DeadFilter,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<DeadJob>, QueueError> {
    let query = sql(&[
        COLUMNS,
        MATCHES,
        " and ($8::bigint is null or id < $8) order by id desc limit $9",
    ]);
    let rows = bind_filter!(sqlx::query(query), filter)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// One dead job.
///
/// # Errors
/// [`QueueError::Database`].
pub async fn get(pool: &PgPool, id: i64) -> Result<Option<DeadJob>, QueueError> {
    let row = sqlx::query(sql(&[COLUMNS, "id = $1"]))
        .bind(id)
        .fetch_optional(pool)
        .await?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// The dead jobs with a producer's id, the newest first; at most ten.
///
/// # Errors
/// [`QueueError::Database`].
pub async fn of_job(pool: &PgPool, job_id: &str) -> Result<Vec<DeadJob>, QueueError> {
    let rows = sqlx::query(sql(&[COLUMNS, "job_id = $1 order by id desc limit 10"]))
        .bind(job_id)
        .fetch_all(pool)
        .await?;
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// How many match: what [`replay`] or [`delete`] would touch.
///
/// # Errors
/// [`QueueError::Database`].
pub async fn count(pool: &PgPool, filter: &DeadFilter) -> Result<u64, QueueError> {
    let query = sql(&["select count(*) from dead_job where ", MATCHES]);
    let count: i64 = bind_filter!(sqlx::query_scalar(query), filter).fetch_one(pool).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Pushes the jobs that match again, as they were first pushed, with their counts at nought.
///
/// Two people who replay the same jobs at once push them once. If this process dies between the push and the commit, a
/// job may be pushed again by the next replay, which does no harm.
///
/// # Errors
/// [`QueueError::Database`] or [`QueueError::Redis`]; what was pushed before it stays pushed and is marked.
pub async fn replay(pool: &PgPool, queue: &Queue, filter: &DeadFilter) -> Result<Replayed, QueueError> {
    let mut total = Replayed::default();
    let mut after = 0_i64;
    loop {
        let mut tx = crate::db::begin(pool).await?;
        // Locked, so that a second replay waits and then finds them replayed; skipped rather than waited for, so that
        // two replays of different ends cannot deadlock.
        let query = sql(&[
            COLUMNS,
            MATCHES,
            " and id > $8 order by id limit $9 for update skip locked",
        ]);
        let rows = bind_filter!(sqlx::query(query), filter)
            .bind(after)
            .bind(REPLAY_STEP)
            .fetch_all(&mut *tx)
            .await?;
        let jobs = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let Some(last) = jobs.last() else {
            return Ok(total);
        };
        after = last.id;
        let step = replay_step(&mut tx, queue, &jobs).await?;
        tx.commit().await?;
        total.pushed += step.pushed;
        total.cut += step.cut;
    }
}

async fn replay_step(tx: &mut PgConnection, queue: &Queue, jobs: &[DeadJob]) -> Result<Replayed, QueueError> {
    let (whole, cut): (Vec<&DeadJob>, Vec<&DeadJob>) = jobs.iter().partition(|job| job.is_whole());
    for job in &whole {
        queue.push_raw(&job.kind, &job.raw).await?;
    }
    let ids: Vec<i64> = whole.iter().map(|job| job.id).collect();
    sqlx::query("update dead_job set replayed_at = now() where id = any($1)")
        .bind(&ids)
        .execute(tx)
        .await?;
    Ok(Replayed {
        pushed: whole.len() as u64,
        cut: cut.len() as u64,
    })
}

/// Deletes the jobs that match, and says how many those were.
///
/// # Errors
/// [`QueueError::Database`].
pub async fn delete(pool: &PgPool, filter: &DeadFilter) -> Result<u64, QueueError> {
    let query = sql(&["delete from dead_job where ", MATCHES]);
    Ok(bind_filter!(sqlx::query(query), filter)
        .execute(pool)
        .await?
        .rows_affected())
}

fn read(row: &PgRow) -> Result<DeadJob, sqlx::Error> {
    Ok(DeadJob {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        job_id: row.try_get("job_id")?,
        reason: row.try_get("reason")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        crashes: row.try_get("crashes")?,
        snoozes: row.try_get("snoozes")?,
        raw: row.try_get("raw")?,
        raw_length: row.try_get("raw_length")?,
        raw_sha256: row.try_get("raw_sha256")?,
        first_at: row.try_get("first_at")?,
        died_at: row.try_get("died_at")?,
        replayed_at: row.try_get("replayed_at")?,
    })
}
