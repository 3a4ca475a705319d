//! Twilio's REST API: one message, and the account itself.
//! It exists so that the product meets Twilio's answers and errors without Twilio.
//! It must never be kinder than Twilio, and stricter in one thing: unknown parameters are refused. It knows no idempotency key: the
//! same request twice is two messages. Order of judgement: login, path, form, rate, fault, acceptance.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::accounts::{BadAccount, TwilioAccount};
use crate::channel::Channel;
use crate::faults::{FaultKind, Hit};
use crate::http::{Answer, Request, Verdict};
use crate::mix::{mix, push_hex};
use crate::received::Content;
use crate::routes::conclude;
use crate::sms_form::{Form, callback, mark, marker};
use crate::state::State;
use crate::traffic::Pace;

const FIELDS: [&str; 6] = [
    "To",
    "From",
    "MessagingServiceSid",
    "Body",
    "StatusCallback",
    "ValidityPeriod",
];

/// An account with its pace.
struct Known {
    account: TwilioAccount,
    pace: Pace,
}

/// Everything of Twilio.
#[derive(Default)]
pub(crate) struct TwilioState {
    accounts: RwLock<HashMap<String, Arc<Known>>>,
    serial: AtomicU64,
}

impl TwilioState {
    pub(crate) fn register(&self, account: TwilioAccount) -> Result<(), BadAccount> {
        if account.account_sid.is_empty() || account.auth_token.is_empty() || account.from.is_empty() {
            return Err(BadAccount::Empty);
        }
        let known = Known {
            pace: Pace::default(),
            account,
        };
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(known.account.account_sid.clone(), Arc::new(known));
        Ok(())
    }

    pub(crate) fn revoke(&self, sid: &str) -> bool {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.remove(sid).is_some()
    }

    fn all(&self) -> Vec<Arc<Known>> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.values().cloned().collect()
    }

    pub(crate) fn peak(&self) -> u64 {
        self.all().iter().map(|known| known.pace.peak()).max().unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        for known in self.all() {
            known.pace.clear();
        }
    }
}

/// A refusal as Twilio words it: HTTP status, code, text.
struct No(u16, u32, &'static str);

/// Whatever is asked below `/2010-04-01/Accounts/`.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    let mut hit = Hit::default();
    let rest = request.path.strip_prefix("/2010-04-01/Accounts/").unwrap_or_default();
    let outcome = match (request.method, rest.split_once('/'), rest.strip_suffix(".json")) {
        ("POST", Some((sid, "Messages.json")), _) => {
            state.traffic(Channel::Twilio).requested();
            send(state, request, answer, sid, &mut hit)
        }
        ("GET", None, Some(sid)) => authorize(state, request, sid).map(|_| {
            answer.set(200, "");
            let _ = write!(
                answer.body,
                r#"{{"sid":"{sid}","friendly_name":"Sandbox","status":"active","type":"Full"}}"#
            );
        }),
        _ => Err(No(404, 20_404, "The requested resource was not found")),
    };
    if let Err(No(status, code, message)) = outcome {
        write_no(answer, status, code, message);
    }
    conclude(state, Channel::Twilio, &hit, answer)
}

fn write_no(answer: &mut Answer, status: u16, code: u32, message: &str) {
    answer.set(status, "");
    let _ = write!(
        answer.body,
        r#"{{"code":{code},"message":"{message}","more_info":"https://www.twilio.com/docs/errors/{code}","status":{status}}}"#
    );
}

fn authorize(state: &State, request: &Request<'_>, sid: &str) -> Result<Arc<Known>, No> {
    let refused = || No(401, 20_003, "Authenticate");
    let given = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Basic "));
    let given = given
        .and_then(|value| STANDARD.decode(value).ok())
        .ok_or_else(refused)?;
    let given = String::from_utf8(given).map_err(|_| refused())?;
    let (user, password) = given.split_once(':').ok_or_else(refused)?;
    let accounts = state.twilio.accounts.read().unwrap_or_else(PoisonError::into_inner);
    let known = accounts
        .get(user)
        .filter(|known| known.account.auth_token == password)
        .ok_or_else(refused)?;
    if user != sid {
        return Err(No(404, 20_404, "The requested resource was not found"));
    }
    Ok(Arc::clone(known))
}

