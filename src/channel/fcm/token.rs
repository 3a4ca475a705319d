//! OAuth tokens of service accounts: fetched with a signed JWT, cached, refreshed early.
//!
//! Why single flight: when a token runs out, hundreds of messages notice in the same millisecond; one of them asks
//! Google, the others take its answer, good or bad.
//!
//! It must never ask twice for one expiry, and never show a token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::http::{HeaderValue, Method, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use carillon_jobs::SenderId;
use reqwest::{Body, Client, Request};
use ring::{rand::SystemRandom, signature::RSA_PKCS1_SHA256};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use crate::channel::{
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal},
    sender::{AppProject, bearer},
};

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// A token is replaced this long before it runs out.
const EARLY: Duration = Duration::from_mins(5);
/// How long the signed request for a token is good for; Google's limit is an hour.
const ASSERTION_SECS: i64 = 3_600;

/// Where tokens come from, and the project each sender sends to.
#[derive(Debug)]
pub(super) struct Tokens {
    client: Client,
    /// Instead of the key file's `token_uri`.
    token_url: Option<Url>,
    timeout: Duration,
    projects: Mutex<HashMap<SenderId, Arc<Project>>>,
}

/// What is known of one sender's project.
#[derive(Debug)]
pub(super) struct Project {
    /// Where its messages go.
    pub(super) url: Url,
    /// A sender whose key file was replaced starts afresh.
    key_id: String,
    current: Mutex<Option<Token>>,
    flight: tokio::sync::Mutex<Option<(Instant, Refusal)>>,
}

#[derive(Clone)]
struct Token {
    /// Marked sensitive, so that even `Debug` hides it.
    authorization: HeaderValue,
    refresh_at: Instant,
    expires_at: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Tokens {
    pub(super) fn new(client: Client, token_url: Option<Url>, timeout: Duration) -> Self {
        Self {
            client,
            token_url,
            timeout,
            projects: Mutex::default(),
        }
    }

    /// The sender's project; `url` builds its address the first time.
    pub(super) fn project(
        &self,
        sender: SenderId,
        account: &AppProject,
        url: impl FnOnce() -> Option<Url>,
    ) -> Option<Arc<Project>> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(project) = projects.get(&sender)
            && project.key_id == account.private_key_id
        {
            return Some(Arc::clone(project));
        }
        let project = Arc::new(Project {
            url: url()?,
            key_id: account.private_key_id.clone(),
            current: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
        });
        projects.insert(sender, Arc::clone(&project));
        Some(project)
    }

    /// A token that is still good.
    ///
    /// # Errors
    /// None could be had. The message was not sent, whatever the class.
    pub(super) async fn get(&self, account: &AppProject, project: &Project) -> Result<HeaderValue, Refusal> {
        let asked = Instant::now();
        match project.current() {
            Some(token) if asked < token.refresh_at => Ok(token.authorization),
            Some(token) if asked < token.expires_at => {
                // Early: whoever gets the turn renews, everyone else goes on with what there is.
                let renewed = match project.flight.try_lock() {
                    Ok(mut flight) => self.renew(account, project, &mut flight).await.ok(),
                    Err(_) => None,
                };
                Ok(renewed.unwrap_or(token.authorization))
            }
            Some(_) | None => self.replace(account, project, None, asked).await,
        }
    }

    /// A token other than `refused`, which the provider no longer takes.
    pub(super) async fn instead_of(
        &self,
        account: &AppProject,
        project: &Project,
        refused: &HeaderValue,
    ) -> Result<HeaderValue, Refusal> {
        self.replace(account, project, Some(refused), Instant::now()).await
    }

    async fn replace(
        &self,
        account: &AppProject,
        project: &Project,
        refused: Option<&HeaderValue>,
        asked: Instant,
    ) -> Result<HeaderValue, Refusal> {
        let mut flight = project.flight.lock().await;
        if let Some(token) = project.current()
            && Some(&token.authorization) != refused
            && Instant::now() < token.expires_at
        {
            return Ok(token.authorization);
        }
        if let Some((failed_at, refusal)) = flight.as_ref()
            && *failed_at >= asked
        {
            return Err(refusal.clone());
        }
        self.renew(account, project, &mut flight).await
    }

    async fn renew(
        &self,
        account: &AppProject,
        project: &Project,
        flight: &mut Option<(Instant, Refusal)>,
    ) -> Result<HeaderValue, Refusal> {
        match self.fetch(account).await {
            Ok(token) => {
                let authorization = token.authorization.clone();
                *project.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
                *flight = None;
                Ok(authorization)
            }
            Err(refusal) => {
                *flight = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
    }

    async fn fetch(&self, account: &AppProject) -> Result<Token, Refusal> {
        let url = self.token_url.as_ref().unwrap_or(&account.token_uri);
        let assertion =
            assertion(account).ok_or_else(|| Refusal::new(ErrorClass::Credentials, "oauth_key_cannot_sign"))?;
        let mut request = Request::new(Method::POST, url.clone());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, form);
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        let body = format!("grant_type={grant}&assertion={assertion}");
        *request.body_mut() = Some(Body::from(body));
        *request.timeout_mut() = Some(self.timeout);
        // However this request fails, the message itself has not left.
        let answer = exchange(&self.client, request)
            .await
            .map_err(|refusal| Refusal::new(ErrorClass::Unreachable, format!("oauth_{}", refusal.code)))?;
        judge(&answer)
    }
}

impl Project {
    fn current(&self) -> Option<Token> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Denial {
    error: String,
}

fn judge(answer: &Answer) -> Result<Token, Refusal> {
    match answer.status {
        200 => {
            let unusable = || Refusal::new(ErrorClass::Unreachable, "oauth_not_as_promised");
            let grant: Grant = answer.json().ok_or_else(unusable)?;
            let life = Duration::from_secs(grant.expires_in.min(86_400));
            let now = Instant::now();
            Ok(Token {
                authorization: bearer(&grant.access_token).ok_or_else(unusable)?,
                refresh_at: now + life.saturating_sub(EARLY).max(life / 2),
                expires_at: now + life,
            })
        }
        400 | 401 | 403 => match answer.json::<Denial>() {
            Some(denial) => Err(Refusal::new(ErrorClass::Credentials, format!("oauth_{}", denial.error))),
            None => Err(Refusal::new(ErrorClass::Unreachable, "oauth_not_as_promised")),
        },
        429 => {
            let wait = answer.retry_after();
            Err(Refusal::new(ErrorClass::Throttled, "oauth_429").after(wait))
        }
        status => Err(Refusal::new(ErrorClass::Unreachable, format!("oauth_{status}")).after(answer.retry_after())),
    }
}

/// The signed JWT that is exchanged for a token (RFC 7523).
fn assertion(account: &AppProject) -> Option<String> {
    let issued_at = chrono::Utc::now().timestamp();
    let head = json!({"alg": "RS256", "typ": "JWT", "kid": account.private_key_id});
    let claims = json!({
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri.as_str(),
        "iat": issued_at,
        "exp": issued_at + ASSERTION_SECS,
    });
    let mut jwt = URL_SAFE_NO_PAD.encode(head.to_string());
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut jwt);
    let mut signature = vec![0; account.private_key.public().modulus_len()];
    let random = SystemRandom::new();
    account
        .private_key
        .sign(&RSA_PKCS1_SHA256, &random, jwt.as_bytes(), &mut signature)
        .ok()?;
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(&signature, &mut jwt);
    Some(jwt)
}
