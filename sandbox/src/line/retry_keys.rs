//! LINE's retry keys: a key that was accepted answers 409 for 24 hours, then means a new request.
//! It exists because the product's never-twice promise on LINE stands on exactly this behaviour.
//! It must never accept one key twice, however many requests race for it: look-up and acceptance share one lock.
//! Stricter than LINE: the same key with another endpoint or body is refused, since LINE asks callers never to do that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

/// Hash tables double when they are 7/8 full; with 20, half a million and a million keys fill them well.
const SHARDS: u128 = 20;
/// How long LINE remembers a key.
const LIFETIME_SECS: u64 = 24 * 60 * 60;

/// What an accepted request was answered, so that its retry can be told the same.
#[derive(Clone, Copy)]
pub(crate) struct Accepted {
    /// Serial of the accepted request (its `x-line-request-id`).
    pub(crate) request: u32,
    /// Serial of its first message; the others follow.
    pub(crate) first_message: u32,
}

/// Half a million of these are kept for a day's worth of sends, so every field is as small as it can be.
struct Entry {
    /// 32 bits of a fingerprint: enough to catch a sender that changes what it repeats.
    body: u32,
    accepted: Accepted,
    at_secs: u32,
}

impl Entry {
    fn lives(&self, now: Duration) -> bool {
        now.as_secs().saturating_sub(u64::from(self.at_secs)) < LIFETIME_SECS
    }
}

/// How a request with a key fares.
pub(crate) enum Keyed<E> {
    /// First time: accepted.
    Fresh(Accepted),
    /// Accepted before, with the same body.
    Repeat(Accepted),
    /// Accepted before, with another body or on another endpoint.
    Mismatch,
    /// Refused by `accept`; the key stays unused.
    Refused(E),
}

/// One channel's keys.
pub(crate) struct RetryKeys {
    shards: Box<[Mutex<HashMap<Uuid, Entry>>]>,
}

impl RetryKeys {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether the key was accepted less than 24 h ago.
    pub(crate) fn knows(&self, key: Uuid, now: Duration) -> bool {
        let entries = self
            .shard(key)
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        entries.is_some_and(|entries| entries.get(&key).is_some_and(|entry| entry.lives(now)))
    }

    fn shard(&self, key: Uuid) -> Option<&Mutex<HashMap<Uuid, Entry>>> {
        // UUID version 4 and 5 both vary in their lowest bits.
        self.shards.get(usize::try_from(key.as_u128() % SHARDS).unwrap_or(0))
    }

    /// Runs `accept` unless the key was accepted less than 24 h ago. `body` is a fingerprint of endpoint and body.
    pub(crate) fn accept<E>(
        &self,
        key: Uuid,
        body: u32,
        now: Duration,
        accept: impl FnOnce() -> Result<Accepted, E>,
    ) -> Keyed<E> {
        let Some(shard) = self.shard(key) else {
            return Keyed::Mismatch;
        };
        let mut entries = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&key)
            && entry.lives(now)
        {
            return if entry.body == body {
                Keyed::Repeat(entry.accepted)
            } else {
                Keyed::Mismatch
            };
        }
        match accept() {
            Ok(accepted) => {
                let at_secs = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
                entries.insert(
                    key,
                    Entry {
                        body,
                        accepted,
                        at_secs,
                    },
                );
                Keyed::Fresh(accepted)
            }
            Err(error) => Keyed::Refused(error),
        }
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
        }
    }
}
