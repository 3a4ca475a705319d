//! A broadcast's message for one customer on one channel (pure).
//!
//! Why it exists: preview, test send and broadcast go through the same code. `Template::compile` does once per
//! broadcast and sender whatever does not depend on the customer; `Template::render` fills in the rest.
//!
//! It must never depend on anything but its arguments: an interrupted LINE send is repeated with the same key, and
//! the same key must mean the same body.

mod app;
mod email;
mod form;
mod line;
pub(super) mod messenger;
mod reading;
mod sms;
pub(super) mod whatsapp;
pub(super) mod words;

use std::fmt;

use bytes::Bytes;
use carillon_jobs::{BroadcastId, CustomerId, ShopId};
use uuid::Uuid;

pub use self::{
    reading::Reading,
    sms::{sms_text, sms_text_to},
};

use self::form::{Form, Values};
use super::{
    Channel, Content, Credentials, DeliveryMark, Sender,
    merge::{Field, customer_value},
};

/// Whose message it is.
#[derive(Debug, Clone, Copy)]
pub struct Letterhead<'a> {
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// Its shop.
    pub shop: ShopId,
    /// The shop's name as customers know it.
    pub shop_name: &'a str,
    /// The shop's address on the web; where it is missing or unusable the fallback stands in.
    pub shop_url: Option<&'a str>,
    /// What a text message begins with.
    pub sms_sender_name: &'a str,
    /// The sender it leaves from; decides the channel.
    pub sender: &'a Sender,
}

/// Whom one message is for.
#[derive(Clone, Copy)]
pub struct Recipient<'a> {
    /// As the customer gave it; judged here.
    pub first_name: Option<&'a str>,
    /// As the customer gave it; judged here.
    pub last_name: Option<&'a str>,
    /// Who it is, for what comes back.
    pub customer: CustomerId,
    /// The delivery's key ([`super::delivery_key`]).
    pub key: Uuid,
    /// The https link that unsubscribes this customer; only email uses it.
    pub unsubscribe_url: &'a str,
}

/// A message for one customer, in the form its adapter sends. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub enum Rendered {
    /// The members of a request after `to`, as JSON text without the braces.
    Line(Bytes),
    /// The members of FCM's `message` after `token`, as JSON text without the braces.
    App(Bytes),
    /// A mail.
    Email {
        /// From its header `From` on; the adapter puts `Date` and `To` before it.
        mail: Bytes,
        /// The envelope sender that names this delivery; `None`: the account's own.
        return_path: Option<String>,
    },
    /// The members of a request after `recipient`, as JSON text without the braces.
    Messenger(Bytes),
    /// The members of a request after `to`, as JSON text without the braces.
    Whatsapp(Bytes),
    /// A text message.
    Sms {
        /// Its text.
        text: Bytes,
        /// Which delivery it is, for the address where the provider tells what became of it.
        mark: DeliveryMark,
    },
}

impl Rendered {
    /// The channel it was rendered for.
    #[must_use]
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Line(_) => Channel::Line,
            Self::App(_) => Channel::App,
            Self::Email { .. } => Channel::Email,
            Self::Messenger(_) => Channel::Messenger,
            Self::Whatsapp(_) => Channel::Whatsapp,
            Self::Sms { .. } => Channel::Sms,
        }
    }

    /// The text that will be sent, for previews and tests; never for logs.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        match self {
            Self::Line(body)
            | Self::App(body)
            | Self::Email { mail: body, .. }
            | Self::Messenger(body)
            | Self::Whatsapp(body)
            | Self::Sms { text: body, .. } => body,
        }
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rendered({}, {} bytes)", self.channel(), self.body().len())
    }
}

/// A broadcast's message on one channel, ready to be rendered for anyone.
pub struct Template {
    first_name: String,
    last_name: String,
    shape: Shape,
}

enum Shape {
    Line { form: Form, constant: Option<Bytes> },
    App(Form),
    Email(Box<email::Mail>),
    Messenger(Box<messenger::PageMessage>),
    Whatsapp(Box<whatsapp::NumberMessage>),
    Sms(Box<sms::Text>, BroadcastId),
}

