//! The rules a shop sets for its own broadcasts: its frequency cap and its quiet hours. Both are off until it does.
//!
//! It must never change what was planned: a cap holds for plans that begin later, quiet hours for what has not left.

use carillon_jobs::ShopId;
use chrono::{DateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::frequency::{AppliedCap, CapSpan, FrequencyCap};
use crate::{
    channel::Channel,
    db::{PgConnection, PgPool},
    delivery::quiet::QuietHours,
};

/// The quiet hours of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChannelQuiet {
    /// The channel.
    pub channel: Channel,
    /// When.
    #[serde(flatten)]
    pub hours: QuietHours,
}

/// A shop's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// The shop's time zone, whose clock they are on.
    pub time_zone: String,
    /// How often one customer may hear from it.
    pub frequency_cap: Option<FrequencyCap>,
    /// When nobody may be disturbed.
    pub quiet: Vec<ChannelQuiet>,
    /// Postgres' clock.
    pub now: DateTime<Utc>,
}

/// The shop's zone, Postgres' clock, and of the cap the number and the days.
type RulesRow = (String, DateTime<Utc>, Option<i16>, Option<i16>);

/// A shop's rules; none: there is no such shop.
///
/// # Errors
/// Only the database's.
pub async fn read(conn: &mut PgConnection, shop: ShopId) -> Result<Option<Rules>, sqlx::Error> {
    let row: Option<RulesRow> = sqlx::query_as(
        "select s.time_zone, now(), c.broadcasts, c.days from shop s left join frequency_cap c on c.shop_id = s.id where s.id = $1",
    )
    .bind(shop.0)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((time_zone, now, broadcasts, days)) = row else {
        return Ok(None);
    };
    let quiet: Vec<(Channel, NaiveTime, NaiveTime)> =
        sqlx::query_as("select channel, starts, ends from quiet_hours where shop_id = $1 order by channel")
            .bind(shop.0)
            .fetch_all(conn)
            .await?;
    let hours = |(channel, starts, ends)| {
        let hours = QuietHours::new(starts, ends).ok()?;
        Some(ChannelQuiet { channel, hours })
    };
    Ok(Some(Rules {
        time_zone,
        frequency_cap: broadcasts.map(|broadcasts| cap(broadcasts, days)),
        quiet: quiet.into_iter().filter_map(hours).collect(),
        now,
    }))
}

fn cap(broadcasts: i16, days: Option<i16>) -> FrequencyCap {
    let positive = |n: i16| u16::try_from(n).unwrap_or(0);
    FrequencyCap {
        broadcasts: positive(broadcasts),
        span: days.map_or(CapSpan::Month, |days| CapSpan::Days(positive(days))),
    }
}

/// A shop's cap as a plan that begins now applies it.
pub(super) async fn applied_cap(conn: &mut PgConnection, shop: ShopId) -> Result<Option<AppliedCap>, sqlx::Error> {
    let row: Option<(i16, Option<i16>, String, DateTime<Utc>)> = sqlx::query_as(
        "select c.broadcasts, c.days, s.time_zone, now() from frequency_cap c join shop s on s.id = c.shop_id where c.shop_id = $1",
    )
    .bind(shop.0)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(broadcasts, days, zone, now)| {
        let cap = cap(broadcasts, days);
        AppliedCap {
            broadcasts: cap.broadcasts,
            // Postgres knew the zone when it was set; one that this program does not know is read as UTC.
            since: cap.counts_from(now, zone.parse().unwrap_or(Tz::UTC)),
        }
    }))
}

/// Sets a shop's cap, or takes it away.
///
/// # Errors
/// Only the database's: there is no such shop.
pub async fn set_cap(pool: &PgPool, shop: ShopId, cap: Option<FrequencyCap>) -> Result<(), sqlx::Error> {
    let Some(cap) = cap else {
        sqlx::query("delete from frequency_cap where shop_id = $1")
            .bind(shop.0)
            .execute(pool)
            .await?;
        return Ok(());
    };
    let days = match cap.span {
        CapSpan::Month => None,
        CapSpan::Days(days) => Some(i16::try_from(days).unwrap_or(i16::MAX)),
    };
    sqlx::query(
        "insert into frequency_cap (shop_id, broadcasts, days) values ($1, $2, $3)
         on conflict (shop_id) do update set broadcasts = excluded.broadcasts, days = excluded.days",
    )
    .bind(shop.0)
    .bind(i16::try_from(cap.broadcasts).unwrap_or(i16::MAX))
    .bind(days)
    .execute(pool)
    .await?;
    Ok(())
}

/// Sets a shop's quiet hours on a channel, or takes them away; what waits is looked at anew. The caller rings, or the scheduler does
/// within seconds.
///
/// # Errors
/// Only the database's: there is no such shop.
pub async fn set_quiet(
    pool: &PgPool,
    shop: ShopId,
    channel: Channel,
    hours: Option<QuietHours>,
) -> Result<(), sqlx::Error> {
    sqlx::query("select set_quiet_hours($1, $2, $3, $4)")
        .bind(shop.0)
        .bind(channel)
        .bind(hours.map(|hours| hours.starts()))
        .bind(hours.map(|hours| hours.ends()))
        .execute(pool)
        .await?;
    Ok(())
}
