//! The shop's own front: `{"events": [{"id", "type", "at", "customer", "message", "order"}]}` (pure).
//!
//! Why it exists: what customers write on a shop's pages and beside their orders belongs into the same inbox. The format is ours;
//! docs/webhooks.md is its reference, and both must say the same.
//!
//! It must never guess who a guest is: two visitors are one only where the shop's front says so, or where both left the same
//! mail address or number.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Attachment, AttachmentKind, Contact, Echo, InboundMessage, MediaSource, ParseError, Thread, WebhookEvent, What,
    json,
};

/// The most attachments of one message that are kept.
const ATTACHMENTS: usize = 50;

pub(super) fn events(body: &Value, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    if !body.get("events").is_some_and(Value::is_array) {
        return Err(ParseError::Shape(
            "a shop front's have a list of `events`: see docs/webhooks.md",
        ));
    }
    let events = json::list(body, "events");
    if events.len() > json::EVENTS {
        return Err(ParseError::TooMany);
    }
    Ok(events.iter().map(|event| one(event, received_at)).collect())
}

fn one(event: &Value, received_at: DateTime<Utc>) -> WebhookEvent {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let customer = event.get("customer").unwrap_or(&Value::Null);
    let what = match kind {
        "message" => inbound(event, customer, Thread::Store),
        "order_message" => order(event).and_then(|thread| inbound(event, customer, thread)),
        "staff_message" => echo(event, Thread::Store),
        "staff_order_message" => order(event).and_then(|thread| echo(event, thread)),
        "message_edited" => edited(event),
        "message_unsent" => message_id(event).map(|message_id| What::Unsent { message_id }),
        "message_read" => message_id(event).map(|message_id| What::Seen { message_id }),
        "consent" => {
            let wanted = event.get("wanted").and_then(Value::as_bool);
            wanted.map(|wanted| What::Consent { wanted })
        }
        _ => None,
    };
    WebhookEvent {
        account: None,
        key: json::id(event, "id").unwrap_or_else(|| json::key_of("store", event)),
        at: moment(event, received_at),
        from: who(customer),
        what: what.unwrap_or_else(|| What::Unknown(json::name(kind))),
    }
}

/// RFC 3339, or a number as everybody else sends.
fn moment(event: &Value, received_at: DateTime<Utc>) -> DateTime<Utc> {
    let text = event.get("at").and_then(Value::as_str);
    match text.and_then(|text| DateTime::parse_from_rfc3339(text).ok()) {
        Some(at) => json::believable(at.to_utc(), received_at),
        None => json::moment(event, "at", received_at),
    }
}

/// The shop's id of the customer, or what names a guest.
fn who(customer: &Value) -> Option<String> {
    if let Some(id) = json::address(customer, "external_id") {
        return Some(id);
    }
    let mail = || json::address(customer, "email").map(|mail| mail.to_lowercase());
    let guest = json::address(customer, "guest_id").or_else(mail);
    let guest = guest.or_else(|| json::address(customer, "phone"))?;
    json::plain_address(&format!("guest:{guest}"))
}

fn order(event: &Value) -> Option<Thread> {
    json::id(event.get("order")?, "number").map(Thread::Order)
}

fn message_id(event: &Value) -> Option<String> {
    json::id(event.get("message")?, "id")
}

fn inbound(event: &Value, customer: &Value, thread: Thread) -> Option<What> {
    let message = event.get("message")?;
    Some(What::Message(InboundMessage {
        message_id: json::id(message, "id")?,
        text: json::text(message, "text"),
        attachments: attachments(message),
        reply_to: json::id(message, "reply_to"),
        profile_name: json::label(customer, "name"),
        thread,
        contact: Contact {
            email: json::label(customer, "email"),
            phone: json::label(customer, "phone"),
        },
        ..InboundMessage::default()
    }))
}

fn echo(event: &Value, thread: Thread) -> Option<What> {
    let message = event.get("message")?;
    Some(What::Echo(Echo {
        message_id: json::id(message, "id")?,
        mark: None,
        text: json::text(message, "text"),
        attachments: attachments(message),
        thread,
    }))
}

fn edited(event: &Value) -> Option<What> {
    Some(What::Edited {
        message_id: message_id(event)?,
        text: json::text(event.get("message")?, "text").unwrap_or_default(),
    })
}

fn attachments(message: &Value) -> Vec<Attachment> {
    let attachments = json::list(message, "attachments").iter().take(ATTACHMENTS);
    attachments
        .map(|attachment| Attachment {
            kind: match attachment.get("type").and_then(Value::as_str).unwrap_or_default() {
                "image" => AttachmentKind::Image,
                "video" => AttachmentKind::Video,
                "audio" => AttachmentKind::Audio,
                "file" => AttachmentKind::File,
                _ => AttachmentKind::Other,
            },
            source: json::link(attachment, "url").map(MediaSource::Url),
            label: json::label(attachment, "name"),
        })
        .collect()
}
