//! FCM HTTP v1: projects, access tokens and `messages:send`.
//! It exists so that the product meets Google's answers (and the shape of its errors) without Google.
//! It must never accept a token of another project, an expired one, or a message with a field Google does not know.
//! Order of judgement: path, access token, media type, body, rate, fault, acceptance.

mod message;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::accounts::{BadAccount, FcmAccount};
use crate::channel::Channel;
use crate::check::{Findings, Wrong};
use crate::faults::{FaultKind, Hit};
use crate::http::{Answer, Request, Verdict};
use crate::json::Json;
use crate::mix::{mix, push_hex};
use crate::oauth;
use crate::received::Content;
use crate::routes::conclude;
use crate::state::State;
use crate::traffic::Pace;

/// One project with its service account.
pub(crate) struct Project {
    id: String,
    pub(crate) private_key_id: Option<String>,
    /// PKCS#1 DER.
    pub(crate) public_key: Vec<u8>,
    pub(crate) token_uri: Option<String>,
    token_lifetime_secs: AtomicU64,
    pace: Pace,
}

impl Project {
    pub(crate) fn token_lifetime_secs(&self) -> u64 {
        self.token_lifetime_secs.load(Ordering::Relaxed)
    }
}

struct AccessToken {
    project: Arc<Project>,
    /// Seconds since 1970.
    expires_at: u64,
}

/// All projects and the access tokens in use.
pub(crate) struct FcmState {
    seed: u64,
    by_email: RwLock<HashMap<String, Arc<Project>>>,
    tokens: RwLock<HashMap<String, AccessToken>>,
    serial: AtomicU64,
}

impl FcmState {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            by_email: RwLock::default(),
            tokens: RwLock::default(),
            serial: AtomicU64::new(0),
        }
    }

    pub(crate) fn register(&self, account: FcmAccount) -> Result<(), BadAccount> {
        if account.project_id.is_empty() || account.client_email.is_empty() {
            return Err(BadAccount::Empty);
        }
        let project = Arc::new(Project {
            id: account.project_id,
            private_key_id: account.private_key_id,
            public_key: oauth::public_key(&account.key_pem).ok_or(BadAccount::Key)?,
            token_uri: account.token_uri,
            token_lifetime_secs: AtomicU64::new(account.token_lifetime_secs),
            pace: Pace::default(),
        });
        if let Some(token) = account.access_token {
            let lasting = AccessToken {
                project: Arc::clone(&project),
                expires_at: u64::MAX,
            };
            self.tokens
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(token, lasting);
        }
        self.by_email
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(account.client_email, project);
        Ok(())
    }

    /// Forgets a service account with all its access tokens, or one access token; false when neither was known.
    pub(crate) fn revoke(&self, credential: &str) -> bool {
        let account = self
            .by_email
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(credential);
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        match account {
            Some(project) => {
                tokens.retain(|_, token| !Arc::ptr_eq(&token.project, &project));
                true
            }
            None => tokens.remove(credential).is_some(),
        }
    }

    /// Makes every access token that was issued or registered invalid; accounts stay and may ask for new ones.
    pub(crate) fn revoke_tokens(&self) {
        self.tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Changes how long the access tokens of every account live from now on.
    pub(crate) fn set_token_lifetime(&self, secs: u64) {
        for project in self
            .by_email
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            project.token_lifetime_secs.store(secs, Ordering::Relaxed);
        }
    }

    pub(crate) fn by_email(&self, email: &str) -> Option<Arc<Project>> {
        self.by_email
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(email)
            .cloned()
    }

    /// A new access token for `project`, living its configured time from `now` (seconds since 1970).
    pub(crate) fn issue(&self, project: &Arc<Project>, now: u64) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut token = String::from("ya29.sandbox-");
        push_hex(&mut token, mix(self.seed ^ mix(serial)));
        push_hex(&mut token, mix(serial ^ 0x00ac_ce55));
        let expires_at = now.saturating_add(project.token_lifetime_secs());
        let issued = AccessToken {
            project: Arc::clone(project),
            expires_at,
        };
        self.tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.clone(), issued);
        token
    }

    fn project(&self, token: &str, now: u64) -> Option<Arc<Project>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(token)
            .filter(|token| token.expires_at > now)
            .map(|token| Arc::clone(&token.project))
    }

    pub(crate) fn peak(&self) -> u64 {
        let projects = self.by_email.read().unwrap_or_else(PoisonError::into_inner);
        projects
            .values()
            .map(|project| project.pace.peak())
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        for project in self
            .by_email
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            project.pace.clear();
        }
    }
}

