//! What providers tell us by webhook, in one set of words for all of them.
//!
//! Why it exists: six providers name the same dozen things differently. Each provider's file turns a verified body into
//! [`WebhookEvent`]s; the inbox and the deliveries know only these.
//!
//! It must never read a clock, Postgres or Redis, never panic whatever the bytes, and never lose an event: what it does
//! not know becomes [`What::Unknown`] and is counted.

//!
//! Table of contents:
//! - `provider`: who can tell us something
//! - `secrets`, `verify`: what proves that it was they
//! - `parse`: the door from a verified body to events; `json`, `form`: foreign fields, read safely
//! - `redacted`: events in a log, without what people wrote or are called
//! - `line`, `messenger`, `whatsapp`, `twilio`, `mitake`, `store`, `bounce`: each provider's body

mod bounce;
mod form;
mod json;
mod line;
mod messenger;
mod mitake;
mod parse;
mod provider;
mod redacted;
mod secrets;
mod store;
#[cfg(test)]
mod tests;
mod twilio;
mod verify;
mod whatsapp;

use chrono::{DateTime, Utc};

use super::{DeliveryMark, ErrorClass};

pub use parse::{ParseError, parse, well_formed};
pub use provider::{Provider, UnknownProvider};
pub use secrets::{SecretsError, WebhookSecrets};
pub use verify::{Rejected, challenge, verify, without_token};

/// One thing that happened, as one provider told it.
#[derive(Clone, PartialEq)]
pub struct WebhookEvent {
    /// The account it happened on, by the provider's id (LINE destination, page id, phone number id). `None`: the sender
    /// the webhook was addressed to.
    pub account: Option<String>,
    /// The provider's own id of the event, or one derived from its contents where it has none. Unique per sender, the
    /// same whenever the event is told again; at most 200 bytes.
    pub key: String,
    /// When it happened, by the provider's clock.
    pub at: DateTime<Utc>,
    /// The customer's address on the sender, phone numbers as `+` and digits; `None` where the provider names nobody, which it never
    /// does for what a customer did: a message, an edit, a postback, a follow, a consent, a referral, or a receipt up to a moment.
    pub from: Option<String>,
    /// What happened.
    pub what: What,
}

/// What can happen.
#[derive(Clone, PartialEq)]
pub enum What {
    /// The customer wrote.
    Message(InboundMessage),
    /// The shop wrote: we did, or a person in the provider's own app. `from` is the customer it went to.
    Echo(Echo),
    /// The customer, or the shop in the provider's own app, changed the text of a message.
    Edited {
        /// The provider's id of the message.
        message_id: String,
        /// Its text now.
        text: String,
    },
    /// The customer, or the shop in the provider's own app, took a message back.
    Unsent {
        /// The provider's id of the message.
        message_id: String,
    },
    /// The customer pressed a button of ours.
    Postback(Postback),
    /// The customer follows the account (again).
    Followed,
    /// The customer blocked or left the account: nothing more may be sent to the address.
    Unfollowed,
    /// The customer asked for no more messages (STOP), or for them again.
    Consent {
        /// Whether messages are wanted.
        wanted: bool,
    },
    /// The customer called a mail of ours spam: it arrived, and none may follow.
    Complained {
        /// Which mail.
        mark: DeliveryMark,
    },
    /// The customer saw a message of the shop, on a shop front: it is a message of a conversation, and none of our deliveries.
    Seen {
        /// The shop front's id of the message.
        message_id: String,
    },
    /// The customer came from an advertisement or link into an existing conversation.
    Referred(Referral),
    /// What became of a message of ours.
    Receipt(Receipt),
    /// Something of a type we do not know; the provider's name of it, at most 64 printable ASCII characters.
    Unknown(String),
}

