//! Mitake's HTTP API: `SmSend` and `SmQuery`, answered in its own text form, always with HTTP 200.
//! It exists so that the product meets a provider that says everything in a text, and its one promise: a `clientid` that was
//! accepted in the last 12 hours is not sent again and answered `Duplicate=Y`.
//! It must never be kinder than Mitake. Stricter: unknown fields, a line break as such, and a known `clientid` with another message
//! are refused. Order of judgement: form, login, fields, rate, fault, `clientid`, acceptance.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use url::form_urlencoded;

use crate::accounts::{BadAccount, MitakeAccount};
use crate::channel::Channel;
use crate::faults::{FaultKind, Hit};
use crate::http::{Answer, Request, Verdict};
use crate::mix::short_fingerprint;
use crate::received::Content;
use crate::routes::conclude;
use crate::sms_form::{Form, callback, mark, marker};
use crate::state::State;
use crate::traffic::Pace;

/// How long a `clientid` is remembered.
const KEY_LIFETIME: Duration = Duration::from_hours(12);
const FIELDS: [&str; 10] = [
    "username",
    "password",
    "dstaddr",
    "destname",
    "dlvtime",
    "vldtime",
    "smbody",
    "response",
    "clientid",
    "smsPointFlag",
];

/// A login with what it remembers.
struct Login {
    password: String,
    keys: Mutex<HashMap<String, Known>>,
    pace: Pace,
    points: Mutex<u64>,
}

#[derive(Clone, Copy)]
struct Known {
    message: u32,
    /// Of number and text.
    body: u32,
    at: Duration,
}

/// Everything of Mitake.
#[derive(Default)]
pub(crate) struct MitakeState {
    logins: RwLock<HashMap<String, Arc<Login>>>,
    serial: std::sync::atomic::AtomicU32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MitakeState {
    pub(crate) fn register(&self, account: MitakeAccount) -> Result<(), BadAccount> {
        if account.username.is_empty() || account.password.is_empty() {
            return Err(BadAccount::Empty);
        }
        let login = Login {
            password: account.password,
            keys: Mutex::default(),
            pace: Pace::default(),
            points: Mutex::new(account.points),
        };
        let mut logins = self.logins.write().unwrap_or_else(PoisonError::into_inner);
        logins.insert(account.username, Arc::new(login));
        Ok(())
    }

    pub(crate) fn revoke(&self, username: &str) -> bool {
        let mut logins = self.logins.write().unwrap_or_else(PoisonError::into_inner);
        logins.remove(username).is_some()
    }

    fn all(&self) -> Vec<Arc<Login>> {
        let logins = self.logins.read().unwrap_or_else(PoisonError::into_inner);
        logins.values().cloned().collect()
    }

    fn login(&self, username: Option<&str>, password: Option<&str>) -> Option<Arc<Login>> {
        let logins = self.logins.read().unwrap_or_else(PoisonError::into_inner);
        let login = logins.get(username?)?;
        (login.password == password?).then(|| Arc::clone(login))
    }

    pub(crate) fn peak(&self) -> u64 {
        self.all().iter().map(|login| login.pace.peak()).max().unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        for login in self.all() {
            locked(&login.keys).clear();
            login.pace.clear();
        }
    }
}

/// Whatever is asked below Mitake's paths.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    answer.content_type = "text/plain; charset=UTF-8";
    let call = request.path.rsplit('/').next().unwrap_or_default();
    let mut hit = Hit::default();
    match (request.method, call) {
        ("POST", "SmSend") => {
            state.traffic(Channel::Mitake).requested();
            if let Err(No { section, code }) = send(state, request, answer, &mut hit) {
                refuse(answer, &section, code);
            }
        }
        ("GET", "SmQuery") => query(state, request, answer, &mut hit),
        _ => answer.set(404, "not found"),
    }
    conclude(state, Channel::Mitake, &hit, answer)
}

/// A refusal: Mitake's code, under the name of the message.
struct No {
    section: String,
    code: &'static str,
}

fn refuse(answer: &mut Answer, section: &str, code: &str) {
    let said = match code {
        "e" => "帳號、密碼錯誤",
        "v" => "無效的手機號碼",
        "u" => "簡訊內容空白",
        "x" => "簡訊內容過長",
        "l" => "超過同時連線數",
        "s" => "帳務處理失敗，無法發送簡訊",
        _ => "參數錯誤",
    };
    answer.set(200, "");
    let _ = write!(answer.body, "[{section}]\r\nstatuscode={code}\r\nError={said}\r\n");
}

