//! The contract between whoever rings for work and the workers.
//!
//! One file per kind of job (its payload and its policy), one enum as the registry of kinds, one envelope around them.
//! Other languages read `schemas/` and `examples/`, which a test keeps equal to these types.
//!
//! This crate must never know a runtime, a database or Redis: a frontend written in Rust depends on it alone.
//!
//! To add a kind: write its file, add it to [`Kind`] and [`Job`], and follow the compiler. The test tells when its schema
//! and examples are missing.

mod audit;
mod broadcast_send;
mod envelope;
mod error;
mod ids;
mod kind;
mod limits;
mod media_fetch;
mod monthly_token_refill;
mod object;
mod top_up_settlement;
mod traceparent;
mod webhook_ingest;
mod wire;

pub use audit::{Audit, AuditPeriod, InvalidAuditPeriod};
pub use broadcast_send::BroadcastSend;
pub use envelope::Envelope;
pub use error::ContractError;
pub use ids::{AddressId, BroadcastId, CustomerId, SenderId, ShopId, TopUpId, WebhookId};
pub use kind::{Job, Kind, Policy};
pub use limits::{MAX_ATTEMPTS, MAX_DEPTH, MAX_ID_CHARS, MAX_RUN_AHEAD_DAYS, MAX_TEXT_BYTES, MAX_UNIQUE_CHARS};
pub use media_fetch::MediaFetch;
pub use monthly_token_refill::{MonthlyTokenRefill, NotAPeriod, PeriodName};
pub use top_up_settlement::TopUpSettlement;
pub use traceparent::{NoTraceParent, TraceParent};
pub use webhook_ingest::WebhookIngest;
