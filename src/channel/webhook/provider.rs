//! Who can tell us something by webhook, and how each is named.
//!
//! Why it exists: the name stands in the address of the webhook, in rows and on the command line, and everything that
//! differs between providers is decided by it in one `match`.
//!
//! A name must never change: providers were told the address months ago.

use std::{fmt, str::FromStr};

use crate::channel::Channel;

/// Who tells us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// LINE Messaging API.
    Line,
    /// Facebook Messenger and Instagram.
    Messenger,
    /// WhatsApp Cloud API.
    Whatsapp,
    /// Twilio: text messages.
    Twilio,
    /// Mitake: text messages.
    Mitake,
    /// The shop's own front: messages from its pages and orders.
    Store,
    /// The mail server that takes what comes back: bounces and complaints.
    Email,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 7] = [
        Self::Line,
        Self::Messenger,
        Self::Whatsapp,
        Self::Twilio,
        Self::Mitake,
        Self::Store,
        Self::Email,
    ];

    /// The name used in addresses, SQL, JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Messenger => "messenger",
            Self::Whatsapp => "whatsapp",
            Self::Twilio => "twilio",
            Self::Mitake => "mitake",
            Self::Store => "store",
            Self::Email => "email",
        }
    }

    /// The channel of the senders it speaks about. A shop front speaks for its shop's `app` sender.
    #[must_use]
    pub const fn channel(self) -> Channel {
        match self {
            Self::Line => Channel::Line,
            Self::Messenger => Channel::Messenger,
            Self::Whatsapp => Channel::Whatsapp,
            Self::Twilio | Self::Mitake => Channel::Sms,
            Self::Store => Channel::App,
            Self::Email => Channel::Email,
        }
    }

    /// The header that [`super::verify`] reads, in small letters: all of the request's headers that must be kept for a
    /// webhook that is verified later. `None`: the proof is in the query.
    #[must_use]
    pub const fn signature_header(self) -> Option<&'static str> {
        match self {
            Self::Line => Some("x-line-signature"),
            Self::Messenger | Self::Whatsapp => Some("x-hub-signature-256"),
            Self::Twilio => Some("x-twilio-signature"),
            Self::Mitake => None,
            Self::Store | Self::Email => Some("x-carillon-signature"),
        }
    }

    /// Whether its callbacks come as GET requests with everything in the query.
    #[must_use]
    pub const fn calls_by_get(self) -> bool {
        matches!(self, Self::Mitake)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a provider of webhooks: use line, messenger, whatsapp, twilio, mitake, store or email")]
pub struct UnknownProvider;

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or(UnknownProvider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_reads_back_what_it_prints() {
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse(), Ok(provider));
        }
        assert_eq!("LINE".parse::<Provider>(), Err(UnknownProvider));
        assert_eq!("".parse::<Provider>(), Err(UnknownProvider));
    }
}
