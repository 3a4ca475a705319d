//! FCM projects, their service accounts and the access tokens in use.
//! It exists so that a token works for its own project, for its own time, and not a second longer.
//! It must never print a token or a key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::accounts::{BadAccount, FcmAccount};
use crate::mix::{mix, push_hex};
use crate::oauth;
use crate::traffic::Pace;

/// One project with its service account.
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) private_key_id: Option<String>,
    /// PKCS#1 DER.
    pub(crate) public_key: Vec<u8>,
    pub(crate) token_uri: Option<String>,
    token_lifetime_secs: AtomicU64,
    pub(crate) pace: Pace,
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
    pub(crate) serial: AtomicU64,
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
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Changes how long the access tokens of every account live from now on.
    pub(crate) fn set_token_lifetime(&self, secs: u64) {
        for project in self.by_email.read().unwrap_or_else(PoisonError::into_inner).values() {
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

    /// The project an access token belongs to, unless it is unknown or expired at `now` (seconds since 1970).
    pub(crate) fn project(&self, token: &str, now: u64) -> Option<Arc<Project>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(token)
            .filter(|token| token.expires_at > now)
            .map(|token| Arc::clone(&token.project))
    }

    pub(crate) fn peak(&self) -> u64 {
        let projects = self.by_email.read().unwrap_or_else(PoisonError::into_inner);
        projects.values().map(|project| project.pace.peak()).max().unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        for project in self.by_email.read().unwrap_or_else(PoisonError::into_inner).values() {
            project.pace.clear();
        }
    }
}
