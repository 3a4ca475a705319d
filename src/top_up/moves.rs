//! Everything that moves an order: request, charge, fail, settle, refund.
//!
//! Each is one transaction around one SQL function, which locks the order, looks, and either writes everything or nothing. What an
//! operator did is in the operators' log by the same transaction.
//!
//! It must never decide by what was read before the lock: a report that comes five times at once is decided once.

use carillon_jobs::{ShopId, TopUpId};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Order, Payment, PaymentError, PaymentGateway, TopUpConfig, TopUpError, TopUpState, calendar::credit_at, order,
};
use crate::db::{self, PgConnection, PgPool};

const NAME_CHARS: usize = 60;
const WHY_CHARS: usize = 500;
const REFERENCE_CHARS: usize = 100;

/// What came of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// False: it was made before, and nothing was written now.
    pub changed: bool,
    /// The order, as it is now.
    pub order: Order,
}

/// An order to place.
#[derive(Debug, Clone)]
pub struct NewTopUp {
    /// For whom.
    pub shop: ShopId,
    /// Which package of today's price list, in blocks.
    pub package_blocks: i32,
    /// How many of it.
    pub quantity: i32,
    /// The operator who places it.
    pub by: String,
}

/// Places an order at the price of now, as a frontend does with `request_top_up`.
pub async fn request(pool: &PgPool, new: &NewTopUp) -> Result<Order, TopUpError> {
    let by = said("a name", &new.by, NAME_CHARS)?;
    let mut tx = db::begin(pool).await?;
    let id: Uuid = sqlx::query_scalar("select request_top_up($1, $2, $3, $4)")
        .bind(new.shop.0)
        .bind(new.package_blocks)
        .bind(new.quantity)
        .bind(&by)
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| match (constraint(&error), error.as_database_error()) {
            (Some("top_up_order_shop_id_fkey"), _) => TopUpError::NoShop(new.shop),
            (Some("top_up_package_is_listed" | "top_up_quantity_in_range"), Some(refusal)) => {
                TopUpError::NotSold(refusal.message().to_owned())
            }
            _ => error.into(),
        })?;
    let placed = order::order(&mut *tx, TopUpId(id)).await?;
    let what = format!(
        "{} of {} blocks, {} TWD",
        placed.quantity, placed.package_blocks, placed.price_twd
    );
    log(&mut tx, &by, "top_up.request", placed.id, &what).await?;
    tx.commit().await?;
    Ok(placed)
}

/// Asks the gateway for the order's payment and notes what it says. The same payment again, however often and whatever became
/// of the order since, changes nothing; a payment that comes after a failure counts.
pub async fn charge(
    pool: &PgPool,
    rules: &TopUpConfig,
    gateway: &impl PaymentGateway,
    id: TopUpId,
) -> Result<Moved, TopUpError> {
    let asked = order::order(pool, id).await?;
    match gateway.charge(&asked).await {
        Ok(payment) if payment.paid_twd != asked.price_twd => Err(TopUpError::Amount {
            paid_twd: payment.paid_twd,
            price_twd: asked.price_twd,
        }),
        Ok(payment) => note_payment(pool, rules, gateway, &asked, &payment).await,
        Err(PaymentError::Uncertain(why)) => Err(TopUpError::Uncertain(why)),
        Err(PaymentError::Declined(why)) => {
            // A later try may have been reported first: then this one says nothing about the order.
            let why_it_failed: String = format!("declined: {why}").chars().take(WHY_CHARS).collect();
            move_to_failed(pool, id, &why_it_failed, gateway.name(), None).await?;
            Err(TopUpError::Declined(why))
        }
    }
}

async fn note_payment(
    pool: &PgPool,
    rules: &TopUpConfig,
    gateway: &impl PaymentGateway,
    asked: &Order,
    payment: &Payment,
) -> Result<Moved, TopUpError> {
    let id = asked.id;
    let by = said("a name", gateway.operator().unwrap_or(gateway.name()), NAME_CHARS)?;
    let reference = said("a payment reference", &payment.reference, REFERENCE_CHARS)?;
    let mut tx = db::begin(pool).await?;
    let charged_at = match payment.charged_at {
        Some(at) => at,
        None => now(&mut tx).await?,
    };
    let blocks = u32::try_from(asked.blocks).unwrap_or(0);
    let answer: String = sqlx::query_scalar("select charge_top_up($1, $2, $3, $4, $5, $6)")
        .bind(id.0)
        .bind(gateway.name())
        .bind(&reference)
        .bind(charged_at)
        .bind(credit_at(charged_at, blocks, rules))
        .bind(&by)
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| match constraint(&error) {
            // Two orders at the same moment: the second one met the index instead of the look.
            Some("top_up_order_payment") => TopUpError::ReferenceUsed,
            _ => error.into(),
        })?;
    let order = order::order(&mut *tx, id).await?;
    let changed = match answer.as_str() {
        "charged" => true,
        "repeated" => false,
        // Said with the state where that is what a person has to know first.
        "other_payment" if order.state == TopUpState::Refunded => return Err(wrong(&order, "charged")),
        "other_payment" => return Err(TopUpError::OtherPayment(id)),
        "reference_used" => return Err(TopUpError::ReferenceUsed),
        "ahead" => return Err(TopUpError::ChargedAhead),
        "too_early" => return Err(TopUpError::ChargedTooEarly),
        _ => return Err(TopUpError::UnknownAnswer(answer)),
    };
    if let Some(operator) = gateway.operator().filter(|_| changed) {
        let why = format!("payment reference {reference}");
        log(&mut tx, operator, "top_up.mark_charged", id, &why).await?;
    }
    tx.commit().await?;
    Ok(Moved { changed, order })
}