/// A refusal in Google's shape.
struct No {
    code: u16,
    status: &'static str,
    message: String,
    /// `errorCode` of the `FcmError` detail, or the field violations of a `BadRequest` detail.
    detail: Detail,
}

enum Detail {
    None,
    Fcm(&'static str),
    Fields(Vec<Wrong>),
}

impl No {
    fn new(code: u16, status: &'static str, message: &str, detail: Detail) -> Self {
        Self {
            code,
            status,
            message: message.to_owned(),
            detail,
        }
    }

    /// The refusal an FCM `errorCode` stands for.
    fn of(error: &'static str) -> Self {
        let (code, status, message) = match error {
            "UNREGISTERED" => (404, "NOT_FOUND", "Requested entity was not found."),
            "INVALID_ARGUMENT" => (
                400,
                "INVALID_ARGUMENT",
                "The registration token is not a valid FCM registration token",
            ),
            "SENDER_ID_MISMATCH" => (403, "PERMISSION_DENIED", "SenderId mismatch"),
            "QUOTA_EXCEEDED" => (
                429,
                "RESOURCE_EXHAUSTED",
                "Quota exceeded for quota metric.",
            ),
            "UNAVAILABLE" => (503, "UNAVAILABLE", "The service is currently unavailable."),
            "THIRD_PARTY_AUTH_ERROR" => (
                401,
                "UNAUTHENTICATED",
                "Auth error from APNS or Web Push Service",
            ),
            _ => (500, "INTERNAL", "Internal error encountered."),
        };
        Self::new(code, status, message, Detail::Fcm(error))
    }

    fn unauthenticated() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                       other valid authentication credential.";
        Self::new(401, "UNAUTHENTICATED", message, Detail::None)
    }

    fn write(&self, answer: &mut Answer) {
        let mut error =
            serde_json::json!({"code": self.code, "message": self.message, "status": self.status});
        let detail = match &self.detail {
            Detail::None => None,
            Detail::Fcm(code) => Some(serde_json::json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
            })),
            Detail::Fields(wrong) => {
                let violations: Vec<serde_json::Value> = wrong
                    .iter()
                    .map(|wrong| serde_json::json!({"field": wrong.property, "description": wrong.message}))
                    .collect();
                Some(serde_json::json!({
                    "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations,
                }))
            }
        };
        if let (Some(detail), Some(error)) = (detail, error.as_object_mut()) {
            error.insert("details".to_owned(), serde_json::Value::Array(vec![detail]));
        }
        answer.set(self.code, &serde_json::json!({"error": error}).to_string());
    }
}

/// `POST /v1/projects/{project}/messages:send` and whatever else is asked below `/v1/projects/`.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer) -> Verdict {
    let mut hit = Hit::default();
    let project = request
        .path
        .strip_prefix("/v1/projects/")
        .and_then(|rest| rest.strip_suffix("/messages:send"));
    let outcome = match project.filter(|project| request.method == "POST" && !project.contains('/'))
    {
        Some(project) => {
            state.traffic(Channel::Fcm).requested();
            send(state, request, answer, project, &mut hit)
        }
        None => Err(No::new(
            404,
            "NOT_FOUND",
            "Requested URL was not found.",
            Detail::None,
        )),
    };
    if let Err(no) = outcome {
        no.write(answer);
    }
    if hit.before().is_some() || answer.status == 200 {
        write_fault(&hit, answer);
    }
    conclude(state, Channel::Fcm, &hit, answer)
}

