//! LINE Messaging API: push, multicast, reply, validate, quota, info and token check.
//! It exists so that the product meets LINE's rules, limits and refusals without LINE (whose terms forbid load tests).
//! It must never be kinder than LINE: what LINE refuses is refused, and unknown properties are refused too.
//! Order of judgement: token, media type, retry key header, body, rate, fault, retry key, quota, acceptance.

mod answers;
mod flex;
mod message;
mod official;
mod queries;
mod retry_keys;
mod setup;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use uuid::Uuid;

use crate::channel::Channel;
use crate::check::{Fields, Findings, Place};
use crate::faults::{FaultKind, Hit};
use crate::http::{Answer, Request, Verdict};
use crate::json::Json;
use crate::line::answers::{No, write_fault, write_repeat, write_sent};
use crate::line::retry_keys::{Accepted, Keyed};
use crate::mix::short_fingerprint;
use crate::received::Content;
use crate::routes::conclude;
use crate::state::State;
use crate::traffic::Pace;

pub(crate) use crate::line::official::{LineState, Official, is_user_id};
pub(crate) use crate::line::queries::{consumption, info, quota, validate, verify};
pub(crate) use crate::line::setup::{TestEvent, endpoint, test};

const MAX_MULTICAST: usize = 500;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Push,
    Multicast,
    Reply,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Endpoint::Push => "push",
            Endpoint::Multicast => "multicast",
            Endpoint::Reply => "reply",
        }
    }

    fn pace(self, official: &Official) -> &Pace {
        let [push, multicast, reply] = &official.paces;
        match self {
            Endpoint::Push => push,
            Endpoint::Multicast => multicast,
            Endpoint::Reply => reply,
        }
    }

    fn properties(self) -> &'static [&'static str] {
        match self {
            Endpoint::Push | Endpoint::Multicast => {
                &["to", "messages", "notificationDisabled", "customAggregationUnits"]
            }
            Endpoint::Reply => &["replyToken", "messages", "notificationDisabled"],
        }
    }
}

/// A valid request, borrowed from its JSON tree.
struct Order<'j> {
    to: Vec<&'j str>,
    reply_token: Option<&'j str>,
    count: u32,
    marker: &'j str,
    text: String,
}

pub(crate) fn push(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    send(state, request, answer, Endpoint::Push)
}

pub(crate) fn multicast(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    send(state, request, answer, Endpoint::Multicast)
}

pub(crate) fn reply(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    send(state, request, answer, Endpoint::Reply)
}

fn send(state: &State, request: &Request<'_>, answer: &mut Answer, endpoint: Endpoint) -> Verdict {
    state.traffic(Channel::Line).requested();
    let serial = name_request(state, answer);
    let mut hit = Hit::default();
    if let Err(no) = attempt(state, request, answer, endpoint, serial, &mut hit) {
        no.write(answer);
    }
    if hit.before().is_some() || answer.status == 200 {
        write_fault(&hit, answer);
    }
    conclude(state, Channel::Line, &hit, answer)
}

/// Gives the answer its `x-line-request-id`.
fn name_request(state: &State, answer: &mut Answer) -> u32 {
    let serial = state.line.next_request();
    answer.headers.push_str("x-line-request-id: ");
    state.line.push_request_id(&mut answer.headers, serial);
    answer.headers.push_str("\r\n");
    serial
}

fn authorize(state: &State, request: &Request<'_>) -> Result<Arc<Official>, No> {
    request
        .bearer()
        .and_then(|token| state.line.official(token))
        .ok_or_else(No::unauthorized)
}

fn attempt(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    endpoint: Endpoint,
    serial: u32,
    hit: &mut Hit,
) -> Result<(), No> {
    let official = authorize(state, request)?;
    let key = retry_key(request, endpoint != Endpoint::Reply)?;
    let json = parse_body(request)?;
    let order = read_order(&json, endpoint)?;
    let now = state.clock.elapsed();
    let pace = endpoint.pace(&official);
    if !pace.admit(&state.traffic(Channel::Line).cap, now) {
        return Err(No::rate());
    }
    pace.note(now);
    let invalid_token = || No::new(400, "Invalid reply token");
    let replied_to = match order.reply_token {
        Some(token) => Some(state.line.reply_user(token, now).ok_or_else(invalid_token)?),
        None => None,
    };
    let to: Cow<'_, [&str]> = match &replied_to {
        Some(user_id) => Cow::Owned(vec![user_id.as_str()]),
        None => Cow::Borrowed(&order.to),
    };
    if let [only] = to.as_ref() {
        answer.concerns(Channel::Line, only);
    }
    *hit = state.faults.ask(Channel::Line, endpoint.name(), |set| {
        to.iter().find_map(|id| set.get(*id))
    });
    // Whom it has accepted LINE does not look at again: a repeat is answered by its key.
    if hit.kind == Some(FaultKind::InvalidRecipient) && key.is_some_and(|key| official.keys.knows(key, now)) {
        hit.kind = None;
    }
    if hit.before().is_some() {
        return Ok(());
    }
    if order
        .reply_token
        .is_some_and(|token| !state.line.use_reply_token(token))
    {
        return Err(invalid_token());
    }
    let accept = || accept(state, request, &official, &order, &to, serial);
    let accepted = match key {
        None => Keyed::Fresh(accept()?),
        Some(key) => {
            let body = short_fingerprint(&(endpoint.name(), request.body));
            official.keys.accept(key, body, now, accept)
        }
    };
    // Multicast names no messages, neither in its 200 nor in its 409.
    let named = if endpoint == Endpoint::Multicast {
        0
    } else {
        order.count
    };
    match accepted {
        Keyed::Fresh(_) if named == 0 => answer.set(200, "{}"),
        Keyed::Fresh(accepted) => write_sent(answer, accepted, named),
        Keyed::Repeat(accepted) => write_repeat(&state.line, answer, accepted, named),
        Keyed::Mismatch => {
            let message = "The retry key was accepted before with a different request";
            return Err(No::new(400, message));
        }
        Keyed::Refused(no) => return Err(no),
    }
    Ok(())
}