fn send(state: &State, request: &Request<'_>, answer: &mut Answer, sid: &str, hit: &mut Hit) -> Result<(), No> {
    let known = authorize(state, request, sid)?;
    if !request.is_media_type("application/x-www-form-urlencoded") {
        return Err(No(415, 20_415, "Unsupported media type"));
    }
    let form = Form::read(request.body, &FIELDS).map_err(|_| No(400, 20_001, "Unknown parameter"))?;
    let (to, text) = check(&form, &known.account)?;
    let now = state.clock.elapsed();
    if !known.pace.admit(&state.traffic(Channel::Twilio).cap, now) {
        return Err(No(429, 20_429, "Too Many Requests"));
    }
    known.pace.note(now);
    answer.concerns(Channel::Twilio, to);
    *hit = state.faults.ask(Channel::Twilio, "send", |set| set.get(to));
    if let Some(kind) = hit.before() {
        return fault(kind, hit, answer);
    }
    let mark = mark(form.get("StatusCallback").and_then(callback).as_ref());
    let content = Content::new(marker(&mark), text, state.kept(request.body, &mark));
    let traffic = state.traffic(Channel::Twilio);
    traffic
        .received
        .record(state.clock.real_ms(), content, std::iter::once(to));
    traffic.accepted();
    match hit.kind {
        Some(FaultKind::ServerErrorAfter) => write_no(answer, 500, 20_500, "Internal Server Error"),
        Some(FaultKind::ReplyAfter) => answer.set(hit.code, hit.message.as_deref().unwrap_or_default()),
        _ => write_sent(state, answer, sid, to),
    }
    Ok(())
}

fn write_sent(state: &State, answer: &mut Answer, sid: &str, to: &str) {
    let serial = state.twilio.serial.fetch_add(1, Ordering::Relaxed);
    answer.set(201, r#"{"sid":"SM"#);
    push_hex(&mut answer.body, mix(serial));
    push_hex(&mut answer.body, serial);
    let _ = write!(
        answer.body,
        r#"","account_sid":"{sid}","status":"queued","to":"{to}","num_segments":"1","num_media":"0","direction":"outbound-api","error_code":null,"error_message":null,"price":null,"price_unit":"USD","date_sent":null}}"#
    );
}

/// Whom to and what, if Twilio would take it.
fn check<'f>(form: &'f Form, account: &TwilioAccount) -> Result<(&'f str, &'f str), No> {
    let to = form
        .get("To")
        .ok_or(No(400, 21_604, "A 'To' phone number is required"))?;
    let number = to.strip_prefix('+').unwrap_or_default();
    if !((8..=15).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0')) {
        return Err(No(400, 21_211, "The 'To' number is not a valid phone number"));
    }
    match (form.get("From"), form.get("MessagingServiceSid")) {
        (None, None) => return Err(No(400, 21_603, "A 'From' phone number is required")),
        (Some(from), None) | (None, Some(from)) if from == account.from => {}
        _ => {
            return Err(No(
                400,
                21_606,
                "The 'From' number is not a valid message-capable number for your account",
            ));
        }
    }
    let text = form.get("Body").unwrap_or_default();
    if text.is_empty() {
        return Err(No(400, 21_602, "Message body is required"));
    }
    if text.chars().count() > 1_600 {
        return Err(No(
            400,
            21_617,
            "The concatenated message body exceeds the 1600 character limit",
        ));
    }
    if form.get("StatusCallback").is_some_and(|text| callback(text).is_none()) {
        return Err(No(
            400,
            21_609,
            "The 'StatusCallback' URL is not a valid fully qualified URL",
        ));
    }
    let validity = form.get("ValidityPeriod").map_or(Ok(1), str::parse::<u32>);
    if !validity.is_ok_and(|secs| (1..=36_000).contains(&secs)) {
        return Err(No(400, 30_409, "ValidityPeriod is out of range"));
    }
    Ok((to, text))
}

/// A fault that keeps the message from being accepted.
fn fault(kind: FaultKind, hit: &Hit, answer: &mut Answer) -> Result<(), No> {
    Err(match kind {
        FaultKind::Throttled => No(429, 20_429, "Too Many Requests"),
        FaultKind::Quota => No(429, 63_038, "Account exceeded the daily messages limit"),
        FaultKind::InvalidRecipient => No(400, 21_211, "The 'To' number is not a valid phone number"),
        FaultKind::BadCredentials => No(401, 20_003, "Authenticate"),
        FaultKind::Unavailable => No(503, 20_503, "Service Unavailable"),
        FaultKind::Reply => {
            answer.set(hit.code, hit.message.as_deref().unwrap_or_default());
            return Ok(());
        }
        _ => No(500, 20_500, "Internal Server Error"),
    })
}
