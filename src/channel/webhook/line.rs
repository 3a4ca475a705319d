//! LINE Messaging API: `{"destination", "events": […]}` (pure).
//!
//! Why it exists: LINE tells everything in one list of typed events with an id each; what has no counterpart in our words is
//! kept by its type.
//!
//! It must never take what is written in a group for a word to the shop: the customer's private chat would show it, and an answer
//! would go to somebody who never asked.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Attachment, AttachmentKind, InboundMessage, MediaSource, ParseError, Postback, Receipt, ReceiptOf, ReceiptState,
    WebhookEvent, What, json,
};

pub(super) fn events(body: &Value, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    if !body.get("events").is_some_and(Value::is_array) {
        return Err(ParseError::Shape("LINE's have a list of `events`"));
    }
    let events = json::list(body, "events");
    if events.len() > json::EVENTS {
        return Err(ParseError::TooMany);
    }
    let account = json::id(body, "destination");
    Ok(events
        .iter()
        .map(|event| one(event, account.as_deref(), received_at))
        .collect())
}

fn one(event: &Value, account: Option<&str>, received_at: DateTime<Utc>) -> WebhookEvent {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let source = event.get("source").unwrap_or(&Value::Null);
    let in_private = source.get("type").and_then(Value::as_str) == Some("user");
    let from = in_private.then(|| json::address(source, "userId")).flatten();
    let what = match kind {
        "message" => from.as_ref().and_then(|_| message(event)),
        "messageEdited" => from.as_ref().and_then(|_| edited(event)),
        "unsend" => from.as_ref().and_then(|_| unsent(event)),
        "postback" => from.as_ref().and_then(|_| postback(event)),
        "follow" => from.as_ref().map(|_| What::Followed),
        "unfollow" => from.as_ref().map(|_| What::Unfollowed),
        // A notification by phone number: the only word about its delivery, and it names nobody.
        "delivery" => delivered(event),
        _ => None,
    };
    WebhookEvent {
        account: account.map(str::to_owned),
        key: json::id(event, "webhookEventId").unwrap_or_else(|| derived_key(event)),
        at: json::moment(event, "timestamp", received_at),
        from,
        what: what.unwrap_or_else(|| What::Unknown(unknown_name(kind, source))),
    }
}

/// What an event of an old API version says, but for what changes when it is told again.
fn derived_key(event: &Value) -> String {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("deliveryContext");
    }
    json::key_of("line", &event)
}

/// `message`, or `group.message` where it was not private.
fn unknown_name(kind: &str, source: &Value) -> String {
    match source.get("type").and_then(Value::as_str) {
        None | Some("user") => json::name(kind),
        Some(place) => json::name(&format!("{place}.{kind}")),
    }
}

/// Works once; in standby there is none, because another program answers.
fn reply_token(event: &Value) -> Option<String> {
    let standby = event.get("mode").and_then(Value::as_str) == Some("standby");
    (!standby).then(|| json::id(event, "replyToken")).flatten()
}

fn message(event: &Value) -> Option<What> {
    let message = event.get("message")?;
    let message_id = json::id(message, "id")?;
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    let text = if kind == "text" {
        json::text(message, "text")
    } else {
        None
    };
    let attachments = attachment(message, kind, &message_id).into_iter().collect();
    Some(What::Message(InboundMessage {
        message_id,
        text,
        attachments,
        reply_to: json::id(message, "quotedMessageId"),
        reply_token: reply_token(event),
        ..InboundMessage::default()
    }))
}

fn attachment(message: &Value, kind: &str, message_id: &str) -> Option<Attachment> {
    let stored = || match message.pointer("/contentProvider/type").and_then(Value::as_str) {
        Some("external") => json::link(message.get("contentProvider")?, "originalContentUrl").map(MediaSource::Url),
        _ => Some(MediaSource::ProviderId(message_id.to_owned())),
    };
    let (kind, source, label) = match kind {
        "text" => return None,
        "image" => (AttachmentKind::Image, stored(), None),
        "video" => (AttachmentKind::Video, stored(), None),
        "audio" => (AttachmentKind::Audio, stored(), None),
        "file" => (AttachmentKind::File, stored(), json::label(message, "fileName")),
        "location" => (AttachmentKind::Location, None, json::place(message, "title")),
        "sticker" => (AttachmentKind::Sticker, None, json::label(message, "stickerId")),
        other => (AttachmentKind::Other, None, json::short(&json::name(other))),
    };
    Some(Attachment { kind, source, label })
}

fn edited(event: &Value) -> Option<What> {
    let message = event.get("message")?;
    Some(What::Edited {
        message_id: json::id(message, "id")?,
        text: json::text(message, "text")?,
    })
}

fn unsent(event: &Value) -> Option<What> {
    let message_id = json::id(event.get("unsend")?, "messageId")?;
    Some(What::Unsent { message_id })
}

fn postback(event: &Value) -> Option<What> {
    let postback = event.get("postback")?;
    let mut data = json::text(postback, "data").unwrap_or_default();
    // A date picker's answer is only here.
    for name in ["date", "time", "datetime"] {
        if let Some(picked) = postback.get("params").and_then(|params| json::label(params, name)) {
            data.push_str(if data.is_empty() { "" } else { "&" });
            data.push_str(name);
            data.push('=');
            data.push_str(&picked);
        }
    }
    Some(What::Postback(Postback {
        data,
        reply_token: reply_token(event),
        ..Postback::default()
    }))
}

fn delivered(event: &Value) -> Option<What> {
    let mark = event.pointer("/delivery/data")?.as_str()?.parse().ok()?;
    Some(What::Receipt(Receipt {
        of: ReceiptOf::Message {
            provider_id: None,
            mark: Some(mark),
        },
        state: ReceiptState::Delivered,
    }))
}
