//! Whose wire a message goes over: one provider a channel, but two of text messages, of which one remembers our keys.
//! Why not the channel: what breaks, what a lost answer may leave behind and who has taken what is a provider's, not a channel's.
//! It must never know more of a provider than that.

use carillon::channel::Channel;

/// A provider of the town.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// LINE.
    Line,
    /// Google's push messages.
    App,
    /// A mail relay.
    Email,
    /// Facebook pages.
    Messenger,
    /// WhatsApp numbers.
    Whatsapp,
    /// Text messages of the even shops.
    Mitake,
    /// Text messages of the odd shops.
    Twilio,
}

impl Provider {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Line,
        Self::App,
        Self::Email,
        Self::Messenger,
        Self::Whatsapp,
        Self::Mitake,
        Self::Twilio,
    ];

    /// Its name in plans and reports, and that of its senders in the town, by which rows are told apart.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::App => "app",
            Self::Email => "email",
            Self::Messenger => "messenger",
            Self::Whatsapp => "whatsapp",
            Self::Mitake => "mitake",
            Self::Twilio => "twilio",
        }
    }

    /// Whose sender has this name.
    pub fn of_sender(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// Our channel.
    pub const fn channel(self) -> Channel {
        match self {
            Self::Line => Channel::Line,
            Self::App => Channel::App,
            Self::Email => Channel::Email,
            Self::Messenger => Channel::Messenger,
            Self::Whatsapp => Channel::Whatsapp,
            Self::Mitake | Self::Twilio => Channel::Sms,
        }
    }

    /// What the sandbox calls it.
    pub const fn wire(self) -> carillon_sandbox::Channel {
        match self {
            Self::Line => carillon_sandbox::Channel::Line,
            Self::App => carillon_sandbox::Channel::Fcm,
            Self::Email => carillon_sandbox::Channel::Smtp,
            Self::Messenger => carillon_sandbox::Channel::Messenger,
            Self::Whatsapp => carillon_sandbox::Channel::Whatsapp,
            Self::Mitake => carillon_sandbox::Channel::Mitake,
            Self::Twilio => carillon_sandbox::Channel::Twilio,
        }
    }

    /// Whether it remembers our keys for longer than any run lasts: then what was interrupted is repeated, and nothing becomes unknown
    /// for a lost answer. Mitake's twelve hours are shorter than the longest run, but no fault is.
    pub const fn has_keys(self) -> bool {
        matches!(self, Self::Line | Self::Mitake)
    }

    /// Whether it is simulated on the sandbox's HTTP port.
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Email)
    }

    /// How it is given an address that we have stored.
    pub fn given(self, address: &str) -> String {
        match (self, address.strip_prefix("+886")) {
            (Self::Mitake, Some(rest)) => format!("0{rest}"),
            _ => address.to_owned(),
        }
    }

    /// How we store an address that it was given.
    pub fn stored(self, address: String) -> String {
        match (self, address.strip_prefix('0')) {
            (Self::Mitake, Some(rest)) => format!("+886{rest}"),
            _ => address,
        }
    }
}
