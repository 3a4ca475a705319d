//! WhatsApp Cloud API: `{"object": "whatsapp_business_account", "entry": [{"changes": […]}]}` (pure).
//!
//! Why it exists: one change carries messages of customers, receipts of ours, or what the shop wrote in WhatsApp's own app.
//! Customers are named by their number, or, where they hide it, by an id of this business only.
//!
//! It must never mix the two namings: numbers are `+` and digits as in every other place of ours, ids are as they come.

use chrono::{DateTime, Utc};
use serde_json::{Value, json as to_json};

use super::{
    Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, ParseError, Postback, Receipt, ReceiptOf,
    ReceiptState, Referral, WebhookEvent, What, json,
};
use crate::channel::ErrorClass;

pub(super) fn events(body: &Value, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    let object = body.get("object").and_then(Value::as_str);
    if object != Some("whatsapp_business_account") || !body.get("entry").is_some_and(Value::is_array) {
        let problem = "WhatsApp's have the `object` whatsapp_business_account and a list `entry`";
        return Err(ParseError::Shape(problem));
    }
    let mut events = Vec::new();
    for entry in json::list(body, "entry") {
        let at = json::moment(entry, "time", received_at);
        for change in json::list(entry, "changes") {
            let value = change.get("value").unwrap_or(&Value::Null);
            let account = value.get("metadata").and_then(|data| json::id(data, "phone_number_id"));
            let reader = Reader {
                account: account.as_deref(),
                value,
                at,
            };
            reader.change(change, &mut events);
            if events.len() > json::EVENTS {
                return Err(ParseError::TooMany);
            }
        }
    }
    Ok(events)
}

/// What a change says about all of its events.
struct Reader<'a> {
    account: Option<&'a str>,
    value: &'a Value,
    at: DateTime<Utc>,
}

