//! FCM HTTP v1: app push, one request per device, and what its answers mean.
//!
//! Why the care about 500 and 503: FCM has no idempotency key. `UNAVAILABLE` is documented as "not accepted, try
//! later"; anything else above 499, and every answer that is not FCM's own, leaves the push unknown.
//!
//! It must never repeat a push whose fate is uncertain.

mod token;

use std::{sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, header};
use carillon_jobs::SenderId;
use reqwest::{Body, Client, Request};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use self::token::{Project, Tokens};
use super::{
    config::{AppConfig, ChannelsError, base_url, secs},
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal, SendOutcome},
    sender::AppProject,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Google asks for at least a minute after QUOTA_EXCEEDED without `Retry-After`.
const QUOTA_WAIT: Duration = Duration::from_mins(1);
/// And for ten seconds after UNAVAILABLE.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(10);

/// The adapter.
#[derive(Debug)]
pub(super) struct Fcm {
    client: Client,
    base_url: String,
    tokens: Tokens,
    timeout: Duration,
}

impl Fcm {
    pub(super) fn new(client: Client, config: &AppConfig) -> Result<Self, ChannelsError> {
        let timeout = secs(config.timeout_secs);
        let token_url = match config.token_url.as_str() {
            "" => None,
            text => Some(
                base_url(text)
                    .ok_or_else(|| ChannelsError::Settings(vec!["channel.app.token_url is not a URL".into()]))?,
            ),
        };
        Ok(Self {
            tokens: Tokens::new(client.clone(), token_url, timeout),
            base_url: config.base_url.trim_end_matches('/').to_owned(),
            client,
            timeout,
        })
    }

    /// Sends one push; `parts` are the members of `message` after `token`.
    pub(super) async fn send(&self, sender: SenderId, account: &AppProject, to: &str, parts: &[u8]) -> SendOutcome {
        if !is_registration_token(to) {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        }
        let project = self.tokens.project(sender, account, || {
            let (base, project) = (&self.base_url, &account.project_id);
            base_url(&format!("{base}/v1/projects/{project}/messages:send"))
        });
        let Some(project) = project else {
            return Refusal::new(ErrorClass::Credentials, "project_url").into();
        };
        let outcome = self.authorised(account, &project, to, parts).await;
        outcome.unwrap_or_else(SendOutcome::from)
    }

    /// Sends with the cached token, and once more with a new one if it is refused: a 401 was not sent.
    ///
    /// Whatever happens takes at most two time-outs: half for getting ready, half for the push itself.
    async fn authorised(
        &self,
        account: &AppProject,
        project: &Arc<Project>,
        to: &str,
        parts: &[u8],
    ) -> Result<SendOutcome, Refusal> {
        let ready_until = Instant::now() + self.timeout;
        let late = |_| Refusal::new(ErrorClass::Unreachable, "oauth_timeout");
        let login = timeout_at(ready_until, self.tokens.get(account, project));
        let token = login.await.map_err(late)??;
        let answer = self.post(project, token.clone(), to, parts).await?;
        if answer.status != 401 || error_code(&answer).is_some_and(|code| code.contains("AUTH_ERROR")) {
            return Ok(judge(&answer));
        }
        let login = timeout_at(ready_until, self.tokens.instead_of(account, project, &token));
        let token = login.await.map_err(late)??;
        if Instant::now() >= ready_until {
            return Err(Refusal::new(ErrorClass::Unreachable, "oauth_timeout"));
        }
        let answer = self.post(project, token, to, parts).await?;
        Ok(judge(&answer))
    }

