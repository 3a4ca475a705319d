//! Meta's Graph API: who may ask for what, and in which words Graph says no. Messenger and WhatsApp stand on it.
//! It exists so that tokens, proofs, versions and errors work the same for both, as they do at Meta.
//! It must never accept a token of another page or number, a wrong proof, or a version that is none.

mod answers;
mod number;
mod page;

use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{collections::HashMap, sync::Arc};

use ring::hmac;
use url::form_urlencoded;

use crate::accounts::{BadAccount, PageAccount, WhatsappAccount};
use crate::channel::Channel;
use crate::faults::Hit;
use crate::graph::answers::{No, write_fault};
use crate::http::{Answer, Request, Verdict};
use crate::mix::{mix, push_hex};
use crate::received::Content;
use crate::routes::conclude;
use crate::state::State;
use crate::traffic::Pace;

/// A page or a number.
pub(crate) struct Holder {
    pub(crate) channel: Channel,
    /// The page's id, or the number's.
    pub(crate) id: String,
    pub(crate) name: String,
    /// The number as people dial it; empty for a page.
    pub(crate) number: String,
    app_id: Option<String>,
    app_secret: Option<String>,
    /// The app's dashboard says "require app secret".
    needs_proof: bool,
    pub(crate) scopes: Vec<String>,
    /// Names of approved templates, as `name/language`.
    pub(crate) templates: Vec<String>,
    pub(crate) subscribed: AtomicBool,
    pub(crate) is_primary_receiver: AtomicBool,
    pub(crate) pace: Pace,
}

/// Every page and number, by its token.
pub(crate) struct GraphState {
    seed: u64,
    by_token: RwLock<HashMap<String, Arc<Holder>>>,
    serial: AtomicU64,
}

impl GraphState {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            by_token: RwLock::default(),
            serial: AtomicU64::new(0),
        }
    }

    pub(crate) fn register_page(&self, account: PageAccount) -> Result<(), BadAccount> {
        let holder = Holder {
            channel: Channel::Messenger,
            id: account.page_id,
            name: account.name,
            number: String::new(),
            app_id: account.app_id,
            app_secret: account.app_secret,
            needs_proof: account.needs_proof,
            scopes: account.scopes,
            templates: Vec::new(),
            subscribed: AtomicBool::new(account.subscribed),
            is_primary_receiver: AtomicBool::new(account.is_primary_receiver),
            pace: Pace::default(),
        };
        self.register(account.access_token, holder)
    }

    pub(crate) fn register_number(&self, account: WhatsappAccount) -> Result<(), BadAccount> {
        let holder = Holder {
            channel: Channel::Whatsapp,
            id: account.phone_number_id,
            name: account.verified_name,
            number: account.display_phone_number,
            app_id: None,
            app_secret: account.app_secret,
            needs_proof: account.needs_proof,
            scopes: Vec::new(),
            templates: account.templates,
            subscribed: AtomicBool::new(true),
            is_primary_receiver: AtomicBool::new(true),
            pace: Pace::default(),
        };
        self.register(account.access_token, holder)
    }

    fn register(&self, token: String, holder: Holder) -> Result<(), BadAccount> {
        if token.is_empty() || holder.id.is_empty() {
            return Err(BadAccount::Empty);
        }
        if !holder.id.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadAccount::MetaId);
        }
        self.by_token
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, Arc::new(holder));
        Ok(())
    }

    /// Forgets a token; false when it was not known.
    pub(crate) fn revoke(&self, token: &str) -> bool {
        let mut tokens = self.by_token.write().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(token).is_some()
    }

    fn holder(&self, token: &str) -> Option<Arc<Holder>> {
        let tokens = self.by_token.read().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).cloned()
    }

    /// Whether an account of this id exists at all, whoever holds its token.
    fn knows(&self, id: &str) -> bool {
        let tokens = self.by_token.read().unwrap_or_else(PoisonError::into_inner);
        tokens.values().any(|holder| holder.id == id)
    }

    /// The secret of an app, by its id.
    fn app_secret(&self, app_id: &str) -> Option<String> {
        let tokens = self.by_token.read().unwrap_or_else(PoisonError::into_inner);
        let mut of_app = tokens
            .values()
            .filter(|holder| holder.app_id.as_deref() == Some(app_id));
        of_app.find_map(|holder| holder.app_secret.clone())
    }

    pub(crate) fn peak(&self, channel: Channel) -> u64 {
        let tokens = self.by_token.read().unwrap_or_else(PoisonError::into_inner);
        let of_channel = tokens.values().filter(|holder| holder.channel == channel);
        of_channel.map(|holder| holder.pace.peak()).max().unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        for holder in self.by_token.read().unwrap_or_else(PoisonError::into_inner).values() {
            holder.pace.clear();
        }
    }

    /// Appends an id nobody had before: 32 hexadecimal digits.
    fn push_id(&self, out: &mut String) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        push_hex(out, mix(self.seed ^ mix(serial)));
        push_hex(out, serial);
    }
}

/// `/v25.0/…`: what stands behind the version, if it is one.
pub(crate) fn versioned(path: &str) -> Option<&str> {
    let (version, rest) = path.strip_prefix("/v")?.split_once('/')?;
    let (major, minor) = version.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits(major) && digits(minor)).then_some(rest)
}

/// Answers everything below a version.
pub(crate) fn route(state: &State, request: &Request<'_>, answer: &mut Answer, path: &str) -> Verdict {
    answer.content_type = "application/json; charset=UTF-8";
    match (request.method, path.split_once('/')) {
        ("POST", Some((id, "messages"))) => send(state, request, answer, id),
        ("GET", None) if path == "debug_token" => ask(state, request, answer, |_| page::debug_token(state, request)),
        ("GET", None) => ask(state, request, answer, |holder| of_holder(holder, path)),
        (_, Some((id, edge))) => {
            let writes = request.method == "POST";
            ask(state, request, answer, |holder| {
                page::edge(holder, request, id, edge, writes)
            })
        }
        _ => ask(state, request, answer, |_| Err(No::unsupported())),
    }
}