impl Template {
    /// Does once what every message of the broadcast from this sender shares.
    #[must_use]
    pub fn compile(content: &Content, letterhead: &Letterhead<'_>) -> Self {
        let fallback = |field| content.fallbacks.of(field).unwrap_or_default();
        let shop_url = sms::usable_url(content, letterhead.shop_url);
        let shape = match letterhead.sender.credentials() {
            Credentials::Line(_) => {
                let form = line::form(content, letterhead.broadcast, shop_url);
                let constant = form.is_constant().then(|| form.fill(&NOBODY).into());
                Shape::Line { form, constant }
            }
            Credentials::App(_) => Shape::App(app::form(content, letterhead, shop_url)),
            Credentials::Email(account) => {
                Shape::Email(Box::new(email::Mail::new(content, letterhead, account, shop_url)))
            }
            Credentials::Messenger(_) => Shape::Messenger(Box::new(messenger::PageMessage::new(
                content,
                letterhead.broadcast,
                shop_url,
            ))),
            Credentials::Whatsapp(account) => Shape::Whatsapp(Box::new(whatsapp::NumberMessage::new(
                content,
                account,
                letterhead.shop_name,
                letterhead.broadcast,
                shop_url,
            ))),
            Credentials::Sms(_) => {
                let text = sms::Text::new(content, letterhead.sms_sender_name, shop_url);
                Shape::Sms(Box::new(text), letterhead.broadcast)
            }
        };
        let first_name = fallback(Field::FirstName).to_owned();
        let last_name = fallback(Field::LastName).to_owned();
        Self {
            first_name,
            last_name,
            shape,
        }
    }

    /// The message for one customer.
    #[must_use]
    pub fn render(&self, recipient: &Recipient<'_>) -> Rendered {
        let mut key = Uuid::encode_buffer();
        let values = Values {
            first_name: customer_value(recipient.first_name, &self.first_name),
            last_name: customer_value(recipient.last_name, &self.last_name),
            key: recipient.key.hyphenated().encode_lower(&mut key),
            unsubscribe_url: recipient.unsubscribe_url,
        };
        match &self.shape {
            Shape::Line {
                constant: Some(body), ..
            } => Rendered::Line(body.clone()),
            Shape::Line { form, constant: None } => Rendered::Line(form.fill(&values).into()),
            Shape::App(form) => Rendered::App(form.fill(&values).into()),
            Shape::Email(mail) => Rendered::Email {
                mail: mail.render(&values).into(),
                return_path: mail.return_path(recipient.customer),
            },
            Shape::Messenger(message) => Rendered::Messenger(message.render(recipient.customer, &values).into()),
            Shape::Whatsapp(message) => Rendered::Whatsapp(message.render(recipient.customer, &values).into()),
            Shape::Sms(text, broadcast) => Rendered::Sms {
                text: text.render(&values).into(),
                mark: DeliveryMark {
                    broadcast: *broadcast,
                    customer: recipient.customer,
                },
            },
        }
    }

    /// The one message that everyone gets, where the channel can send it to many at once: LINE without personal
    /// fields.
    #[must_use]
    pub fn same_for_all(&self) -> Option<Rendered> {
        match &self.shape {
            Shape::Line { constant, .. } => constant.clone().map(Rendered::Line),
            Shape::App(_) | Shape::Email(_) | Shape::Messenger(_) | Shape::Whatsapp(_) | Shape::Sms(..) => None,
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = match self.shape {
            Shape::Line { .. } => Channel::Line,
            Shape::App(_) => Channel::App,
            Shape::Email(_) => Channel::Email,
            Shape::Messenger(_) => Channel::Messenger,
            Shape::Whatsapp(_) => Channel::Whatsapp,
            Shape::Sms(..) => Channel::Sms,
        };
        write!(f, "Template({channel})")
    }
}

/// For forms that have no blanks.
const NOBODY: Values<'static> = Values {
    first_name: "",
    last_name: "",
    key: "",
    unsubscribe_url: "",
};

#[cfg(test)]
mod meta_tests;
#[cfg(test)]
mod tests;
