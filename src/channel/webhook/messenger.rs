//! Messenger and Instagram: `{"object": "page", "entry": [{"id", "messaging": […]}]}` (pure).
//!
//! Why it exists: Meta names the kind of an event by the field it stands in, tells receipts as a moment up to which all arrived,
//! and sends what the page itself wrote like a customer's message with `is_echo`.
//!
//! It must never take an echo for a customer's word: it would open the window in which automated messages are allowed.

use chrono::{DateTime, Utc};
use serde_json::{Value, json as to_json};

use super::{
    Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, ParseError, Postback, Receipt, ReceiptOf,
    ReceiptState, Referral, WebhookEvent, What, json,
};

/// The most attachments of one message that are kept.
const ATTACHMENTS: usize = 50;

pub(super) fn events(body: &Value, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    let object = body.get("object").and_then(Value::as_str).unwrap_or_default();
    if !matches!(object, "page" | "instagram") || !body.get("entry").is_some_and(Value::is_array) {
        return Err(ParseError::Shape(
            "Messenger's have an `object` page or instagram and a list `entry`",
        ));
    }
    let mut events = Vec::new();
    for entry in json::list(body, "entry") {
        let account = json::id(entry, "id");
        let reader = Reader {
            account: account.as_deref(),
            at: json::moment(entry, "time", received_at),
            received_at,
        };
        for event in ["messaging", "standby"].iter().flat_map(|name| json::list(entry, name)) {
            reader.one(event, &mut events);
        }
        for change in json::list(entry, "changes") {
            events.push(reader.change(change));
        }
        if events.len() > json::EVENTS {
            return Err(ParseError::TooMany);
        }
    }
    Ok(events)
}

/// What an entry says about all of its events.
struct Reader<'a> {
    account: Option<&'a str>,
    at: DateTime<Utc>,
    received_at: DateTime<Utc>,
}

/// The other party of an event.
fn party(event: &Value, name: &str) -> Option<String> {
    json::address(event.get(name)?, "id")
}

