//! `/webhooks/{provider}/{sender}`: what providers tell us, verified, on disk, and only then acknowledged.
//!
//! - `accounts`: who it is addressed to, and the secrets that prove it
//! - `intake`: to the disk, many in one commit, and the bells
//!
//! The answers, which are the same for every provider:
//!
//! | | |
//! |---|---|
//! | 200 | it is on disk; Redis may be away |
//! | 400 | it is signed, and not the JSON it says it is: telling it again would not help |
//! | 401 | the signature is missing, malformed or wrong |
//! | 403 | Meta's question whether the address is ours, with another token than ours |
//! | 404 | there is no such sender, or it takes no webhooks of this provider |
//! | 408, 413 | the body came too slowly, or is too large |
//! | 429 | the sender is told more than `webhook.per_sender_per_sec`; nothing was kept |
//! | 503 | Postgres is away, or too much is waiting for it: tell it again |
//!
//! What a request says is read by nobody here. Nothing of it may stand in a log, and no answer says more than the above.

mod accounts;
mod intake;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{Bytes, BytesMut};
use carillon_jobs::SenderId;
use futures::StreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use self::{
    accounts::{Account, Accounts},
    intake::Intake,
};
use crate::{
    app::App,
    channel::webhook::{self, ParseError, Provider},
    inbox::webhook::{NewWebhook, public_address},
    metrics::webhooks::{self as figures, Answer},
    telemetry,
};

#[derive(Clone)]
struct Ingress {
    accounts: Arc<Accounts>,
    intake: Intake,
    public_url: Arc<str>,
    body_timeout: Duration,
    max_body_bytes: usize,
}

/// The routes, with limits of their own.
pub(super) fn routes(app: &App) -> Router<App> {
    let config = &app.config.webhook;
    let queue = app.queue();
    if let Err(error) = &queue {
        tracing::error!(%error, "This process cannot ring for webhooks; the scheduler does");
    }
    let ingress = Ingress {
        accounts: Arc::new(Accounts::new(app.db.clone(), app.secrets.clone(), config)),
        intake: Intake::start(&app.db, queue.ok()),
        public_url: app.config.web.public_url.as_str().into(),
        body_timeout: config.body_timeout(),
        max_body_bytes: config.max_body_bytes,
    };
    Router::new()
        .route("/webhooks/{provider}/{sender}", get(asked).post(told))
        .with_state(ingress)
}

