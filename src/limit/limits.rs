//! [`Limits`]: the one question a sender asks before each request, and the two answers it reports afterwards.
//!
//! Why it holds state per sender: asking Redis for every message would cost more than sending it. A process asks for
//! a few hundredths of a second's worth of permits at a time, one call in flight per sender however many tasks wait.
//! Never in here: a wait. Callers are told how long, and give their slot to somebody else.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_jobs::SenderId;
use redis::aio::ConnectionManager;

use super::{
    Call, Grant, LimitConfig, LimitError, LimitKey, LimitStatus,
    bucket::Rules,
    fleet::{Fleet, Reply},
    lease::Pace,
    turns::{NEXT_LOOK, Turns},
};

/// From so many senders on, those that nobody asked about for `FORGET_AFTER` are dropped.
const MANY_SENDERS: usize = 1_024;
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// The answer when a lease came and was gone before its caller could take from it.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The rate limits of all senders, as one process sees them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fleet: Fleet,
    config: LimitConfig,
    senders: RwLock<HashMap<(SenderId, Call), Arc<Sender>>>,
    redis_away: AtomicBool,
}

#[derive(Debug, Default)]
struct Sender {
    pace: Mutex<Pace>,
    turns: Mutex<Turns>,
    /// Held during a call to Redis, so that one answer serves everybody who waits.
    asking: tokio::sync::Mutex<()>,
}

impl Sender {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up to `n` permits, no more than are this shop's turn; `None` when only Redis can tell.
    fn take(&self, key: &LimitKey, n: u32) -> Option<Grant> {
        let now = Instant::now();
        let mut pace = self.pace();
        let Some(shop) = key.shop else {
            return pace.take(now, n);
        };
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = pace.usable(now);
        let share = if usable == 0 {
            n
        } else {
            turns.share(now, shop, n, usable)
        };
        let grant = if share == 0 {
            Some(Grant::Wait(NEXT_LOOK))
        } else {
            pace.take(now, share)
        };
        match &grant {
            Some(Grant::Granted(permits)) => turns.granted(now, shop, *permits),
            Some(Grant::Wait(wait)) => turns.told_to_wait(now, shop, n, *wait),
            None => {}
        }
        grant
    }
}

impl Limits {
    /// Limits over the Redis behind `conn`, with buckets at `<key_prefix>:limit:<sender>:<call>`. The prefix should
    /// carry the hash tag all keys share, as in `{carillon}`.
    pub fn new(conn: ConnectionManager, key_prefix: &str, config: LimitConfig) -> Self {
        Self(Arc::new(Shared {
            fleet: Fleet::new(conn, key_prefix, &config),
            config,
            senders: RwLock::default(),
            redis_away: AtomicBool::new(false),
        }))
    }

    /// Asks to start up to `n` requests now. Nothing is queued: who is told to wait asks again, and may also not.
    /// Redis away is a wait. Zero permits are granted to who asks for none.
    pub async fn acquire(&self, sender: &LimitKey, n: u32) -> Grant {
        if n == 0 {
            return Grant::Granted(0);
        }
        let local = self.sender(sender);
        if let Some(grant) = local.take(sender, n) {
            return grant;
        }
        let _asking = local.asking.lock().await;
        if let Some(grant) = local.take(sender, n) {
            return grant;
        }
        self.refill(sender, &local, n).await;
        let grant = local.take(sender, n);
        grant.unwrap_or(Grant::Wait(SHORTEST_WAIT))
    }

    async fn refill(&self, sender: &LimitKey, local: &Sender, n: u32) {
        let rules = Rules::new(&self.0.config, sender.rate);
        let (batch, clean) = {
            let mut pace = local.pace();
            (pace.batch(Instant::now(), &rules, n), pace.take_clean())
        };
        let answer = self.0.fleet.lease(sender, &rules, batch, clean).await;
        self.note(&answer);
        let mut pace = local.pace();
        match answer {
            Ok(reply) => pace.receive(&rules, self.0.config.grace(), &reply),
            Err(_) => pace.fail(Instant::now(), rand::random()),
        }
    }

    /// A provider refused a request of this sender as too fast: closes the sender for the whole fleet for
    /// `retry_after` (`close_ms` when the provider named no time) and lowers its rate, once per second at most.
    pub async fn throttled(&self, sender: &LimitKey, retry_after: Option<Duration>) {
        let config = &self.0.config;
        let rules = Rules::new(config, sender.rate);
        let longest = Duration::from_secs(config.max_close_secs.get().into());
        let close = retry_after
            .unwrap_or(Duration::from_millis(config.close_ms.get().into()))
            .min(longest);
        let local = self.sender(sender);
        local.pace().close(Instant::now() + close);
        match self.0.fleet.throttle(sender, &rules, close).await {
            Ok((closed, rate_per_sec)) => {
                local.pace().close(Instant::now() + closed);
                tracing::info!(
                    sender.id = %sender.sender,
                    limit.call = %sender.call,
                    limit.rate_per_sec = rate_per_sec,
                    closed_ms = closed.as_millis(),
                    "The provider refused a request as too fast; the sender waits and then sends more slowly"
                );
            }
            Err(error) => tracing::warn!(
                sender.id = %sender.sender,
                %error,
                "A refusal as too fast could not be told to the other workers; this one waits"
            ),
        }
    }

    /// The provider accepted `n` requests of this sender. Seconds of which this is true and in which none was refused
    /// raise a lowered rate again. Costs no call to Redis: the next lease carries it.
    #[expect(clippy::unused_async, reason = "callers await all three reports alike")]
    pub async fn succeeded(&self, sender: &LimitKey, n: u32) {
        if n > 0 {
            self.sender(sender).pace().accepted();
        }
    }

    /// What the sender's bucket in Redis says. Reads only.
    pub async fn status(&self, sender: &LimitKey) -> Result<LimitStatus, LimitError> {
        self.0.fleet.status(sender).await
    }

    fn sender(&self, sender: &LimitKey) -> Arc<Sender> {
        let key = (sender.sender, sender.call);
        let senders = self.0.senders.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = senders.get(&key) {
            return Arc::clone(local);
        }
        drop(senders);
        let mut senders = self.0.senders.write().unwrap_or_else(PoisonError::into_inner);
        // Only when the map would grow anyway: the cost is spread over as many insertions as there are entries.
        if senders.len() >= MANY_SENDERS && senders.len() == senders.capacity() {
            forget_idle(&mut senders);
        }
        Arc::clone(senders.entry(key).or_default())
    }

    /// Says once that Redis is away and once that it is back.
    fn note(&self, answer: &Result<Reply, LimitError>) {
        match answer {
            Ok(_) if self.0.redis_away.load(Ordering::Relaxed) => {
                self.0.redis_away.store(false, Ordering::Relaxed);
                tracing::info!("The rate limits' Redis answers again; sending goes on");
            }
            Ok(_) => {}
            Err(error) => {
                if !self.0.redis_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "The rate limits' Redis is away; nothing is sent until it answers");
                }
            }
        }
    }
}

/// An entry that somebody holds stays: its lock is what keeps the calls single.
fn forget_idle(senders: &mut HashMap<(SenderId, Call), Arc<Sender>>) {
    let now = Instant::now();
    let Some(since) = now.checked_sub(FORGET_AFTER) else {
        return;
    };
    senders.retain(|_, sender| Arc::strong_count(sender) > 1 || !sender.pace().is_idle(since, now));
}
