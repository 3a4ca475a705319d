//! Tests that speak the providers' protocols to a sandbox started in the process, each test its own.
//! They exist because everything else is judged by the sandbox: what it lets through, nobody will catch.
//! They must never look inside: only wire, control API and the public handle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod control;
mod faults;
mod fcm;
mod graph;
mod line;
mod line_messages;
mod oauth;
mod outage;
mod process;
mod retry_keys;
mod sms;
mod smtp;
mod smtp_faults;
mod unread;