fn send(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    project: &str,
    hit: &mut Hit,
) -> Result<(), No> {
    let known = request
        .bearer()
        .and_then(|token| state.fcm.project(token, state.clock.unix_secs()));
    let account = known.ok_or_else(No::unauthenticated)?;
    if account.id != project {
        let message = "Permission 'cloudmessaging.messages.create' denied on resource.";
        return Err(No::new(403, "PERMISSION_DENIED", message, Detail::None));
    }
    if !request.is_media_type("application/json") {
        let message = "The request's Content-Type must be application/json";
        return Err(No::new(400, "INVALID_ARGUMENT", message, Detail::None));
    }
    let json = Json::parse(request.body).map_err(|_| {
        No::new(
            400,
            "INVALID_ARGUMENT",
            "Invalid JSON payload received.",
            Detail::None,
        )
    })?;
    let mut found = Findings::default();
    let order = message::read(&json, &mut found);
    let Some(order) = order.filter(|_| found.wrong.is_empty()) else {
        let first = found.wrong.first().map_or(String::new(), |wrong| {
            format!("{} at '{}'", wrong.message, wrong.property)
        });
        let message = format!("Invalid JSON payload received. {first}");
        return Err(No::new(
            400,
            "INVALID_ARGUMENT",
            &message,
            Detail::Fields(found.wrong),
        ));
    };
    if order.bad_token {
        return Err(No::of("INVALID_ARGUMENT"));
    }
    let now = state.clock.elapsed();
    let traffic = state.traffic(Channel::Fcm);
    if !account.pace.admit(&traffic.cap, now) {
        return Err(No::of("QUOTA_EXCEEDED"));
    }
    account.pace.note(now);
    *hit = state
        .faults
        .ask(Channel::Fcm, "send", |set| set.contains(&order.recipient));
    if hit.before().is_some() {
        return Ok(());
    }
    answer.status = 200;
    answer.body.clear();
    let serial = if order.validate_only {
        "fake_message_id".to_owned()
    } else {
        let body = if state.keep_bodies {
            raw_message(request.body)
        } else {
            ""
        };
        let content = Content::new(order.marker, &order.text, body);
        traffic.received.record(
            state.clock.real_ms(),
            content,
            std::iter::once(order.recipient.as_str()),
        );
        traffic.accepted();
        format!(
            "0:{:016}%sandbox",
            state.fcm.serial.fetch_add(1, Ordering::Relaxed)
        )
    };
    // Writing to a String cannot fail.
    let _ = write!(
        answer.body,
        r#"{{"name":"projects/{project}/messages/{serial}"}}"#
    );
    Ok(())
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

/// Writes what a fault answers, if it dictates an answer at all.
fn write_fault(hit: &Hit, answer: &mut Answer) {
    match hit.kind {
        Some(FaultKind::Throttled | FaultKind::Quota) => No::of("QUOTA_EXCEEDED").write(answer),
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfter) => {
            No::of("INTERNAL").write(answer);
        }
        Some(FaultKind::Unavailable) => No::of("UNAVAILABLE").write(answer),
        Some(FaultKind::InvalidRecipient) => No::of("UNREGISTERED").write(answer),
        Some(FaultKind::BadCredentials) => No::unauthenticated().write(answer),
        Some(FaultKind::Reply | FaultKind::ReplyAfter) => match hit.message.as_deref() {
            Some("SENDER_ID_MISMATCH") => No::of("SENDER_ID_MISMATCH").write(answer),
            Some("INVALID_ARGUMENT") => No::of("INVALID_ARGUMENT").write(answer),
            Some("THIRD_PARTY_AUTH_ERROR") => No::of("THIRD_PARTY_AUTH_ERROR").write(answer),
            body => answer.set(hit.code, body.unwrap_or("{}")),
        },
        Some(
            FaultKind::ResetBefore
            | FaultKind::ResetAfter
            | FaultKind::Hang
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay,
        )
        | None => {}
    }
}
