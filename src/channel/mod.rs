//! Channels: one file per provider, and the message itself.
//!
//! Why it exists: the rest of Carillon knows one verb, `send`, and seven classes of refusal. What a provider calls
//! things, how it authenticates and what its error codes mean stays in that provider's file.
//!
//! Table of contents:
//! - `content`: a broadcast's message as the merchant wrote it, parsed and refused at the door (pure)
//! - `merge`, `gsm7`, `link`: its merge fields, its character set, its links (pure)
//! - `render`: the same message for one customer on one channel (pure)
//! - `key`: the idempotency keys, derived and never random (pure)
//! - `mark`: which delivery a message is, written into it and read back from what the provider tells (pure)
//! - `return_path`: the envelope sender of one mail, by which a bounce names its delivery (pure)
//! - `sender`: an account on a channel and its credentials, parsed
//! - `check`: what a check of a connection found
//! - `outcome`: accepted, or refused with a class
//! - `http`: the one HTTP client and its bounded reads
//! - `line`, `fcm`, `email`, `messenger`, `whatsapp`, `sms`: the providers
//! - `graph`: what Messenger and WhatsApp share of Meta's API
//! - `segments`: how many parts a text message takes (pure)
//! - `phone`: phone numbers, in a text and as they are stored (pure)
//! - `webhook`: what providers tell us, in one set of words for all of them (pure)
//! - `config`: their settings
//!
//! It must never report a message as accepted unless the provider said so in its own words, never read or write
//! Postgres or Redis, and never put an address, a body or a secret into an error, a log or a `Debug` text.

mod check;
mod config;
mod content;
mod email;
mod fcm;
#[cfg(test)]
mod fixture;
mod graph;
mod gsm7;
mod http;
mod key;
mod line;
mod link;
mod mark;
mod merge;
mod messenger;
mod outcome;
pub mod phone;
mod render;
mod return_path;
mod segments;
mod sender;
mod sms;
pub mod webhook;
mod whatsapp;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use check::{Checked, Expected, Finding, FindingState};
pub use config::{
    AppConfig, ChannelConfig, ChannelsError, EmailConfig, HttpConfig, LineConfig, MessengerConfig, SmsConfig,
    WhatsappConfig,
};
pub use content::{Button, Content, ContentProblem, InvalidContent, TEXT_LIMIT, TEXT_LIMIT_GSM7};
pub use key::{delivery_key, slice_key};
pub use line::{MULTICAST_LIMIT, quota::QuotaReading};
pub use mark::DeliveryMark;
pub use merge::{Fallbacks, Field, VALUE_BYTES, VALUE_GRAPHEMES};
pub use messenger::PageAccount;
pub use outcome::{ErrorClass, Refusal, SendOutcome};
pub use render::{Letterhead, Reading, Recipient, Rendered, Template, sms_text, sms_text_to};
pub use return_path::ReturnPathKey;
pub use segments::{Alphabet, Segments};
pub use sender::{AppProject, Credentials, EmailAccount, KeyMemory, LineAccount, Sender, SenderError};
pub use sms::{Contacts, MitakeAccount, Registered, SmsAccount, TwilioAccount};
pub use whatsapp::{MessageTemplate, NumberAccount, TemplateBlank};

/// How a message travels. Stored in Postgres as the enum `channel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "channel", rename_all = "snake_case")]
pub enum Channel {
    /// Push notification of the shopping app (FCM).
    App,
    /// LINE official account.
    Line,
    /// Facebook Messenger.
    Messenger,
    /// WhatsApp Cloud API.
    Whatsapp,
    /// Text message.
    Sms,
    /// Email over SMTP.
    Email,
}

impl Channel {
    /// Every channel, in the order pages list them.
    pub const ALL: [Self; 6] = [
        Self::App,
        Self::Line,
        Self::Messenger,
        Self::Whatsapp,
        Self::Sms,
        Self::Email,
    ];

    /// The name used in SQL, JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Line => "line",
            Self::Messenger => "messenger",
            Self::Whatsapp => "whatsapp",
            Self::Sms => "sms",
            Self::Email => "email",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a channel: use app, line, messenger, whatsapp, sms or email")]
pub struct UnknownChannel(String);

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|channel| channel.as_str() == name)
            .ok_or_else(|| UnknownChannel(name.chars().take(40).collect()))
    }
}

/// The providers, built once per process: one HTTP client, one SMTP pool per sender, one OAuth token per sender.
///
/// Cheap to share behind an `Arc`; every method takes `&self`. Dropping a returned future is safe at any moment: no
/// half-used connection is ever used again, but what was in flight may have been sent.
#[derive(Debug)]
pub struct Channels {
    line: line::Line,
    fcm: fcm::Fcm,
    email: email::Email,
    messenger: messenger::Messenger,
    whatsapp: whatsapp::Whatsapp,
    sms: sms::Sms,
}

impl Channels {
    /// The providers as configured. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Every setting that cannot work, by its key, all of them at once.
    pub fn new(config: &ChannelConfig) -> Result<Self, ChannelsError> {
        config.check()?;
        let client = http::client(&config.http)?;
        Ok(Self {
            line: line::Line::new(client.clone(), &config.line)?,
            fcm: fcm::Fcm::new(client.clone(), &config.app)?,
            email: email::Email::new(config.email.clone())?,
            messenger: messenger::Messenger::new(client.clone(), &config.messenger)?,
            whatsapp: whatsapp::Whatsapp::new(client.clone(), &config.whatsapp)?,
            sms: sms::Sms::new(client, &config.sms)?,
        })
    }

