//! Tokens: what a shop has, what is set aside for its broadcasts, and every entry that ever moved either.
//!
//! The rules live in SQL functions (`ledger_hold`, `ledger_settle`, `ledger_refund`, `refill_due_shops`, `ledger_top_up`),
//! because a capture must commit with the delivery results it pays for. This module is their typed face for everything
//! that is not a delivery, plus [`audit()`], which proves the whole.
//!
//! It must never write `token_account`, `ledger_entry` or `token_hold` itself (Postgres refuses it: the functions are the only
//! door), and never compute a balance the database has not.
//!
//! Unit everywhere: whole tokens. A shop's **allowance** is set every period, its **extra** tokens were bought and never
//! expire; what is **held** is part of the balance and cannot be spent twice.

mod adjustment;
mod audit;
mod entry;
mod export;
mod period;
pub mod refill;
mod usage;

use carillon_jobs::ShopId;
use sqlx::PgExecutor;
use thiserror::Error;

pub use adjustment::{
    AdjustError, Adjustment, AdjustmentState, Decided, Decision, NewAdjustment, UnknownState, adjustments,
    decide_adjustment, request_adjustment,
};
pub use audit::{
    AuditError, CheckReport, Drift, LastAudit, Report, audit, audit_period, audit_until, is_kept, keep, last,
};
pub use entry::{Entry, EntryKind, Page, entries};
pub use export::{CSV_HEADER, ExportError, csv_line, export};
pub use period::{InvalidPeriod, Period};
pub use usage::{Usage, usage};

/// Why a ledger call did nothing.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// No such shop, or one that was never granted a token.
    #[error("shop {0} has no token account")]
    NoAccount(ShopId),
    /// The change would have spent more than there is, or more than is not held. Nothing was written.
    #[error("shop {0} does not have that many tokens")]
    Overdrawn(ShopId),
    /// An operation key must say what happened, in 1 to 200 characters.
    #[error("an operation key has 1 to 200 characters")]
    InvalidOperation,
    /// Postgres could not be asked; whether a change was written is then what the same call, repeated, finds.
    #[error("the ledger could not be reached")]
    Database(#[source] sqlx::Error),
}

/// What a shop has now, in tokens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Monthly tokens not spent yet, held ones included.
    pub allowance: i64,
    /// Bought tokens not spent yet, held ones included.
    pub extra: i64,
    /// Of `allowance`, set aside for broadcasts.
    pub held_allowance: i64,
    /// Of `extra`, set aside for broadcasts.
    pub held_extra: i64,
    /// The period `allowance` belongs to; none before the first refill.
    pub period: Option<Period>,
}

impl Balance {
    /// What a new broadcast may cost, in tokens; never negative.
    #[must_use]
    pub fn available(&self) -> i64 {
        self.allowance - self.held_allowance + self.extra - self.held_extra
    }

    /// Tokens set aside in both buckets.
    #[must_use]
    pub fn held(&self) -> i64 {
        self.held_allowance + self.held_extra
    }
}

/// A shop's balance. `NoAccount` when it was never granted a token.
pub async fn balance(db: impl PgExecutor<'_>, shop: ShopId) -> Result<Balance, LedgerError> {
    let row: Option<(i64, i64, i64, i64, String)> = sqlx::query_as(
        "select allowance, extra, held_allowance, held_extra, allowance_period from token_account where shop_id = $1",
    )
    .bind(shop.0)
    .fetch_optional(db)
    .await
    .map_err(LedgerError::Database)?;
    let (allowance, extra, held_allowance, held_extra, period) = row.ok_or(LedgerError::NoAccount(shop))?;
    Ok(Balance {
        allowance,
        extra,
        held_allowance,
        held_extra,
        period: period.parse().ok(),
    })
}

/// By hand, whatever calendar and plan say: sets the allowance to `allowance` tokens for a period; what is neither spent nor held of the one before expires.
/// Once per shop and period, and never for a period before the current one: false when there was nothing to do.
pub async fn refill(
    db: impl PgExecutor<'_>,
    shop: ShopId,
    period: Period,
    allowance: u32,
) -> Result<bool, LedgerError> {
    sqlx::query_scalar("select ledger_refill($1, $2, $3)")
        .bind(shop.0)
        .bind(period.to_string())
        .bind(i64::from(allowance))
        .fetch_one(db)
        .await
        .map_err(|error| refused(error, shop))
}

/// Adds bought tokens. `operation` names the purchase: the same one again adds nothing and is false.
pub async fn top_up(db: impl PgExecutor<'_>, shop: ShopId, tokens: u32, operation: &str) -> Result<bool, LedgerError> {
    if operation.is_empty() || operation.len() > 200 {
        return Err(LedgerError::InvalidOperation);
    }
    sqlx::query_scalar("select ledger_top_up($1, $2, $3)")
        .bind(shop.0)
        .bind(i64::from(tokens))
        .bind(operation)
        .fetch_one(db)
        .await
        .map_err(|error| refused(error, shop))
}

/// What the database's refusal means, by the name of the rule that refused.
fn refused(error: sqlx::Error, shop: ShopId) -> LedgerError {
    match error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::constraint)
    {
        Some("allowance_not_overdrawn" | "extra_not_overdrawn") => LedgerError::Overdrawn(shop),
        Some("token_account_shop_id_fkey") => LedgerError::NoAccount(shop),
        _ => LedgerError::Database(error),
    }
}
