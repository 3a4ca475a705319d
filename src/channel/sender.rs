//! An account on a channel: its credentials, parsed.
//!
//! Why it exists: credentials are stored encrypted as one JSON text; here they are read once, checked as far as that
//! is possible without asking the provider, and brought into the form a request needs.
//!
//! It must never show a secret: not in `Debug`, not in an error.

use std::{fmt, net::IpAddr, sync::Arc};

use ::http::HeaderValue;
use carillon_jobs::SenderId;
use lettre::Address;
use ring::signature::RsaKeyPair;
use serde::Deserialize;
use url::{Host, Url};

use super::{Channel, messenger::PageAccount, sms::SmsAccount, whatsapp::NumberAccount};

/// An account on a channel, ready to send.
#[derive(Clone)]
pub struct Sender {
    /// Its id.
    pub id: SenderId,
    credentials: Credentials,
}

/// The credentials of a connected channel.
#[derive(Clone)]
pub enum Credentials {
    /// LINE official account.
    Line(Arc<LineAccount>),
    /// FCM project.
    App(Arc<AppProject>),
    /// Mail relay and identity.
    Email(Arc<EmailAccount>),
    /// Facebook page.
    Messenger(Arc<PageAccount>),
    /// WhatsApp number.
    Whatsapp(Arc<NumberAccount>),
    /// Text messages, by Twilio or Mitake.
    Sms(Arc<SmsAccount>),
}

/// A provider that remembers our idempotency keys, so that an interrupted send may be repeated while it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMemory {
    /// LINE: 24 hours.
    Line,
    /// Mitake: 12 hours.
    Mitake,
}

/// Credentials that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    /// Not the JSON this channel needs.
    #[error("credentials of {channel} are not the JSON expected: {problem}")]
    Malformed {
        /// The channel.
        channel: Channel,
        /// Which field is missing or of the wrong type; never a value.
        problem: String,
    },
    /// One field cannot be right.
    #[error("credentials field `{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong and what to do; never the value.
        problem: &'static str,
    },
}

impl Sender {
    /// Reads decrypted credentials.
    ///
    /// - `line`: `{"channel_id", "channel_secret", "access_token"}`
    /// - `app`: Google's service account key file as it is
    /// - `email`: `{"host", "port", "tls": "implicit" | "starttls" | "none", "username"?, "password"?, "from",
    ///   "from_name"?, "reply_to"?, "return_path"?, "bounce_secret"?, "unsubscribe_mailbox"?}`
    /// - `messenger`: `{"page_id", "access_token", "app_id"?, "app_secret"?}`; with the secret every request carries its proof
    /// - `whatsapp`: `{"phone_number_id", "access_token", "app_secret"?, "template"?: {"name", "language", "header_image"?,
    ///   "body"?: ["text" | "first_name" | "last_name" | "shop_name"], "button_url_prefix"?}}`
    ///
    /// Fields of webhooks stand beside them ([`super::webhook::WebhookSecrets`]).
    /// - `sms`: `{"provider": "twilio", "account_sid", "auth_token", "from" | "messaging_service_sid"}` or `{"provider":
    ///   "mitake", "username", "password", "callback_token", "base_url"?}`
    ///
    /// # Errors
    /// A field is missing or cannot be right.
    pub fn parse(id: SenderId, channel: Channel, json: &str) -> Result<Self, SenderError> {
        let credentials = match channel {
            Channel::Line => Credentials::Line(Arc::new(LineAccount::parse(json)?)),
            Channel::App => Credentials::App(Arc::new(AppProject::parse(json)?)),
            Channel::Email => Credentials::Email(Arc::new(EmailAccount::parse(json)?)),
            Channel::Messenger => Credentials::Messenger(Arc::new(PageAccount::parse(json)?)),
            Channel::Whatsapp => Credentials::Whatsapp(Arc::new(NumberAccount::parse(json)?)),
            Channel::Sms => Credentials::Sms(Arc::new(SmsAccount::parse(json)?)),
        };
        Ok(Self { id, credentials })
    }

    /// The channel it sends on.
    #[must_use]
    pub const fn channel(&self) -> Channel {
        match self.credentials {
            Credentials::Line(_) => Channel::Line,
            Credentials::App(_) => Channel::App,
            Credentials::Email(_) => Channel::Email,
            Credentials::Messenger(_) => Channel::Messenger,
            Credentials::Whatsapp(_) => Channel::Whatsapp,
            Credentials::Sms(_) => Channel::Sms,
        }
    }