fn send(state: &State, request: &Request<'_>, answer: &mut Answer, hit: &mut Hit) -> Result<(), No> {
    let bad = |code| No {
        section: "1".to_owned(),
        code,
    };
    if !request.is_media_type("application/x-www-form-urlencoded") || request.query != "CharsetURL=UTF-8" {
        return Err(bad("y"));
    }
    let form = Form::read(request.body, &FIELDS).map_err(|_| bad("y"))?;
    let login = state
        .mitake
        .login(form.get("username"), form.get("password"))
        .ok_or_else(|| bad("e"))?;
    let section = form.get("clientid").unwrap_or("1").to_owned();
    let no = |code| No {
        section: section.clone(),
        code,
    };
    let order = read(&form).map_err(no)?;
    let now = state.clock.elapsed();
    if !login.pace.admit(&state.traffic(Channel::Mitake).cap, now) {
        return Err(no("l"));
    }
    login.pace.note(now);
    answer.concerns(Channel::Mitake, order.to);
    *hit = state.faults.ask(Channel::Mitake, "send", |set| set.get(order.to));
    let mut keys = locked(&login.keys);
    let known = order
        .key
        .and_then(|key| keys.get(key))
        .copied()
        .filter(|known| now.saturating_sub(known.at) < KEY_LIFETIME);
    // Whom it has accepted Mitake does not look at again: a repeat is answered by its key.
    if hit.kind == Some(FaultKind::InvalidRecipient) && known.is_some() {
        hit.kind = None;
    }
    if let Some(kind) = hit.before() {
        return fault(kind, hit, answer).map_err(no);
    }
    let body = short_fingerprint(&(order.to, order.text));
    let message = match known {
        Some(known) if known.body != body => return Err(no("y")),
        Some(known) => known.message,
        None => accept(state, request, &login, &order)?,
    };
    if let (Some(key), None) = (order.key, known) {
        keys.insert(key.to_owned(), Known { message, body, at: now });
    }
    drop(keys);
    answer.set(200, "");
    let points = *locked(&login.points);
    let _ = write!(
        answer.body,
        "[{section}]\r\nmsgid=#{message:09}\r\nstatuscode=1\r\nsmsPoint=1\r\n"
    );
    if known.is_some() {
        answer.body.push_str("Duplicate=Y\r\n");
    }
    let _ = write!(answer.body, "AccountPoint={points}\r\n");
    // Accepted, and answered as if not.
    match hit.kind {
        Some(FaultKind::ServerErrorAfter) => answer.set(500, "Internal Server Error"),
        Some(FaultKind::ReplyAfter) => answer.set(hit.code, hit.message.as_deref().unwrap_or_default()),
        _ => {}
    }
    Ok(())
}

/// A valid request.
struct Order<'f> {
    to: &'f str,
    text: &'f str,
    key: Option<&'f str>,
    callback: Option<&'f str>,
}

fn read(form: &Form) -> Result<Order<'_>, &'static str> {
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    let to = form.get("dstaddr").unwrap_or_default();
    if !(digits(to, 10) && to.starts_with("09")) {
        return Err("v");
    }
    let text = form.get("smbody").unwrap_or_default();
    if text.is_empty() {
        return Err("u");
    }
    if text.encode_utf16().count() > 670 {
        return Err("x");
    }
    let times = [form.get("dlvtime"), form.get("vldtime")];
    let key = form.get("clientid");
    let response = form.get("response");
    let reachable = response
        .is_none_or(|text| callback(text).is_some_and(|url| matches!(url.port_or_known_default(), Some(80 | 443))));
    let sound = !text.contains(['\n', '\r'])
        && times.into_iter().flatten().all(|time| digits(time, 14))
        && key.is_none_or(|key| (1..=36).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()))
        && form.get("smsPointFlag").is_none_or(|flag| flag == "1")
        && reachable;
    sound
        .then_some(Order {
            to,
            text,
            key,
            callback: response,
        })
        .ok_or("y")
}

fn accept(state: &State, request: &Request<'_>, login: &Login, order: &Order<'_>) -> Result<u32, No> {
    let mut points = locked(&login.points);
    *points = points.checked_sub(1).ok_or_else(|| No {
        section: order.key.unwrap_or("1").to_owned(),
        code: "s",
    })?;
    drop(points);
    let text = order.text.replace('\u{6}', "\n");
    let mark = mark(order.callback.and_then(callback).as_ref());
    let content = Content::new(marker(&mark), &text, state.kept(request.body, &mark));
    let traffic = state.traffic(Channel::Mitake);
    traffic
        .received
        .record(state.clock.real_ms(), content, std::iter::once(order.to));
    traffic.accepted();
    Ok(state.mitake.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1)
}

/// A fault that keeps the message from being accepted.
fn fault(kind: FaultKind, hit: &Hit, answer: &mut Answer) -> Result<(), &'static str> {
    match kind {
        FaultKind::Throttled => return Err("l"),
        FaultKind::Quota => return Err("s"),
        FaultKind::InvalidRecipient => return Err("v"),
        FaultKind::BadCredentials => return Err("e"),
        FaultKind::Unavailable => answer.set(503, "Service Unavailable"),
        FaultKind::Reply => answer.set(hit.code, hit.message.as_deref().unwrap_or_default()),
        _ => answer.set(500, "Internal Server Error"),
    }
    Ok(())
}

/// `SmQuery` without a message: the points that are left.
fn query(state: &State, request: &Request<'_>, answer: &mut Answer, hit: &mut Hit) {
    let field = |wanted: &str| {
        form_urlencoded::parse(request.query.as_bytes())
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned())
    };
    match state
        .mitake
        .login(field("username").as_deref(), field("password").as_deref())
    {
        None => answer.set(200, "statuscode=e\r\nError=帳號、密碼錯誤\r\n"),
        Some(login) => {
            *hit = state.faults.ask(Channel::Mitake, "query", |_| None);
            match hit.before() {
                Some(kind) => {
                    if let Err(code) = fault(kind, hit, answer) {
                        answer.set(200, &format!("statuscode={code}\r\n"));
                    }
                }
                None => answer.set(200, &format!("AccountPoint={}\r\n", *locked(&login.points))),
            }
        }
    }
}
