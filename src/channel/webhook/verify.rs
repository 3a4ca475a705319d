//! Whether a webhook is a provider's (pure).
//!
//! Why it exists: the address of a webhook is no secret. What is believed must be signed, over the bytes as they came: a body
//! that was parsed and written again is another body.
//!
//! It must never compare in a time that depends on the secret, never panic whatever the header holds, and never say more
//! than "no": which part was wrong helps only who is guessing.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use ring::{digest, hmac};
use url::form_urlencoded;

use super::{Provider, WebhookSecrets, secrets::Keys};

/// A webhook that is not the provider's, or cannot be shown to be. Answer 401 and keep nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The header or the token is not there.
    #[error("not signed")]
    Unsigned,
    /// What is there cannot be a signature of this provider.
    #[error("the signature is malformed")]
    Malformed,
    /// Signed by somebody else, or changed on the way.
    #[error("the signature does not match")]
    Mismatch,
    /// The secrets are another provider's.
    #[error("the sender is another provider's")]
    OtherProvider,
}

/// What the query's parameter is called that proves a callback nobody signs.
const TOKEN: &str = "token";
/// The longest challenge that is answered; Meta's are numbers of ten digits.
const CHALLENGE_BYTES: usize = 200;

/// Whether the request is the provider's, by the current secret or the previous one.
///
/// `url` is the address as the provider was told it, without a query (`https://hooks.shop.example/webhooks/twilio/…`): from
/// configuration, never from the request's `Host`. `query` is the request's query as it came, without the question mark.
///
/// # Errors
/// Why it is not to be believed.
pub fn verify(
    provider: Provider,
    secrets: &WebhookSecrets,
    headers: &HeaderMap,
    body: &[u8],
    url: &str,
    query: &str,
) -> Result<(), Rejected> {
    if secrets.provider() != provider {
        return Err(Rejected::OtherProvider);
    }
    let signature = || {
        let name = provider.signature_header().ok_or(Rejected::Unsigned)?;
        let mut values = headers.get_all(name).into_iter();
        let value = values.next().ok_or(Rejected::Unsigned)?;
        // Two signatures: somebody put one beside the provider's.
        if values.next().is_some() {
            return Err(Rejected::Malformed);
        }
        Ok(value.as_bytes())
    };
    match (&secrets.keys, provider) {
        (Keys::Signed(keys), Provider::Line) => signed(keys, body, &base64(signature()?)?),
        (Keys::Meta { keys, .. }, Provider::Messenger | Provider::Whatsapp) => {
            let digits = signature()?.strip_prefix(b"sha256=").ok_or(Rejected::Malformed)?;
            signed(keys, body, &hexadecimal(digits)?)
        }
        (Keys::Signed(keys), Provider::Twilio) => twilio(keys, &base64(signature()?)?, body, url, query),
        (Keys::Signed(keys), Provider::Store | Provider::Email) => {
            let value = signature()?;
            signed(
                keys,
                body,
                &hexadecimal(value.strip_prefix(b"sha256=").unwrap_or(value))?,
            )
        }
        (Keys::Token(token), Provider::Mitake) => {
            let given = parameter(query, TOKEN).ok_or(Rejected::Unsigned)?;
            same(&given, token.expose())
        }
        (Keys::Signed(_) | Keys::Meta { .. } | Keys::Token(_), _) => Err(Rejected::OtherProvider),
    }
}

/// What to answer, as plain text, to Meta's question whether this address is ours.
///
/// # Errors
/// It is not Meta's question, or not with our token: answer 403.
pub fn challenge(secrets: &WebhookSecrets, query: &str) -> Result<String, Rejected> {
    let Keys::Meta { verify_token, .. } = &secrets.keys else {
        return Err(Rejected::OtherProvider);
    };
    if parameter(query, "hub.mode").as_deref() != Some("subscribe") {
        return Err(Rejected::Malformed);
    }
    let given = parameter(query, "hub.verify_token").ok_or(Rejected::Unsigned)?;
    same(&given, verify_token.expose())?;
    parameter(query, "hub.challenge")
        .filter(|text| !text.is_empty() && text.len() <= CHALLENGE_BYTES)
        .filter(|text| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        })
        .ok_or(Rejected::Malformed)
}

