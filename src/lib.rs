//! Carillon: the messaging back office of an online-shop platform.
//!
//! Arrows point down only: `cli → web, worker → fleet → scheduler → broadcast, inbox, top_up → delivery → ledger, limit, queue → metrics → channel →
//! the ground floor (config, clock, db, event, pause, telemetry, retry, secret, tls) → carillon_jobs`.

pub mod app;
pub mod broadcast;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod delivery;
pub mod event;
pub mod fleet;
pub mod inbox;
pub mod ledger;
pub mod limit;
pub mod metrics;
pub mod pause;
pub mod prices;
pub mod queue;
pub mod reconcile;
pub mod retry;
pub mod scheduler;
pub mod secret;
pub mod start;
pub mod suppression;
pub mod telemetry;
mod tls;
pub mod top_up;
pub mod web;
pub mod worker;
