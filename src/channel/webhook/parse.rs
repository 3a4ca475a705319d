//! From a verified body to events (pure).
//!
//! Why it exists: one door for all providers. Whoever has the raw bytes, today or from a row weeks later, gets the same events
//! with the same keys.
//!
//! It must never refuse a body for one event it cannot read: that one becomes `What::Unknown`, the others are told.

use chrono::{DateTime, Utc};

use super::{
    Provider, Receipt, ReceiptOf, WebhookEvent, WebhookSecrets, What, bounce, json, line, messenger, mitake, store,
    twilio, whatsapp,
};

/// A body that holds no events in any form its provider uses. It is kept, and can be tried again by a later release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// Nested deeper than any provider does.
    #[error("the body is nested more than 100 deep")]
    TooDeep,
    /// JSON, a form or a mail, but not this provider's.
    #[error("the body is not what this provider sends: {0}")]
    Shape(&'static str),
    /// More events than any provider puts into one body.
    #[error("the body holds more than 20,000 events")]
    TooMany,
}

/// The events of a verified webhook, in the order the body has them.
///
/// `query` is the request's query as it came, without the question mark. `received_at` stands in where the provider does
/// not say when something happened; keys never depend on it. `secrets`, where at hand, are those of the sender it was addressed to: by
/// them a bounce is known to be of a mail of ours, and without them none is.
///
/// # Errors
/// Nothing in the body can be read as this provider's.
pub fn parse(
    provider: Provider,
    body: &[u8],
    query: &str,
    received_at: DateTime<Utc>,
    secrets: Option<&WebhookSecrets>,
) -> Result<Vec<WebhookEvent>, ParseError> {
    let mut events = match provider {
        Provider::Line => line::events(&json::body(body)?, received_at)?,
        Provider::Messenger => messenger::events(&json::body(body)?, received_at)?,
        Provider::Whatsapp => whatsapp::events(&json::body(body)?, received_at)?,
        Provider::Twilio => twilio::events(body, query, received_at)?,
        Provider::Mitake => mitake::events(body, query, received_at)?,
        Provider::Store => store::events(&json::body(body)?, received_at)?,
        Provider::Email => {
            let keys = secrets.map_or(&[][..], WebhookSecrets::return_paths);
            bounce::events(body, query, received_at, keys)?
        }
    };
    for event in &mut events {
        if event.from.is_none()
            && let Some(name) = needs_somebody(&event.what)
        {
            event.what = What::Unknown(format!("{name}.nobody"));
        }
    }
    Ok(events)
}

/// What cannot be without a customer, by name.
const fn needs_somebody(what: &What) -> Option<&'static str> {
    match what {
        What::Message(_) => Some("message"),
        What::Edited { .. } => Some("edited"),
        What::Unsent { .. } => Some("unsent"),
        What::Postback(_) => Some("postback"),
        What::Followed => Some("followed"),
        What::Unfollowed => Some("unfollowed"),
        What::Consent { .. } => Some("consent"),
        What::Referred(_) => Some("referred"),
        What::Receipt(Receipt {
            of: ReceiptOf::UpTo(_), ..
        }) => Some("receipt"),
        // An echo without a customer still proves by its mark that a message left; a complaint has only a mark.
        What::Echo(_) | What::Receipt(_) | What::Complained { .. } | What::Seen { .. } | What::Unknown(_) => None,
    }
}

/// Whether a verified body is at least the form its provider sends, for the answer to the provider: a body that is not is
/// refused with 400 and never stored. Cheap; what passes may still fail in [`parse`].
///
/// # Errors
/// It is not.
pub fn well_formed(provider: Provider, body: &[u8]) -> Result<(), ParseError> {
    match provider {
        Provider::Line | Provider::Messenger | Provider::Whatsapp | Provider::Store => json::well_formed(body),
        // A form, a query and a mail: any bytes may be one.
        Provider::Twilio | Provider::Mitake | Provider::Email => Ok(()),
    }
}