/// POST: something happened.
async fn told(State(ingress): State<Ingress>, Path(path): Path<(String, String)>, request: Request) -> Response {
    let Some((provider, sender)) = address(&path) else {
        return answer(None, Answer::Unknown);
    };
    if provider.calls_by_get() {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let taken = ingress.take(provider, sender, request).await;
    answer(Some(provider), taken.unwrap_or_else(|refused| refused))
}

/// GET: Meta asks whether the address is ours; Mitake tells what happened.
async fn asked(State(ingress): State<Ingress>, Path(path): Path<(String, String)>, request: Request) -> Response {
    let Some((provider, sender)) = address(&path) else {
        return answer(None, Answer::Unknown);
    };
    if request.method() != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if provider.calls_by_get() {
        let taken = ingress.take(provider, sender, request).await;
        return answer(Some(provider), taken.unwrap_or_else(|refused| refused));
    }
    if !matches!(provider, Provider::Messenger | Provider::Whatsapp) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let account = match ingress.account(provider, sender).await {
        Ok(account) => account,
        Err(refused) => return answer(Some(provider), refused),
    };
    match webhook::challenge(&account.secrets, request.uri().query().unwrap_or_default()) {
        Ok(text) => {
            figures::answered(Some(provider), Answer::Challenge);
            text.into_response()
        }
        Err(_) => answer(Some(provider), Answer::Forbidden),
    }
}

impl Ingress {
    async fn take(&self, provider: Provider, sender: SenderId, request: Request) -> Result<Answer, Answer> {
        let account = self.account(provider, sender).await?;
        if content_length(request.headers()).is_some_and(|bytes| bytes > self.max_body_bytes) {
            return Err(Answer::TooLarge);
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let headers = request.headers().clone();
        let (body, _room) = tokio::time::timeout(self.body_timeout, self.read(&account, request.into_body()))
            .await
            .map_err(|_| Answer::TooSlow)??;
        let url = public_address(&self.public_url, provider, sender);
        webhook::verify(provider, &account.secrets, &headers, &body, &url, &query).map_err(|_| Answer::Unsigned)?;
        if matches!(webhook::well_formed(provider, &body), Err(ParseError::NotJson)) {
            return Err(Answer::Malformed);
        }
        // Only what is proved to be the provider's counts: nobody else can use up its room.
        if !account.has_room() {
            return Err(Answer::Flood);
        }
        let webhook = NewWebhook {
            sender,
            provider,
            headers: kept(provider, &headers),
            query: webhook::without_token(&query),
            body,
            is_verified: true,
        };
        let stored = self.intake.store(webhook, telemetry::here()).await;
        stored.map(|()| Answer::Stored).map_err(|_| Answer::Away)
    }

    /// The whole body, and the room it takes: asked for as it comes, because who sends it need not say how much that is.
    async fn read(&self, account: &Account, body: Body) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Answer> {
        let (mut pieces, mut whole) = (body.into_data_stream(), BytesMut::new());
        let (mut room, mut held_kib) = (Vec::new(), 0);
        while let Some(piece) = pieces.next().await {
            // The connection broke: nobody hears the answer.
            let piece = piece.map_err(|_| Answer::Malformed)?;
            if whole.len() + piece.len() > self.max_body_bytes {
                return Err(Answer::TooLarge);
            }
            whole.extend_from_slice(&piece);
            // By what came altogether: a body in pieces of one byte takes no more room than one in a piece.
            let kib = whole.len() / 1_024 + 1;
            if kib > held_kib {
                room.push(account.room_for(kib - held_kib).ok_or(Answer::Away)?);
                room.push(self.intake.room_for(kib - held_kib).ok_or(Answer::Away)?);
                held_kib = kib;
            }
        }
        Ok((whole.freeze(), room))
    }

    async fn account(&self, provider: Provider, sender: SenderId) -> Result<Arc<Account>, Answer> {
        match self.accounts.find(provider, sender).await {
            Ok(account) => account.ok_or(Answer::Unknown),
            Err(error) => {
                tracing::debug!(sender.id = %sender, %error, "A webhook's sender cannot be looked up");
                Err(Answer::Away)
            }
        }
    }
}

fn address((provider, sender): &(String, String)) -> Option<(Provider, SenderId)> {
    Some((provider.parse().ok()?, sender.parse().ok()?))
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a request is stored with: what says whose it is, because its events may be of other accounts as well.
fn kept(provider: Provider, headers: &HeaderMap) -> Map<String, Value> {
    [Some(header::CONTENT_TYPE.as_str()), provider.signature_header()]
        .into_iter()
        .flatten()
        .filter_map(|name| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.into())))
        .collect()
}

fn answer(provider: Option<Provider>, answer: Answer) -> Response {
    figures::answered(provider, answer);
    let (status, text) = match answer {
        Answer::Stored | Answer::Challenge => return StatusCode::OK.into_response(),
        Answer::Unknown => (StatusCode::NOT_FOUND, "there is no such webhook\n"),
        Answer::Unsigned => (StatusCode::UNAUTHORIZED, "the signature is missing or wrong\n"),
        Answer::Forbidden => (StatusCode::FORBIDDEN, "not with this token\n"),
        Answer::Malformed => (StatusCode::BAD_REQUEST, "the body cannot be read\n"),
        Answer::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        Answer::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body came too slowly\n"),
        Answer::Flood => (StatusCode::TOO_MANY_REQUESTS, "too many at once: tell it again later\n"),
        Answer::Away => (StatusCode::SERVICE_UNAVAILABLE, "not stored: tell it again\n"),
    };
    let mut response = (status, text).into_response();
    if matches!(answer, Answer::Flood | Answer::Away) {
        let soon = header::HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    response
}
