//! Meta's Graph API: what Messenger and WhatsApp share. How a request is signed, sent and refused.
//!
//! Why it exists: both speak to one host with one shape of errors, told apart by number alone: the HTTP status says little, and
//! the words change. Each channel's own table of numbers stands in its own folder.
//!
//! It must never show a token or a proof, and never take an answer that is not Graph's for a refusal by Graph.

use std::{sync::OnceLock, time::Duration};

use ::http::{HeaderValue, Method, header};
use reqwest::{Body, Client, Request};
use ring::hmac;
use serde::Deserialize;
use url::Url;

use super::{
    config::{ChannelsError, base_url, secs},
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal},
    sender::bearer,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Where Graph says for how many minutes a business is to be left alone.
const BUSINESS_USAGE: &str = "x-business-use-case-usage";

/// One version of the API on one host.
#[derive(Debug)]
pub(super) struct Graph {
    client: Client,
    /// Scheme, host and version, without a slash at the end.
    root: String,
    timeout: Duration,
}

/// What a request shows to be let in: a token, and the proof that whoever holds it knows the app's secret too.
pub(super) struct Access {
    authorization: HeaderValue,
    token: String,
    /// Hexadecimal digits.
    proof: Option<String>,
}

impl Access {
    /// `None`: the token holds characters that no token has.
    pub(super) fn new(token: &str, app_secret: Option<&str>) -> Option<Self> {
        Some(Self {
            authorization: bearer(token)?,
            token: token.to_owned(),
            proof: app_secret.map(|secret| proof(secret, token)),
        })
    }

    /// The token itself, for the call that asks what it is good for.
    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

/// `appsecret_proof`: HMAC-SHA256 of the token under the app's secret.
fn proof(app_secret: &str, token: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, app_secret.as_bytes());
    let digest = hmac::sign(&key, token.as_bytes());
    let digits = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

impl Graph {
    /// `key` is the section of the configuration that `base` and `version` stand in.
    pub(super) fn new(
        client: Client,
        key: &str,
        base: &str,
        version: &str,
        timeout_secs: u64,
    ) -> Result<Self, ChannelsError> {
        let root = format!("{}/{version}", base.trim_end_matches('/'));
        if base_url(&root).is_none() {
            return Err(ChannelsError::Settings(vec![format!("{key}.base_url is not a URL")]));
        }
        Ok(Self {
            client,
            root,
            timeout: secs(timeout_secs),
        })
    }

    /// The address of an object or an edge, such as `123/messages`, with the proof in it; other parameters are added by the
    /// caller. `None`: not an address.
    pub(super) fn url(&self, path: &str, access: &Access) -> Option<Url> {
        let mut url = Url::parse(&format!("{}/{path}", self.root)).ok()?;
        if let Some(proof) = &access.proof {
            url.query_pairs_mut().append_pair("appsecret_proof", proof);
        }
        Some(url)
    }

    /// Posts a message, whose JSON is given in pieces, to `ID/messages`; the address is made once and kept in `url`.
    pub(super) async fn send(
        &self,
        url: &OnceLock<Option<Url>>,
        id: &str,
        access: &Access,
        pieces: &[&[u8]],
    ) -> Result<Answer, Refusal> {
        let url = url.get_or_init(|| self.url(&format!("{id}/messages"), access)).clone();
        let url = url.ok_or_else(|| Refusal::new(ErrorClass::Credentials, "messages_url"))?;
        self.post(url, access, pieces.concat()).await
    }

    /// Posts JSON.
    pub(super) async fn post(&self, url: Url, access: &Access, body: Vec<u8>) -> Result<Answer, Refusal> {
        self.call(Method::POST, url, access, Some(body)).await
    }

    /// Asks.
    pub(super) async fn get(&self, url: Url, access: &Access) -> Result<Answer, Refusal> {
        self.call(Method::GET, url, access, None).await
    }

    async fn call(&self, method: Method, url: Url, access: &Access, body: Option<Vec<u8>>) -> Result<Answer, Refusal> {
        let mut request = Request::new(method, url);
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, access.authorization.clone());
        if let Some(body) = body {
            headers.insert(header::CONTENT_TYPE, JSON);
            *request.body_mut() = Some(Body::from(body));
        }
        *request.timeout_mut() = Some(self.timeout);
        exchange(&self.client, request).await
    }
}

/// A refusal in Graph's words.
#[derive(Debug, Deserialize)]
pub(super) struct GraphError {
    pub(super) code: u32,
    #[serde(default)]
    pub(super) error_subcode: Option<u32>,
    #[serde(default)]
    message: String,
}

