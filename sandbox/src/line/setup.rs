//! LINE's webhook settings: which endpoint an account has, and the signed test event it sends there when asked.
//! It exists so that a sender's set-up can be checked here as it would be at LINE, secret included.
//! It must never post anywhere but to the endpoint that was set or named, and never wait for it longer than LINE does.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::channel::Channel;
use crate::faults::Hit;
use crate::http::{Answer, Request, Verdict};
use crate::line::answers::{No, write_fault};
use crate::line::{Official, authorize, name_request, parse_body};
use crate::routes::conclude;
use crate::state::State;
use crate::webhooks::{self, Signer};

/// How long LINE waits for an endpoint.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    endpoint: Option<String>,
}

/// `GET` says which endpoint is set, `PUT` sets one; setting turns it on.
pub(crate) fn endpoint(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    run(state, request, answer, |official, answer| {
        if request.method == "GET" {
            let (endpoint, active) = official
                .webhook()
                .ok_or_else(|| No::new(404, "Webhook endpoint not found"))?;
            let body = serde_json::json!({"endpoint": endpoint, "active": active});
            answer.set(200, &body.to_string());
            return Ok(());
        }
        let endpoint = named(request)?.ok_or_else(|| No::new(400, "The property, endpoint, must be specified"))?;
        official.set_webhook(endpoint, true);
        answer.set(200, "{}");
        Ok(())
    })
}

/// Sends the test event; the answer says what came of it.
pub(crate) fn test(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    run(state, request, answer, |official, answer| {
        let named = if request.body.is_empty() { None } else { named(request)? };
        let set = official.webhook().map(|(endpoint, _)| endpoint);
        let endpoint = named
            .or(set)
            .ok_or_else(|| No::new(404, "Webhook endpoint not found"))?;
        let body = webhooks::line::body(&official.bot_user_id, &[]);
        answer.errand = Some(TestEvent {
            endpoint,
            request: Signer::Line(official.channel_secret.clone()).json(&body),
        });
        answer.set(200, "{}");
        Ok(())
    })
}

fn run(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    work: impl FnOnce(&Official, &mut Answer) -> Result<(), No>,
) -> Verdict {
    name_request(state, answer);
    let outcome = authorize(state, request).and_then(|official| work(&official, answer));
    let mut hit = Hit::default();
    match outcome {
        Ok(()) => {
            hit = state.faults.ask(Channel::Line, "webhook", |_| None);
            write_fault(&hit, answer);
        }
        Err(no) => no.write(answer),
    }
    conclude(state, Channel::Line, &hit, answer)
}

/// An https endpoint as LINE asks for it; here a plain one on this machine will do.
fn named(request: &Request<'_>) -> Result<Option<String>, No> {
    parse_body(request)?;
    let wrong = || {
        No::new(
            400,
            "The property, endpoint, in the request body is invalid (line: -, column: -)",
        )
    };
    let named: Named = serde_json::from_slice(request.body).map_err(|_| wrong())?;
    let Some(endpoint) = named.endpoint else {
        return Ok(None);
    };
    let url = Url::parse(&endpoint).map_err(|_| wrong())?;
    let here = matches!(url.host_str(), Some("127.0.0.1" | "localhost"));
    if endpoint.len() > 500 || !(url.scheme() == "https" || here) {
        return Err(wrong());
    }
    Ok(Some(endpoint))
}

/// A test event on its way.
pub(crate) struct TestEvent {
    endpoint: String,
    request: webhooks::Request,
}

impl TestEvent {
    /// Posts it and says how the endpoint answered, as LINE does.
    pub(crate) async fn run(self) -> String {
        let (success, status, reason, detail) = match tokio::time::timeout(PATIENCE, self.post()).await {
            Err(_) => (false, 0, "REQUEST_TIMEOUT", "Request timeout".to_owned()),
            Ok(None) => (false, 0, "COULD_NOT_CONNECT", "Could not connect".to_owned()),
            Ok(Some(200)) => (true, 200, "OK", "200".to_owned()),
            Ok(Some(status)) => (false, status, "ERROR_STATUS_CODE", status.to_string()),
        };
        serde_json::json!({
            "success": success, "timestamp": "2026-01-01T00:00:00.000000Z", "statusCode": status, "reason": reason,
            "detail": detail,
        })
        .to_string()
    }

    /// The status of the answer; `None` when there is none. Only plain HTTP can be spoken here.
    async fn post(&self) -> Option<u16> {
        let url = Url::parse(&self.endpoint).ok().filter(|url| url.scheme() == "http")?;
        let mut stream = TcpStream::connect((url.host_str()?, url.port_or_known_default()?))
            .await
            .ok()?;
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
            url.path(),
            url.host_str()?,
            self.request.body.len()
        );
        for (name, value) in &self.request.headers {
            for part in [*name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&self.request.body).await.ok()?;
        let mut start = [0_u8; 12];
        stream.read_exact(&mut start).await.ok()?;
        std::str::from_utf8(start.get(9..)?).ok()?.parse().ok()
    }
}
