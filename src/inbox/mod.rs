//! The inbox: what providers tell us, once, into conversations.
//!
//! - `webhook`: requests of providers as they came, and what is still to be done with them
//! - `ingest`: the `webhook-ingest` job: a request becomes events, and these are applied
//! - `apply`: events become conversations and messages

mod apply;
pub mod ingest;
pub mod webhook;

pub use apply::apply;
