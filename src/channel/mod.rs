//! Channels: the part planning needs until the providers are merged.

mod content;
mod gsm7;
mod link;
mod merge;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use content::{Button, Content, ContentProblem, InvalidContent};
pub use merge::{Fallbacks, Field};

/// How a message travels. Stored in Postgres as the enum `channel`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
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