/// The query without the secret that a callback proves itself with: it must not be kept.
#[must_use]
pub fn without_token(query: &str) -> String {
    let is_token = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == TOKEN);
    let pairs: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
    pairs.join("&")
}

/// The first value of a parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// `ring` compares in constant time, and a tag of the wrong length is only a wrong one.
fn signed(keys: &[hmac::Key], message: &[u8], tag: &[u8]) -> Result<(), Rejected> {
    // No early end: which of the two secrets fits is nobody's business either.
    let fits = keys
        .iter()
        .fold(false, |fits, key| hmac::verify(key, message, tag).is_ok() | fits);
    if fits { Ok(()) } else { Err(Rejected::Mismatch) }
}

/// Two texts through a keyed hash, so that neither their length nor their first difference shows in time.
fn same(given: &str, expected: &str) -> Result<(), Rejected> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"carillon webhook token");
    let tag = hmac::sign(&key, expected.as_bytes());
    hmac::verify(&key, given.as_bytes(), tag.as_ref()).map_err(|_| Rejected::Mismatch)
}

fn base64(text: &[u8]) -> Result<Vec<u8>, Rejected> {
    STANDARD.decode(text).map_err(|_| Rejected::Malformed)
}

fn hexadecimal(digits: &[u8]) -> Result<Vec<u8>, Rejected> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Rejected::Malformed);
    }
    let worth = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    pairs
        .iter()
        .map(|[high, low]| Some(worth(*high)? << 4 | worth(*low)?))
        .collect::<Option<_>>()
        .ok_or(Rejected::Malformed)
}

/// The URL with every parameter of a form behind it, sorted; a body that is no form is hashed into the query instead.
fn twilio(keys: &[hmac::Key], tag: &[u8], body: &[u8], url: &str, query: &str) -> Result<(), Rejected> {
    let mut behind = Vec::new();
    if let Some(expected) = parameter(query, "bodySHA256") {
        let actual = digest::digest(&digest::SHA256, body);
        // Not a secret: it stands in the URL, and the URL is signed.
        if hexadecimal(expected.as_bytes())? != actual.as_ref() {
            return Err(Rejected::Mismatch);
        }
    } else {
        let mut form: Vec<_> = form_urlencoded::parse(body).collect();
        form.sort_unstable();
        form.dedup();
        let mut last = None;
        for (key, value) in &form {
            if last != Some(key) {
                behind.extend_from_slice(key.as_bytes());
                last = Some(key);
            }
            behind.extend_from_slice(value.as_bytes());
        }
    }
    let mut verdict = Err(Rejected::Mismatch);
    for url in with_and_without_port(url) {
        let mut message = url.into_bytes();
        if !query.is_empty() {
            message.push(b'?');
            message.extend_from_slice(query.as_bytes());
        }
        message.extend_from_slice(&behind);
        verdict = verdict.or(signed(keys, &message, tag));
    }
    verdict
}

/// Twilio signs sometimes with the default port and sometimes without any.
fn with_and_without_port(url: &str) -> Vec<String> {
    let mut ways = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else {
        return ways;
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let default = if scheme.eq_ignore_ascii_case("http") { 80 } else { 443 };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            ways.push(format!("{scheme}://{host}{path}"));
        }
        _ => ways.push(format!("{scheme}://{authority}:{default}{path}")),
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_token_is_not_kept_however_it_is_written() {
        for (query, kept) in [
            ("", ""),
            ("token=abc", ""),
            ("msgid=1&token=abc&StatusFlag=4", "msgid=1&StatusFlag=4"),
            ("tok%65n=abc&msgid=1", "msgid=1"),
            ("token&token=1&x=token", "x=token"),
        ] {
            assert_eq!(without_token(query), kept, "{query}");
        }
    }
}
