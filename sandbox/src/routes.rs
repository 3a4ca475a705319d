//! The route table: which part answers which path. It exists so that one screen shows everything the HTTP port does.
//! It must never hold a rule of its own beyond "who answers" and "how large may the body be".

use crate::channel::Channel;
use crate::faults::{FaultKind, Hit};
use crate::http::{Answer, Request, Then, Verdict};
use crate::state::State;
use crate::{control, fcm, graph, line, mitake, oauth, twilio};

const LINE_BODY_BYTES: usize = 2 * 1024 * 1024;
const CONTROL_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The largest body a path takes, in bytes.
pub(crate) fn body_limit(path: &str) -> usize {
    if path.starts_with("/_sandbox/") {
        CONTROL_BODY_BYTES
    } else {
        LINE_BODY_BYTES
    }
}

/// Answers a body over the limit.
pub(crate) fn refuse_body(path: &str, state: &State, answer: &mut Answer) {
    if path.starts_with("/v2/bot/") {
        line::refuse_body(state, answer);
    } else {
        answer.set(
            413,
            r#"{"error":{"code":413,"message":"Request entity too large","status":"INVALID_ARGUMENT"}}"#,
        );
    }
}

/// Answers one request.
pub(crate) fn answer(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    match (request.method, request.path) {
        ("POST", "/v2/bot/message/push") => line::push(state, request, answer),
        ("POST", "/v2/bot/message/multicast") => line::multicast(state, request, answer),
        ("POST", "/v2/bot/message/reply") => line::reply(state, request, answer),
        ("POST", path) if path.starts_with("/v2/bot/message/validate/") => line::validate(state, request, answer),
        ("GET", "/v2/bot/message/quota") => line::quota(state, request, answer),
        ("GET", "/v2/bot/message/quota/consumption") => line::consumption(state, request, answer),
        ("GET", "/v2/bot/info") => line::info(state, request, answer),
        ("GET" | "PUT", "/v2/bot/channel/webhook/endpoint") => line::endpoint(state, request, answer),
        ("POST", "/v2/bot/channel/webhook/test") => line::test(state, request, answer),
        ("POST", "/v2/oauth/verify") => line::verify(state, request, answer),
        ("POST", "/token") => oauth::token(state, request, answer),
        (_, path) if path.starts_with("/v1/projects/") => fcm::route(state, request, answer),
        (_, path) if path.starts_with("/2010-04-01/") => twilio::route(state, request, answer),
        (_, path) if path.starts_with("/b2c/mtk/") => mitake::route(state, request, answer),
        (_, path) if path.starts_with("/_sandbox/") => control::route(state, request, answer),
        (_, path) if path.starts_with("/v2/") => line::unknown(state, answer),
        (_, path) => {
            if let Some(rest) = graph::versioned(path) {
                return graph::route(state, request, answer, rest);
            }
            answer.set(404, r#"{"message":"Not found"}"#);
            Verdict::NOW
        }
    }
}

/// Ends a provider call: counts a refusal, adds the channel's latency and carries out what a fault wants of the wire.
/// A body a fault replaces (`garbage`) is replaced here; a status a fault dictates was set by the provider's part.
pub(crate) fn conclude(state: &State, channel: Channel, hit: &Hit, answer: &mut Answer) -> Verdict {
    let traffic = state.traffic(channel);
    if let Some(kind) = hit.kind {
        traffic.struck(kind);
    }
    let then = match hit.kind {
        Some(FaultKind::ResetBefore | FaultKind::ResetAfter) => Then::Reset,
        Some(FaultKind::Hang | FaultKind::HangAfter) => Then::Hang,
        // An answer that already says "no" is left whole: these two are about a success the caller cannot read.
        Some(FaultKind::Truncated) if matches!(answer.status, 200 | 201) => Then::Truncate,
        Some(FaultKind::Garbage) if matches!(answer.status, 200 | 201) => {
            answer.content_type = "text/html";
            answer.set(200, "<html><body>It works!</body></html>");
            Then::Answer
        }
        _ => Then::Answer,
    };
    if then == Then::Answer && answer.status >= 400 {
        traffic.refused(answer.status);
    }
    if then == Then::Answer
        && let Some(secs) = hit.retry_after_secs
        && answer.status >= 400
    {
        answer.header("retry-after", &secs.to_string());
    }
    Verdict {
        then,
        delay: traffic.latency() + hit.delay,
    }
}
