//! Delivery: claim → render → send → settle, and recovery of what a crash left.
//!
//! - `state`: the states of a delivery and the moves between them (pure)
//! - `verdict`: what becomes of a window of sends (pure)
//! - `lane`: a job's turn on one lane; `turn`: what the tasks of a turn share
//! - `share`: how much of a worker a turn may use (pure)
//! - `quiet`: when nobody may be disturbed (pure)
//! - `briefing`: what must be known to send for a lane
//! - `bisect`: which members of a refused multicast go together next (pure)
//! - `slice`: claim, send, settle, until the turn is over
//! - `crew`: the tasks that send, member after member; `window`: one send, or one multicast
//! - `store`, `settle`: the calls to Postgres
//! - `receipt`: what providers tell of messages that left
//! - `senders`: senders as an operator sees them
//! - `config`: section `[delivery]`
//!
//! What must never happen here: a network call while a transaction is open; a message begun before its intent is
//! committed; a second try of what may have been sent, unless the provider honours our key.

mod bisect;
mod briefing;
mod config;
pub mod connection;
mod crew;
mod lane;
mod pace;
pub mod quiet;
pub mod receipt;
pub mod senders;
mod settle;
mod share;
mod slice;
mod state;
pub mod store;
mod turn;
pub mod verdict;
mod window;

use std::sync::Arc;

pub use config::DeliveryConfig;
pub use share::Crowd;
pub use state::DeliveryState;

use crate::{
    channel::{ChannelConfig, Channels},
    db::PgPool,
    limit::{LimitConfig, Limits},
    secret::Secrets,
};

/// Why a turn could not be finished. What was in hand is recovered from its leases.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Postgres did not answer, or refused.
    #[error("{}", crate::db::describe(.0))]
    Db(#[from] sqlx::Error),
    /// The sender's account cannot be used until a person mends it.
    #[error("sender: {0}")]
    Sender(String),
    /// The broadcast's content cannot be read; planning checks it, so this is a broken row.
    #[error("content: {0}")]
    Content(String),
}

/// The parts that sending needs; clones share them.
#[derive(Clone)]
pub struct Delivery {
    /// Postgres.
    pub db: PgPool,
    /// The providers.
    pub channels: Arc<Channels>,
    /// Section `[channel]`.
    pub channel_config: ChannelConfig,
    /// The fleet's rate limits.
    pub limits: Limits,
    /// Section `[limit]`.
    pub limit_config: LimitConfig,
    /// Keys: opens senders' credentials, signs unsubscribe links.
    pub secrets: Arc<Secrets>,
    /// Section `[delivery]`.
    pub config: DeliveryConfig,
    /// Deliveries per slice, from section `[broadcast]`.
    pub slice_size: u32,
    /// Where `carillon web` is reached from outside.
    pub public_url: String,
}
