//! What a shop spent, by month and channel: the view `token_usage`, which is read from the ledger and from nothing else.
//!
//! It must never count deliveries: what a merchant pays for is what the ledger says.

use carillon_jobs::ShopId;
use serde::Serialize;
use sqlx::{FromRow, PgExecutor};

use super::LedgerError;
use crate::channel::Channel;

/// One channel in one month. All numbers are tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Usage {
    /// Such as `2026-11`, by the shop's own clock.
    pub month: String,
    /// Where the messages went; none for entries that name no channel.
    pub channel: Option<Channel>,
    /// Spent on messages that were accepted.
    pub captured: i64,
    /// Given back this month for messages that failed later.
    pub refunded: i64,
    /// `captured` less `refunded`; below zero in a month in which more came back than went.
    pub spent: i64,
}

/// What a shop spent in its newest `months` months of the calendar, newest first, channels in the order pages list them.
pub async fn usage(db: impl PgExecutor<'_>, shop: ShopId, months: u16) -> Result<Vec<Usage>, LedgerError> {
    sqlx::query_as(
        "select month, channel, captured, refunded, spent from token_usage
          where shop_id = $1
            and month > (select to_char(now() at time zone time_zone - $2 * interval '1 month', 'YYYY-MM')
                           from shop where id = $1)
          order by month desc, channel",
    )
    .bind(shop.0)
    .bind(i32::from(months))
    .fetch_all(db)
    .await
    .map_err(LedgerError::Database)
}
