//! What the providers would send: webhooks in their shapes, signed as they sign.
//!
//! It exists so that tests, the benchmark and chaos tell Carillon things without an account anywhere. Who posts them is the
//! caller's business: this makes requests and opens no socket. It must never be kinder than the provider: bodies are spaced
//! and escaped as theirs are, so that whoever signs a body anew instead of its bytes is found out.

mod shape;

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::Value;
use url::form_urlencoded;

pub use shape::{line, mail, messenger, mitake, store, twilio, whatsapp};

/// Who signs, and with what.
#[derive(Debug, Clone)]
pub enum Signer {
    /// LINE, with the channel secret.
    Line(String),
    /// Messenger and WhatsApp, with the app secret.
    Meta(String),
    /// Twilio, with the auth token, over the address it was told, without a query.
    Twilio(String, String),
    /// Mitake signs nothing: the token stands in the address it was told.
    Mitake(String),
    /// A shop front, with the secret it shares with Carillon.
    Store(String),
}

/// A request as a provider sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `POST`, or `GET`.
    pub method: &'static str,
    /// What stands behind the question mark of the address; empty for none.
    pub query: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Signer {
    /// Signs a JSON body, which is written as this provider writes it.
    pub fn json(&self, body: &Value) -> Request {
        let text = match self {
            // Meta escapes what is not ASCII, in small letters, and signs that.
            Self::Meta(_) => escaped(&body.to_string()),
            _ => body.to_string(),
        };
        self.sign(String::new(), "application/json", text.into_bytes())
    }

    /// Signs a form.
    pub fn form(&self, query: &str, fields: &[(&str, &str)]) -> Request {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        self.sign(query.to_owned(), "application/x-www-form-urlencoded", body.into_bytes())
    }

    /// A callback that carries everything in its address.
    pub fn callback(&self, fields: &[(&str, &str)]) -> Request {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(fields);
        if let Self::Mitake(token) = self {
            query.append_pair("token", token);
        }
        Request {
            method: "GET",
            query: query.finish(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Signs bytes as they are.
    pub fn sign(&self, query: String, content_type: &str, body: Vec<u8>) -> Request {
        let mut headers = vec![("content-type", content_type.to_owned())];
        let sha256 = |secret: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &body);
        match self {
            Self::Line(secret) => headers.push(("x-line-signature", STANDARD.encode(sha256(secret)))),
            Self::Meta(secret) => {
                headers.push((
                    "x-hub-signature-256",
                    format!("sha256={}", hex(sha256(secret).as_ref())),
                ));
            }
            Self::Store(secret) => headers.push(("x-carillon-signature", hex(sha256(secret).as_ref()))),
            Self::Twilio(token, url) => {
                headers.push(("x-twilio-signature", twilio_signature(token, url, &query, &body)));
            }
            Self::Mitake(_) => {}
        }
        Request {
            method: "POST",
            query,
            headers,
            body,
        }
    }
}

/// The address, its query, and the form's fields sorted, key and value behind each other.
fn twilio_signature(token: &str, url: &str, query: &str, body: &[u8]) -> String {
    let mut fields: Vec<_> = form_urlencoded::parse(body).collect();
    fields.sort();
    let mut text = url.to_owned();
    if !query.is_empty() {
        text.push('?');
        text.push_str(query);
    }
    for (key, value) in fields {
        text.push_str(&key);
        text.push_str(&value);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twilio's own published example.
    #[test]
    fn a_form_is_signed_as_twilio_says() {
        let signer = Signer::Twilio("12345".to_owned(), "https://mycompany.com/myapp.php".to_owned());
        let fields = [
            ("Digits", "1234"),
            ("To", "+18005551212"),
            ("From", "+14158675309"),
            ("Caller", "+14158675309"),
            ("CallSid", "CA1234567890ABCDE"),
        ];
        let request = signer.form("foo=1&bar=2", &fields);
        let signature = request.headers.iter().find(|(name, _)| *name == "x-twilio-signature");
        assert_eq!(
            signature.map(|(_, value)| value.as_str()),
            Some("RSOYDt4T1cUTdK1PDd93/VVr8B8=")
        );
    }

    #[test]
    fn meta_signs_what_it_escaped() {
        let request = Signer::Meta("secret".to_owned()).json(&serde_json::json!({"text": "ä😀"}));
        assert_eq!(request.body, br#"{"text":"\u00e4\ud83d\ude00"}"#);
    }
}
