//! What proves that a webhook is a provider's, read from a sender's credentials.
//!
//! Why it exists: credentials are one JSON text per sender; a webhook needs only the few fields of it that sign, in the form
//! a check needs, current and previous, so that a secret can be changed without losing what was signed with the old one.
//!
//! It must never show a secret, and never take an empty one: anybody can sign with nothing.

use std::fmt;

use ring::hmac;
use serde::Deserialize;

use super::Provider;
use crate::{channel::ReturnPathKey, secret::Hidden};

/// The shortest secret of ours that is taken: what we choose ourselves need not be guessable.
const OWN_SECRET_BYTES: usize = 16;

/// A sender's webhook secrets.
#[derive(Clone)]
pub struct WebhookSecrets {
    provider: Provider,
    accounts: Vec<String>,
    pub(super) keys: Keys,
    return_paths: Vec<ReturnPathKey>,
}

/// What checks a request.
#[derive(Clone)]
pub(super) enum Keys {
    /// HMAC keys, the current one first.
    Signed(Vec<hmac::Key>),
    /// The same, and what Meta's challenge must carry.
    Meta { keys: Vec<hmac::Key>, verify_token: Hidden },
    /// What the query must carry.
    Token(Hidden),
}

/// Credentials that hold no usable webhook secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// Not a JSON object, or a field is not a text.
    #[error("the credentials are not a JSON object of texts")]
    Malformed,
    /// A field is missing or empty.
    #[error("the credentials hold no `{0}`")]
    Missing(&'static str),
    /// A secret of our own choosing is so short that it can be guessed.
    #[error("the credentials' `{0}` is shorter than 16 characters: use `openssl rand -hex 24`")]
    Short(&'static str),
    /// The sender belongs to another SMS provider.
    #[error("the credentials are of another SMS provider")]
    OtherProvider,
}

/// The fields that matter, of every provider. Others in the credentials are for sending.
#[derive(Deserialize)]
struct Stored {
    provider: Option<String>,
    channel_secret: Option<String>,
    previous_channel_secret: Option<String>,
    page_id: Option<String>,
    instagram_id: Option<String>,
    phone_number_id: Option<String>,
    app_secret: Option<String>,
    previous_app_secret: Option<String>,
    verify_token: Option<String>,
    account_sid: Option<String>,
    auth_token: Option<String>,
    previous_auth_token: Option<String>,
    callback_token: Option<String>,
    secret: Option<String>,
    previous_secret: Option<String>,
    bounce_secret: Option<String>,
    previous_bounce_secret: Option<String>,
}

impl WebhookSecrets {
    /// Reads decrypted credentials of a sender that `provider` is said to speak for.
    ///
    /// - `line`: `channel_secret`, `previous_channel_secret?`
    /// - `messenger`: `page_id`, `instagram_id?`, `app_secret`, `previous_app_secret?`, `verify_token`
    /// - `whatsapp`: `phone_number_id`, `app_secret`, `previous_app_secret?`, `verify_token`
    /// - `twilio`: `provider` = `twilio`, `account_sid`, `auth_token`, `previous_auth_token?`
    /// - `mitake`: `provider` = `mitake`, `callback_token`
    /// - `store`: `secret`, `previous_secret?`
    /// - `email`: `bounce_secret`, `previous_bounce_secret?`
    ///
    /// # Errors
    /// A field is missing, empty, or cannot be right. Never holds a value.
    pub fn parse(provider: Provider, json: &str) -> Result<Self, SecretsError> {
        let stored: Stored = serde_json::from_str(json).map_err(|_| SecretsError::Malformed)?;
        let sha256 = |name, current, previous| keys(hmac::HMAC_SHA256, name, current, previous);
        let mut return_paths = Vec::new();
        let (accounts, keys) = match provider {
            Provider::Line => {
                let keys = sha256("channel_secret", stored.channel_secret, stored.previous_channel_secret)?;
                (Vec::new(), Keys::Signed(keys))
            }
            Provider::Messenger | Provider::Whatsapp => {
                let accounts = match provider {
                    // Instagram's events name the page's account there, not the page.
                    Provider::Messenger => std::iter::once(required("page_id", stored.page_id)?)
                        .chain(required("instagram_id", stored.instagram_id).ok())
                        .collect(),
                    _ => vec![required("phone_number_id", stored.phone_number_id)?],
                };
                let keys = sha256("app_secret", stored.app_secret, stored.previous_app_secret)?;
                let verify_token = Hidden::new(required("verify_token", stored.verify_token)?);
                (accounts, Keys::Meta { keys, verify_token })
            }
            Provider::Twilio => {
                of_sms(provider, stored.provider.as_deref())?;
                required("account_sid", stored.account_sid)?;
                let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
                let keys = keys(sha1, "auth_token", stored.auth_token, stored.previous_auth_token)?;
                (Vec::new(), Keys::Signed(keys))
            }
            Provider::Mitake => {
                of_sms(provider, stored.provider.as_deref())?;
                let token = own("callback_token", required("callback_token", stored.callback_token)?)?;
                (Vec::new(), Keys::Token(Hidden::new(token)))
            }
            Provider::Store => {
                let current = own("secret", required("secret", stored.secret)?)?;
                (
                    Vec::new(),
                    Keys::Signed(sha256("secret", Some(current), stored.previous_secret)?),
                )
            }
            Provider::Email => {
                let current = own("bounce_secret", required("bounce_secret", stored.bounce_secret)?)?;
                let previous = required("previous_bounce_secret", stored.previous_bounce_secret).ok();
                return_paths.push(ReturnPathKey::new(&current));
                return_paths.extend(previous.as_deref().map(ReturnPathKey::new));
                (
                    Vec::new(),
                    Keys::Signed(sha256("bounce_secret", Some(current), previous)?),
                )
            }
        };
        Ok(Self {
            provider,
            accounts,
            keys,
            return_paths,
        })
    }

    /// What reads the return paths of the sender's mails, the current key first; none on other channels.
    #[must_use]
    pub fn return_paths(&self) -> &[ReturnPathKey] {
        &self.return_paths
    }

    /// Whose secrets they are.
    #[must_use]
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// The accounts they belong to, by the provider's ids, as [`super::WebhookEvent::account`] names them: a page and the Instagram
    /// account behind it. Meta signs the webhooks of all pages of one app with one secret, so an event of another account is
    /// to be expected. Empty where the provider's credentials name none.
    #[must_use]
    pub fn accounts(&self) -> &[String] {
        &self.accounts
    }
}

impl fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecrets({})", self.provider)
    }
}

