//! What the loops of one worker process share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use carillon_jobs::{Kind, Policy};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    QueueConfig, RedisConn,
    availability::Availability,
    keys::KindKeys,
    lease::Held,
    outbox::Outbox,
    rest::Resting,
    slots::Slots,
    store::{Settlement, Store, StoredKind, Verb},
};

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: QueueConfig,
    /// This process' kinds in order of priority; the store's kinds and the slots are in the same order.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) store: Store,
    pub(crate) slots: Slots,
    pub(crate) held: Held,
    /// Kinds that are paused.
    pub(crate) resting: Resting,
    pub(crate) redis: Availability,
    /// Told when something may be ready.
    pub(crate) wake: Notify,
    /// Told when a dead job was put into Redis.
    pub(crate) died: Notify,
    /// The process is shutting down.
    pub(crate) stop: CancellationToken,
    /// Settlements that Redis has not answered yet.
    pub(crate) outbox: Outbox,
    next_number: AtomicU64,
}

impl Engine {
    pub(crate) fn new(config: QueueConfig, redis: RedisConn, worker_id: &str, stop: CancellationToken) -> Arc<Self> {
        let mut kinds = Kind::ALL.to_vec();
        kinds.sort_by_key(|kind| kind.policy().priority);
        let policies: Vec<Policy> = kinds.iter().map(|kind| kind.policy()).collect();
        let stored = kinds
            .iter()
            .zip(&policies)
            .map(|(kind, policy)| StoredKind {
                name: kind.name().to_owned(),
                keys: KindKeys::new(&config.key_prefix, kind.name()),
                lease_ms: config.lease_ms.unwrap_or(u64::from(policy.lease_secs) * 1_000),
            })
            .collect();
        let wanted: Vec<u32> = policies.iter().map(|policy| policy.reserved_slots).collect();
        Arc::new(Self {
            store: Store::new(redis, &config.key_prefix, worker_id, stored),
            slots: Slots::new(config.concurrency, &wanted),
            held: Held::new(kinds.len()),
            resting: Resting::new(kinds.len()),
            redis: Availability::new(),
            wake: Notify::new(),
            died: Notify::new(),
            stop,
            outbox: Outbox::default(),
            next_number: AtomicU64::new(1),
            kinds,
            config,
        })
    }

    /// The first of `count` tag numbers that were never used.
    pub(crate) fn numbers(&self, count: u64) -> u64 {
        self.next_number.fetch_add(count, Ordering::Relaxed)
    }

    /// Queues a settlement. It is repeated until Redis has answered.
    pub(crate) fn settle(&self, kind: usize, number: u64, verb: Verb) {
        // What is still there when the process ends is recovered when its lease runs out.
        self.outbox.put(Settlement { kind, number, verb });
    }

    pub(crate) fn shortest_lease(&self) -> Duration {
        let ms = self
            .store
            .kinds
            .iter()
            .map(|kind| kind.lease_ms)
            .min()
            .unwrap_or(15_000);
        Duration::from_millis(ms)
    }
}