impl Reader<'_> {
    fn event(&self, key: String, at: DateTime<Utc>, from: Option<String>, what: What) -> WebhookEvent {
        WebhookEvent {
            account: self.account.map(str::to_owned),
            key,
            at,
            from,
            what,
        }
    }

    fn one(&self, event: &Value, into: &mut Vec<WebhookEvent>) {
        let at = json::moment(event, "timestamp", self.at);
        let before = into.len();
        if let Some(message) = event.get("message") {
            into.extend(self.message(event, message, at));
        } else if let Some(edit) = event.get("message_edit") {
            into.extend(self.edit(event, edit, at));
        } else if let Some(postback) = event.get("postback") {
            into.extend(self.postback(event, postback, at));
        } else if let Some(delivery) = event.get("delivery") {
            self.delivered(event, delivery, at, into);
        } else if let Some(read) = event.get("read").or_else(|| event.get("messaging_seen")) {
            self.read(event, read, at, into);
        } else if let Some(referral) = event.get("referral") {
            let key = json::key_of("referral", event);
            into.push(self.event(key, at, party(event, "sender"), What::Referred(referred(referral))));
        } else if let Some(optin) = event.get("optin") {
            into.extend(self.optin(event, optin, at));
        }
        if into.len() == before {
            into.push(json::unknown(&kind(event), event, self.account, at));
        }
    }

    fn message(&self, event: &Value, message: &Value, at: DateTime<Utc>) -> Option<WebhookEvent> {
        let message_id = json::id(message, "mid")?;
        let is = |name| message.get(name).and_then(Value::as_bool) == Some(true);
        let text = json::text(message, "text");
        let attachments = attachments(message);
        if is("is_deleted") {
            let whose = if is("is_echo") { "recipient" } else { "sender" };
            let key = json::key("unsent", &[&message_id]);
            return Some(self.event(key, at, party(event, whose), What::Unsent { message_id }));
        }
        if is("is_echo") {
            let key = json::key("echo", &[&message_id]);
            let mark = message.get("metadata").and_then(Value::as_str);
            let echo = Echo {
                message_id,
                mark: mark.and_then(|mark| mark.parse().ok()),
                text,
                attachments,
                ..Echo::default()
            };
            return Some(self.event(key, at, party(event, "recipient"), What::Echo(echo)));
        }
        let from = party(event, "sender");
        let key = json::key("message", &[&message_id]);
        let referral = message.get("referral").map(referred);
        if let Some(data) = message
            .get("quick_reply")
            .and_then(|reply| json::text(reply, "payload"))
        {
            let postback = Postback {
                message_id: Some(message_id),
                title: text,
                data,
                referral,
                ..Postback::default()
            };
            return Some(self.event(key, at, from, What::Postback(postback)));
        }
        let message = InboundMessage {
            message_id,
            text,
            attachments,
            reply_to: message.get("reply_to").and_then(|to| json::id(to, "mid")),
            referral,
            ..InboundMessage::default()
        };
        Some(self.event(key, at, from, What::Message(message)))
    }

    fn edit(&self, event: &Value, edit: &Value, at: DateTime<Utc>) -> Option<WebhookEvent> {
        let message_id = json::id(edit, "mid")?;
        let text = json::text(edit, "text")?;
        let times = json::id(edit, "num_edit").unwrap_or_default();
        let key = json::key("edited", &[&message_id, &times]);
        Some(self.event(key, at, party(event, "sender"), What::Edited { message_id, text }))
    }

    fn postback(&self, event: &Value, postback: &Value, at: DateTime<Utc>) -> Option<WebhookEvent> {
        let message_id = json::id(postback, "mid");
        let key = match &message_id {
            Some(id) => json::key("message", &[id]),
            None => json::key_of("postback", event),
        };
        let what = Postback {
            message_id,
            title: json::label(postback, "title"),
            data: json::text(postback, "payload").unwrap_or_default(),
            referral: postback.get("referral").map(referred),
            ..Postback::default()
        };
        let from = party(event, "sender");
        // Neither a button nor what it carries.
        (what.title.is_some() || !what.data.is_empty()).then(|| self.event(key, at, from, What::Postback(what)))
    }

    /// `mids` are some of the messages, the watermark is all of them.
    fn delivered(&self, event: &Value, delivery: &Value, at: DateTime<Utc>, into: &mut Vec<WebhookEvent>) {
        for mid in json::list(delivery, "mids").iter().take(json::EVENTS) {
            let Some(id) = mid.as_str().and_then(json::plain_id) else {
                continue;
            };
            let key = json::key("delivered", &[&id]);
            let what = of_message(id, ReceiptState::Delivered);
            into.push(self.event(key, at, party(event, "sender"), what));
        }
        into.extend(self.up_to(event, delivery, at, ReceiptState::Delivered, "delivered"));
    }

    fn read(&self, event: &Value, read: &Value, at: DateTime<Utc>, into: &mut Vec<WebhookEvent>) {
        if let Some(id) = json::id(read, "mid") {
            let key = json::key("read", &[&id]);
            into.push(self.event(key, at, party(event, "sender"), of_message(id, ReceiptState::Read)));
        }
        into.extend(self.up_to(event, read, at, ReceiptState::Read, "read"));
    }

    fn up_to(
        &self,
        event: &Value,
        receipt: &Value,
        at: DateTime<Utc>,
        state: ReceiptState,
        name: &str,
    ) -> Option<WebhookEvent> {
        let mark = receipt.get("watermark")?;
        let from = party(event, "sender")?;
        // The receipt's own time differs when Meta tells the same again, and ids of people do not belong into keys.
        let key = json::key_of(name, &to_json!([self.account, &from, mark]));
        let of = ReceiptOf::UpTo(json::moment(receipt, "watermark", at));
        Some(self.event(key, at, Some(from), What::Receipt(Receipt { of, state })))
    }

    /// Only the answers to "no more" are ours to obey; a new opt-in is for one topic and undoes no refusal.
    fn optin(&self, event: &Value, optin: &Value, at: DateTime<Utc>) -> Option<WebhookEvent> {
        let wanted = match optin.get("notification_messages_status").and_then(Value::as_str)? {
            "STOP_NOTIFICATIONS" => false,
            "RESUME_NOTIFICATIONS" => true,
            _ => return None,
        };
        let key = json::key_of("optin", event);
        Some(self.event(key, at, party(event, "sender"), What::Consent { wanted }))
    }

    fn change(&self, change: &Value) -> WebhookEvent {
        let field = change.get("field").and_then(Value::as_str).unwrap_or("change");
        let value = change.get("value").unwrap_or(&Value::Null);
        let at = json::moment(value, "created_time", self.at);
        let mut event = json::unknown(field, change, self.account, at);
        if let Some(id) = json::id(value, "leadgen_id") {
            event.key = json::key("leadgen", &[&id]);
        }
        event.at = json::believable(event.at, self.received_at);
        event
    }
}