impl GraphError {
    /// The refusal in an answer, if it is one.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            error: GraphError,
        }
        read::<Body>(answer).map(|body| body.error)
    }

    /// The subcode, 0 where there is none.
    pub(super) fn subcode(&self) -> u32 {
        self.error_subcode.unwrap_or(0)
    }

    /// Whether it is about the proof: Graph numbers that like any wrong parameter.
    pub(super) fn about_the_proof(&self) -> bool {
        self.code == 100 && self.message.contains("appsecret_proof")
    }

    /// `10/2018278`, or `131047` where there is no subcode: what rows and pages show.
    pub(super) fn name(&self) -> String {
        match self.error_subcode {
            Some(subcode) if subcode != 0 => format!("{}/{subcode}", self.code),
            Some(_) | None => self.code.to_string(),
        }
    }
}

/// The JSON of an answer. Graph has called its JSON a script at times.
pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Option<T> {
    let kind = answer.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") && !kind.eq_ignore_ascii_case("text/javascript") {
        return None;
    }
    serde_json::from_slice(answer.body.as_deref()?).ok()
}

/// For how long the provider asks to be left alone: by `Retry-After`, or by the usage of the business.
pub(super) fn wait(answer: &Answer) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Usage {
        #[serde(default)]
        estimated_time_to_regain_access: u64,
    }
    let regained = || {
        let text = answer.headers.get(BUSINESS_USAGE)?.to_str().ok()?;
        let usage: std::collections::HashMap<String, Vec<Usage>> = serde_json::from_str(text).ok()?;
        let minutes = usage
            .into_values()
            .flatten()
            .map(|one| one.estimated_time_to_regain_access);
        let minutes = minutes.max().filter(|minutes| *minutes > 0)?;
        Some(Duration::from_secs(minutes.saturating_mul(60)))
    };
    answer.retry_after().or_else(regained)
}

/// What an answer means that is not Graph's: a proxy's, or that of a wrong `base_url`.
pub(super) fn not_graph(answer: &Answer) -> Refusal {
    let code = format!("{} not_as_promised", answer.status);
    match answer.status {
        401 | 403 | 404 => Refusal::new(ErrorClass::Credentials, code),
        429 => Refusal::new(ErrorClass::Throttled, code).after(wait(answer)),
        _ => Refusal::new(ErrorClass::Uncertain, code).after(answer.retry_after()),
    }
}

/// What a refusal means whose number is in no table, by its status.
pub(super) fn unlisted(answer: &Answer, error: &GraphError) -> Refusal {
    let refusal = |class| Refusal::new(class, error.name());
    match answer.status {
        401 => refusal(ErrorClass::Credentials),
        408 => refusal(ErrorClass::Uncertain),
        429 => refusal(ErrorClass::Throttled).after(wait(answer)),
        _ => refusal(ErrorClass::Content),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ::http::HeaderMap;

    use super::*;

    fn answer(headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(name, value)| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        Answer {
            status: 400,
            headers: headers.collect::<HeaderMap>(),
            body: Some(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn the_proof_is_the_hmac_of_the_token() {
        // printf %s t0ken | openssl dgst -sha256 -hmac s3cret
        let expected = "d0f8abfce5e9c8e5c0b6446d31e29359768d9916db08c6a94ca7b481a4eeac2c";
        assert_eq!(proof("s3cret", "t0ken"), expected);
    }

    #[test]
    fn the_wait_is_what_a_header_says() {
        let usage = r#"{"1":[{"type":"messenger","call_count":100},{"estimated_time_to_regain_access":3}]}"#;
        assert_eq!(
            wait(&answer(&[(BUSINESS_USAGE, usage)], "")),
            Some(Duration::from_mins(3))
        );
        let both = [(BUSINESS_USAGE, usage), ("retry-after", "7")];
        assert_eq!(wait(&answer(&both, "")), Some(Duration::from_secs(7)));
        for nothing in [
            "",
            "{}",
            r#"{"1":[{"estimated_time_to_regain_access":0}]}"#,
            r#"{"1":2}"#,
        ] {
            assert_eq!(wait(&answer(&[(BUSINESS_USAGE, nothing)], "")), None, "{nothing}");
        }
    }

    #[test]
    fn an_error_is_named_by_its_numbers() {
        let json = ("content-type", "text/javascript; charset=UTF-8");
        let error = |body: &str| GraphError::of(&answer(&[json], body)).map(|error| error.name());
        assert_eq!(
            error(r#"{"error":{"code":10,"error_subcode":2018278}}"#).as_deref(),
            Some("10/2018278")
        );
        assert_eq!(
            error(r#"{"error":{"code":131047,"message":"m"}}"#).as_deref(),
            Some("131047")
        );
        assert_eq!(error(r#"{"error":{"code":"10"}}"#), None);
        assert_eq!(error(r#"{"error":"10"}"#), None);
    }
}
