//! Corrections of a balance by hand: one person asks and says why, another one agrees.
//!
//! The rules live in Postgres (`token_adjustment`): to apply a request *is* to post its entry, and who asked cannot agree.
//! This is their typed face. It must never post an entry itself.

use carillon_jobs::ShopId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgExecutor, Row, postgres::PgRow};
use thiserror::Error;

/// Why an adjustment was not written.
#[derive(Debug, Error)]
pub enum AdjustError {
    /// No such shop, or one that was never granted a token.
    #[error("shop {0} has no token account")]
    NoAccount(ShopId),
    /// There is no request with this number.
    #[error("there is no adjustment {0}")]
    NoRequest(i64),
    /// It would take more than there is, or more than is not held.
    #[error("the shop does not have that many tokens: what it holds for broadcasts cannot be taken")]
    Overdrawn,
    /// Who asked for it may take it back, but not approve it.
    #[error("another person than the one who asked must approve it")]
    SamePerson,
    /// Zero in both buckets.
    #[error("an adjustment moves at least one token")]
    Nothing,
    /// A reason has 1 to 500 characters, a name 1 to 60.
    #[error("a reason has 1 to 500 characters, a name 1 to 60")]
    Text,
    /// Postgres could not be asked.
    #[error("the ledger could not be reached")]
    Database(#[source] sqlx::Error),
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentState {
    /// Waits for a second person.
    Requested,
    /// Posted.
    Applied,
    /// Refused, or taken back.
    Rejected,
}

impl AdjustmentState {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Applied => "applied",
            Self::Rejected => "rejected",
        }
    }
}

impl TryFrom<String> for AdjustmentState {
    type Error = UnknownState;

    fn try_from(state: String) -> Result<Self, UnknownState> {
        [Self::Requested, Self::Applied, Self::Rejected]
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or(UnknownState(state))
    }
}

/// A state written by a newer version than this one.
#[derive(Debug, Error)]
#[error("unknown state of an adjustment: {0}")]
pub struct UnknownState(String);

/// A correction, asked for.
#[derive(Debug, Clone)]
pub struct NewAdjustment {
    /// Whose balance.
    pub shop: ShopId,
    /// Tokens to add to the allowance; less than zero: to take away.
    pub allowance: i64,
    /// Tokens to add to the extra tokens; less than zero: to take away.
    pub extra: i64,
    /// Why.
    pub reason: String,
    /// Who asks.
    pub by: String,
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adjustment {
    /// Its number, which whoever approves it names.
    pub id: i64,
    /// Whose balance.
    pub shop_id: ShopId,
    /// Tokens added to the allowance.
    pub allowance: i64,
    /// Tokens added to the extra tokens.
    pub extra: i64,
    /// Why it was asked for.
    pub reason: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// Where it stands.
    pub state: AdjustmentState,
    /// Who decided it.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<DateTime<Utc>>,
    /// Why it was refused.
    pub decided_why: Option<String>,
}

impl FromRow<'_, PgRow> for Adjustment {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let state: String = row.try_get("state")?;
        Ok(Self {
            id: row.try_get("id")?,
            shop_id: ShopId(row.try_get("shop_id")?),
            allowance: row.try_get("allowance")?,
            extra: row.try_get("extra")?,
            reason: row.try_get("reason")?,
            requested_by: row.try_get("requested_by")?,
            requested_at: row.try_get("requested_at")?,
            state: AdjustmentState::try_from(state).map_err(|unknown| sqlx::Error::Decode(unknown.into()))?,
            decided_by: row.try_get("decided_by")?,
            decided_at: row.try_get("decided_at")?,
            decided_why: row.try_get("decided_why")?,
        })
    }
}

/// What a second person says.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Post it.
    Approve,
    /// Do not, for this reason.
    Reject(String),
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// It is as was said now.
    Done,
    /// It was decided the same way before.
    Repeated,
    /// It was decided the other way before, and stays so.
    Otherwise(AdjustmentState),
}

/// Writes a request and returns its number. Nothing moves until somebody else approves it.
pub async fn request_adjustment(db: impl PgExecutor<'_>, new: &NewAdjustment) -> Result<i64, AdjustError> {
    sqlx::query_scalar("select request_adjustment($1, $2, $3, $4, $5)")
        .bind(new.shop.0)
        .bind(new.allowance)
        .bind(new.extra)
        .bind(&new.reason)
        .bind(&new.by)
        .fetch_one(db)
        .await
        .map_err(|error| refused(error, new.shop))
}

/// Approves or rejects a request; approving posts its entry in the same transaction. Said twice it happens once.
pub async fn decide_adjustment(
    db: impl PgExecutor<'_>,
    id: i64,
    decision: Decision,
    by: &str,
) -> Result<Decided, AdjustError> {
    let (state, why) = match decision {
        Decision::Approve => (AdjustmentState::Applied, None),
        Decision::Reject(why) => (AdjustmentState::Rejected, Some(why)),
    };
    let outcome: Option<String> = sqlx::query_scalar("select decide_adjustment($1, $2, $3, $4)")
        .bind(id)
        .bind(state.as_str())
        .bind(by)
        .bind(why)
        .fetch_one(db)
        .await
        .map_err(|error| refused(error, ShopId(uuid::Uuid::nil())))?;
    match outcome.as_deref() {
        None => Err(AdjustError::NoRequest(id)),
        Some("done") => Ok(Decided::Done),
        Some("repeated") => Ok(Decided::Repeated),
        Some(other) => AdjustmentState::try_from(other.to_owned())
            .map(Decided::Otherwise)
            .map_err(|unknown| AdjustError::Database(sqlx::Error::Decode(unknown.into()))),
    }
}

/// The newest requests, at most 200: of one shop or all, and only those that wait if `waiting`.
pub async fn adjustments(
    db: impl PgExecutor<'_>,
    shop: Option<ShopId>,
    waiting: bool,
) -> Result<Vec<Adjustment>, AdjustError> {
    sqlx::query_as(
        "select id, shop_id, allowance, extra, reason, requested_by, requested_at, state, decided_by, decided_at, decided_why
           from token_adjustment
          where ($1::uuid is null or shop_id = $1) and (not $2 or state = 'requested')
          order by id desc limit 200",
    )
    .bind(shop.map(|shop| shop.0))
    .bind(waiting)
    .fetch_all(db)
    .await
    .map_err(AdjustError::Database)
}

/// What the database's refusal means, by the name of the rule that refused.
fn refused(error: sqlx::Error, shop: ShopId) -> AdjustError {
    let rule = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::constraint);
    match rule {
        Some("token_adjustment_shop_id_fkey") => AdjustError::NoAccount(shop),
        Some("allowance_not_overdrawn" | "extra_not_overdrawn") => AdjustError::Overdrawn,
        Some("adjustment_needs_a_second_person") => AdjustError::SamePerson,
        Some("adjustment_moves_something") => AdjustError::Nothing,
        Some(
            "adjustment_has_a_reason"
            | "adjustment_is_asked_by_somebody"
            | "adjustment_decider_has_a_name"
            | "adjustment_refusal_has_a_reason"
            | "operator_action_has_a_reason"
            | "operator_action_names_its_actor",
        ) => AdjustError::Text,
        _ => AdjustError::Database(error),
    }
}
