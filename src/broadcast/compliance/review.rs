//! Broadcasts whose text message waits for a person, and what the person decides.
//!
//! Every decision stands in the operators' log. It must never clear a text that is not the one that was looked at.

use carillon_jobs::BroadcastId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::{Json, Uuid};

use super::{letter, objection};
use crate::{
    broadcast::{BroadcastState, config::BroadcastConfig, stored},
    db::{self, PgPool},
};

/// A broadcast that waits for a decision, or will when its time comes.
#[derive(Debug, Clone, Serialize)]
pub struct Review {
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// Its shop.
    pub shop: Uuid,
    /// The shop's name.
    pub shop_name: String,
    /// `compliance_review`, or `scheduled` when its time has not come.
    pub state: BroadcastState,
    /// When it is to leave, if it is scheduled.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Since when it waits.
    pub asked_at: DateTime<Utc>,
    /// What was found, such as `link shop.example/sale`.
    pub findings: Vec<String>,
    /// The text message as it is when nothing is known of a customer.
    pub text: String,
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Nothing of it waits.
    #[error("not_in_review: broadcast {0} waits for no decision")]
    NotWaiting(BroadcastId),
    /// What a person cannot let pass.
    #[error("identity_missing: {0}; record it first: carillon sender sms identity")]
    Identity(String),
    /// The name of who decides, or why, is missing or too long.
    #[error("text_invalid: say who decides (at most 60 characters) and why (at most 500)")]
    Text,
    /// Postgres failed or is away.
    #[error("the database could not be used: {0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for ReviewError {
    fn from(error: sqlx::Error) -> Self {
        if super::registry::is_text_refused(&error) {
            return Self::Text;
        }
        Self::Database(error)
    }
}

/// Every broadcast that waits for a decision, the longest first.
///
/// # Errors
/// Only the database's.
pub async fn reviews(pool: &PgPool, config: &BroadcastConfig) -> Result<Vec<Review>, sqlx::Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        id: Uuid,
        shop_id: Uuid,
        shop_name: String,
        state: BroadcastState,
        scheduled_at: Option<DateTime<Utc>>,
        asked_at: DateTime<Utc>,
        findings: Json<Vec<String>>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select b.id, b.shop_id, s.name as shop_name, b.state, b.scheduled_at, r.asked_at, r.findings
           from compliance_review r join broadcast b on b.id = r.broadcast_id join shop s on s.id = b.shop_id
          where r.decision is null and b.state in ('compliance_review', 'scheduled') order by r.asked_at, b.id",
    )
    .fetch_all(pool)
    .await?;
    let mut conn = db::begin(pool).await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let broadcast = BroadcastId(row.id);
        let stored = stored::read(&mut conn, broadcast).await?;
        let text = stored
            .and_then(|stored| letter(config, &stored))
            .map(|letter| letter.text);
        all.push(Review {
            broadcast,
            shop: row.shop_id,
            shop_name: row.shop_name,
            state: row.state,
            scheduled_at: row.scheduled_at,
            asked_at: row.asked_at,
            findings: row.findings.0,
            text: text.unwrap_or_default(),
        });
    }
    Ok(all)
}

/// Lets a broadcast's text message pass as it is now; returns the state it is in then. The caller rings.
///
/// # Errors
/// Nothing waits, the sender's identity is not recorded, or who and why cannot be logged.
pub async fn clear(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    by: &str,
    reason: &str,
) -> Result<BroadcastState, ReviewError> {
    let mut tx = db::begin(pool).await?;
    sqlx::query("select from broadcast where id = $1 for update")
        .bind(broadcast.0)
        .execute(&mut *tx)
        .await?;
    if let Some(stored) = stored::read(&mut tx, broadcast).await?
        && let Some(objection) = objection(&mut tx, config, &stored).await?
    {
        if !objection.may_be_cleared {
            return Err(ReviewError::Identity(objection.findings.join(", ")));
        }
        // The text may have been changed since it was asked about; what is cleared is what stands there now.
        sqlx::query(
            "update compliance_review set digest = $2, findings = $3 where broadcast_id = $1 and decision is null",
        )
        .bind(broadcast.0)
        .bind(&objection.digest)
        .bind(Json(&objection.findings))
        .execute(&mut *tx)
        .await?;
    }
    let state = decide(&mut tx, broadcast, "cleared", by, reason).await?;
    tx.commit().await?;
    Ok(state)
}

/// Ends a broadcast whose text message may not leave; returns `failed`, or `cancelled` for one that was scheduled.
///
/// # Errors
/// Nothing waits, or who and why cannot be logged.
pub async fn reject(
    pool: &PgPool,
    broadcast: BroadcastId,
    by: &str,
    reason: &str,
) -> Result<BroadcastState, ReviewError> {
    let mut tx = db::begin(pool).await?;
    let state = decide(&mut tx, broadcast, "rejected", by, reason).await?;
    tx.commit().await?;
    Ok(state)
}

async fn decide(
    tx: &mut db::PgConnection,
    broadcast: BroadcastId,
    decision: &str,
    by: &str,
    reason: &str,
) -> Result<BroadcastState, ReviewError> {
    let state: String = sqlx::query_scalar("select decide_review($1, $2, $3, $4)")
        .bind(broadcast.0)
        .bind(decision)
        .bind(by.trim())
        .bind(reason.trim())
        .fetch_one(tx)
        .await?;
    let state = BroadcastState::ALL.into_iter().find(|known| known.as_str() == state);
    state.ok_or(ReviewError::NotWaiting(broadcast))
}
