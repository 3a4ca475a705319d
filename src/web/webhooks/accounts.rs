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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
/// Senders nobody here knows that are asked for at once, and those that wait for their turn: addresses can be made up, and the few
/// connections to Postgres are for storing what is real.
const STRANGERS: usize = 1;
const MOST_STRANGERS: usize = 64;
/// Bytes of bodies to one sender in memory at once, in KiB; of all senders it is `intake::MOST_HELD_KIB`. Addresses are no secret, and
/// whether a body is the provider's is known only at its end: who sends slow ones to one must not shut the door for all.
const MOST_HELD_KIB: u32 = 24 * 1_024;

/// A sender that takes webhooks of a provider.
pub(super) struct Account {
    pub(super) secrets: WebhookSecrets,
    limits: Arc<Limits>,
}

/// They outlive what is known of the sender.
struct Limits {
    flood: DefaultDirectRateLimiter,
    held: Arc<Semaphore>,
}

impl Limits {
    fn new(quota: Quota) -> Arc<Self> {
        Arc::new(Self {
            flood: DefaultDirectRateLimiter::direct(quota),
            held: Arc::new(Semaphore::new(MOST_HELD_KIB as usize)),
        })
    }
}

impl Account {
    /// Whether one more verified request fits in this second.
    pub(super) fn has_room(&self) -> bool {
        self.limits.flood.check().is_ok()
    }

    /// This sender's room for so many KiB of a body, for as long as the result lives; none while too much is held already.
    pub(super) fn room_for(&self, kib: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(MOST_HELD_KIB);
        self.limits.held.clone().try_acquire_many_owned(kib).ok()
    }
}

/// Why it is not known who a sender is.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    /// Postgres did not answer.
    #[error("{}", crate::db::describe(.0))]
    Database(#[from] sqlx::Error),
    /// Too many ask for senders that this process does not know.
    #[error("too many senders nobody knows are asked for")]
    Strangers,
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
    strangers: Semaphore,
    strangers_waiting: Semaphore,
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
            strangers: Semaphore::new(STRANGERS),
            strangers_waiting: Semaphore::new(MOST_STRANGERS),
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
        let before = slot.as_ref().and_then(|known| known.account.clone());
        let _turn = if before.is_some() {
            None
        } else {
            let place = self.strangers_waiting.try_acquire();
            let place = place.map_err(|_| AccountError::Strangers)?;
            let turn = self.strangers.acquire().await;
            Some((place, turn.map_err(|_| AccountError::Strangers)?))
        };
        // Counted from before the question: what changed while it was answered is news.
        let since = Instant::now();
        let account = self.ask(provider, sender).await?.map(|secrets| {
            let limits = before.map_or_else(|| Limits::new(self.quota), |before| before.limits.clone());
            Arc::new(Account { secrets, limits })
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
                // Also what has to be asked for again: who was real once does not wait among those who were made up.
                known.as_ref().is_some_and(|known| known.account.is_some())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn who_makes_up_senders_waits_in_a_bounded_line_and_takes_one_connection() {
        // A server that takes connections and never says a word.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://nobody@{}/nothing", silent.local_addr().unwrap());
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy(&url)
            .unwrap();
        let config = WebhookConfig {
            max_body_bytes: 1_000,
            body_timeout_secs: 1,
            per_sender_per_sec: 1,
            secrets_secs: 10,
            keep_days: 1,
        };
        let key = crate::secret::Hidden::new(crate::secret::new_key("k").unwrap());
        let accounts = Accounts::new(pool.clone().into(), Arc::new(Secrets::new(&[key]).unwrap()), &config);
        let ask = || accounts.find(Provider::Line, SenderId(uuid::Uuid::now_v7()));
        let mut waiting: futures::stream::FuturesUnordered<_> = (0..MOST_STRANGERS + 10).map(|_| ask()).collect();
        for _ in 0..10 {
            let refused = futures::StreamExt::next(&mut waiting).await.unwrap();
            assert!(matches!(refused, Err(AccountError::Strangers)));
        }
        let none_ends = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut waiting));
        assert!(none_ends.is_none(), "the others wait for their turn");
        assert_eq!(pool.size(), 1);
    }

    #[test]
    fn bodies_to_one_sender_hold_a_quarter_of_the_room_at_most() {
        let account = Account {
            secrets: WebhookSecrets::parse(Provider::Line, r#"{"channel_secret": "s"}"#).unwrap(),
            limits: Limits::new(Quota::per_second(NonZeroU32::MIN)),
        };
        let held: Vec<_> = std::iter::repeat_with(|| account.room_for(1_024))
            .map_while(|room| room)
            .collect();
        assert_eq!(held.len(), 24);
        drop(held);
        assert!(account.room_for(1_024).is_some());
    }
}