    /// Whose memory of our keys makes it safe to repeat an interrupted send; `None`: nobody's, it is `unknown` and must never be
    /// repeated blindly.
    #[must_use]
    pub fn key_memory(&self) -> Option<KeyMemory> {
        match &self.credentials {
            Credentials::Line(_) => Some(KeyMemory::Line),
            Credentials::Sms(account) => match **account {
                SmsAccount::Mitake(_) => Some(KeyMemory::Mitake),
                SmsAccount::Twilio(_) => None,
            },
            Credentials::App(_) | Credentials::Email(_) | Credentials::Messenger(_) | Credentials::Whatsapp(_) => None,
        }
    }

    /// Whether it sends by an approved template, which needs no window: what stands in `sender.sends_templates`.
    #[must_use]
    pub fn sends_templates(&self) -> bool {
        matches!(&self.credentials, Credentials::Whatsapp(account) if account.template.is_some())
    }

    /// Its credentials.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} {})", self.channel(), self.id)
    }
}

/// Serde's message names fields and types but quotes values of the wrong type, so only its outline is kept.
pub(super) fn read<'a, T: Deserialize<'a>>(channel: Channel, json: &'a str) -> Result<T, SenderError> {
    serde_json::from_str(json).map_err(|error| {
        let text = error.to_string();
        let problem = if text.starts_with("missing field") {
            text
        } else {
            format!("wrong near line {} column {}", error.line(), error.column())
        };
        SenderError::Malformed { channel, problem }
    })
}

pub(super) const fn field(field: &'static str, problem: &'static str) -> SenderError {
    SenderError::Field { field, problem }
}

/// An id of Meta's: digits that can stand in a path.
pub(super) fn is_meta_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// A LINE official account.
pub struct LineAccount {
    /// The channel id: digits.
    pub channel_id: String,
    /// Signs webhooks.
    pub channel_secret: String,
    /// `Bearer …`, marked sensitive.
    pub(super) authorization: HeaderValue,
}

impl LineAccount {
    fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            channel_id: String,
            channel_secret: String,
            access_token: String,
        }
        let stored: Stored = read(Channel::Line, json)?;
        for (name, value) in [
            ("channel_id", &stored.channel_id),
            ("channel_secret", &stored.channel_secret),
            ("access_token", &stored.access_token),
        ] {
            if value.trim().is_empty() {
                return Err(field(name, "is empty: LINE's console shows it"));
            }
        }
        Ok(Self {
            authorization: bearer(stored.access_token.trim())
                .ok_or(field("access_token", "holds characters no token has: copy it again"))?,
            channel_id: stored.channel_id,
            channel_secret: stored.channel_secret,
        })
    }
}

/// `Bearer <token>` as a header value that is never shown.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An FCM project with the service account that may send to it.
pub struct AppProject {
    /// The project id.
    pub project_id: String,
    pub(super) client_email: String,
    pub(super) private_key_id: String,
    pub(super) private_key: RsaKeyPair,
    pub(super) token_uri: Url,
}

impl AppProject {
    fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct KeyFile {
            project_id: String,
            client_email: String,
            private_key_id: String,
            private_key: String,
            token_uri: String,
        }
        let file: KeyFile = read(Channel::App, json)?;
        let project = &file.project_id;
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.');
        if project.is_empty() || !project.chars().all(sound) {
            return Err(field(
                "project_id",
                "is not a project id: use Google's key file as it is",
            ));
        }
        if file.client_email.is_empty() || file.private_key_id.is_empty() {
            let problem = "or `private_key_id` is empty: use Google's key file as it is";
            return Err(field("client_email", problem));
        }
        let token_uri = Url::parse(&file.token_uri)
            .ok()
            .filter(|url| url.scheme() == "https" || is_loopback(url))
            .ok_or(field(
                "token_uri",
                "is not an https URL: use Google's key file as it is",
            ))?;
        Ok(Self {
            private_key: rsa_key(&file.private_key).ok_or(field(
                "private_key",
                "is not an RSA key in PKCS#8 PEM: use Google's key file as it is",
            ))?,
            project_id: file.project_id,
            client_email: file.client_email,
            private_key_id: file.private_key_id,
            token_uri,
        })
    }
}

