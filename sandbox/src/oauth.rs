//! Google's token endpoint: a signed JWT in, an access token out.
//! It exists because a sender that signs wrongly, with a wrong audience or with a stale clock must learn it here.
//! It must never accept an assertion it has not verified with the registered key, and never keep the assertion.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde::Deserialize;
use url::form_urlencoded;

use crate::channel::Channel;
use crate::faults::{FaultKind, Hit};
use crate::fcm::Project;
use crate::http::{Answer, Request, Verdict};
use crate::routes::conclude;
use crate::state::State;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
];
const GOOGLE_TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Clocks may differ by this much.
const SKEW_SECS: u64 = 60;
const MAX_LIFETIME_SECS: u64 = 3600;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// A refusal: Google's `error` and `error_description`.
struct Refused(&'static str, &'static str);

/// `POST /token`.
pub(crate) fn token(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    let mut hit = Hit::default();
    match grant(state, request) {
        Ok(project) => {
            hit = state.faults.ask(Channel::Fcm, "token", |_| None);
            if hit.before().is_none() {
                let lifetime_secs = project.token_lifetime_secs();
                let token = state.fcm.issue(&project, state.clock.unix_secs());
                let body = serde_json::json!({
                    "access_token": token, "expires_in": lifetime_secs, "token_type": "Bearer",
                });
                answer.set(200, &body.to_string());
            }
            write_fault(&hit, answer);
        }
        Err(refused) => write_refusal(&refused, answer),
    }
    conclude(state, Channel::Fcm, &hit, answer)
}

fn write_refusal(Refused(error, description): &Refused, answer: &mut Answer) {
    answer.set(
        400,
        &serde_json::json!({"error": error, "error_description": description}).to_string(),
    );
}

fn write_fault(hit: &Hit, answer: &mut Answer) {
    match hit.kind {
        Some(FaultKind::Throttled) => answer.set(429, r#"{"error":"rate_limit_exceeded"}"#),
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfter) => {
            answer.set(500, r#"{"error":"internal_failure"}"#);
        }
        Some(FaultKind::Unavailable) => answer.set(503, r#"{"error":"backend_error"}"#),
        Some(FaultKind::BadCredentials) => {
            answer.set(
                401,
                r#"{"error":"invalid_client","error_description":"The OAuth client was not found."}"#,
            );
        }
        Some(FaultKind::InvalidRecipient | FaultKind::Quota) => {
            write_refusal(&Refused("invalid_grant", "Invalid grant: account not found"), answer);
        }
        Some(FaultKind::Reply | FaultKind::ReplyAfter) => {
            answer.set(hit.code, hit.message.as_deref().unwrap_or("{}"));
        }
        Some(
            FaultKind::ResetBefore
            | FaultKind::ResetAfter
            | FaultKind::Hang
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay,
        )
        | None => {}
    }
}

fn grant(state: &State, request: &Request<'_>) -> Result<std::sync::Arc<Project>, Refused> {
    if !request.is_media_type("application/x-www-form-urlencoded") {
        return Err(Refused(
            "invalid_request",
            "The content type must be application/x-www-form-urlencoded",
        ));
    }
    let mut grant_type = None;
    let mut assertion = None;
    for (name, value) in form_urlencoded::parse(request.body) {
        match name.as_ref() {
            "grant_type" => grant_type = Some(value),
            "assertion" => assertion = Some(value),
            _ => return Err(Refused("invalid_request", "Unknown form field")),
        }
    }
    if grant_type.as_deref() != Some(GRANT_TYPE) {
        return Err(Refused("unsupported_grant_type", "Invalid grant_type"));
    }
    let assertion = assertion.ok_or(Refused("invalid_request", "Missing required parameter: assertion"))?;
    verify(state, &assertion, request.header("host").unwrap_or(""))
}

/// Checks the assertion: its form, who signed it, what it asks for and when.
fn verify(state: &State, assertion: &str, host: &str) -> Result<std::sync::Arc<Project>, Refused> {
    const MALFORMED: Refused = Refused("invalid_grant", "Bad Request: the assertion is not a JWT");
    let (signed, signature) = assertion.rsplit_once('.').ok_or(MALFORMED)?;
    let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| MALFORMED)?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| MALFORMED)?;
    if header.alg != "RS256" {
        return Err(Refused("invalid_grant", "Invalid JWT: alg must be RS256"));
    }
    let project = state
        .fcm
        .by_email(&claims.iss)
        .ok_or(Refused("invalid_grant", "Invalid grant: account not found"))?;
    if let Some(known) = &project.private_key_id
        && header.kid.as_ref().is_some_and(|kid| kid != known)
    {
        return Err(Refused("invalid_grant", "Invalid JWT Signature."));
    }
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &project.public_key);
    key.verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| Refused("invalid_grant", "Invalid JWT Signature."))?;
    if !claims.scope.split(' ').any(|scope| SCOPES.contains(&scope)) {
        return Err(Refused(
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        ));
    }
    let here = claims
        .aud
        .strip_prefix("http://")
        .and_then(|aud| aud.strip_suffix("/token"))
        == Some(host);
    if !here && claims.aud != GOOGLE_TOKEN_URI && project.token_uri.as_deref() != Some(claims.aud.as_str()) {
        return Err(Refused("invalid_grant", "Invalid JWT: Failed audience check."));
    }
    let now = state.clock.unix_secs();
    let timely = claims.iat <= now + SKEW_SECS
        && claims.exp + SKEW_SECS > now
        && claims.exp > claims.iat
        && claims.exp - claims.iat <= MAX_LIFETIME_SECS;
    if !timely {
        return Err(Refused(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat \
             and exp values in the JWT claim.",
        ));
    }
    Ok(project)
}

/// The RSA public key inside a PEM text, as PKCS#1 DER (what `ring` verifies with); `None` when there is none.
pub(crate) fn public_key(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (base64, _) = rest.split_once("-----END ")?;
    let base64: String = base64.split_whitespace().collect();
    let der = STANDARD.decode(base64).ok()?;
    match label {
        "RSA PUBLIC KEY" => Some(der),
        "PUBLIC KEY" => {
            // SubjectPublicKeyInfo: SEQUENCE { SEQUENCE { algorithm }, BIT STRING { 0 unused bits, the PKCS#1 key } }.
            let (outer, _) = der_value(&der, 0x30)?;
            let (_, after_algorithm) = der_value(outer, 0x30)?;
            let (bits, _) = der_value(after_algorithm, 0x03)?;
            bits.strip_prefix(&[0]).map(<[u8]>::to_vec)
        }
        "PRIVATE KEY" => Some(RsaKeyPair::from_pkcs8(&der).ok()?.public_key().as_ref().to_vec()),
        _ => None,
    }
}

/// The value of the DER element at the start of `der`, if it has `tag`, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    let length = length.iter().try_fold(0_usize, |sum, byte| {
        sum.checked_mul(256)?.checked_add(usize::from(*byte))
    })?;
    rest.split_at_checked(length)
}