fn of_message(id: String, state: ReceiptState) -> What {
    let of = ReceiptOf::Message {
        provider_id: Some(id),
        mark: None,
    };
    What::Receipt(Receipt { of, state })
}

/// The field that says what it is.
fn kind(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let mut names: Vec<_> = fields
        .filter(|name| !matches!(*name, "sender" | "recipient" | "timestamp"))
        .collect();
    names.sort_unstable();
    names.first().map_or_else(String::new, |name| (*name).to_owned())
}

/// An organic post has the ad id 0.
fn referred(referral: &Value) -> Referral {
    let ad = referral.get("ads_context_data").unwrap_or(&Value::Null);
    let post = json::id(ad, "post_id").filter(|id| id.bytes().all(|b| b.is_ascii_digit() || b == b'_'));
    Referral {
        ad_id: json::id(referral, "ad_id").filter(|id| id != "0"),
        title: json::label(ad, "ad_title"),
        url: post
            .map(|id| format!("https://www.facebook.com/{id}"))
            .or_else(|| json::link(referral, "referer_uri"))
            .or_else(|| json::link(ad, "video_url"))
            .or_else(|| json::link(ad, "photo_url")),
        reference: json::label(referral, "ref"),
    }
}

fn attachments(message: &Value) -> Vec<Attachment> {
    let mut attachments: Vec<_> = json::list(message, "attachments")
        .iter()
        .take(ATTACHMENTS)
        .map(attachment)
        .collect();
    let unsupported = message.get("is_unsupported").and_then(Value::as_bool) == Some(true);
    if unsupported && attachments.is_empty() {
        attachments.push(Attachment {
            kind: AttachmentKind::Other,
            source: None,
            label: Some("unsupported".to_owned()),
        });
    }
    attachments
}

fn attachment(attachment: &Value) -> Attachment {
    let payload = attachment.get("payload").unwrap_or(&Value::Null);
    let url = || json::link(payload, "url").or_else(|| json::link(attachment, "url"));
    let title = || json::label(payload, "title").or_else(|| json::label(attachment, "title"));
    let sticker = json::id(payload, "sticker_id");
    let (kind, source, label) = match attachment.get("type").and_then(Value::as_str).unwrap_or_default() {
        "image" if sticker.is_some() => (AttachmentKind::Sticker, None, sticker),
        "image" => (AttachmentKind::Image, url(), title()),
        "video" | "reel" | "ig_reel" => (AttachmentKind::Video, url(), title()),
        "audio" => (AttachmentKind::Audio, url(), title()),
        "file" => (AttachmentKind::File, url(), title()),
        "location" => {
            let place = payload.get("coordinates").unwrap_or(&Value::Null);
            (
                AttachmentKind::Location,
                None,
                title().or_else(|| json::place(place, "title")),
            )
        }
        // A shared link is no file of the customer's: shown by its title, never fetched.
        "fallback" | "template" => (AttachmentKind::Other, None, title()),
        other => (
            AttachmentKind::Other,
            url(),
            title().or_else(|| json::short(&json::name(other))),
        ),
    };
    Attachment {
        kind,
        source: source.map(MediaSource::Url),
        label,
    }
}
