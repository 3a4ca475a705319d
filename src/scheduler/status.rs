//! How far each schedule is: for `carillon schedule`, and for `/metrics` also while no scheduler runs.
//!
//! Reads only.

use std::collections::BTreeMap;

use carillon_jobs::Kind;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::list::ScheduleList;
use crate::db::PgPool;

/// A period's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PeriodRow {
    /// Whose.
    pub schedule: String,
    /// Its name.
    pub period: String,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// `due`, `rung`, `begun`, `done` or `skipped`.
    pub state: String,
    /// The last bell.
    pub rung_at: Option<DateTime<Utc>>,
    /// How many bells.
    pub rings: i32,
    /// When its work ended.
    pub done_at: Option<DateTime<Utc>>,
    /// The operator who asked for it.
    pub asked_by: Option<String>,
}

/// How far a schedule is.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Progress {
    /// Which.
    pub name: String,
    /// When it was first seen.
    pub began_at: DateTime<Utc>,
    /// Up to where every period has its row.
    pub looked_until: DateTime<Utc>,
    /// Periods whose work has not ended.
    pub open: i64,
}

/// For how long work of a kind has waited, in seconds; 0: none does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Waits {
    /// The oldest period nobody has rung for.
    pub unrung_secs: f64,
    /// The oldest period that was rung for and whose work has not ended.
    pub undone_secs: f64,
}

/// Postgres' clock.
pub async fn now(db: &PgPool) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("select now()").fetch_one(db).await
}

/// How far the schedules are that any scheduler has seen, by name.
pub async fn progress(db: &PgPool) -> sqlx::Result<BTreeMap<String, Progress>> {
    let rows: Vec<Progress> = sqlx::query_as(
        "select name, began_at, looked_until,
                (select count(*) from schedule_period where schedule = name and state in ('due', 'rung', 'begun')) as open
           from schedule",
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name.clone(), row)).collect())
}

/// The newest period of each schedule that has one.
pub async fn newest(db: &PgPool) -> sqlx::Result<BTreeMap<String, PeriodRow>> {
    let rows: Vec<PeriodRow> = sqlx::query_as(
        "select p.schedule, p.period, p.due_at, p.state, p.rung_at, p.rings, p.done_at, p.asked_by
           from schedule s
           join lateral (select * from schedule_period where schedule = s.name and due_at <= now()
                          order by due_at desc, period desc limit 1) p on true",
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.schedule.clone(), row)).collect())
}

/// Which of these periods of a schedule have their row.
pub async fn known(db: &PgPool, schedule: &str, periods: &[&str]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("select period from schedule_period where schedule = $1 and period = any($2)")
        .bind(schedule)
        .bind(periods)
        .fetch_all(db)
        .await
}

/// The periods whose work has not ended, the oldest first, at most `limit`.
pub async fn open(db: &PgPool, limit: i64) -> sqlx::Result<Vec<PeriodRow>> {
    sqlx::query_as(
        "select schedule, period, due_at, state, rung_at, rings, done_at, asked_by from schedule_period
          where state in ('due', 'rung', 'begun') order by due_at, schedule limit $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await
}

/// How long the periods of each kind have waited, in the order of [`Kind::ALL`]. What no scheduler has looked at yet counts.
pub async fn waits(db: &PgPool, list: &ScheduleList) -> sqlx::Result<Vec<Waits>> {
    let mut waits = vec![Waits::default(); Kind::ALL.len()];
    let mut note = |kind: Kind, unrung_secs: f64, undone_secs: f64| {
        if let Some(one) = waits.get_mut(kind as usize) {
            one.unrung_secs = one.unrung_secs.max(unrung_secs);
            one.undone_secs = one.undone_secs.max(undone_secs);
        }
    };
    // From when it was found: what an outage left over is rung in a moment.
    let rows: Vec<(String, f64, f64)> = sqlx::query_as(
        "select kind, coalesce(max(secs) filter (where state = 'due'), 0)::float8,
                coalesce(max(secs) filter (where state <> 'due'), 0)::float8
           from (select kind, state, extract(epoch from now() - greatest(due_at, found_at)) as secs
                   from schedule_period where state in ('due', 'rung', 'begun')) p
          group by kind",
    )
    .fetch_all(db)
    .await?;
    for (kind, unrung_secs, undone_secs) in rows {
        // A kind only another release knows has no series here.
        if let Ok(kind) = kind.parse() {
            note(kind, unrung_secs, undone_secs);
        }
    }
    let now = now(db).await?;
    let progress = progress(db).await?;
    for schedule in list.all() {
        let Some(mark) = progress.get(&schedule.name) else {
            continue;
        };
        let missed = schedule.rhythm.due_between(mark.looked_until, now, 1);
        if let Some(first) = missed.periods.first() {
            note(schedule.kind, (now - first.due_at).as_seconds_f64(), 0.0);
        }
    }
    Ok(waits)
}
