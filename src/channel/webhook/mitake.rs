//! Mitake: what became of a message of ours, as a GET request with everything in the query (pure).
//!
//! Why it exists: its `statuscode` says 0 for a message that arrived; only `StatusFlag` can be believed, and its times are
//! Taiwan's without saying so.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use url::form_urlencoded;

use super::{ParseError, Receipt, ReceiptOf, ReceiptState, WebhookEvent, What, form::Form, json};
use crate::channel::sms::codes;

/// Taiwan knows no summer time.
const TAIWAN_OFFSET: TimeDelta = TimeDelta::hours(8);

pub(super) fn events(body: &[u8], query: &str, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    // Its servers can be set to POST the same fields.
    let form = Form::read(form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body)));
    let Some(id) = form.get("msgid").and_then(json::plain_id) else {
        return Err(ParseError::Shape("Mitake's callbacks have a `msgid`"));
    };
    let arrived = form
        .get("statusstr")
        .is_some_and(|text| text.eq_ignore_ascii_case("DELIVRD"));
    let flag = match form.get("StatusFlag").filter(|flag| !flag.is_empty()) {
        Some(flag) => flag,
        None if arrived => "4",
        None => form.get("statuscode").unwrap_or_default(),
    };
    let what = match state(flag) {
        Some(state) => What::Receipt(Receipt {
            of: ReceiptOf::Message {
                provider_id: Some(id.clone()),
                mark: super::form::mark(query),
            },
            state,
        }),
        None => What::Unknown(json::name(&format!("status.{flag}"))),
    };
    let at = form.get("donetime").or_else(|| form.get("dlvtime")).and_then(in_taiwan);
    Ok(vec![WebhookEvent {
        account: None,
        key: json::key("status", &[&id, &json::name(flag)]),
        at: at.map_or(received_at, |at| json::believable(at, received_at)),
        from: form.get("dstaddr").and_then(mobile),
        what,
    }])
}

fn in_taiwan(digits: &str) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(digits, "%Y%m%d%H%M%S").ok()?;
    Some(local.checked_sub_signed(TAIWAN_OFFSET)?.and_utc())
}

/// `0912345678` as every other place of ours has it: `+886912345678`.
fn mobile(number: &str) -> Option<String> {
    let number = json::plain_address(number)?;
    match number.strip_prefix('0') {
        Some(rest) if rest.bytes().all(|b| b.is_ascii_digit()) => Some(format!("+886{rest}")),
        _ => Some(number),
    }
}

/// Mitake's table of states; `None` for an answer that is about no message.
fn state(flag: &str) -> Option<ReceiptState> {
    match flag {
        "1" | "2" | "3" => Some(ReceiptState::Sent),
        "4" => Some(ReceiptState::Delivered),
        // Of a query, never of a message.
        "w" => None,
        failed => codes::mitake(failed).map(|class| ReceiptState::Failed {
            class,
            code: failed.to_owned(),
            closes_address: codes::mitake_closes(failed),
        }),
    }
}
