//! The inbox: what customers do becomes conversations a shop can answer.
//!
//! Why it exists: providers tell the same thing twice, late and out of order, and a shop must see each message once, with the
//! right counts, whatever came first.
//!
//! Table of contents:
//! - `webhook`: requests of providers as they came, and what is still to be done with them
//! - `ingest`: the `webhook-ingest` job: a request becomes events, and these are applied
//! - `apply`: events of one sender, recorded once and turned into customers, conversations and messages
//! - `row`: an event in the form Postgres takes it (pure)
//! - `assign`: who gets a conversation (pure), and giving it to them; `hours`: who is at work (pure)
//! - `referral`: the advertisements a conversation came from (pure), and keeping them
//! - `conversation`: conversations as an operator looks at them
//! - `media`: what customers attach, fetched and kept
//!
//! It must never show what a customer wrote in a log or an error, never merge two customers, and never depend on the order in
//! which events come.

mod apply;
mod assign;
pub mod conversation;
mod hours;
pub mod ingest;
pub mod media;
mod referral;
mod row;
pub mod webhook;

pub use crate::channel::phone;

pub use self::{
    apply::{Applied, Batch, InboxError, apply, forget_applied},
    assign::{Candidate, PERMISSION_DELAY, assign_waiting, choose},
    hours::WorkingHours,
    referral::{ADS_KEPT, Ad, latest},
};
