//! LINE's webhooks (pure).

use chrono::DateTime;
use serde::Deserialize;

use super::{InboundMessage, ParseError, WebhookEvent, What};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    destination: Option<String>,
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    r#type: String,
    timestamp: i64,
    webhook_event_id: String,
    source: Option<Source>,
    message: Option<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    user_id: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    id: String,
    text: Option<String>,
}

pub(super) fn parse(body: &[u8]) -> Result<Vec<WebhookEvent>, ParseError> {
    let body: Body = serde_json::from_slice(body).map_err(|_| ParseError)?;
    let event = |event: Event| {
        let what = match (event.r#type.as_str(), event.message) {
            ("message", Some(message)) => What::Message(InboundMessage {
                message_id: message.id,
                text: message.text,
                ..InboundMessage::default()
            }),
            ("follow", _) => What::Followed,
            ("unfollow", _) => What::Unfollowed,
            (other, _) => What::Unknown(other.to_owned()),
        };
        Ok(WebhookEvent {
            account: body.destination.clone(),
            key: event.webhook_event_id,
            at: DateTime::from_timestamp_millis(event.timestamp).ok_or(ParseError)?,
            from: event.source.and_then(|source| source.user_id),
            what,
        })
    };
    body.events.into_iter().map(event).collect()
}
