//! Orders and their history, read. Nothing here writes.

use carillon_jobs::{ShopId, TopUpId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::{TopUpError, TopUpState};

/// One order. Prices in TWD, for what stands beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Its name; its credit in the ledger is `top_up:ID`.
    pub id: TopUpId,
    /// Who ordered.
    pub shop_id: ShopId,
    /// Blocks in one package.
    pub package_blocks: i32,
    /// Packages.
    pub quantity: i32,
    /// Blocks in all.
    pub blocks: i32,
    /// Tokens in all.
    pub tokens: i64,
    /// Of one package.
    pub package_price_twd: i64,
    /// Of all.
    pub price_twd: i64,
    /// The version of the price list that was in force when it was requested.
    pub price_version: String,
    /// Where it is.
    pub state: TopUpState,
    /// When it was placed.
    pub requested_at: DateTime<Utc>,
    /// Who took the payment; none while unpaid, as the three below.
    pub gateway: Option<String>,
    /// What they call it.
    pub payment_reference: Option<String>,
    /// When they took it.
    pub charged_at: Option<DateTime<Utc>>,
    /// When its tokens are due.
    pub credit_at: Option<DateTime<Utc>>,
    /// When they were credited.
    pub settled_at: Option<DateTime<Utc>>,
    /// Tokens taken back; only of a refunded one.
    pub refunded_tokens: Option<i64>,
    /// Who made the last move.
    pub moved_by: String,
    /// And why.
    pub moved_why: String,
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    shop_id: Uuid,
    package_blocks: i32,
    quantity: i32,
    blocks: i32,
    tokens: i64,
    package_price_twd: i64,
    price_twd: i64,
    price_version: String,
    state: TopUpState,
    requested_at: DateTime<Utc>,
    gateway: Option<String>,
    payment_reference: Option<String>,
    charged_at: Option<DateTime<Utc>>,
    credit_at: Option<DateTime<Utc>>,
    settled_at: Option<DateTime<Utc>>,
    refunded_tokens: Option<i64>,
    moved_by: String,
    moved_why: String,
}

impl From<Row> for Order {
    fn from(row: Row) -> Self {
        Self {
            id: TopUpId(row.id),
            shop_id: ShopId(row.shop_id),
            package_blocks: row.package_blocks,
            quantity: row.quantity,
            blocks: row.blocks,
            tokens: row.tokens,
            package_price_twd: row.package_price_twd,
            price_twd: row.price_twd,
            price_version: row.price_version,
            state: row.state,
            requested_at: row.requested_at,
            gateway: row.gateway,
            payment_reference: row.payment_reference,
            charged_at: row.charged_at,
            credit_at: row.credit_at,
            settled_at: row.settled_at,
            refunded_tokens: row.refunded_tokens,
            moved_by: row.moved_by,
            moved_why: row.moved_why,
        }
    }
}

/// One move of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct HistoryEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// Where to.
    pub state: TopUpState,
    /// Who: a person, a gateway or `carillon`.
    pub by: String,
    /// Why.
    pub why: String,
}

/// Which orders; every one given must fit.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrderFilter {
    /// Of this shop.
    pub shop: Option<ShopId>,
    /// In this state.
    pub state: Option<TopUpState>,
    /// At most so many, 1 to 1,000; more or less is brought into that range.
    pub limit: u16,
}

/// One order.
pub async fn order(db: impl PgExecutor<'_>, id: TopUpId) -> Result<Order, TopUpError> {
    let row: Option<Row> = sqlx::query_as("select * from top_up_order where id = $1")
        .bind(id.0)
        .fetch_optional(db)
        .await?;
    row.map(Order::from).ok_or(TopUpError::NotFound(id))
}

/// Orders, the newest first.
pub async fn list(db: impl PgExecutor<'_>, filter: OrderFilter) -> Result<Vec<Order>, TopUpError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select * from top_up_order
          where ($1::uuid is null or shop_id = $1) and ($2::text is null or state = $2)
          order by requested_at desc, id desc limit $3",
    )
    .bind(filter.shop.map(|shop| shop.0))
    .bind(filter.state.map(TopUpState::as_str))
    .bind(i64::from(filter.limit.clamp(1, 1000)))
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Order::from).collect())
}

/// Every move of an order, the first first; empty for one that does not exist.
pub async fn history(db: impl PgExecutor<'_>, id: TopUpId) -> Result<Vec<HistoryEntry>, TopUpError> {
    Ok(
        sqlx::query_as("select at, state, by, why from top_up_history where order_id = $1 order by id")
            .bind(id.0)
            .fetch_all(db)
            .await?,
    )
}