/// The sandbox's token endpoint is plain HTTP on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn rsa_key(pem: &str) -> Option<RsaKeyPair> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let inside = pem.split_once("-----BEGIN PRIVATE KEY-----")?.1;
    let inside = inside.split_once("-----END PRIVATE KEY-----")?.0;
    let text: String = inside.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(text).ok()?;
    RsaKeyPair::from_pkcs8(&der).ok()
}

/// How a connection to a mail relay is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MailTls {
    /// TLS from the first byte (port 465).
    Implicit,
    /// Upgraded before anything is said (port 587); never falls back to plain.
    Starttls,
    /// Plain; with a login only to this machine.
    None,
}

/// A mail relay and the identity that sends through it.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAccount {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: MailTls,
    /// User name and password.
    pub(super) login: Option<(String, String)>,
    pub(super) from: Address,
    pub(super) from_name: Option<String>,
    pub(super) reply_to: Option<Address>,
    pub(super) return_path: Address,
    pub(super) unsubscribe_mailbox: Address,
    /// Makes return paths that name their delivery; only beside a `return_path` that was given, whose server must take
    /// `bounce+anything@…` for `bounce@…`.
    pub(super) bounce_secret: Option<String>,
}

impl EmailAccount {
    fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            host: String,
            port: u16,
            tls: MailTls,
            username: Option<String>,
            password: Option<String>,
            from: String,
            from_name: Option<String>,
            reply_to: Option<String>,
            return_path: Option<String>,
            unsubscribe_mailbox: Option<String>,
            bounce_secret: Option<String>,
        }
        let stored: Stored = read(Channel::Email, json)?;
        let host = stored.host.trim().to_owned();
        if host.is_empty() || host.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(field("host", "is not a host name"));
        }
        if stored.port == 0 {
            return Err(field("port", "is 0: use 465 or 587"));
        }
        let login = match (stored.username, stored.password) {
            (None, None) => None,
            (Some(username), Some(password)) => Some((username, password)),
            (Some(_), None) => return Err(field("password", "is missing beside `username`")),
            (None, Some(_)) => return Err(field("username", "is missing beside `password`")),
        };
        if login.is_some() && stored.tls == MailTls::None && !loopback_host(&host) {
            return Err(field(
                "tls",
                "is none, which would send the password in the clear: use starttls or implicit",
            ));
        }
        let from = mailbox("from", &stored.from)?;
        let optional = |name, text: Option<String>| text.map(|text| mailbox(name, &text)).transpose();
        let bounces = stored.return_path.is_some();
        let bounce_secret = stored.bounce_secret.map(|secret| secret.trim().to_owned());
        if bounce_secret.as_ref().is_some_and(|secret| secret.len() < 16) {
            return Err(field("bounce_secret", "is shorter than 16 characters"));
        }
        Ok(Self {
            host,
            port: stored.port,
            tls: stored.tls,
            login,
            from_name: stored.from_name.filter(|name| !name.trim().is_empty()),
            reply_to: optional("reply_to", stored.reply_to)?,
            return_path: optional("return_path", stored.return_path)?.unwrap_or_else(|| from.clone()),
            unsubscribe_mailbox: optional("unsubscribe_mailbox", stored.unsubscribe_mailbox)?
                .unwrap_or_else(|| from.clone()),
            bounce_secret: bounce_secret.filter(|_| bounces),
            from,
        })
    }
}

fn loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn mailbox(name: &'static str, text: &str) -> Result<Address, SenderError> {
    let address = mail_address(text).filter(|address| AsRef::<str>::as_ref(address).is_ascii());
    address.ok_or(field(name, "is not a mail address such as news@shop.example"))
}

/// A mail address that can stand in a header and a command: no spaces, no controls, its domain in ASCII.
pub(super) fn mail_address(text: &str) -> Option<Address> {
    let (user, domain) = text.rsplit_once('@')?;
    let unfit = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '"');
    if user.contains(unfit) || text.len() > 254 {
        return None;
    }
    let Host::Domain(domain) = Host::parse(domain).ok()? else {
        return None;
    };
    Address::new(user, domain).ok()
}

#[cfg(test)]
mod tests;
