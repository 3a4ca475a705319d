//! Extra tokens that a shop buys: orders, their payment, and the credit of their tokens.
//!
//! Why it exists: paying and being credited are days apart, payments are reported twice, late and out of order, and still every
//! order that was paid is credited exactly once and no other ever is.
//!
//! Table of contents:
//! - `state`: the states of an order and the moves between them (pure)
//! - `calendar`: when a paid order is credited (pure); `config`: the calendar's settings
//! - `order`: orders and their history, read
//! - `moves`: request (at the prices published to Postgres), charge, fail, settle, refund
//! - `gateway`: whoever takes the money; the first one is an operator
//! - `job`: the `top-up-settlement` job, which credits what is due
//! - `problem`: why something was refused
//!
//! An order, its history and its credit change in one transaction, in SQL functions (migration `top_up`).
//! It must never credit an order that is not paid, and never write the ledger but through those functions.

mod calendar;
mod config;
mod gateway;
mod job;
mod moves;
mod order;
mod problem;
mod state;

pub use calendar::credit_at;
pub use config::TopUpConfig;
pub use gateway::{Operator, Payment, PaymentError, PaymentGateway};
pub use job::TopUpWork;
pub use moves::{Moved, NewTopUp, charge, fail, refund, request, settle};
pub use order::{HistoryEntry, Order, OrderFilter, history, list, order};
pub use problem::TopUpError;
pub use state::{NoTopUpState, TopUpState};
