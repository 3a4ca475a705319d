//! LINE Messaging API: push and multicast, and what its answers mean. `quota`: an account's month; `check`: its set-up.
//!
//! Why a retry key on every request: LINE answers 409 with `x-line-accepted-request-id` to a key it has already
//! accepted (for 24 hours), so an interrupted send is repeated instead of being guessed about.
//!
//! It must never take anything for acceptance but LINE's own words: a 200 with the JSON it promises, or that 409.

pub(super) mod check;
pub(super) mod quota;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::{Body, Client, Request};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::{
    config::{ChannelsError, LineConfig, base_url, secs},
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal, SendOutcome},
    sender::LineAccount,
};

/// The most user ids in one multicast.
pub const MULTICAST_LIMIT: u16 = 500;

const RETRY_KEY: HeaderName = HeaderName::from_static("x-line-retry-key");
const REQUEST_ID: &str = "x-line-request-id";
const ACCEPTED_REQUEST_ID: &str = "x-line-accepted-request-id";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The adapter.
#[derive(Debug)]
pub(super) struct Line {
    client: Client,
    push: Url,
    multicast: Url,
    quota: Url,
    consumption: Url,
    setup: check::Setup,
    timeout: std::time::Duration,
}

/// Which promise a 200 has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// `{"sentMessages":[{"id":"…"}]}`
    Push,
    /// `{}`
    Multicast,
}

impl Line {
    pub(super) fn new(client: Client, config: &LineConfig) -> Result<Self, ChannelsError> {
        let endpoint = |call: &str| {
            let base = config.base_url.trim_end_matches('/');
            base_url(&format!("{base}{call}"))
                .ok_or_else(|| ChannelsError::Settings(vec!["channel.line.base_url is not a URL".into()]))
        };
        Ok(Self {
            client,
            setup: check::Setup {
                verify: endpoint("/v2/oauth/verify")?,
                info: endpoint("/v2/bot/info")?,
                webhook: endpoint("/v2/bot/channel/webhook/endpoint")?,
                test: endpoint("/v2/bot/channel/webhook/test")?,
            },
            push: endpoint("/v2/bot/message/push")?,
            multicast: endpoint("/v2/bot/message/multicast")?,
            quota: endpoint("/v2/bot/message/quota")?,
            consumption: endpoint("/v2/bot/message/quota/consumption")?,
            timeout: secs(config.timeout_secs),
        })
    }