    async fn post(&self, project: &Project, token: HeaderValue, to: &str, parts: &[u8]) -> Result<Answer, Refusal> {
        let mut body = Vec::with_capacity(parts.len() + to.len() + 32);
        body.extend_from_slice(br#"{"message":{"token":""#);
        body.extend_from_slice(to.as_bytes());
        body.extend_from_slice(br#"","#);
        body.extend_from_slice(parts);
        body.extend_from_slice(b"}}");
        let mut request = Request::new(Method::POST, project.url.clone());
        request.headers_mut().insert(header::AUTHORIZATION, token);
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        *request.body_mut() = Some(Body::from(body));
        *request.timeout_mut() = Some(self.timeout);
        exchange(&self.client, request).await
    }
}

/// Printable ASCII that can be written into JSON as it is.
fn is_registration_token(to: &str) -> bool {
    (1..=4_096).contains(&to.len()) && to.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

#[derive(Deserialize)]
struct Sent {
    name: String,
}

#[derive(Deserialize)]
struct Failure {
    error: FailureBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FailureBody {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    error_code: Option<String>,
    field_violations: Option<Vec<serde::de::IgnoredAny>>,
}

impl FailureBody {
    /// FCM's own code where it gives one, else the general status. Both are words like `NOT_FOUND`; what is not might quote the
    /// token or the message, and goes no further.
    fn code(&self) -> &str {
        let own = self.details.iter().find_map(|detail| detail.error_code.as_deref());
        let code = own.unwrap_or(&self.status);
        let word = (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if word { code } else { "not_a_code" }
    }

    fn violates_a_field(&self) -> bool {
        self.details.iter().any(|detail| detail.field_violations.is_some())
    }
}

fn error_code(answer: &Answer) -> Option<String> {
    answer.json::<Failure>().map(|failure| failure.error.code().to_owned())
}

/// What an answer means.
fn judge(answer: &Answer) -> SendOutcome {
    if answer.status == 200 {
        return match answer.json::<Sent>() {
            Some(sent) if sent.name.starts_with("projects/") => SendOutcome::accepted(Some(&sent.name)),
            Some(_) | None => Refusal::new(ErrorClass::Uncertain, "200_not_as_promised").into(),
        };
    }
    match answer.json::<Failure>() {
        Some(failure) => failed(answer, &failure.error).into(),
        None => not_fcm(answer).into(),
    }
}

fn failed(answer: &Answer, error: &FailureBody) -> Refusal {
    let code = error.code();
    let refused = |class| Refusal::new(class, format!("{} {code}", answer.status));
    let wait = |default| Some(answer.retry_after().unwrap_or(default));
    match (answer.status, code) {
        (404, "UNREGISTERED" | "NOT_FOUND") | (403, "SENDER_ID_MISMATCH") => refused(ErrorClass::Recipient),
        (400, _) if about_the_token(error) => refused(ErrorClass::Recipient),
        (429, _) => refused(ErrorClass::Throttled).after(wait(QUOTA_WAIT)),
        (503, "UNAVAILABLE") => refused(ErrorClass::Throttled).after(wait(UNAVAILABLE_WAIT)),
        (401 | 403 | 404, _) => refused(ErrorClass::Credentials),
        (400..=499, _) if answer.status != 408 => refused(ErrorClass::Content),
        _ => refused(ErrorClass::Uncertain).after(answer.retry_after()),
    }
}

/// FCM says INVALID_ARGUMENT both of a token and of a payload; only the payload's names fields, unless it is the
/// token's field.
fn about_the_token(error: &FailureBody) -> bool {
    let message = error.message.to_ascii_lowercase();
    let named = message.contains("registration token") || message.contains("message.token");
    named && (!error.violates_a_field() || message.contains("message.token"))
}

/// An answer that is not FCM's: from a proxy, or from a wrong `base_url`.
fn not_fcm(answer: &Answer) -> Refusal {
    let code = format!("{} not_as_promised", answer.status);
    match answer.status {
        401 | 403 | 404 => Refusal::new(ErrorClass::Credentials, code),
        429 => {
            let wait = answer.retry_after().unwrap_or(QUOTA_WAIT);
            Refusal::new(ErrorClass::Throttled, code).after(Some(wait))
        }
        _ => Refusal::new(ErrorClass::Uncertain, code).after(answer.retry_after()),
    }
}

#[cfg(test)]
mod tests;
