//! A text message account: Twilio's or Mitake's, read from a sender's credentials.
//!
//! Why it exists: both providers carry the one channel `sms`; which of them a sender uses stands in its credentials, beside the
//! fields that webhooks need (`webhook::secrets`).
//!
//! It must never show a secret.

use std::sync::OnceLock;

use ::http::HeaderValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use url::Url;

use super::mitake::Frame;
use crate::{
    channel::{
        Channel,
        config::base_url,
        sender::{SenderError, field, read},
    },
    secret::Hidden,
};

/// A text message account.
pub enum SmsAccount {
    /// Twilio.
    Twilio(TwilioAccount),
    /// Mitake.
    Mitake(MitakeAccount),
}

impl SmsAccount {
    /// Reads either provider's credentials.
    ///
    /// - `{"provider": "twilio", "account_sid", "auth_token", "api_key"?, "api_secret"?, "from" | "messaging_service_sid"}`
    /// - `{"provider": "mitake", "username", "password", "callback_token", "base_url"?}`
    pub(in crate::channel) fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Which {
            provider: String,
        }
        let which: Which = read(Channel::Sms, json)?;
        match which.provider.as_str() {
            "twilio" => TwilioAccount::parse(json).map(Self::Twilio),
            "mitake" => MitakeAccount::parse(json).map(Self::Mitake),
            _ => Err(field("provider", "is neither twilio nor mitake")),
        }
    }
}

/// A Twilio account and what it sends from.
pub struct TwilioAccount {
    /// `AC` and 32 hexadecimal digits.
    pub account_sid: String,
    /// `Basic …`, marked sensitive.
    pub(super) authorization: HeaderValue,
    pub(super) origin: Origin,
}

/// What a message comes from.
pub(super) enum Origin {
    /// A number or a name.
    From(String),
    /// A messaging service, which chooses one of its numbers.
    Service(String),
}

impl TwilioAccount {
    fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            account_sid: String,
            auth_token: String,
            api_key: Option<String>,
            api_secret: Option<String>,
            from: Option<String>,
            messaging_service_sid: Option<String>,
        }
        let stored: Stored = read(Channel::Sms, json)?;
        if !is_sid(&stored.account_sid, &["AC"]) {
            return Err(field(
                "account_sid",
                "is not AC and 32 hexadecimal digits: Twilio's console shows it",
            ));
        }
        if stored.auth_token.trim().is_empty() {
            return Err(field("auth_token", "is empty: Twilio's console shows it"));
        }
        let origin = match (stored.from, stored.messaging_service_sid) {
            (Some(_), Some(_)) => {
                return Err(field(
                    "from",
                    "stands beside `messaging_service_sid`: give one of the two",
                ));
            }
            (None, None) => return Err(field("from", "is missing: give it, or `messaging_service_sid`")),
            (Some(from), None) if is_origin(&from) => Origin::From(from),
            (Some(_), None) => {
                return Err(field(
                    "from",
                    "is neither a number such as +15005550006 nor a name of at most 11 letters",
                ));
            }
            (None, Some(service)) if is_sid(&service, &["MG"]) => Origin::Service(service),
            (None, Some(_)) => return Err(field("messaging_service_sid", "is not MG and 32 hexadecimal digits")),
        };
        let (user, password) = match (stored.api_key, stored.api_secret) {
            (None, None) => (stored.account_sid.clone(), stored.auth_token.trim().to_owned()),
            (Some(key), Some(secret)) if is_sid(&key, &["SK"]) => (key, secret),
            _ => {
                return Err(field(
                    "api_key",
                    "and `api_secret` come together, the key as SK and 32 hexadecimal digits",
                ));
            }
        };
        Ok(Self {
            authorization: basic(&user, &password).ok_or(field("auth_token", "cannot stand in a header"))?,
            account_sid: stored.account_sid,
            origin,
        })
    }
}

/// A Mitake account.
pub struct MitakeAccount {
    pub(super) username: String,
    pub(super) password: Hidden,
    /// What callbacks must carry.
    pub(super) callback_token: Hidden,
    /// Its own address of the API, where it differs from the configured one.
    pub(super) base_url: Option<Url>,
    /// What its requests have in common, written with the first of them.
    pub(super) frame: OnceLock<Frame>,
}

impl MitakeAccount {
    fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            username: String,
            password: String,
            callback_token: String,
            base_url: Option<String>,
        }
        let stored: Stored = read(Channel::Sms, json)?;
        if stored.username.trim().is_empty() || stored.password.is_empty() {
            return Err(field("username", "or `password` is empty: Mitake gives both"));
        }
        if stored.callback_token.trim().len() < 16 {
            return Err(field(
                "callback_token",
                "is shorter than 16 characters: use `openssl rand -hex 24`",
            ));
        }
        let base = stored.base_url.filter(|text| !text.is_empty());
        let base = base.map(|text| {
            let sound =
                base_url(&text).filter(|url| url.scheme() == "https" || crate::channel::sender::is_loopback(url));
            sound.ok_or(field("base_url", "is not an https URL: the password travels there"))
        });
        Ok(Self {
            username: stored.username.trim().to_owned(),
            password: Hidden::new(stored.password),
            callback_token: Hidden::new(stored.callback_token.trim()),
            base_url: base.transpose()?,
            frame: OnceLock::new(),
        })
    }
}

/// A Twilio id: a prefix and 32 hexadecimal digits.
pub(super) fn is_sid(text: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

fn is_origin(text: &str) -> bool {
    let number = text
        .strip_prefix('+')
        .is_some_and(|digits| (8..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
    let name = (1..=11).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
    number || name
}

/// `Basic <user:password>` as a header value that is never shown.
fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}