/// Charges the quota and counts every recipient.
fn accept(
    state: &State,
    request: &Request<'_>,
    official: &Official,
    order: &Order<'_>,
    to: &[&str],
    serial: u32,
) -> Result<Accepted, No> {
    if order.reply_token.is_none() && !official.spend(to.len() as u64) {
        return Err(No::quota());
    }
    let body = if state.keep_bodies {
        raw_messages(request.body)
    } else {
        ""
    };
    let content = Content::new(order.marker, &order.text, body);
    let traffic = state.traffic(Channel::Line);
    traffic
        .received
        .record(state.clock.real_ms(), content, to.iter().copied());
    traffic.accepted();
    Ok(Accepted {
        request: serial,
        first_message: state.line.next_messages(order.count),
    })
}

/// The `messages` of a body as they were written.
fn raw_messages(body: &[u8]) -> &str {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        messages: &'a RawValue,
    }
    serde_json::from_slice::<Body<'_>>(body).map_or("", |body| body.messages.get())
}

/// The retry key, which only push and multicast may carry.
fn retry_key(request: &Request<'_>, allowed: bool) -> Result<Option<Uuid>, No> {
    let Some(text) = request.header("x-line-retry-key") else {
        return Ok(None);
    };
    if !allowed {
        return Err(No::new(400, "The retry key is not supported on this endpoint"));
    }
    // The dashed form only; `parse_str` alone would take three others.
    let key = Some(text)
        .filter(|text| text.len() == 36)
        .and_then(|text| Uuid::parse_str(text).ok());
    key.map(Some)
        .ok_or_else(|| No::new(400, "The retry key must be a UUID"))
}

fn parse_body<'a>(request: &Request<'a>) -> Result<Json<'a>, No> {
    if !request.is_media_type("application/json") {
        return Err(No::new(415, "The Content-Type must be application/json"));
    }
    Json::parse(request.body).map_err(|e| No {
        status: 400,
        message: format!(
            "The request body could not be parsed as JSON (line: {}, column: {})",
            e.line, e.column
        )
        .into(),
        details: Vec::new(),
    })
}

fn read_order<'j>(json: &'j Json<'j>, endpoint: Endpoint) -> Result<Order<'j>, No> {
    let mut found = Findings::default();
    let Some(fields) = Fields::open(json, Place::Root, endpoint.properties(), &mut found) else {
        return Err(No::wrong(found.wrong));
    };
    let mut order = Order {
        to: Vec::new(),
        reply_token: None,
        count: 0,
        marker: "",
        text: String::new(),
    };
    match endpoint {
        Endpoint::Push => order
            .to
            .extend(fields.required("to", &mut found).and_then(Json::as_text)),
        Endpoint::Multicast => {
            let ids = fields.list("to", 1..=MAX_MULTICAST, &mut found).unwrap_or(&[]);
            // Anything but text becomes an id that cannot be valid, and is reported below at its index.
            order.to.extend(ids.iter().map(|id| id.as_text().unwrap_or("")));
        }
        Endpoint::Reply => {
            order.reply_token = fields.text("replyToken", crate::check::Limit::Utf16(200), &mut found);
        }
    }
    fields.optional_bool("notificationDisabled", &mut found);
    order.marker = aggregation_unit(&fields, &mut found);
    if let Some(messages) = fields.required("messages", &mut found) {
        let place = Place::Member(&Place::Root, "messages");
        let count = message::check_messages(messages, place, &mut found, &mut order.text);
        order.count = u32::try_from(count).unwrap_or(0);
    }
    if !found.wrong.is_empty() {
        return Err(No::wrong(found.wrong));
    }
    let bad = order.to.iter().position(|id| !is_user_id(id));
    let expected = usize::from(endpoint == Endpoint::Push);
    match bad {
        Some(index) if endpoint == Endpoint::Multicast => Err(bad_property(&format!("to[{index}]"))),
        Some(_) => Err(bad_property("to")),
        None if order.to.len() < expected => Err(bad_property("to")),
        None => Ok(order),
    }
}

fn bad_property(name: &str) -> No {
    let message = format!("The property, {name}, in the request body is invalid (line: -, column: -)");
    No {
        status: 400,
        message: message.into(),
        details: Vec::new(),
    }
}

/// The one aggregation unit a request may name; it doubles as the broadcast's marker.
fn aggregation_unit<'j>(fields: &Fields<'j, '_>, found: &mut Findings) -> &'j str {
    if fields.get("customAggregationUnits").is_none() {
        return "";
    }
    let Some([unit]) = fields.list("customAggregationUnits", 1..=1, found) else {
        return "";
    };
    let named =
        |unit: &&str| (1..=30).contains(&unit.len()) && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let unit = unit.as_text().filter(named);
    if unit.is_none() {
        fields.wrong("customAggregationUnits", "must match ^[A-Za-z0-9_]{1,30}$", found);
    }
    unit.unwrap_or("")
}

/// A LINE path nobody answers.
pub(crate) fn unknown(state: &State, answer: &mut Answer) -> Verdict {
    name_request(state, answer);
    No::new(404, "Not found").write(answer);
    conclude(state, Channel::Line, &Hit::default(), answer)
}

/// A body over 2 MB.
pub(crate) fn refuse_body(state: &State, answer: &mut Answer) {
    name_request(state, answer);
    No::new(413, "The request body must be at most 2 MB").write(answer);
    state.traffic(Channel::Line).refused(413);
}
