//! The control API under `/_sandbox/`: set faults, register accounts, read what was received and what it cost.
//! It exists so that a shell script, a benchmark in another process or a person with curl can drive the sandbox.
//! It must never be needed for a send: no provider call looks at anything only this file knows. Errors are 400 with
//! `{"error":"…"}`; it never repeats a credential.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use crate::accounts::Account;
use crate::channel::Channel;
use crate::cpu;
use crate::faults::Fault;
use crate::http::{Answer, Request, Verdict};
use crate::line::is_user_id;
use crate::outage::Port;
use crate::received::ReceivedQuery;
use crate::state::State;
use crate::traffic::{Latency, RateCap};

/// Messages listed when the caller names no limit.
const DEFAULT_LIMIT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    channel: Channel,
    /// `None`, on FCM only: every access token.
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLatency {
    channel: Channel,
    #[serde(default)]
    fixed_ms: u64,
    #[serde(default)]
    jitter_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRateCap {
    channel: Channel,
    per_second: u64,
    #[serde(default)]
    burst: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginOutage {
    port: Port,
    ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_secs: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueReplyToken {
    user_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenLifetime {
    secs: u64,
}

type Outcome = Result<serde_json::Value, String>;

/// Answers a control request.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    if request.method == "GET" && matches!(request.path, "/_sandbox/recipients" | "/_sandbox/unread") {
        recipients(state, request, answer);
        return Verdict::NOW;
    }
    match handle(state, request) {
        Some(Ok(body)) => answer.set(200, &body.to_string()),
        Some(Err(error)) => answer.set(400, &serde_json::json!({"error": error}).to_string()),
        None => answer.set(404, r#"{"error":"no such control endpoint"}"#),
    }
    Verdict::NOW
}

fn handle(state: &State, request: &Request<'_>) -> Option<Outcome> {
    let done = serde_json::json!({});
    Some(match (request.method, request.path) {
        ("GET", "/_sandbox/health") => Ok(done),
        ("GET", "/_sandbox/summary") => json(&state.summary()),
        ("GET", "/_sandbox/received") => received(state, request),
        ("GET", "/_sandbox/cpu") => cpu::used().map_err(|e| e.to_string()).and_then(|used| json(&used)),
        ("POST", "/_sandbox/reset") => {
            state.reset();
            Ok(done)
        }
        ("GET", "/_sandbox/faults") => json(&state.faults.list()),
        ("POST", "/_sandbox/faults") => read::<Fault>(request)
            .and_then(|fault| state.faults.set(fault).map_err(|e| e.to_string()))
            .map(|id| serde_json::json!({"id": id})),
        ("DELETE", "/_sandbox/faults") => parameter(request, "id")
            .map(|id| id.parse::<u64>().map_err(|_| "`id` must be a number".to_owned()))
            .transpose()
            .map(|id| {
                state.faults.clear(id);
                done
            }),
        ("POST", "/_sandbox/outage") => read::<BeginOutage>(request).map(|begin| {
            state.outages.begin(begin.port, Duration::from_millis(begin.ms));
            done
        }),
        ("POST", "/_sandbox/latency") => read::<SetLatency>(request).map(|set| {
            let latency = Latency {
                fixed_ms: set.fixed_ms,
                jitter_ms: set.jitter_ms,
            };
            state.traffic(set.channel).set_latency(latency);
            done
        }),
        ("POST", "/_sandbox/rate-cap") => read::<SetRateCap>(request).map(|set| {
            state.traffic(set.channel).cap.set(Some(RateCap {
                per_second: set.per_second,
                burst: set.burst,
            }));
            done
        }),
        ("POST", "/_sandbox/accounts") => read::<Account>(request)
            .and_then(|account| state.register(account).map_err(|e| e.to_string()))
            .map(|()| done),
        ("POST", "/_sandbox/accounts/revoke") => read::<Revoke>(request).and_then(|revoke| apply(state, &revoke)),
        ("POST", "/_sandbox/fcm-token-lifetime") => read::<TokenLifetime>(request).map(|lifetime| {
            state.fcm.set_token_lifetime(lifetime.secs);
            done
        }),
        ("POST", "/_sandbox/clock") => read::<Advance>(request).map(|clock| {
            state.clock.advance(Duration::from_secs(clock.advance_secs));
            done
        }),
        ("POST", "/_sandbox/reply-tokens") => issue_reply_token(state, request),
        _ => return None,
    })
}

fn issue_reply_token(state: &State, request: &Request<'_>) -> Outcome {
    let issue = read::<IssueReplyToken>(request)?;
    if !is_user_id(&issue.user_id) {
        return Err("`user_id` must be U and 32 lowercase hexadecimal digits".to_owned());
    }
    let token = state.line.issue_reply_token(&issue.user_id, state.clock.elapsed());
    Ok(serde_json::json!({"reply_token": token}))
}

fn apply(state: &State, revoke: &Revoke) -> Outcome {
    let known = match (&revoke.credential, revoke.channel) {
        (Some(credential), channel) => state.revoke(channel, credential),
        (None, Channel::Fcm) => {
            state.fcm.revoke_tokens();
            true
        }
        (None, _) => return Err("`credential` is required".to_owned()),
    };
    known
        .then(|| serde_json::json!({}))
        .ok_or_else(|| "no such credential".to_owned())
}

fn json(value: &impl serde::Serialize) -> Outcome {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

fn read<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, String> {
    // The position is enough to find the mistake; serde's own text could repeat a credential.
    serde_json::from_slice(request.body).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => {
            let text = e.to_string();
            let safe = text.starts_with("missing field")
                || text.starts_with("unknown field")
                || text.starts_with("unknown variant");
            if safe {
                text
            } else {
                format!("wrong value at line {} column {}", e.line(), e.column())
            }
        }
        _ => format!("not JSON at line {} column {}", e.line(), e.column()),
    })
}

fn parameter(request: &Request<'_>, name: &str) -> Option<String> {
    form_urlencoded::parse(request.query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn channel(request: &Request<'_>) -> Result<Channel, String> {
    let name = parameter(request, "channel").ok_or("`channel` is required")?;
    name.parse().map_err(|e: crate::channel::UnknownChannel| e.to_string())
}

fn received(state: &State, request: &Request<'_>) -> Outcome {
    let number = |name: &str, default: usize| {
        let wrong = |_| format!("`{name}` must be a number");
        parameter(request, name).map_or(Ok(default), |text| text.parse().map_err(wrong))
    };
    let query = ReceivedQuery {
        recipient: parameter(request, "recipient"),
        contains: parameter(request, "contains"),
        offset: number("offset", 0)?,
        limit: Some(number("limit", DEFAULT_LIMIT)?),
    };
    let (count, messages) = state.traffic(channel(request)?).received.find(&query);
    Ok(serde_json::json!({"count": count, "messages": messages}))
}

/// One line per recipient: the recipient, a tab, how many matching messages it got, or how many answers about it were never read.
fn recipients(state: &State, request: &Request<'_>, answer: &mut Answer) {
    match channel(request) {
        Ok(channel) => {
            answer.content_type = "text/plain; charset=utf-8";
            let traffic = state.traffic(channel);
            let counts = if request.path == "/_sandbox/unread" {
                traffic.unread()
            } else {
                traffic.received.counts(parameter(request, "contains").as_deref())
            };
            for (recipient, count) in counts {
                // Writing to a String cannot fail.
                let _ = writeln!(answer.body, "{recipient}\t{count}");
            }
        }
        Err(error) => answer.set(400, &serde_json::json!({"error": error}).to_string()),
    }
}