/// A message of the customer.
#[derive(Clone, Default, PartialEq)]
pub struct InboundMessage {
    /// The provider's id of the message.
    pub message_id: String,
    /// Its text, where it has one.
    pub text: Option<String>,
    /// What is attached.
    pub attachments: Vec<Attachment>,
    /// The message it answers, by the provider's id.
    pub reply_to: Option<String>,
    /// LINE: answers once, free of charge, within about a minute.
    pub reply_token: Option<String>,
    /// The advertisement it came from.
    pub referral: Option<Referral>,
    /// The name the provider gives the customer.
    pub profile_name: Option<String>,
    /// Where on the shop's side it was written.
    pub thread: Thread,
    /// Shop fronts: how a guest wants to be answered.
    pub contact: Contact,
}

/// Which of a customer's threads a message belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Thread {
    /// The chat with an account on a channel.
    #[default]
    Social,
    /// The message page of the shop's own front.
    Store,
    /// The messages beside an order; its number at the shop.
    Order(String),
}

/// How a customer of a shop front can be reached: what they left in its form, or what their account there says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Mail address.
    pub email: Option<String>,
    /// Phone number as it was typed.
    pub phone: Option<String>,
}

/// Something attached to a message.
#[derive(Clone, PartialEq)]
pub struct Attachment {
    /// What it is.
    pub kind: AttachmentKind,
    /// Where its bytes are; `None` for what has none (a location, a sticker, which is never shown).
    pub source: Option<MediaSource>,
    /// File name, place name or sticker id, for people.
    pub label: Option<String>,
}

/// What an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentKind {
    /// A picture.
    Image,
    /// A video.
    Video,
    /// A sound.
    Audio,
    /// Any other file.
    File,
    /// A place.
    Location,
    /// A sticker.
    Sticker,
    /// Anything else the provider has.
    Other,
}

/// Where the bytes of an attachment are, for a while.
#[derive(Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// At this address, until the provider's link expires.
    Url(String),
    /// With the provider, under this id (LINE: the message id; WhatsApp: the media id).
    ProviderId(String),
}

/// A message the shop sent, seen from the provider's side.
#[derive(Clone, Default, PartialEq)]
pub struct Echo {
    /// The provider's id of the message.
    pub message_id: String,
    /// Our mark, where the message carries one: we sent it, and the provider has it.
    pub mark: Option<DeliveryMark>,
    /// Its text, where it has one.
    pub text: Option<String>,
    /// What is attached.
    pub attachments: Vec<Attachment>,
    /// Where on the shop's side it was written.
    pub thread: Thread,
}

/// A button of ours that was pressed.
#[derive(Clone, Default, PartialEq)]
pub struct Postback {
    /// The provider's id of the message it counts as, where it has one.
    pub message_id: Option<String>,
    /// The button's label, where the provider tells it.
    pub title: Option<String>,
    /// What the button carries.
    pub data: String,
    /// LINE: answers once, free of charge, within about a minute.
    pub reply_token: Option<String>,
    /// The advertisement it came from.
    pub referral: Option<Referral>,
}

/// An advertisement or link that led here.
#[derive(Clone, Default, PartialEq)]
pub struct Referral {
    /// The provider's id of the advertisement; `None` for a plain link.
    pub ad_id: Option<String>,
    /// Its title.
    pub title: Option<String>,
    /// Where it can be seen.
    pub url: Option<String>,
    /// What the link carried.
    pub reference: Option<String>,
}

/// What became of a message of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Of which message.
    pub of: ReceiptOf,
    /// What became of it.
    pub state: ReceiptState,
}

/// Which message a receipt is about.
#[derive(Clone, PartialEq)]
pub enum ReceiptOf {
    /// One message.
    Message {
        /// The provider's id of it.
        provider_id: Option<String>,
        /// Our mark, where the provider hands it back.
        mark: Option<DeliveryMark>,
    },
    /// Every message to this customer up to this moment.
    UpTo(DateTime<Utc>),
}

/// What became of a message of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptState {
    /// The provider passed it on.
    Sent,
    /// The customer's device has it.
    Delivered,
    /// The customer saw it.
    Read,
    /// It did not arrive.
    Failed {
        /// Why.
        class: ErrorClass,
        /// The provider's code; at most 64 printable ASCII characters, never personal data.
        code: String,
        /// Whether the address can never be reached again.
        closes_address: bool,
    },
}
