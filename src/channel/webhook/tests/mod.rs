//! The providers' bodies as their documents show them, and what holds for any body at all.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::needless_pass_by_value,
    clippy::format_collect
)]

mod bounce;
mod line;
mod messenger;
mod phone_providers;
mod property;
mod store;
mod verify;
mod whatsapp;

use carillon_jobs::{BroadcastId, CustomerId};
use chrono::{DateTime, TimeZone, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{ParseError, Provider, WebhookEvent, What, parse};
use crate::channel::DeliveryMark;

/// When every body of these tests was received.
fn received_at() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 6, 0, 0).unwrap()
}

/// A moment shortly before, in milliseconds.
const AT_MS: i64 = 1_795_327_000_123;

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(AT_MS).unwrap()
}

fn mark() -> DeliveryMark {
    DeliveryMark {
        broadcast: BroadcastId(Uuid::from_u128(7)),
        customer: CustomerId(42),
    }
}

fn events(provider: Provider, body: &Value) -> Vec<WebhookEvent> {
    parse(provider, body.to_string().as_bytes(), "", received_at(), None).unwrap()
}

fn refused(provider: Provider, body: &str) -> ParseError {
    parse(provider, body.as_bytes(), "", received_at(), None).unwrap_err()
}

/// The one event of a body.
fn only(mut events: Vec<WebhookEvent>) -> WebhookEvent {
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn keys(events: &[WebhookEvent]) -> Vec<&str> {
    events.iter().map(|event| event.key.as_str()).collect()
}

fn unknown(event: &WebhookEvent) -> &str {
    match &event.what {
        What::Unknown(name) => name,
        other => panic!("{other:?}"),
    }
}
