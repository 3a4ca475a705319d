//! LINE calls that send nothing: validate, quota, consumption, bot info and token check.
//! It exists so that a sender can check its credentials and content here as it would at LINE.
//! It must never count a message or touch the quota.

use url::form_urlencoded;

use crate::channel::Channel;
use crate::check::{Fields, Findings, Place};
use crate::faults::Hit;
use crate::http::{Answer, Request, Verdict};
use crate::line::answers::{No, write_fault};
use crate::line::{Official, authorize, message, name_request, parse_body, retry_key};
use crate::routes::conclude;
use crate::state::State;

/// Runs a call that sends nothing: authorisation, faults at `point`, then `work`.
fn query(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    point: &str,
    work: impl FnOnce(&Official, &mut Answer) -> Result<(), No>,
) -> Verdict {
    name_request(state, answer);
    let checked = authorize(state, request).and_then(|official| retry_key(request, false).map(|_| official));
    let outcome = checked.and_then(|official| work(&official, answer));
    let mut hit = Hit::default();
    match outcome {
        Ok(()) => {
            hit = state.faults.ask(Channel::Line, point, |_| None);
            write_fault(&hit, answer);
        }
        Err(no) => no.write(answer),
    }
    conclude(state, Channel::Line, &hit, answer)
}

pub(crate) fn validate(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    query(state, request, answer, "validate", |_, answer| {
        let kind = request.path.rsplit('/').next().unwrap_or("");
        if !["push", "multicast", "reply", "broadcast", "narrowcast"].contains(&kind) {
            return Err(No::new(404, "Not found"));
        }
        let json = parse_body(request)?;
        let mut found = Findings::default();
        if let Some(fields) = Fields::open(&json, Place::Root, &["messages"], &mut found)
            && let Some(messages) = fields.required("messages", &mut found)
        {
            let place = Place::Member(&Place::Root, "messages");
            message::check_messages(messages, place, &mut found, &mut String::new());
        }
        if !found.wrong.is_empty() {
            return Err(No::wrong(found.wrong));
        }
        answer.set(200, "{}");
        Ok(())
    })
}

pub(crate) fn quota(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    query(state, request, answer, "quota", |official, answer| {
        match official.quota() {
            Some(value) => answer.set(200, &format!(r#"{{"type":"limited","value":{value}}}"#)),
            None => answer.set(200, r#"{"type":"none"}"#),
        }
        Ok(())
    })
}

pub(crate) fn consumption(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    query(state, request, answer, "consumption", |official, answer| {
        answer.set(200, &format!(r#"{{"totalUsage":{}}}"#, official.used()));
        Ok(())
    })
}

pub(crate) fn info(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    query(state, request, answer, "info", |official, answer| {
        let body = serde_json::json!({
            "userId": official.bot_user_id,
            "basicId": "@sandbox",
            "displayName": official.display_name,
            "chatMode": "bot",
            "markAsReadMode": "auto",
        });
        answer.set(200, &body.to_string());
        Ok(())
    })
}

/// `POST /v2/oauth/verify`, which takes the token as a form field instead of a header.
pub(crate) fn verify(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    name_request(state, answer);
    let form = request.is_media_type("application/x-www-form-urlencoded");
    let token = form_urlencoded::parse(request.body)
        .find(|(name, _)| name == "access_token")
        .map(|(_, value)| value);
    let official = token.filter(|_| form).and_then(|token| state.line.official(&token));
    match official {
        Some(official) => {
            let body =
                serde_json::json!({"client_id": official.channel_id, "expires_in": 2_591_659, "scope": "profile"});
            answer.set(200, &body.to_string());
        }
        None => {
            answer.set(
                400,
                r#"{"error":"invalid_request","error_description":"The access token expired"}"#,
            );
        }
    }
    let hit = state.faults.ask(Channel::Line, "verify", |_| None);
    write_fault(&hit, answer);
    conclude(state, Channel::Line, &hit, answer)
}
