//! Finding periods that have come due, and giving each its row.
//!
//! A schedule's `looked_until` says up to where everything has its row; what is due between there and now is found now,
//! after two seconds or after a week's outage alike. Rows and the mark move in one transaction, so a crash leaves both or
//! neither. The time is Postgres' own. When that clock was put forward, what lies between is found as if it had been missed;
//! when it is put back, what was found ahead of time and not rung is forgotten, and found again when its time comes.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::list::{Schedule, ScheduleList};
use crate::db::{self, PgConnection, PgPool};

/// Periods of one schedule found in one look; an outage that holds more is worked off look by look.
const MOST: usize = 500;
/// A clock that is behind by less was not put back: two servers differ by so much, and it will be there in a moment.
const PUT_BACK_SECS: i64 = 60;

/// What a look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Periods that are to be rung.
    pub due: usize,
    /// Periods that were missed and are left out, as their schedules say.
    pub skipped: usize,
}

/// The rows of new periods, a column each.
#[derive(Default)]
struct Rows {
    schedules: Vec<String>,
    periods: Vec<String>,
    kinds: Vec<&'static str>,
    args: Vec<Value>,
    due_at: Vec<DateTime<Utc>>,
    give_up_at: Vec<Option<DateTime<Utc>>>,
    states: Vec<&'static str>,
}

/// Gives every period its row that has come due since the last look, by Postgres' clock (`at` only in tests and trials). A
/// schedule that another scheduler is looking at in this moment is left to it.
pub async fn find(db: &PgPool, list: &ScheduleList, at: Option<DateTime<Utc>>) -> sqlx::Result<Found> {
    if list.all().is_empty() {
        return Ok(Found::default());
    }
    let names: Vec<&str> = list.all().iter().map(|schedule| schedule.name.as_str()).collect();
    let mut tx = db::begin(db).await?;
    let at = begin(&mut tx, &names, at).await?;
    let marks: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "select name, looked_until from schedule where name = any($1) order by name for update skip locked",
    )
    .bind(&names)
    .fetch_all(&mut *tx)
    .await?;
    let mut rows = Rows::default();
    let (mut looked, mut until) = (Vec::new(), Vec::new());
    for (name, looked_until) in marks {
        let Some(schedule) = list.get(&name) else { continue };
        if looked_until - at > TimeDelta::seconds(PUT_BACK_SECS) {
            forget_future(&mut tx, &name, at).await?;
        } else if looked_until >= at {
            continue;
        } else {
            until.push(rows.add(schedule, looked_until, at));
            looked.push(name);
            continue;
        }
        until.push(at);
        looked.push(name);
    }
    let found = rows.write(&mut tx).await?;
    supersede(&mut tx, list, &rows).await?;
    sqlx::query(
        "update schedule s set looked_until = u.until from unnest($1::text[], $2::timestamptz[]) as u(name, until)
          where s.name = u.name",
    )
    .bind(&looked)
    .bind(&until)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(found)
}

/// The time of this look; schedules that are new begin with it.
async fn begin(tx: &mut PgConnection, names: &[&str], at: Option<DateTime<Utc>>) -> sqlx::Result<DateTime<Utc>> {
    let at: DateTime<Utc> = sqlx::query_scalar("select coalesce($1, now())")
        .bind(at)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query(
        "insert into schedule (name, began_at, looked_until) select name, $2, $2 from unnest($1::text[]) as name
         on conflict do nothing",
    )
    .bind(names)
    .bind(at)
    .execute(tx)
    .await?;
    Ok(at)
}

/// The clock was put back: what lies ahead of it again has not come due. What was rung is left: its work is under way.
async fn forget_future(tx: &mut PgConnection, name: &str, at: DateTime<Utc>) -> sqlx::Result<()> {
    let forgotten = sqlx::query(
        "delete from schedule_period
          where schedule = $1 and due_at > $2 and state in ('due', 'skipped') and rings = 0 and asked_by is null",
    )
    .bind(name)
    .bind(at)
    .execute(tx)
    .await?;
    tracing::warn!(
        schedule.name = name,
        periods = forgotten.rows_affected(),
        "Postgres' clock was put back; periods found ahead of it are found again when their time comes"
    );
    Ok(())
}

/// Where a schedule rings only for the latest of what was missed, a bell that Redis has not taken until the next period
/// comes due is one of those.
async fn supersede(tx: &mut PgConnection, list: &ScheduleList, rows: &Rows) -> sqlx::Result<()> {
    let mut newest: Vec<(&str, DateTime<Utc>)> = Vec::new();
    for ((name, due_at), state) in rows.schedules.iter().zip(&rows.due_at).zip(&rows.states) {
        let latest_only = list.get(name).is_some_and(Schedule::rings_latest_only);
        if latest_only && *state == "due" {
            newest.push((name, *due_at));
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    let (names, due_at): (Vec<&str>, Vec<DateTime<Utc>>) = newest.into_iter().unzip();
    sqlx::query(
        "update schedule_period p set state = 'skipped' from unnest($1::text[], $2::timestamptz[]) as n(schedule, due_at)
          where p.schedule = n.schedule and p.due_at < n.due_at and p.state = 'due' and p.asked_by is null",
    )
    .bind(names)
    .bind(due_at)
    .execute(tx)
    .await?;
    Ok(())
}

impl Rows {
    /// Adds what came due, and says up to where that is everything.
    fn add(&mut self, schedule: &Schedule, looked_until: DateTime<Utc>, at: DateTime<Utc>) -> DateTime<Utc> {
        let due = schedule.rhythm.due_between(looked_until, at, MOST);
        let chosen = schedule.catch_up.choose(&due, schedule.grace, at);
        let last = due.periods.last().map(|period| period.due_at);
        for (period, is_chosen) in due.periods.into_iter().zip(chosen) {
            self.args.push(schedule.args(&period.name));
            self.schedules.push(schedule.name.clone());
            self.periods.push(period.name);
            self.kinds.push(schedule.kind.name());
            self.due_at.push(period.due_at);
            self.give_up_at
                .push(schedule.catch_up.give_up_at(period.due_at, schedule.grace));
            self.states.push(if is_chosen { "due" } else { "skipped" });
        }
        match last {
            Some(last) if due.more => last,
            _ => at,
        }
    }

    /// Writes the rows that are not there yet.
    async fn write(&self, tx: &mut PgConnection) -> sqlx::Result<Found> {
        if self.periods.is_empty() {
            return Ok(Found::default());
        }
        let written: Vec<String> = sqlx::query_scalar(
            "insert into schedule_period (schedule, period, kind, args, due_at, give_up_at, state)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::timestamptz[], $7::text[])
             on conflict do nothing returning state",
        )
        .bind(&self.schedules)
        .bind(&self.periods)
        .bind(&self.kinds)
        .bind(&self.args)
        .bind(&self.due_at)
        .bind(&self.give_up_at)
        .bind(&self.states)
        .fetch_all(tx)
        .await?;
        let due = written.iter().filter(|state| *state == "due").count();
        Ok(Found {
            due,
            skipped: written.len() - due,
        })
    }
}
