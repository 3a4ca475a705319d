//! A period rung by hand, for work that must run again or before the schedule knew of it.
//!
//! The row is the same one that the calendar writes, so what is asked for by hand and what comes due by itself are never two
//! runs of one period. It must never ring for a period whose work is under way or done, unless that is what was asked for.

use chrono::{DateTime, Utc};

use super::{calendar::Period, list::Schedule, ring::ring_now, work::PeriodId};
use crate::{
    db::{self, PgPool},
    queue::Queue,
    reconcile::ReconcileError,
};

/// What stands against ringing for a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// Its time has not come.
    Future,
    /// It was due before the schedule began.
    BeforeItBegan {
        /// When that was.
        began_at: DateTime<Utc>,
    },
    /// It was rung for, and its work has not ended.
    UnderWay {
        /// The last bell.
        since: DateTime<Utc>,
    },
    /// Its work has ended.
    Done {
        /// When.
        at: DateTime<Utc>,
    },
}

/// Who asks, and what he has been told about already.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The operator's name.
    pub by: &'a str,
    /// Also when it was rung for, or done.
    pub again: bool,
    /// Also outside of the schedule's time: ahead of now, or before it began.
    pub force: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    now: DateTime<Utc>,
    began_at: DateTime<Utc>,
    state: Option<String>,
    rung_at: Option<DateTime<Utc>>,
    done_at: Option<DateTime<Utc>>,
}

/// Makes a period due, or says why not. Then [`ring`] it, or let the scheduler do so within seconds.
pub async fn ask(db: &PgPool, schedule: &Schedule, period: &Period, ask: &Ask<'_>) -> sqlx::Result<Option<Hindrance>> {
    let mut tx = db::begin(db).await?;
    // One that no scheduler has seen yet begins now.
    sqlx::query("insert into schedule (name, began_at, looked_until) values ($1, now(), now()) on conflict do nothing")
        .bind(&schedule.name)
        .execute(&mut *tx)
        .await?;
    let row: Row = sqlx::query_as(
        "select now() as now, s.began_at, p.state, p.rung_at, p.done_at
           from schedule s left join schedule_period p on p.schedule = s.name and p.period = $2
          where s.name = $1 for update of s",
    )
    .bind(&schedule.name)
    .bind(&period.name)
    .fetch_one(&mut *tx)
    .await?;
    if let Some(hindrance) = row.hindrance(period, ask) {
        return Ok(Some(hindrance));
    }
    sqlx::query(
        "insert into schedule_period (schedule, period, kind, args, due_at, asked_by) values ($1, $2, $3, $4, $5, $6)
         on conflict (schedule, period) do update
            set kind = excluded.kind, args = excluded.args, asked_by = excluded.asked_by, found_at = now(), state = 'due',
                give_up_at = null, rung_at = null, rings = 0, begun_at = null, done_at = null",
    )
    .bind(&schedule.name)
    .bind(&period.name)
    .bind(schedule.kind.name())
    .bind(schedule.args(&period.name))
    .bind(period.due_at)
    .bind(ask.by)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(None)
}

/// Rings for a period that is due; one that is not, or no longer, is left alone.
pub async fn ring(db: &PgPool, queue: &Queue, schedule: &Schedule, period: &Period) -> Result<(), ReconcileError> {
    ring_now(db, queue, &PeriodId::new(&schedule.name, &period.name)).await
}

impl Row {
    fn hindrance(&self, period: &Period, ask: &Ask<'_>) -> Option<Hindrance> {
        if !ask.force && period.due_at > self.now {
            return Some(Hindrance::Future);
        }
        // What has a row is known, whenever it was due.
        if !ask.force && self.state.is_none() && period.due_at < self.began_at {
            let began_at = self.began_at;
            return Some(Hindrance::BeforeItBegan { began_at });
        }
        match self.state.as_deref() {
            Some("done") if !ask.again => Some(Hindrance::Done {
                at: self.done_at.unwrap_or(self.now),
            }),
            Some("rung" | "begun") if !ask.again => Some(Hindrance::UnderWay {
                since: self.rung_at.unwrap_or(self.now),
            }),
            _ => None,
        }
    }
}
