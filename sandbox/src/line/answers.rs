//! LINE's words: the bodies and headers of its answers.
//! It exists so that the texts a caller classifies by (two different 429s, the 409) stand in one place.
//! It must never invent a text LINE documents; what LINE does not document says so in its own words.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::check::Wrong;
use crate::faults::{FaultKind, Hit};
use crate::http::Answer;
use crate::line::LineState;
use crate::line::retry_keys::Accepted;
use crate::mix::{mix, push_hex};

/// LINE numbers messages from somewhere; this is where the sandbox starts.
const FIRST_MESSAGE_ID: u64 = 460_000_000_000_000_000;

/// A refusal.
pub(crate) struct No {
    pub(crate) status: u16,
    pub(crate) message: Cow<'static, str>,
    pub(crate) details: Vec<Wrong>,
}

impl No {
    pub(crate) fn new(status: u16, message: &'static str) -> Self {
        Self {
            status,
            message: Cow::Borrowed(message),
            details: Vec::new(),
        }
    }

    pub(crate) fn wrong(details: Vec<Wrong>) -> Self {
        Self {
            status: 400,
            message: Cow::Owned(format!("The request body has {} error(s)", details.len())),
            details,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            401,
            "Authentication failed due to the following reason: invalid token. Confirm that the access token in the \
             authorization header is valid.",
        )
    }

    pub(crate) fn rate() -> Self {
        Self::new(429, "The API rate limit has been exceeded. Try again later.")
    }

    pub(crate) fn quota() -> Self {
        Self::new(429, "You have reached your monthly limit.")
    }

    pub(crate) fn write(&self, answer: &mut Answer) {
        let details: Vec<serde_json::Value> = self
            .details
            .iter()
            .map(|wrong| serde_json::json!({"message": wrong.message, "property": wrong.property}))
            .collect();
        let body = if details.is_empty() {
            serde_json::json!({"message": self.message})
        } else {
            serde_json::json!({"message": self.message, "details": details})
        };
        answer.set(self.status, &body.to_string());
    }
}

/// Writes what a fault answers, if it dictates an answer at all.
pub(crate) fn write_fault(hit: &Hit, answer: &mut Answer) {
    match hit.kind {
        Some(FaultKind::Throttled) => No::rate().write(answer),
        Some(FaultKind::Quota) => No::quota().write(answer),
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfter) => {
            No::new(500, "Internal Server Error").write(answer);
        }
        Some(FaultKind::Unavailable) => No::new(503, "Service Unavailable").write(answer),
        Some(FaultKind::InvalidRecipient) => No::new(400, "Failed to send messages").write(answer),
        Some(FaultKind::BadCredentials) => No::unauthorized().write(answer),
        Some(FaultKind::Reply | FaultKind::ReplyAfter) => {
            answer.set(hit.code, hit.message.as_deref().unwrap_or("{}"));
        }
        Some(
            FaultKind::ResetBefore
            | FaultKind::ResetAfter
            | FaultKind::Hang
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay,
        )
        | None => {}
    }
}

/// Appends `"sentMessages":[…]` for `count` messages.
fn push_sent_messages(out: &mut String, accepted: Accepted, count: u32) {
    out.push_str("\"sentMessages\":[");
    for index in 0..count {
        let serial = u64::from(accepted.first_message + index);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{}{{\"id\":\"{}\",\"quoteToken\":\"q3",
            if index > 0 { "," } else { "" },
            FIRST_MESSAGE_ID + serial
        );
        push_hex(out, mix(serial));
        push_hex(out, mix(serial ^ 0x4007e));
        out.push_str("\"}");
    }
    out.push(']');
}

/// 200 of push and reply.
pub(crate) fn write_sent(answer: &mut Answer, accepted: Accepted, count: u32) {
    answer.status = 200;
    answer.body.clear();
    answer.body.push('{');
    push_sent_messages(&mut answer.body, accepted, count);
    answer.body.push('}');
}

/// 409 for a retry key that was accepted before; `count` is 0 for multicast, which names no messages.
pub(crate) fn write_repeat(line: &LineState, answer: &mut Answer, accepted: Accepted, count: u32) {
    answer.headers.push_str("x-line-accepted-request-id: ");
    line.push_request_id(&mut answer.headers, accepted.request);
    answer.headers.push_str("\r\n");
    answer.set(409, r#"{"message":"The retry key is already accepted""#);
    if count > 0 {
        answer.body.push(',');
        push_sent_messages(&mut answer.body, accepted, count);
    }
    answer.body.push('}');
}
