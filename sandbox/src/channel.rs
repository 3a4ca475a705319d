//! The wire formats the sandbox speaks, as one closed list.
//! It exists so that counters, faults and control requests name a channel the same way.
//! It must never grow an "other": a new provider is a new variant and the places the compiler names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A simulated provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// LINE Messaging API.
    Line,
    /// Firebase Cloud Messaging HTTP v1 (`app` is accepted as its name).
    #[serde(alias = "app")]
    Fcm,
    /// Mail submission (`email` is accepted as its name).
    #[serde(alias = "email")]
    Smtp,
    /// Messenger's Send API.
    Messenger,
    /// WhatsApp Cloud API.
    Whatsapp,
    /// Twilio's REST API.
    Twilio,
    /// Mitake's HTTP API (`sms` is accepted as its name).
    #[serde(alias = "sms")]
    Mitake,
}

impl Channel {
    /// Every channel, in a fixed order.
    pub const ALL: [Channel; 7] = [
        Channel::Line,
        Channel::Fcm,
        Channel::Smtp,
        Channel::Messenger,
        Channel::Whatsapp,
        Channel::Twilio,
        Channel::Mitake,
    ];

    /// The name used in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Line => "line",
            Channel::Fcm => "fcm",
            Channel::Smtp => "smtp",
            Channel::Messenger => "messenger",
            Channel::Whatsapp => "whatsapp",
            Channel::Twilio => "twilio",
            Channel::Mitake => "mitake",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "line" => Ok(Channel::Line),
            "fcm" | "app" => Ok(Channel::Fcm),
            "smtp" | "email" => Ok(Channel::Smtp),
            "messenger" => Ok(Channel::Messenger),
            "whatsapp" => Ok(Channel::Whatsapp),
            "twilio" => Ok(Channel::Twilio),
            "mitake" | "sms" => Ok(Channel::Mitake),
            _ => Err(UnknownChannel),
        }
    }
}

/// The text names no channel of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a channel is one of line, fcm, smtp, messenger, whatsapp, twilio, mitake")]
pub struct UnknownChannel;