impl Reader<'_> {
    fn change(&self, change: &Value, into: &mut Vec<WebhookEvent>) {
        let before = into.len();
        for message in json::list(self.value, "messages") {
            into.push(self.message(message).unwrap_or_else(|| self.unknown(message)));
        }
        for status in json::list(self.value, "statuses") {
            self.status(status, into);
        }
        for echo in json::list(self.value, "message_echoes") {
            into.push(self.echo(echo).unwrap_or_else(|| self.unknown(echo)));
        }
        for preference in json::list(self.value, "user_preferences") {
            into.push(self.preference(preference).unwrap_or_else(|| self.unknown(preference)));
        }
        if into.len() == before {
            let field = change.get("field").and_then(Value::as_str).unwrap_or("change");
            into.push(json::unknown(field, change, self.account, self.at));
        }
    }

    fn event(&self, key: String, event: &Value, from: Option<String>, what: What) -> WebhookEvent {
        WebhookEvent {
            account: self.account.map(str::to_owned),
            key,
            at: json::moment(event, "timestamp", self.at),
            from,
            what,
        }
    }

    fn unknown(&self, event: &Value) -> WebhookEvent {
        let kind = event
            .get("type")
            .or_else(|| event.get("status"))
            .and_then(Value::as_str);
        let kind = kind.unwrap_or_default();
        let kind = if event.get("group_id").is_some() {
            format!("group.{kind}")
        } else {
            kind.to_owned()
        };
        let at = json::moment(event, "timestamp", self.at);
        json::unknown(&kind, event, self.account, at)
    }

    fn message(&self, message: &Value) -> Option<WebhookEvent> {
        let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
        // What is said in a group is no word to the shop alone.
        if message.get("group_id").is_some() || matches!(kind, "system" | "reaction" | "request_welcome") {
            return None;
        }
        let from = customer(message, "from", "from_user_id");
        let id = json::id(message, "id")?;
        let key = json::key("message", &[&id]);
        let part = message.get(kind).unwrap_or(&Value::Null);
        let referral = message.get("referral").map(referred);
        let what = match kind {
            "revoke" | "edit" => changed(kind, part)?,
            "button" => What::Postback(Postback {
                message_id: Some(id),
                title: json::label(part, "text"),
                data: json::text(part, "payload").unwrap_or_default(),
                referral,
                ..Postback::default()
            }),
            "interactive" if part.get("nfm_reply").is_none() => {
                let reply = part.get("button_reply").or_else(|| part.get("list_reply"))?;
                What::Postback(Postback {
                    message_id: Some(id),
                    title: json::label(reply, "title"),
                    data: json::text(reply, "id").unwrap_or_default(),
                    referral,
                    ..Postback::default()
                })
            }
            _ => What::Message(InboundMessage {
                message_id: id,
                text: text(kind, part),
                attachments: attachments(kind, part),
                reply_to: message.get("context").and_then(|context| json::id(context, "id")),
                referral,
                profile_name: self.profile_name(message),
                ..InboundMessage::default()
            }),
        };
        Some(self.event(key, message, from, what))
    }

    fn profile_name(&self, message: &Value) -> Option<String> {
        let same = |contact: &&Value, here, there| {
            let id = contact.get(here).and_then(Value::as_str).filter(|id| !id.is_empty());
            id.is_some() && id == message.get(there).and_then(Value::as_str)
        };
        let contact = json::list(self.value, "contacts")
            .iter()
            .find(|contact| same(contact, "wa_id", "from") || same(contact, "user_id", "from_user_id"));
        json::label(contact?.get("profile")?, "name")
    }

    /// What the shop wrote, changed or took back in WhatsApp's own app.
    fn echo(&self, echo: &Value) -> Option<WebhookEvent> {
        let kind = echo.get("type").and_then(Value::as_str).unwrap_or_default();
        let id = json::id(echo, "id")?;
        let key = json::key("echo", &[&id]);
        let part = echo.get(kind).unwrap_or(&Value::Null);
        let what = match kind {
            "revoke" | "edit" => changed(kind, part)?,
            _ => What::Echo(Echo {
                message_id: id,
                text: text(kind, part),
                attachments: attachments(kind, part),
                ..Echo::default()
            }),
        };
        Some(self.event(key, echo, customer(echo, "to", "to_user_id"), what))
    }

    fn status(&self, status: &Value, into: &mut Vec<WebhookEvent>) {
        let name = status.get("status").and_then(Value::as_str).unwrap_or_default();
        let error = json::list(status, "errors")
            .first()
            .and_then(|error| json::id(error, "code"));
        let state = match name {
            "sent" => ReceiptState::Sent,
            "delivered" => ReceiptState::Delivered,
            "read" | "played" => ReceiptState::Read,
            "failed" => failed(error.as_deref()),
            _ => return into.push(self.unknown(status)),
        };
        let Some(id) = json::id(status, "id") else {
            return into.push(self.unknown(status));
        };
        let from = customer(status, "recipient_id", "recipient_user_id");
        if error.as_deref() == Some("131050") && from.is_some() {
            let key = json::key("stopped", &[&id]);
            into.push(self.event(key, status, from.clone(), What::Consent { wanted: false }));
        }
        let mark = status.get("biz_opaque_callback_data").and_then(Value::as_str);
        let key = json::key(name, &[&id]);
        let of = ReceiptOf::Message {
            provider_id: Some(id),
            mark: mark.and_then(|mark| mark.parse().ok()),
        };
        into.push(self.event(key, status, from, What::Receipt(Receipt { of, state })));
    }

    /// The customer stopped or resumed marketing messages in WhatsApp.
    fn preference(&self, preference: &Value) -> Option<WebhookEvent> {
        let wanted = match preference.get("value").and_then(Value::as_str)? {
            "stop" => false,
            "resume" => true,
            _ => return None,
        };
        let from = customer(preference, "wa_id", "user_id");
        let said = to_json!([&from, wanted, preference.get("timestamp")]);
        let key = json::key_of("preference", &said);
        Some(self.event(key, preference, from, What::Consent { wanted }))
    }
}

