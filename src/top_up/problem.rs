//! Why a top-up was refused. Nothing was written then, unless the sentence says otherwise.

use carillon_jobs::{ShopId, TopUpId};
use chrono::{DateTime, Utc};

use super::TopUpState;

/// What was asked of an order could not be done.
#[derive(Debug, thiserror::Error)]
pub enum TopUpError {
    /// No such order.
    #[error("there is no top-up order {0}")]
    NotFound(TopUpId),
    /// No such shop.
    #[error("there is no shop {0}")]
    NoShop(ShopId),
    /// Not a package of today's price list, or a quantity nobody means; the database's sentence.
    #[error("{0}")]
    NotSold(String),
    /// A text that must say something says nothing, or too much.
    #[error("{what} is 1 to {most} characters, none of them a control character")]
    Text {
        /// Which.
        what: &'static str,
        /// The most characters.
        most: usize,
    },
    /// The order is past it, or not there yet.
    #[error("order {order} is {state} and cannot be {asked}{}", hint(*.state, asked))]
    WrongState {
        /// Which.
        order: TopUpId,
        /// Where it is.
        state: TopUpState,
        /// What was asked: `charged`, `failed`, `settled`, `refunded`.
        asked: &'static str,
    },
    /// It was charged with another payment.
    #[error("order {0} was paid with another payment: look at both, and give one back")]
    OtherPayment(TopUpId),
    /// The payment was noted for another order.
    #[error("that payment reference has paid for another order: one payment pays one order")]
    ReferenceUsed,
    /// Charged at a time that has not come.
    #[error("an order cannot have been charged later than now")]
    ChargedAhead,
    /// Charged before it was there.
    #[error("an order cannot have been charged before it was requested")]
    ChargedTooEarly,
    /// Another sum than the order's was paid.
    #[error("{paid_twd} TWD were paid and the order costs {price_twd}: settle the difference first")]
    Amount {
        /// What was paid.
        paid_twd: i64,
        /// What it costs.
        price_twd: i64,
    },
    /// Whoever takes the money refused; the order is `failed` now.
    #[error("the payment was declined: {0}")]
    Declined(String),
    /// Whoever takes the money did not say; asking again is safe.
    #[error("it is not known whether the payment went through: {0}; ask again")]
    Uncertain(String),
    /// Charged, and its day has not come.
    #[error("order {order} is credited at {credit_at} and not before")]
    NotDue {
        /// Which.
        order: TopUpId,
        /// When.
        credit_at: DateTime<Utc>,
    },
    /// More would be taken back than the order brought, or nothing.
    #[error("1 to {brought} tokens can be taken back of this order, not {asked}")]
    OutOfRange {
        /// What was asked for.
        asked: i64,
        /// What it brought.
        brought: i64,
    },
    /// The shop has spent or holds too much of them.
    #[error("{asked} tokens cannot be taken back: {left} extra tokens are left that are neither spent nor held")]
    TooMuch {
        /// What was asked for.
        asked: i64,
        /// What could be taken.
        left: i64,
    },
    /// Tokens asked back of an order that has not brought any.
    #[error("order {0} has brought no tokens yet: refund it as a whole")]
    NotCredited(TopUpId),
    /// The database answered what this program does not know: it is of a newer release.
    #[error("the database answered {0:?}, which this release does not know")]
    UnknownAnswer(String),
    /// Postgres failed or is away; the same call again is safe.
    #[error("the database could not be used: {}", crate::db::describe(.0))]
    Database(#[from] sqlx::Error),
}

fn hint(state: TopUpState, asked: &str) -> &'static str {
    match (state, asked) {
        (TopUpState::Charged | TopUpState::Settled, "failed") => ": it was paid; refund it",
        (TopUpState::Requested, "refunded") => ": it was not paid; fail it",
        (TopUpState::Requested | TopUpState::Failed, "settled" | "refunded") => ": it was not paid",
        (TopUpState::Refunded, "charged") => ": a new payment needs a new order",
        _ => "",
    }
}
