//! Twilio: one form per webhook, of a message that came in or of one of ours (pure).
//!
//! Why it exists: a form has no type and no time; what it is shows in its fields, and our mark comes back in the query of the
//! address we gave.
//!
//! It must never take a word for a wish: only a message that is STOP and nothing else is one.

use chrono::{DateTime, Utc};
use url::form_urlencoded;

use super::{
    Attachment, AttachmentKind, InboundMessage, MediaSource, ParseError, Receipt, ReceiptOf, ReceiptState,
    WebhookEvent, What, form::Form, json,
};
use crate::channel::{ErrorClass, sms::codes};

/// The most files of one message; Twilio's own limit is 10.
const MEDIA: usize = 20;

pub(super) fn events(body: &[u8], query: &str, received_at: DateTime<Utc>) -> Result<Vec<WebhookEvent>, ParseError> {
    let form = Form::read(form_urlencoded::parse(body));
    let Some(sid) = form
        .get("MessageSid")
        .or_else(|| form.get("SmsSid"))
        .and_then(json::plain_id)
    else {
        return Err(ParseError::Shape("Twilio's forms have a `MessageSid`"));
    };
    let status = form
        .get("MessageStatus")
        .or_else(|| form.get("SmsStatus"))
        .unwrap_or_default();
    let event = |key, from, what| WebhookEvent {
        account: None,
        key,
        at: received_at,
        from,
        what,
    };
    if matches!(status, "received" | "receiving") || (status.is_empty() && form.get("Body").is_some()) {
        let from = form.get("From").and_then(json::plain_address);
        let mut events = Vec::new();
        if let Some(wanted) = consent(&form) {
            events.push(event(
                json::key("consent", &[&sid]),
                from.clone(),
                What::Consent { wanted },
            ));
        }
        let key = json::key("message", &[&sid]);
        events.push(event(key, from, What::Message(message(&form, sid))));
        return Ok(events);
    }
    let to = form.get("To").and_then(json::plain_address);
    let mut events = Vec::new();
    let code = form.get("ErrorCode").filter(|code| !code.is_empty());
    if code == Some("21610") && to.is_some() {
        // They said STOP to Twilio, whose word we never saw.
        let key = json::key("consent", &[&sid]);
        events.push(event(key, to.clone(), What::Consent { wanted: false }));
    }
    let what = match state(status, code) {
        Some(state) => What::Receipt(Receipt {
            of: ReceiptOf::Message {
                provider_id: Some(sid.clone()),
                mark: super::form::mark(query),
            },
            state,
        }),
        None => What::Unknown(json::name(&format!("status.{status}"))),
    };
    events.push(event(json::key("status", &[&sid, &json::name(status)]), to, what));
    Ok(events)
}

fn message(form: &Form<'_>, sid: String) -> InboundMessage {
    let files = form
        .get("NumMedia")
        .and_then(|number| number.parse::<usize>().ok())
        .unwrap_or(0);
    let attachments = (0..files.min(MEDIA)).map(|index| {
        let kind = form.get(&format!("MediaContentType{index}")).unwrap_or_default();
        let kind = match kind.split('/').next().unwrap_or_default() {
            "image" => AttachmentKind::Image,
            "video" => AttachmentKind::Video,
            "audio" => AttachmentKind::Audio,
            _ => AttachmentKind::File,
        };
        let source = form.get(&format!("MediaUrl{index}")).and_then(json::plain_link);
        Attachment {
            kind,
            source: source.map(MediaSource::Url),
            label: None,
        }
    });
    InboundMessage {
        message_id: sid,
        text: form.get("Body").and_then(json::clean),
        attachments: attachments.collect(),
        profile_name: form.get("ProfileName").and_then(json::short),
        ..InboundMessage::default()
    }
}

/// Twilio's own verdict where it gives one, else its words for it. `YES` and `CANCEL` are left out: they answer questions, too.
fn consent(form: &Form<'_>) -> Option<bool> {
    let word = form
        .get("OptOutType")
        .or_else(|| form.get("Body"))?
        .trim()
        .to_ascii_uppercase();
    match word.as_str() {
        "STOP" | "STOPALL" | "UNSUBSCRIBE" | "END" | "QUIT" | "OPTOUT" => Some(false),
        "START" | "UNSTOP" => Some(true),
        _ => None,
    }
}

fn state(status: &str, code: Option<&str>) -> Option<ReceiptState> {
    match status {
        "sent" => Some(ReceiptState::Sent),
        "delivered" => Some(ReceiptState::Delivered),
        "read" => Some(ReceiptState::Read),
        "failed" | "undelivered" => Some(failed(status, code)),
        "canceled" => Some(ReceiptState::Failed {
            class: ErrorClass::Content,
            code: "canceled".to_owned(),
            closes_address: false,
        }),
        _ => None,
    }
}

/// Twilio's table of errors.
fn failed(status: &str, code: Option<&str>) -> ReceiptState {
    let number = code.and_then(|code| code.parse::<u32>().ok());
    let class = match number {
        Some(number) => codes::twilio(number).unwrap_or(ErrorClass::Content),
        // Nothing is said but that the handset did not take it.
        None if status == "undelivered" => ErrorClass::Recipient,
        None => ErrorClass::Content,
    };
    ReceiptState::Failed {
        class,
        code: code.map_or_else(|| status.to_owned(), json::name),
        // STOP is told apart, as a consent.
        closes_address: number.is_some_and(|number| number != 21_610 && codes::twilio_closes(number)),
    }
}
