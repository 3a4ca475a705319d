//! Reading the ledger, newest entry first.
//!
//! Entries are never changed, so a page read twice is the same page. Nothing here writes.

use carillon_jobs::{BroadcastId, ShopId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use super::{LedgerError, Period};
use crate::{channel::Channel, db::PgPool};

/// What an entry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A period's allowance was given.
    Grant,
    /// Allowance of a period that has ended was taken away.
    Expire,
    /// Tokens were set aside for a broadcast.
    Hold,
    /// Held tokens were spent.
    Capture,
    /// Held tokens were given back.
    Release,
    /// Spent tokens were given back.
    Refund,
    /// Bought tokens were added.
    TopUp,
    /// Bought tokens were taken back with their payment.
    TopUpRefund,
    /// A person corrected the balance.
    Adjust,
}

impl EntryKind {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Expire => "expire",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Refund => "refund",
            Self::TopUp => "top_up",
            Self::TopUpRefund => "top_up_refund",
            Self::Adjust => "adjust",
        }
    }
}

impl TryFrom<String> for EntryKind {
    type Error = UnknownKind;

    fn try_from(kind: String) -> Result<Self, UnknownKind> {
        Ok(match kind.as_str() {
            "grant" => Self::Grant,
            "expire" => Self::Expire,
            "hold" => Self::Hold,
            "capture" => Self::Capture,
            "release" => Self::Release,
            "refund" => Self::Refund,
            "top_up" => Self::TopUp,
            "top_up_refund" => Self::TopUpRefund,
            "adjust" => Self::Adjust,
            _ => return Err(UnknownKind(kind)),
        })
    }
}

/// A kind written by a newer version than this one.
#[derive(Debug, thiserror::Error)]
#[error("unknown kind of ledger entry: {0}")]
pub struct UnknownKind(String);

/// One entry. All numbers are tokens; the first four say what moved, the `_after` four what the account was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Grows with time within a shop; the cursor of a page.
    pub id: i64,
    /// When the transaction that wrote it began.
    pub at: DateTime<Utc>,
    /// What it did.
    pub kind: EntryKind,
    /// What caused it; unique in a shop.
    pub operation: String,
    /// The broadcast it belongs to, if any.
    pub broadcast: Option<BroadcastId>,
    /// The channel whose messages it paid for or gave back, if any.
    pub channel: Option<Channel>,
    /// Change of the allowance.
    pub allowance: i64,
    /// Change of the extra tokens.
    pub extra: i64,
    /// Change of the held part of the allowance.
    pub held_allowance: i64,
    /// Change of the held part of the extra tokens.
    pub held_extra: i64,
    /// The allowance after it.
    pub allowance_after: i64,
    /// The extra tokens after it.
    pub extra_after: i64,
    /// The held part of the allowance after it.
    pub held_allowance_after: i64,
    /// The held part of the extra tokens after it.
    pub held_extra_after: i64,
}

impl FromRow<'_, PgRow> for Entry {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let kind: String = row.try_get("kind")?;
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            kind: EntryKind::try_from(kind).map_err(|unknown| sqlx::Error::Decode(unknown.into()))?,
            operation: row.try_get("operation")?,
            broadcast: row.try_get::<Option<Uuid>, _>("broadcast_id")?.map(BroadcastId),
            channel: row.try_get("channel")?,
            allowance: row.try_get("allowance")?,
            extra: row.try_get("extra")?,
            held_allowance: row.try_get("held_allowance")?,
            held_extra: row.try_get("held_extra")?,
            allowance_after: row.try_get("allowance_after")?,
            extra_after: row.try_get("extra_after")?,
            held_allowance_after: row.try_get("held_allowance_after")?,
            held_extra_after: row.try_get("held_extra_after")?,
        })
    }
}

/// A page of at most `limit` entries (1 to 1,000; more or less is brought into that range).
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Entries older than this one; none for the newest.
    pub before: Option<i64>,
    /// How many.
    pub limit: u16,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            before: None,
            limit: 100,
        }
    }
}

/// A shop's entries, newest first; empty for a shop without any. The last one's `id` is the next page's `before`.
pub async fn entries(db: impl PgExecutor<'_>, shop: ShopId, page: Page) -> Result<Vec<Entry>, LedgerError> {
    sqlx::query_as(
        "select id, at, kind, operation, broadcast_id, channel, allowance, extra, held_allowance, held_extra,
                allowance_after, extra_after, held_allowance_after, held_extra_after
           from ledger_entry
          where shop_id = $1 and id < coalesce($2, 9223372036854775807)
          order by id desc limit $3",
    )
    .bind(shop.0)
    .bind(page.before)
    .bind(i64::from(page.limit.clamp(1, 1000)))
    .fetch_all(db)
    .await
    .map_err(LedgerError::Database)
}

/// The next entries after `after`, oldest first, at most `limit`: of one calendar month by the shop's clock, or of all times.
pub(super) async fn after(
    db: &PgPool,
    shop: ShopId,
    month: Option<Period>,
    after: i64,
    limit: i64,
) -> Result<Vec<Entry>, LedgerError> {
    sqlx::query_as(
        "select e.id, e.at, e.kind, e.operation, e.broadcast_id, e.channel, e.allowance, e.extra, e.held_allowance, e.held_extra,
                e.allowance_after, e.extra_after, e.held_allowance_after, e.held_extra_after
           from ledger_entry e join shop s on s.id = e.shop_id
          where e.shop_id = $1 and e.id > $2
            and ($3::text is null
                 or (e.at >= ($3 || '-01')::timestamp at time zone s.time_zone
                     and e.at < (($3 || '-01')::timestamp + interval '1 month') at time zone s.time_zone))
          order by e.id limit $4",
    )
    .bind(shop.0)
    .bind(after)
    .bind(month.map(|month| month.to_string()))
    .bind(limit)
    .fetch_all(db)
    .await
    .map_err(LedgerError::Database)
}