    /// Sends one user the message; `parts` are the members of the request after `to`.
    pub(super) async fn push(&self, account: &LineAccount, to: &str, parts: &[u8], key: Uuid) -> SendOutcome {
        if !is_user_id(to) {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        }
        let mut body = Vec::with_capacity(parts.len() + 64);
        body.extend_from_slice(br#"{"to":""#);
        body.extend_from_slice(to.as_bytes());
        body.extend_from_slice(br#"","#);
        body.extend_from_slice(parts);
        body.push(b'}');
        self.call(Call::Push, account, body, key).await
    }

    /// Sends the message to up to 500 users: to all of them or to none.
    pub(super) async fn multicast(&self, account: &LineAccount, to: &[&str], parts: &[u8], key: Uuid) -> SendOutcome {
        if to.is_empty() || to.len() > usize::from(MULTICAST_LIMIT) {
            return Refusal::new(ErrorClass::Content, "multicast_size").into();
        }
        // LINE's pages disagree on whether an unknown id fails the request or is passed over, so one that cannot be
        // right never leaves.
        if !to.iter().all(|to| is_user_id(to)) {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        }
        let mut body = Vec::with_capacity(parts.len() + to.len() * 36 + 64);
        body.extend_from_slice(br#"{"to":["#);
        for (index, to) in to.iter().enumerate() {
            body.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            body.extend_from_slice(to.as_bytes());
            body.push(b'"');
        }
        body.extend_from_slice(b"],");
        body.extend_from_slice(parts);
        body.push(b'}');
        self.call(Call::Multicast, account, body, key).await
    }

    async fn call(&self, call: Call, account: &LineAccount, body: Vec<u8>, key: Uuid) -> SendOutcome {
        let url = match call {
            Call::Push => &self.push,
            Call::Multicast => &self.multicast,
        };
        let mut request = Request::new(Method::POST, url.clone());
        let headers = request.headers_mut();
        headers.reserve(3);
        headers.insert(header::AUTHORIZATION, account.authorization.clone());
        headers.insert(header::CONTENT_TYPE, JSON);
        let mut buffer = Uuid::encode_buffer();
        let key: &str = key.hyphenated().encode_lower(&mut buffer);
        if let Ok(key) = HeaderValue::from_str(key) {
            headers.insert(RETRY_KEY, key);
        }
        *request.body_mut() = Some(Body::from(body));
        *request.timeout_mut() = Some(self.timeout);
        match exchange(&self.client, request).await {
            Ok(answer) => judge(call, &answer),
            Err(refusal) => refusal.into(),
        }
    }
}

/// `U` and 32 lower-case hexadecimal digits; safe to write into JSON as it is.
fn is_user_id(to: &str) -> bool {
    to.strip_prefix('U')
        .is_some_and(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    sent_messages: Vec<SentMessage>,
}

#[derive(Deserialize)]
struct SentMessage {
    id: String,
}

#[derive(Deserialize)]
struct Failure {
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    property: Option<String>,
}

/// What an answer means.
fn judge(call: Call, answer: &Answer) -> SendOutcome {
    let refused = |class, code: &str| SendOutcome::from(Refusal::new(class, code));
    match answer.status {
        200 => accepted(call, answer),
        409 => match text(&answer.headers, ACCEPTED_REQUEST_ID) {
            Some(request) => already_accepted(answer, request),
            None => refused(ErrorClass::Uncertain, "409_without_accepted_id"),
        },
        400 => bad_request(answer),
        401 => refused(ErrorClass::Credentials, "401"),
        // 403: the account may not use this call. 404: no such endpoint, so `base_url` is wrong. Neither says
        // anything about the customer, and a person has to look.
        403 => refused(ErrorClass::Credentials, "403"),
        404 => refused(ErrorClass::Credentials, "404"),
        413 => refused(ErrorClass::Content, "413"),
        415 => refused(ErrorClass::Content, "415"),
        429 => too_many(answer),
        // Everything else, 5xx and redirects among it, says nothing about the message. LINE's key makes asking again
        // harmless.
        status => Refusal::new(ErrorClass::Uncertain, status.to_string())
            .after(answer.retry_after())
            .into(),
    }
}

fn accepted(call: Call, answer: &Answer) -> SendOutcome {
    let broken = || Refusal::new(ErrorClass::Uncertain, "200_not_as_promised").into();
    match call {
        Call::Push => {
            let sent = answer.json::<Sent>();
            sent.and_then(|sent| sent.sent_messages.into_iter().next())
                .map_or_else(broken, |message| SendOutcome::accepted(Some(&message.id)))
        }
        Call::Multicast => match answer.json::<serde_json::Map<String, serde_json::Value>>() {
            Some(_) => SendOutcome::accepted(text(&answer.headers, REQUEST_ID)),
            None => broken(),
        },
    }
}

fn already_accepted(answer: &Answer, request: &str) -> SendOutcome {
    let sent = answer.json::<Sent>();
    let message = sent.and_then(|sent| sent.sent_messages.into_iter().next());
    SendOutcome::accepted(Some(message.as_ref().map_or(request, |message| &message.id)))
}

fn bad_request(answer: &Answer) -> SendOutcome {
    let Some(failure) = answer.json::<Failure>() else {
        // Not LINE's words: something in between answered.
        return Refusal::new(ErrorClass::Uncertain, "400_not_as_promised").into();
    };
    let property = failure.details.iter().find_map(|detail| detail.property.as_deref());
    let about_to = |property: &str| property == "to" || property.starts_with("to[");
    let quoted_to = failure.message.contains("property, to[") || failure.message.contains("property, 'to");
    let class = if failure.message == "Failed to send messages" || quoted_to || property.is_some_and(about_to) {
        ErrorClass::Recipient
    } else {
        ErrorClass::Content
    };
    let property = property.filter(|property| is_path(property));
    let code = property.map_or_else(|| "400".to_owned(), |property| format!("400 {property}"));
    Refusal::new(class, code).into()
}

/// A path into our request, such as `messages[0].text`. Anything else might quote an address or the message, and goes no further.
fn is_path(property: &str) -> bool {
    let mut parts = property
        .split('.')
        .map(|part| part.split_once('[').unwrap_or((part, "")));
    let ours = |name| {
        matches!(
            name,
            "to" | "messages" | "notificationDisabled" | "customAggregationUnits"
        )
    };
    let known = parts.clone().next().is_some_and(|(name, _)| ours(name));
    known
        && property.len() <= 50
        && parts.all(|(name, index)| {
            let letters = (1..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphabetic());
            letters && index.len() <= 8 && index.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'[' | b']'))
        })
}

fn too_many(answer: &Answer) -> SendOutcome {
    let quota = answer
        .json::<Failure>()
        .is_some_and(|failure| failure.message.contains("monthly limit"));
    if quota {
        return Refusal::new(ErrorClass::Quota, "429_monthly_limit").into();
    }
    Refusal::new(ErrorClass::Throttled, "429")
        .after(answer.retry_after())
        .into()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
