//! The scheduler process: rings for what is due, by the calendar or by what Postgres says is in nobody's hands, and keeps
//! the months of the delivery tables and the days of webhooks ahead of time. It forgets old events and webhooks.
//!
//! Correct with any number of them, and with none for a while: everything it does is decided by rows in Postgres.
//!
//! Table of contents:
//! - `calendar`: which periods there are, what they are called, when each is due (pure)
//! - `catch_up`: what becomes of periods that were missed (pure)
//! - `list`: `config/schedule.toml`, read and checked; `config`: the section `[scheduler]`
//! - `lease`: which scheduler looks at the schedules
//! - `find`: a row for every period that has come due; `ring`: a bell for every row whose work is not under way
//! - `work`: a worker tells the row when the work begins and ends
//! - `ask`: a period rung by hand
//! - `status`: how far each schedule is, for people and for `/metrics`
//!
//! The crash points are those of the rows: `due` until Redis has taken a bell, `rung` until a worker has the job, `begun`
//! until its work has ended, `done` then. What stays on one of the first three for too long is rung again.

pub mod ask;
pub mod calendar;
pub mod catch_up;
mod config;
mod find;
pub mod lease;
mod list;
mod ring;
pub mod status;
mod work;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use self::lease::Leader;
pub use self::{
    config::SchedulerConfig,
    find::{Found, find},
    list::{Schedule, ScheduleList, ScheduleListError},
    ring::{Rang, ring},
    work::{PeriodId, keep_row},
};
use crate::{
    app::{App, AppError},
    event,
    inbox::{self, webhook},
    metrics::parts,
    queue::Queue,
    reconcile::{self, ReconcileError},
};

/// Months are made this often; they are made two ahead, so missing a day of it is nothing. Old events are looked for as
/// often.
const KEEP_HOUSE_EVERY: Duration = Duration::from_hours(1);

/// How long a look may take: one that meets a database that hangs is told of like any other that came to nothing.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How long giving up the lead may take when the process ends; the lease runs out by itself.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// Rings for what is due until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    let config = &app.config.scheduler;
    let leader = Leader::new(config.schedules.fingerprint(), config.lease());
    look_until_stopped(&app, &leader).await?;
    let _ = timeout(LEAVE_LIMIT, leader.leave(&app.db)).await;
    Ok(())
}

async fn look_until_stopped(app: &App, leader: &Leader) -> Result<(), AppError> {
    let queue = app.queue()?;
    let mut ticks = tokio::time::interval(reconcile::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut house_at = Instant::now();
    let mut away = false;
    let mut term = None;
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let look = async {
            if Instant::now() >= house_at {
                keep_house(app).await?;
                house_at = Instant::now() + KEEP_HOUSE_EVERY;
            }
            // Neither waits for the other: a schedule that cannot ring must not keep broadcasts waiting.
            let periods = periods(app, &queue, leader, &mut term).await;
            look(app, &queue).await.and(periods)
        };
        let result = tokio::select! {
            () = app.stop.cancelled() => return Ok(()),
            result = timeout(LOOK_LIMIT, look) => result.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into())),
        };
        match (result, away) {
            (Ok(()), true) => {
                away = false;
                tracing::info!("Looking for due work again");
            }
            (Err(error), false) => {
                away = true;
                tracing::warn!(%error, "Cannot look for due work; trying again every few seconds");
            }
            // Said once: an outage of an hour is one line, not two thousand.
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
}

/// Looks at the schedules, if it is this scheduler's turn to.
async fn periods(app: &App, queue: &Queue, leader: &Leader, term: &mut Option<i64>) -> Result<(), ReconcileError> {
    let config = &app.config.scheduler;
    let leads = leader.lead(&app.db).await?;
    if let Some(now) = leads.filter(|now| Some(*now) != *term) {
        tracing::info!(schedule.term = now, "This scheduler looks at the schedules");
    }
    *term = leads;
    if leads.is_none() {
        return Ok(());
    }
    let found = find(&app.db, &config.schedules, None).await?;
    let rang = ring(&app.db, queue, config.bell_stale(), None).await?;
    parts::rang_periods(found.skipped + rang.given_up, rang.rung);
    if found != Found::default() || rang != Rang::default() {
        tracing::info!(
            due = found.due,
            rung = rang.rung,
            skipped = found.skipped + rang.given_up,
            "Periods came due, or their bells were lost"
        );
    }
    Ok(())
}

async fn look(app: &App, queue: &Queue) -> Result<(), ReconcileError> {
    let found = reconcile::look(&app.db, queue, &app.config.delivery).await?;
    parts::reconciled([
        found.due,
        found.unplanned,
        found.lanes,
        found.finished,
        found.refills,
        found.top_ups,
        found.webhooks,
        found.media,
        found.receipts,
    ]);
    if found != reconcile::Found::default() {
        tracing::info!(
            due = found.due,
            unplanned = found.unplanned,
            lanes = found.lanes,
            finished = found.finished,
            refills = found.refills,
            top_ups = found.top_ups,
            webhooks = found.webhooks,
            media = found.media,
            receipts = found.receipts,
            assigned = found.assigned,
            "Rang for work that was in nobody's hands"
        );
    }
    Ok(())
}

async fn keep_house(app: &App) -> Result<(), sqlx::Error> {
    sqlx::query("select ensure_partitions(now() + m * interval '1 month') from generate_series(0, 2) as m")
        .execute(&app.db)
        .await?;
    event::publish_settings(&app.db, &app.config.events).await?;
    let forgotten = event::forget_old(&app.db, &app.config.events).await?;
    if forgotten > 0 {
        tracing::info!(forgotten, "Forgot old events");
    }
    inbox::forget_applied(&app.db, app.config.webhook.keep_days).await?;
    let days = webhook::keep_house(&app.db, &app.config.webhook).await?;
    if days > 0 {
        tracing::info!(days, "Forgot days of old webhooks");
    }
    Ok(())
}
