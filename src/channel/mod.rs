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
//! - `outcome`: accepted, or refused with a class
//! - `connection`: what a look at a provider finds about an account's set-up, in a merchant's words (pure)
//! - `http`: the one HTTP client and its bounded reads
//! - `line`, `fcm`, `email`: the providers
//! - `webhook`: what providers tell us, in one set of words for all of them (pure)
//! - `config`: their settings
//!
//! It must never report a message as accepted unless the provider said so in its own words, never read or write
//! Postgres or Redis, and never put an address, a body or a secret into an error, a log or a `Debug` text.

mod config;
mod connection;
mod content;
mod email;
mod fcm;
#[cfg(test)]
mod fixture;
mod gsm7;
mod http;
mod key;
mod line;
mod link;
mod mark;
mod merge;
mod outcome;
mod render;
mod return_path;
mod sender;
pub mod webhook;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use config::{AppConfig, ChannelConfig, ChannelsError, EmailConfig, HttpConfig, LineConfig};
pub use connection::{Expected, Finding, Verdict};
pub use content::{Button, Content, ContentProblem, InvalidContent, TEXT_LIMIT, TEXT_LIMIT_GSM7};
pub use key::{delivery_key, slice_key};
pub use line::{MULTICAST_LIMIT, quota::QuotaReading};
pub use mark::DeliveryMark;
pub use merge::{Fallbacks, Field};
pub use outcome::{ErrorClass, Refusal, SendOutcome};
pub use render::{Letterhead, Recipient, Rendered, Template};
pub use return_path::ReturnPathKey;
pub use sender::{AppProject, Credentials, EmailAccount, LineAccount, Sender, SenderError};

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

    /// Whether the provider honours an idempotency key, so that an interrupted send may be repeated.
    ///
    /// Where it is false an interrupted send is `unknown` and must never be repeated blindly.
    #[must_use]
    pub const fn keyed(self) -> bool {
        match self {
            Self::Line => true,
            Self::App | Self::Messenger | Self::Whatsapp | Self::Sms | Self::Email => false,
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
            fcm: fcm::Fcm::new(client, &config.app)?,
            email: email::Email::new(config.email.clone()),
        })
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
            (Credentials::Line(_) | Credentials::App(_) | Credentials::Email(_), _) => wrong_channel(),
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

    /// Asks the provider about an account: one finding a question, in the order in which a merchant would set it up. Sends
    /// no message and changes nothing.
    pub async fn check_connection(&self, sender: &Sender, expected: Expected<'_>) -> Vec<Finding> {
        match sender.credentials() {
            Credentials::Line(account) => self.line.check(account, expected).await,
            Credentials::App(_) | Credentials::Email(_) => vec![nothing_to_ask(sender.channel())],
        }
    }

    /// Sends one message to up to 500 addresses of a LINE sender in one request: all of them or none.
    ///
    /// `key` is the slice's key ([`slice_key`]). A refusal of class `recipient` says that nobody got it because one
    /// of the addresses is refused; send the members one by one then. Other channels refuse.
    pub async fn multicast(&self, sender: &Sender, to: &[&str], message: &Rendered, key: Uuid) -> SendOutcome {
        match (sender.credentials(), message) {
            (Credentials::Line(account), Rendered::Line(parts)) => self.line.multicast(account, to, parts, key).await,
            (Credentials::Line(_) | Credentials::App(_) | Credentials::Email(_), _) => wrong_channel(),
        }
    }
}

/// A message rendered for another channel than the sender's: a mistake of ours, refused before anything leaves.
fn wrong_channel() -> SendOutcome {
    Refusal::new(ErrorClass::Content, "wrong_channel").into()
}

/// What is said of a channel whose provider is not asked: its credentials parse, and sending will tell.
fn nothing_to_ask(channel: Channel) -> Finding {
    Finding::advice(
        "credentials",
        format!("{channel} 的憑證格式正確；能否發送要以一則測試訊息確認。"),
        format!("the credentials of {channel} are well-formed; a test message shows whether they work."),
    )
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