fn of_holder(holder: &Holder, path: &str) -> Result<String, No> {
    if path != "me" && path != holder.id {
        return Err(No::unsupported());
    }
    Ok(match holder.channel {
        Channel::Whatsapp => number::about(holder),
        _ => page::about(holder),
    })
}

/// Calls that send nothing. They count as no channel's traffic, and no fault strikes them.
fn ask(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    what: impl FnOnce(&Holder) -> Result<String, No>,
) -> Verdict {
    match authorize(state, request).and_then(|holder| what(&holder)) {
        Ok(body) => answer.set(200, &body),
        Err(no) => no.write(answer),
    }
    Verdict::NOW
}

/// The account behind the token and, where there is one, the proof.
fn authorize(state: &State, request: &Request<'_>) -> Result<Arc<Holder>, No> {
    let in_query = parameter(request, "access_token");
    let token = request
        .bearer()
        .map(str::to_owned)
        .or(in_query)
        .ok_or_else(No::no_token)?;
    let app = token.split_once('|').map(|(id, secret)| (id, secret.to_owned()));
    if let Some((id, secret)) = app {
        // An app's own token: who it is does not matter to what it may ask.
        let known = state.graph.app_secret(id).is_some_and(|known| known == secret);
        return if known {
            Ok(Arc::new(Holder::app()))
        } else {
            Err(No::bad_token())
        };
    }
    let holder = state.graph.holder(&token).ok_or_else(No::bad_token)?;
    match (parameter(request, "appsecret_proof"), &holder.app_secret) {
        (Some(given), Some(secret)) if !proves(secret, &token, &given) => Err(No::bad_proof()),
        (None, _) if holder.needs_proof => Err(No::no_proof()),
        _ => Ok(holder),
    }
}

impl Holder {
    /// Nobody's page: an app that asks for itself.
    fn app() -> Self {
        Self {
            channel: Channel::Messenger,
            id: String::new(),
            name: String::new(),
            number: String::new(),
            app_id: None,
            app_secret: None,
            needs_proof: false,
            scopes: Vec::new(),
            templates: Vec::new(),
            subscribed: AtomicBool::new(false),
            is_primary_receiver: AtomicBool::new(false),
            pace: Pace::default(),
        }
    }
}

fn proves(secret: &str, token: &str, given: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let digest = hmac::sign(&key, token.as_bytes());
    let mut expected = String::with_capacity(64);
    for byte in digest.as_ref() {
        expected.extend(
            [byte >> 4, byte & 15]
                .iter()
                .filter_map(|d| char::from_digit(u32::from(*d), 16)),
        );
    }
    expected == given
}

fn parameter(request: &Request<'_>, name: &str) -> Option<String> {
    form_urlencoded::parse(request.query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// One message, over the channel of whoever holds the token; where nobody does, of whoever has the id.
fn send(state: &State, request: &Request<'_>, answer: &mut Answer, id: &str) -> Verdict {
    let mut hit = Hit::default();
    let holder = authorize(state, request);
    let channel = match &holder {
        Ok(holder) => holder.channel,
        Err(_) => page_or_number(state, id),
    };
    state.traffic(channel).requested();
    let outcome = holder.and_then(|holder| {
        if id != "me" && id != holder.id {
            return Err(if state.graph.knows(id) {
                No::forbidden()
            } else {
                No::unsupported()
            });
        }
        match holder.channel {
            Channel::Whatsapp => number::send(state, request, answer, &holder, &mut hit),
            _ => page::send(state, request, answer, &holder, &mut hit),
        }
    });
    if let Err(no) = outcome {
        no.write(answer);
    }
    if hit.before().is_some() || answer.status == 200 {
        write_fault(channel, &hit, answer);
    }
    conclude(state, channel, &hit, answer)
}

fn page_or_number(state: &State, id: &str) -> Channel {
    let tokens = state.graph.by_token.read().unwrap_or_else(PoisonError::into_inner);
    let holder = tokens.values().find(|holder| holder.id == id);
    holder.map_or(Channel::Messenger, |holder| holder.channel)
}

/// What a request that is right says.
struct Said<'a> {
    to: &'a str,
    mark: &'a str,
    text: &'a str,
    body: &'a [u8],
}

/// Takes a message that is right: counts it against the rate, asks what is to go wrong, and writes down that it came. False: it was
/// stopped before.
fn take(state: &State, holder: &Holder, channel: Channel, hit: &mut Hit, said: &Said<'_>) -> Result<bool, No> {
    let now = state.clock.elapsed();
    let traffic = state.traffic(channel);
    if !holder.pace.admit(&traffic.cap, now) {
        return Err(No::too_fast(channel));
    }
    holder.pace.note(now);
    *hit = state.faults.ask(channel, "send", |set| set.get(said.to));
    if hit.before().is_some() {
        return Ok(false);
    }
    let content = Content::new(marker(said.mark), said.text, state.kept(said.body, said.mark));
    traffic
        .received
        .record(state.clock.real_ms(), content, std::iter::once(said.to));
    traffic.accepted();
    Ok(true)
}

/// What any part of a message counts as the broadcast it belongs to: our mark without its last part, the customer.
fn marker(metadata: &str) -> &str {
    metadata.rsplit_once('.').map_or(metadata, |(broadcast, _)| broadcast)
}
