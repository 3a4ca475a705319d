//! What this process knows of the senders that webhooks are addressed to: their secrets, for a few seconds, and how much
//! each has been told lately.
//!
//! Why it exists: a flood of webhooks must not ask Postgres who its sender is, each time. A secret that was changed counts as
//! soon as what is known of it is too old; the previous one stands beside it in the credentials meanwhile.
//!
//! It must never hold more than a bounded number of senders: whoever makes up addresses must not fill the memory.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use carillon_jobs::SenderId;
use governor::{DefaultDirectRateLimiter, Quota};

use crate::{
    channel::{
        Channel,
        webhook::{Provider, WebhookSecrets},
    },
    db::PgPool,
    inbox::webhook::WebhookConfig,
    secret::Secrets,
};

/// Senders known at once; those beyond are asked for again.
const MOST: usize = 10_000;

/// A sender that takes webhooks of a provider.
pub(super) struct Account {
    pub(super) secrets: WebhookSecrets,
    flood: Arc<DefaultDirectRateLimiter>,
}

impl Account {
    /// Whether one more verified request fits in this second.
    pub(super) fn has_room(&self) -> bool {
        self.flood.check().is_ok()
    }
}

/// Why it is not known who a sender is.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    /// Postgres did not answer.
    #[error("{}", crate::db::describe(.0))]
    Database(#[from] sqlx::Error),
    /// Its credentials are there, and this process has not the key to them.
    #[error("the credentials of the sender cannot be opened: {0}")]
    Sealed(#[from] crate::secret::SecretError),
}

type Key = (Provider, SenderId);
/// Asked for by one request at a time; the others wait for its answer.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

struct Known {
    since: Instant,
    account: Option<Arc<Account>>,
}

pub(super) struct Accounts {
    db: PgPool,
    secrets: Arc<Secrets>,
    life: Duration,
    quota: Quota,
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Accounts {
    pub(super) fn new(db: PgPool, secrets: Arc<Secrets>, config: &WebhookConfig) -> Self {
        let per_sec = NonZeroU32::new(config.per_sender_per_sec).unwrap_or(NonZeroU32::MIN);
        Self {
            db,
            secrets,
            life: config.secrets_life(),
            quota: Quota::per_second(per_sec),
            slots: Mutex::default(),
        }
    }

    /// Who a webhook is addressed to; none if there is no such sender, or it takes none of this provider.
    pub(super) async fn find(
        &self,
        provider: Provider,
        sender: SenderId,
    ) -> Result<Option<Arc<Account>>, AccountError> {
        let slot = self.slot((provider, sender));
        let mut slot = slot.lock().await;
        if let Some(known) = slot.as_ref().filter(|known| known.since.elapsed() < self.life) {
            return Ok(known.account.clone());
        }
        // Counted from before the question: what changed while it was answered is news.
        let since = Instant::now();
        let before = slot.take().and_then(|known| known.account);
        let account = self.ask(provider, sender).await?.map(|secrets| {
            let flood = before.map_or_else(
                || Arc::new(DefaultDirectRateLimiter::direct(self.quota)),
                |before| before.flood.clone(),
            );
            Arc::new(Account { secrets, flood })
        });
        *slot = Some(Known {
            since,
            account: account.clone(),
        });
        Ok(account)
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST && !slots.contains_key(&key) {
            // Whoever waits for one keeps it alive by itself. What counts as a flood begins anew, at worst.
            slots.retain(|_, slot| {
                let Ok(known) = slot.try_lock() else { return true };
                known
                    .as_ref()
                    .is_some_and(|known| known.account.is_some() && known.since.elapsed() < self.life)
            });
            if slots.len() >= MOST {
                slots.clear();
            }
        }
        slots.entry(key).or_default().clone()
    }

    async fn ask(&self, provider: Provider, sender: SenderId) -> Result<Option<WebhookSecrets>, AccountError> {
        let found: Option<(Channel, Vec<u8>)> = sqlx::query_as("select channel, credentials from sender where id = $1")
            .bind(sender.0)
            .fetch_optional(&self.db)
            .await?;
        let Some((_, sealed)) = found.filter(|(channel, _)| *channel == provider.channel()) else {
            return Ok(None);
        };
        let opened = self.secrets.open(&sealed, sender.0)?;
        let secrets = std::str::from_utf8(&opened)
            .ok()
            .map(|json| WebhookSecrets::parse(provider, json));
        match secrets {
            Some(Ok(secrets)) => Ok(Some(secrets)),
            Some(Err(error)) => {
                tracing::warn!(sender.id = %sender, %provider, %error, "A sender was told a webhook it has no secret for");
                Ok(None)
            }
            None => Ok(None),
        }
    }
}