fn required(name: &'static str, value: Option<String>) -> Result<String, SecretsError> {
    value
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .ok_or(SecretsError::Missing(name))
}

fn own(name: &'static str, value: String) -> Result<String, SecretsError> {
    if value.len() < OWN_SECRET_BYTES {
        return Err(SecretsError::Short(name));
    }
    Ok(value)
}

fn of_sms(provider: Provider, said: Option<&str>) -> Result<(), SecretsError> {
    match said {
        None => Err(SecretsError::Missing("provider")),
        Some(said) if said == provider.as_str() => Ok(()),
        Some(_) => Err(SecretsError::OtherProvider),
    }
}

/// An empty previous secret is none: it would let anybody in.
fn keys(
    algorithm: hmac::Algorithm,
    name: &'static str,
    current: Option<String>,
    previous: Option<String>,
) -> Result<Vec<hmac::Key>, SecretsError> {
    let current = required(name, current)?;
    let previous = required(name, previous).ok();
    Ok(std::iter::once(current)
        .chain(previous)
        .map(|secret| hmac::Key::new(algorithm, secret.as_bytes()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(provider: Provider, json: &str) -> Option<SecretsError> {
        WebhookSecrets::parse(provider, json).err()
    }

    #[test]
    fn what_is_missing_is_named_and_never_shown() {
        use Provider::{Email, Line, Messenger, Mitake, Store, Twilio, Whatsapp};
        for (provider, json, expected) in [
            (Line, "[]", SecretsError::Malformed),
            (Line, r#"{"channel_secret": 7}"#, SecretsError::Malformed),
            (Line, "{}", SecretsError::Missing("channel_secret")),
            (
                Line,
                r#"{"channel_secret": " "}"#,
                SecretsError::Missing("channel_secret"),
            ),
            (
                Messenger,
                r#"{"app_secret": "a", "verify_token": "b"}"#,
                SecretsError::Missing("page_id"),
            ),
            (
                Messenger,
                r#"{"page_id": "1", "app_secret": "a"}"#,
                SecretsError::Missing("verify_token"),
            ),
            (
                Whatsapp,
                r#"{"page_id": "1", "app_secret": "a"}"#,
                SecretsError::Missing("phone_number_id"),
            ),
            (
                Twilio,
                r#"{"account_sid": "AC1", "auth_token": "a"}"#,
                SecretsError::Missing("provider"),
            ),
            (
                Twilio,
                r#"{"provider": "mitake", "callback_token": "a"}"#,
                SecretsError::OtherProvider,
            ),
            (
                Mitake,
                r#"{"provider": "mitake", "callback_token": "short"}"#,
                SecretsError::Short("callback_token"),
            ),
            (Store, r#"{"secret": "s"}"#, SecretsError::Short("secret")),
            (
                Email,
                r#"{"secret": "0123456789abcdef"}"#,
                SecretsError::Missing("bounce_secret"),
            ),
        ] {
            assert_eq!(refused(provider, json), Some(expected), "{provider} {json}");
        }
    }

    #[test]
    fn secrets_name_their_account_and_hide_themselves() {
        let json =
            r#"{"page_id": "77", "instagram_id": "88", "app_secret": "topsecret", "verify_token": "alsosecret"}"#;
        let secrets = WebhookSecrets::parse(Provider::Messenger, json).ok();
        assert_eq!(
            secrets.as_ref().map(WebhookSecrets::accounts),
            Some(&["77".to_owned(), "88".to_owned()][..])
        );
        assert_eq!(format!("{secrets:?}"), "Some(WebhookSecrets(messenger))");
    }
}