    /// The same, telling providers that take such an address with each message where to say what became of it: below this one.
    #[must_use]
    pub fn reached_at(mut self, public_url: &str) -> Self {
        self.sms.reached_at(public_url);
        self
    }

    /// Sends one message to one address and says what became of it. Never fails otherwise.
    ///
    /// `key` is the delivery's own key ([`delivery_key`]): LINE's retry key, and the mark by which the provider's
    /// echo is recognised elsewhere. A repeat must carry the same key, address and message.
    pub async fn send(&self, sender: &Sender, to: &str, message: &Rendered, key: Uuid) -> SendOutcome {
        match (sender.credentials(), message) {
            (Credentials::Line(account), Rendered::Line(parts)) => self.line.push(account, to, parts, key).await,
            (Credentials::App(project), Rendered::App(parts)) => self.fcm.send(sender.id, project, to, parts).await,
            (Credentials::Email(account), Rendered::Email { mail, return_path }) => {
                let return_path = return_path.as_deref();
                self.email.send(sender.id, account, to, mail, return_path).await
            }
            (Credentials::Messenger(account), Rendered::Messenger(parts)) => {
                self.messenger.send(account, to, parts).await
            }
            (Credentials::Whatsapp(account), Rendered::Whatsapp(parts)) => self.whatsapp.send(account, to, parts).await,
            (Credentials::Sms(account), Rendered::Sms { text, mark }) => {
                let Ok(text) = std::str::from_utf8(text) else {
                    return Refusal::new(ErrorClass::Content, "not_a_text").into();
                };
                let account = (sender.id, &**account);
                self.sms.send(account, to, (text, *mark), key).await
            }
            (
                Credentials::Line(_)
                | Credentials::App(_)
                | Credentials::Email(_)
                | Credentials::Messenger(_)
                | Credentials::Whatsapp(_)
                | Credentials::Sms(_),
                _,
            ) => wrong_channel(),
        }
    }

    /// Asks LINE for an account's month: its limit and what is used. Refused for a sender of another channel.
    ///
    /// # Errors
    /// What LINE answered instead, or that it did not answer.
    pub async fn line_quota(&self, sender: &Sender) -> Result<QuotaReading, Refusal> {
        match sender.credentials() {
            Credentials::Line(account) => self.line.quota(account).await,
            _ => Err(Refusal::new(ErrorClass::Content, "wrong_channel")),
        }
    }

    /// Sends one message to up to 500 addresses of a LINE sender in one request: all of them or none.
    ///
    /// `key` is the slice's key ([`slice_key`]). A refusal of class `recipient` says that nobody got it because one
    /// of the addresses is refused; send the members one by one then. Other channels refuse.
    pub async fn multicast(&self, sender: &Sender, to: &[&str], message: &Rendered, key: Uuid) -> SendOutcome {
        match (sender.credentials(), message) {
            (Credentials::Line(account), Rendered::Line(parts)) => self.line.multicast(account, to, parts, key).await,
            (
                Credentials::Line(_)
                | Credentials::App(_)
                | Credentials::Email(_)
                | Credentials::Messenger(_)
                | Credentials::Whatsapp(_)
                | Credentials::Sms(_),
                _,
            ) => wrong_channel(),
        }
    }
}

impl Channels {
    /// Asks the provider whether an account is connected as it has to be. Sends no message. None: for this channel nothing is asked.
    pub async fn check(&self, sender: &Sender, expected: Expected<'_>) -> Option<Checked> {
        match sender.credentials() {
            Credentials::Line(account) => Some(self.line.check(account, expected).await),
            Credentials::Messenger(account) => Some(self.messenger.check(account, expected.mend).await),
            Credentials::Whatsapp(account) => Some(self.whatsapp.check(account).await),
            Credentials::Sms(account) => Some(self.sms.check(account).await),
            Credentials::App(_) | Credentials::Email(_) => None,
        }
    }
}

/// Whether a refusal's code says that the person behind the address has told the provider to stop.
#[must_use]
pub fn says_stop(code: &str) -> bool {
    sms::codes::says_stop(code)
}

/// A message rendered for another channel than the sender's: a mistake of ours, refused before anything leaves.
fn wrong_channel() -> SendOutcome {
    Refusal::new(ErrorClass::Content, "wrong_channel").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_can_run_in_any_task() {
        fn any_task<T: Send>(_: &T) {}
        fn check(channels: &Channels, sender: &Sender, message: &Rendered) {
            any_task(&channels.send(sender, "", message, Uuid::nil()));
            any_task(&channels.multicast(sender, &[], message, Uuid::nil()));
        }
        let _ = check;
    }

    #[test]
    fn a_channel_reads_back_what_it_prints() {
        for channel in Channel::ALL {
            assert_eq!(channel.to_string().parse(), Ok(channel));
            assert_eq!(
                serde_json::to_value(channel).ok(),
                Some(serde_json::Value::from(channel.as_str()))
            );
        }
        assert!("LINE".parse::<Channel>().is_err());
    }
}
