//! The scheduler process: rings for what is due, and keeps the months of the delivery tables ahead of time
//! and forgets old events.
//!
//! Correct with any number of them, and with none for a while: everything it does is decided by rows in Postgres.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::{
    app::{App, AppError},
    event, fleet,
    metrics::parts,
    queue::Queue,
    reconcile,
};

/// Months are made this often; they are made two ahead, so missing a day of it is nothing. Events are looked through as
/// often.
const KEEP_HOUSE_EVERY: Duration = Duration::from_hours(1);

/// How long a look may take: one that meets a database that hangs is told of like any other that came to nothing.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// Rings for what is due until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    let queue = app.queue()?;
    // Beside the ringing, never before it: bells must not wait for figures. Ends with the process.
    tokio::spawn(fleet::watch(app.clone()));
    let mut ticks = tokio::time::interval(reconcile::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut house_at = Instant::now();
    let mut away = false;
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let look = async {
            if Instant::now() >= house_at {
                keep_house(&app).await?;
                house_at = Instant::now() + KEEP_HOUSE_EVERY;
            }
            look(&app, &queue).await
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

async fn look(app: &App, queue: &Queue) -> Result<(), reconcile::ReconcileError> {
    let found = reconcile::look(&app.db, queue, &app.config.delivery).await?;
    parts::reconciled([
        found.due,
        found.unplanned,
        found.lanes,
        found.finished,
        found.refills,
        found.top_ups,
    ]);
    if found != reconcile::Found::default() {
        tracing::info!(
            due = found.due,
            unplanned = found.unplanned,
            lanes = found.lanes,
            finished = found.finished,
            refills = found.refills,
            top_ups = found.top_ups,
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
    Ok(())
}