/// Ends an order that was not paid, by an operator's word.
pub async fn fail(pool: &PgPool, id: TopUpId, why: &str, by: &str) -> Result<Moved, TopUpError> {
    let by = said("a name", by, NAME_CHARS)?;
    let why = said("a reason", why, WHY_CHARS)?;
    move_to_failed(pool, id, &why, &by, Some(&by)).await
}

async fn move_to_failed(
    pool: &PgPool,
    id: TopUpId,
    why: &str,
    by: &str,
    operator: Option<&str>,
) -> Result<Moved, TopUpError> {
    let mut tx = db::begin(pool).await?;
    let answer: String = sqlx::query_scalar("select fail_top_up($1, $2, $3)")
        .bind(id.0)
        .bind(why)
        .bind(by)
        .fetch_one(&mut *tx)
        .await?;
    let order = order::order(&mut *tx, id).await?;
    let changed = match answer.as_str() {
        "failed" => true,
        "repeated" => false,
        _ => return Err(wrong(&order, "failed")),
    };
    if let Some(operator) = operator.filter(|_| changed) {
        log(&mut tx, operator, "top_up.fail", id, why).await?;
    }
    tx.commit().await?;
    Ok(Moved { changed, order })
}

/// Credits an order that is paid and due: its tokens and its state, in one transaction, once.
pub async fn settle(pool: &PgPool, id: TopUpId) -> Result<Moved, TopUpError> {
    // One statement, and so one transaction: whoever dies here has done all of it or nothing.
    let answer: String = sqlx::query_scalar("select settle_top_up($1)")
        .bind(id.0)
        .fetch_one(pool)
        .await?;
    let order = order::order(pool, id).await?;
    match (answer.as_str(), order.credit_at) {
        ("settled", _) => Ok(Moved { changed: true, order }),
        ("repeated", _) => Ok(Moved { changed: false, order }),
        ("early", Some(credit_at)) => Err(TopUpError::NotDue { order: id, credit_at }),
        _ => Err(wrong(&order, "settled")),
    }
}

/// Gives an order back: one that is not credited yet as a whole; of one that is, `tokens` of what it brought (none: all), at most
/// what the shop has left of its extra tokens and has not set aside. Once for an order, whatever was taken.
pub async fn refund(pool: &PgPool, id: TopUpId, tokens: Option<i64>, why: &str, by: &str) -> Result<Moved, TopUpError> {
    let by = said("a name", by, NAME_CHARS)?;
    let why = said("a reason", why, WHY_CHARS)?;
    let mut tx = db::begin(pool).await?;
    let (answer, left): (String, Option<i64>) =
        sqlx::query_as("select outcome, available from refund_top_up($1, $2, $3, $4)")
            .bind(id.0)
            .bind(tokens)
            .bind(&why)
            .bind(&by)
            .fetch_one(&mut *tx)
            .await?;
    let order = order::order(&mut *tx, id).await?;
    let asked = tokens.unwrap_or(order.tokens);
    let changed = match answer.as_str() {
        "refunded" => true,
        "repeated" => false,
        "unpaid" => return Err(wrong(&order, "refunded")),
        "not_credited" => return Err(TopUpError::NotCredited(id)),
        "out_of_range" => {
            return Err(TopUpError::OutOfRange {
                asked,
                brought: order.tokens,
            });
        }
        "too_much" => {
            return Err(TopUpError::TooMuch {
                asked,
                left: left.unwrap_or(0),
            });
        }
        _ => return Err(TopUpError::UnknownAnswer(answer)),
    };
    if changed {
        log(&mut tx, &by, "top_up.refund", id, &why).await?;
    }
    tx.commit().await?;
    Ok(Moved { changed, order })
}

fn wrong(order: &Order, asked: &'static str) -> TopUpError {
    TopUpError::WrongState {
        order: order.id,
        state: order.state,
        asked,
    }
}

/// A text from outside, without blanks around it.
fn said(what: &'static str, text: &str, most: usize) -> Result<String, TopUpError> {
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 || length > most || text.chars().any(char::is_control) {
        return Err(TopUpError::Text { what, most });
    }
    Ok(text.to_owned())
}

/// The transaction's time, by Postgres' clock.
async fn now(tx: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("select now()").fetch_one(tx).await
}

async fn log(tx: &mut PgConnection, by: &str, action: &str, order: TopUpId, why: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select log_operator_action($1, $2, $3, $4)")
        .bind(by)
        .bind(action)
        .bind(format!("top_up_order {order}"))
        .bind(why)
        .execute(tx)
        .await?;
    Ok(())
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::constraint)
}
