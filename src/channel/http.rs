//! The one HTTP client, and what can be known about a request that failed.
//!
//! Why it exists: whether a message may be repeated hangs on whether its request can have left this machine. That is
//! decided here, once for all providers, from how the transport failed.
//!
//! It must never follow a redirect (the body would be sent twice), obey a proxy variable, or read more than 64 KiB of
//! an answer. It repeats a request by itself only where HTTP/2 says that the server never looked at it (a refused
//! stream, a graceful GOAWAY); that is the client's default policy, and a wider one must never be configured.

use std::time::Duration;

use ::http::{HeaderMap, header};
use reqwest::{Client, Request, redirect};

use super::{
    config::{ChannelsError, HttpConfig, secs},
    outcome::{ErrorClass, Refusal},
};

/// The most of an answer that is read. Every promised answer is far smaller.
const BODY_LIMIT: usize = 64 * 1024;

/// The client of this process: keep-alive, HTTP/2 where TLS negotiates it, no redirects, no proxy, no compression.
pub(super) fn client(config: &HttpConfig) -> Result<Client, ChannelsError> {
    let broken = |error: &dyn std::fmt::Display| ChannelsError::Client(error.to_string());
    let tls = crate::tls::client_config().map_err(|error| broken(&error))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(secs(config.connect_timeout_secs))
        .pool_idle_timeout(secs(config.idle_secs))
        .pool_max_idle_per_host(config.idle_connections)
        .http2_adaptive_window(true)
        .user_agent(concat!("carillon/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| broken(&error.without_url()))
}

/// A provider's answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The body, or `None` when it broke off or was longer than 64 KiB.
    pub(super) body: Option<Vec<u8>>,
}

impl Answer {
    /// The body as JSON, where the answer says it is JSON and all of it arrived.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        let kind = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return None;
        }
        serde_json::from_slice(self.body.as_deref()?).ok()
    }

    /// `Retry-After`, in seconds or as a date.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
        Some((at.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
    }
}

/// Sends a request and reads the answer, bounded.
///
/// # Errors
/// No answer: `unreachable` when no connection was made, so that nothing can have been sent; else `uncertain`.
pub(super) async fn exchange(client: &Client, request: Request) -> Result<Answer, Refusal> {
    let mut response = client.execute(request).await.map_err(|error| no_answer(&error))?;
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    let body = loop {
        match response.chunk().await {
            Ok(None) => break Some(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_LIMIT => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) | Err(_) => break None,
        }
    };
    Ok(Answer { status, headers, body })
}

fn no_answer(error: &reqwest::Error) -> Refusal {
    let timeout = error.is_timeout();
    match (error.is_connect(), error.is_builder()) {
        (true, _) if timeout => Refusal::new(ErrorClass::Unreachable, "connect_timeout"),
        (true, _) => Refusal::new(ErrorClass::Unreachable, "connect_failed"),
        (false, true) => Refusal::new(ErrorClass::Content, "request_not_built"),
        (false, false) if timeout => Refusal::new(ErrorClass::Uncertain, "timeout"),
        (false, false) => Refusal::new(ErrorClass::Uncertain, "connection_lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let wait = |text: &str| {
            let value = header::HeaderValue::from_str(text).ok()?;
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
            let answer = Answer {
                status: 429,
                headers,
                body: None,
            };
            answer.retry_after()
        };
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = chrono::Utc::now() + chrono::TimeDelta::seconds(90);
        let later = wait(&later.to_rfc2822()).unwrap_or_default();
        assert!((80..=90).contains(&later.as_secs()), "{later:?}");
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }
}
