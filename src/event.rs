//! Events that a frontend reads by cursor: what triggers write them by, and how long they are kept.
//!
//! The events themselves are written and read in SQL (`migrations/0016_event.sql` and `0029_refill_events.sql`,
//! `docs/events.md`): each in the transaction of the fact it tells, so nothing here could add one without lying. This is the
//! little a process does for them.
//!
//! It must never write an event, and never delete one that a frontend may still be waiting to read.

use serde::Deserialize;

use crate::{
    config::{Report, Section},
    db::PgPool,
};

/// Section `events` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// A balance is low below this part of the allowance its period began with, in percent; 0: never.
    pub balance_low_percent: u8,
    /// How long events are kept.
    pub keep_days: u16,
}

impl Section for EventsConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.range("balance_low_percent", self.balance_low_percent, 0..=100);
        report.range("keep_days", self.keep_days, 1..=3650);
    }
}

/// Tells the triggers what the configuration says. Writes only what is news.
pub async fn publish_settings(db: &PgPool, config: &EventsConfig) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into event_setting (balance_low_percent) values ($1)
         on conflict (is_only) do update set balance_low_percent = excluded.balance_low_percent
          where event_setting.balance_low_percent <> excluded.balance_low_percent",
    )
    .bind(i32::from(config.balance_low_percent))
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes what is older than the configuration keeps, in short transactions; says how many.
pub async fn forget_old(db: &PgPool, config: &EventsConfig) -> Result<i64, sqlx::Error> {
    let mut forgotten = 0;
    loop {
        let gone: i64 = sqlx::query_scalar("select forget_events($1 * interval '1 day')")
            .bind(i32::from(config.keep_days))
            .fetch_one(db)
            .await?;
        if gone == 0 {
            return Ok(forgotten);
        }
        forgotten += gone;
    }
}
