//! An event in the form `apply_events` takes it (pure).
//!
//! Why it exists: Postgres refuses NUL characters and years far away, and one such event must not keep the others of its
//! batch from being applied. A provider's key may name a person, so only its digest is kept.
//!
//! It must never lose an event.

use std::borrow::Cow;

use chrono::{DateTime, SubsecRound as _, Utc};
use ring::digest;
use serde::Serialize;
use sqlx::types::Uuid;

use crate::channel::{
    phone::{self, Phone},
    webhook::{Attachment, AttachmentKind, Contact, Echo, MediaSource, Thread, WebhookEvent, What},
};

/// The longest name a provider's profile gives a customer, in characters.
const NAME_CHARS: usize = 100;
/// 1970 and 2200, in seconds: what a provider's clock may say.
const CLOCK_SECS: (i64, i64) = (0, 7_258_118_400);

type Text<'a> = Option<Cow<'a, str>>;

/// The fields of the type `inbox_event`.
#[derive(Default, Serialize)]
pub(super) struct Row<'a> {
    n: usize,
    key: Uuid,
    at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Text<'a>,
    what: &'static str,
    thread: &'static str,
    order_number: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Text<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<AttachmentRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_token: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<ContactRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    phones_raw: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    phones: Vec<String>,
}

/// An attachment as it is kept in `message.attachments`.
#[derive(Serialize)]
struct AttachmentRow<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Text<'a>,
}

/// How a guest wants to be answered, as it is kept in `message.contact`.
#[derive(Serialize)]
struct ContactRow<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Text<'a>,
}

impl<'a> Row<'a> {
    /// The event with this number in its batch.
    pub(super) fn of(n: usize, event: &'a WebhookEvent) -> Self {
        let row = Self {
            n,
            key: digest_of(&event.key),
            at: moment(event.at),
            address: text(event.from.as_deref()).filter(|from| !from.is_empty()),
            thread: "social",
            ..Self::default()
        };
        match &event.what {
            What::Message(message) => Row {
                what: "message",
                message_id: id_or_key(Some(&message.message_id), &event.key),
                text: text(message.text.as_deref()),
                attachments: message.attachments.iter().map(attachment).collect(),
                reply_to: text(message.reply_to.as_deref()),
                reply_token: text(message.reply_token.as_deref()),
                profile_name: text(message.profile_name.as_deref())
                    .map(|name| name.trim().chars().take(NAME_CHARS).collect()),
                contact: contact(&message.contact),
                ..row
            }
            .within(&message.thread)
            .with_phones(),
            What::Postback(postback) => Row {
                what: "postback",
                message_id: id_or_key(postback.message_id.as_deref(), &event.key),
                text: text(postback.title.as_deref()),
                reply_token: text(postback.reply_token.as_deref()),
                ..row
            },
            What::Echo(echo) => row.echoed(&event.key, echo),
            What::Edited { message_id, text: now } => Row {
                what: "edited",
                message_id: text(Some(message_id)),
                text: text(Some(now)),
                ..row
            }
            .with_phones(),
            What::Unsent { message_id } => Row {
                what: "unsent",
                message_id: text(Some(message_id)),
                ..row
            },
            What::Seen { message_id } => Row {
                what: "seen",
                message_id: text(Some(message_id)),
                ..row
            },
            What::Followed => Row {
                what: "followed",
                ..row
            },
            What::Unfollowed => Row {
                what: "unfollowed",
                ..row
            },
            What::Consent { .. } => Row { what: "consent", ..row },
            What::Complained { .. } => Row {
                what: "complained",
                ..row
            },
            What::Referred(_) => Row {
                what: "referred",
                ..row
            },
            What::Receipt(_) => Row { what: "receipt", ..row },
            What::Unknown(_) => Row { what: "unknown", ..row },
        }
    }

    /// What a person wrote in the provider's own app is a message of the conversation. What carries our mark is a delivery,
    /// which has its own rows: it makes no conversation and brings none back from the archive.
    fn echoed(self, key: &'a str, echo: &'a Echo) -> Self {
        if echo.mark.is_some() {
            return Row {
                what: "receipt",
                ..self
            };
        }
        Row {
            what: "echo",
            message_id: id_or_key(Some(&echo.message_id), key),
            text: text(echo.text.as_deref()),
            attachments: echo.attachments.iter().map(attachment).collect(),
            ..self
        }
        .within(&echo.thread)
    }

    fn within(self, thread: &'a Thread) -> Self {
        let (thread, order_number) = match thread {
            Thread::Social => ("social", ""),
            Thread::Store => ("store", ""),
            // Beside no order in particular there is only the shop's own page.
            Thread::Order(number) if number.is_empty() => ("store", ""),
            Thread::Order(number) => ("order", number.as_str()),
        };
        Row {
            thread,
            order_number: text(Some(order_number)).unwrap_or_default(),
            ..self
        }
    }

    fn with_phones(self) -> Self {
        let found = self.text.as_deref().map(phone::find).unwrap_or_default();
        let pairs = found.into_iter().map(|Phone { raw, normalised }| (raw, normalised));
        let (phones_raw, phones) = pairs.unzip();
        Row {
            phones_raw,
            phones,
            ..self
        }
    }
}

/// When it happened, as Postgres can keep it.
pub(super) fn moment(at: DateTime<Utc>) -> DateTime<Utc> {
    let (from, to) = CLOCK_SECS;
    DateTime::from_timestamp(at.timestamp().clamp(from, to), at.timestamp_subsec_nanos())
        .unwrap_or_default()
        .trunc_subsecs(6)
}

/// A text as Postgres can keep it.
pub(super) fn text(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(|text| {
        if text.contains('\0') {
            Cow::Owned(text.replace('\0', "\u{fffd}"))
        } else {
            Cow::Borrowed(text)
        }
    })
}

/// A message without an id of its own is known by its event's key.
fn id_or_key<'a>(id: Option<&'a str>, key: &'a str) -> Text<'a> {
    text(id.filter(|id| !id.is_empty()).or(Some(key)))
}

fn contact(contact: &Contact) -> Option<ContactRow<'_>> {
    (*contact != Contact::default()).then(|| ContactRow {
        email: text(contact.email.as_deref()),
        phone: text(contact.phone.as_deref()),
    })
}

fn attachment(attachment: &Attachment) -> AttachmentRow<'_> {
    let (url, provider_id) = match &attachment.source {
        Some(MediaSource::Url(url)) => (Some(url.as_str()), None),
        Some(MediaSource::ProviderId(id)) => (None, Some(id.as_str())),
        None => (None, None),
    };
    AttachmentRow {
        kind: match attachment.kind {
            AttachmentKind::Image => "image",
            AttachmentKind::Video => "video",
            AttachmentKind::Audio => "audio",
            AttachmentKind::File => "file",
            AttachmentKind::Location => "location",
            AttachmentKind::Sticker => "sticker",
            AttachmentKind::Other => "other",
        },
        label: text(attachment.label.as_deref()),
        url: text(url),
        provider_id: text(provider_id),
    }
}

/// The first half of the SHA-256 of a provider's key.
fn digest_of(key: &str) -> Uuid {
    let mut bytes = [0; 16];
    for (byte, of_key) in bytes
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, key.as_bytes()).as_ref())
    {
        *byte = *of_key;
    }
    Uuid::from_bytes(bytes)
}
