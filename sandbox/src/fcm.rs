//! FCM HTTP v1: projects, access tokens and `messages:send`.
//! It exists so that the product meets Google's answers (and the shape of its errors) without Google.
//! It must never accept a token of another project, an expired one, or a message with a field Google does not know.
//! Order of judgement: path, access token, media type, body, rate, fault, acceptance.

mod answers;
mod message;
mod projects;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::channel::Channel;
use crate::check::Findings;
use crate::faults::Hit;
use crate::fcm::answers::{Detail, No, write_fault};
use crate::fcm::message::Order;
use crate::http::{Answer, Request, Verdict};
use crate::json::Json;
use crate::received::Content;
use crate::routes::conclude;
use crate::state::State;

pub(crate) use crate::fcm::projects::{FcmState, Project};

/// `POST /v1/projects/{project}/messages:send` and whatever else is asked below `/v1/projects/`.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    let mut hit = Hit::default();
    let project = request
        .path
        .strip_prefix("/v1/projects/")
        .and_then(|rest| rest.strip_suffix("/messages:send"));
    let outcome = match project.filter(|project| request.method == "POST" && !project.contains('/')) {
        Some(project) => {
            state.traffic(Channel::Fcm).requested();
            send(state, request, answer, project, &mut hit)
        }
        None => Err(No::new(404, "NOT_FOUND", "Requested URL was not found.", Detail::None)),
    };
    if let Err(no) = outcome {
        no.write(answer);
    }
    if hit.before().is_some() || answer.status == 200 {
        write_fault(&hit, answer);
    }
    conclude(state, Channel::Fcm, &hit, answer)
}

/// The account behind the access token, if it may send for `project`.
fn authorize(state: &State, request: &Request<'_>, project: &str) -> Result<Arc<Project>, No> {
    let now = state.clock.unix_secs();
    let known = request.bearer().and_then(|token| state.fcm.project(token, now));
    let account = known.ok_or_else(No::unauthenticated)?;
    if account.id == project {
        return Ok(account);
    }
    let message = "Permission 'cloudmessaging.messages.create' denied on resource.";
    Err(No::new(403, "PERMISSION_DENIED", message, Detail::None))
}

fn send(state: &State, request: &Request<'_>, answer: &mut Answer, project: &str, hit: &mut Hit) -> Result<(), No> {
    let invalid = |message: &str, detail| No::new(400, "INVALID_ARGUMENT", message, detail);
    let account = authorize(state, request, project)?;
    if !request.is_media_type("application/json") {
        return Err(invalid(
            "The request's Content-Type must be application/json",
            Detail::None,
        ));
    }
    let json = Json::parse(request.body).map_err(|_| invalid("Invalid JSON payload received.", Detail::None))?;
    let mut found = Findings::default();
    let order = message::read(&json, &mut found);
    let Some(order) = order.filter(|_| found.wrong.is_empty()) else {
        let first = found.wrong.first();
        let first = first.map_or(String::new(), |w| format!("{} at '{}'", w.message, w.property));
        let message = format!("Invalid JSON payload received. {first}");
        return Err(invalid(&message, Detail::Fields(found.wrong)));
    };
    if order.bad_token {
        return Err(No::of("INVALID_ARGUMENT"));
    }
    let now = state.clock.elapsed();
    if !account.pace.admit(&state.traffic(Channel::Fcm).cap, now) {
        return Err(No::of("QUOTA_EXCEEDED"));
    }
    account.pace.note(now);
    answer.concerns(Channel::Fcm, &order.recipient);
    *hit = state.faults.ask(Channel::Fcm, "send", |set| set.get(&order.recipient));
    if hit.before().is_none() {
        accept(state, request, answer, project, &order);
    }
    Ok(())
}

/// Counts the message, unless it was only to be validated, and names it.
fn accept(state: &State, request: &Request<'_>, answer: &mut Answer, project: &str, order: &Order<'_>) {
    answer.set(200, "");
    // Writing to a String cannot fail.
    let _ = write!(answer.body, r#"{{"name":"projects/{project}/messages/"#);
    if order.validate_only {
        answer.body.push_str("fake_message_id\"}");
        return;
    }
    let body = if state.keep_bodies {
        raw_message(request.body)
    } else {
        ""
    };
    let content = Content::new(order.marker, &order.text, body);
    let traffic = state.traffic(Channel::Fcm);
    let to = std::iter::once(order.recipient.as_str());
    traffic.received.record(state.clock.real_ms(), content, to);
    traffic.accepted();
    let serial = state.fcm.serial.fetch_add(1, Ordering::Relaxed);
    let _ = write!(answer.body, "0:{serial:016}%sandbox\"}}");
}

/// The `message` of a body as it was written.
fn raw_message(body: &[u8]) -> &str {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        message: &'a serde_json::value::RawValue,
    }
    serde_json::from_slice::<Body<'_>>(body).map_or("", |body| body.message.get())
}