/// `+` and digits for a number; an id of this business only where there is none.
fn customer(event: &Value, number: &str, id: &str) -> Option<String> {
    let given = json::address(event, number).or_else(|| json::address(event, id))?;
    let digits = given.strip_prefix('+').unwrap_or(&given);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Some(if is_number { format!("+{digits}") } else { given })
}

fn changed(kind: &str, part: &Value) -> Option<What> {
    let message_id = json::id(part, "original_message_id")?;
    if kind == "revoke" {
        return Some(What::Unsent { message_id });
    }
    let message = part.get("message")?;
    let kind = message.get("type").and_then(Value::as_str)?;
    let text = text(kind, message.get(kind)?).unwrap_or_default();
    Some(What::Edited { message_id, text })
}

fn referred(referral: &Value) -> Referral {
    Referral {
        ad_id: json::id(referral, "source_id"),
        title: json::label(referral, "headline"),
        url: json::link(referral, "source_url"),
        reference: json::label(referral, "ctwa_clid"),
    }
}

fn text(kind: &str, part: &Value) -> Option<String> {
    match kind {
        "text" => json::text(part, "body"),
        "image" | "video" | "document" => json::text(part, "caption"),
        "order" => json::text(part, "text"),
        // The answers of a form, as JSON in a text.
        "interactive" => json::text(part.get("nfm_reply")?, "body"),
        _ => None,
    }
}

fn attachments(kind: &str, part: &Value) -> Vec<Attachment> {
    let stored = || json::id(part, "id").map(MediaSource::ProviderId);
    let one = |kind, source, label| vec![Attachment { kind, source, label }];
    match kind {
        "text" | "interactive" => Vec::new(),
        "image" => one(AttachmentKind::Image, stored(), None),
        "video" => one(AttachmentKind::Video, stored(), None),
        "audio" => one(AttachmentKind::Audio, stored(), None),
        "document" => one(AttachmentKind::File, stored(), json::label(part, "filename")),
        "sticker" => one(AttachmentKind::Sticker, None, json::id(part, "id")),
        "location" => one(AttachmentKind::Location, None, json::place(part, "name")),
        "contacts" => {
            let first = part.get(0).and_then(|contact| contact.get("name"));
            let name = first.and_then(|name| json::label(name, "formatted_name"));
            one(AttachmentKind::Other, None, name.or_else(|| Some(kind.to_owned())))
        }
        other => one(AttachmentKind::Other, None, json::short(&json::name(other))),
    }
}

/// WhatsApp's table of errors, as they come after a message was taken.
fn failed(code: Option<&str>) -> ReceiptState {
    let number = code.and_then(|code| code.parse::<u32>().ok());
    let class = match number {
        Some(131_021 | 131_026 | 131_030 | 131_047 | 131_049 | 131_050 | 130_472) => ErrorClass::Recipient,
        // Too fast, or theirs to mend.
        Some(1 | 2 | 4 | 80_007 | 130_429 | 131_000 | 131_016 | 131_048 | 131_056 | 131_057 | 133_004 | 133_016) => {
            ErrorClass::Throttled
        }
        Some(
            0 | 3 | 10 | 190 | 200..=299 | 368 | 130_497 | 131_005 | 131_031 | 131_037 | 131_045 | 133_006 | 133_010,
        ) => ErrorClass::Credentials,
        Some(131_042) => ErrorClass::Quota,
        Some(_) | None => ErrorClass::Content,
    };
    ReceiptState::Failed {
        class,
        code: code.map_or_else(|| "failed".to_owned(), json::name),
        // Not on WhatsApp. The others have stopped marketing, are outside their window, or were sent enough for a day.
        closes_address: number == Some(131_026),
    }
}
