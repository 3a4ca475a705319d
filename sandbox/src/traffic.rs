//! One channel's traffic: how many requests came, how they were answered, how slow and how narrow the channel is.
//! It exists so that the hot path touches a few atomics and no lock.
//! It must never count a request twice, and never hide one that was cut off.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::FaultKind;
use crate::mix::Draws;
use crate::received::Received;

/// How long every answer of a channel takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Milliseconds every answer waits.
    #[serde(default)]
    pub fixed_ms: u64,
    /// Up to this many milliseconds more, drawn anew for each answer.
    #[serde(default)]
    pub jitter_ms: u64,
}

/// The most sends per second one account may make; above it the answer is 429 (SMTP 451).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateCap {
    /// Sends per second; 0 means no cap.
    pub per_second: u64,
    /// Sends that may come at once after a quiet spell; `None` is one second's worth.
    #[serde(default)]
    pub burst: Option<u64>,
}

/// A token bucket and a peak meter for one account and endpoint, without locks.
#[derive(Default)]
pub(crate) struct Pace {
    /// Nanoseconds at which the bucket would be full again (GCRA's theoretical arrival time).
    full_at: AtomicU64,
    second: AtomicU64,
    in_second: AtomicU64,
    peak: AtomicU64,
}

impl Pace {
    /// True when one more send fits under `cap` at `now`.
    pub(crate) fn admit(&self, cap: &CapDial, now: Duration) -> bool {
        let per_second = cap.per_second.load(Ordering::Relaxed);
        if per_second == 0 {
            return true;
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let step = 1_000_000_000 / per_second;
        let room = step.saturating_mul(cap.burst.load(Ordering::Relaxed));
        let next = |full_at: u64| {
            let full_at = full_at.max(now) + step;
            (full_at - now <= room).then_some(full_at)
        };
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Notes a send that was answered by the account (not refused by the cap).
    pub(crate) fn note(&self, now: Duration) {
        let second = now.as_secs() + 1;
        let count = if self.second.swap(second, Ordering::Relaxed) == second {
            self.in_second.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.in_second.store(1, Ordering::Relaxed);
            1
        };
        if count > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        for cell in [&self.full_at, &self.second, &self.in_second, &self.peak] {
            cell.store(0, Ordering::Relaxed);
        }
    }
}

/// The channel's rate cap, changeable while running.
#[derive(Default)]
pub(crate) struct CapDial {
    per_second: AtomicU64,
    burst: AtomicU64,
}

impl CapDial {
    pub(crate) fn set(&self, cap: Option<RateCap>) {
        let per_second = cap.map_or(0, |cap| cap.per_second);
        let burst = cap.and_then(|cap| cap.burst).unwrap_or(per_second).max(1);
        self.burst.store(burst, Ordering::Relaxed);
        self.per_second.store(per_second, Ordering::Relaxed);
    }
}

/// Everything counted and dialled for one channel.
pub(crate) struct Traffic {
    requests: AtomicU64,
    accepted: AtomicU64,
    connections: AtomicU64,
    refused: Box<[AtomicU64]>,
    faults: std::sync::Mutex<BTreeMap<FaultKind, u64>>,
    unread: std::sync::Mutex<BTreeMap<String, u64>>,
    fixed_us: AtomicU64,
    jitter_us: AtomicU64,
    draws: Draws,
    pub(crate) cap: CapDial,
    pub(crate) received: Received,
}

/// One channel's totals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSummary {
    /// Send requests (SMTP: MAIL commands), whatever became of them.
    pub requests: u64,
    /// Send requests whose message was accepted, also when the answer was then cut off.
    pub accepted: u64,
    /// Answers other than success on any endpoint, by HTTP status or SMTP reply code (LINE's 409 included).
    pub refused: BTreeMap<u16, u64>,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Messages received, one per recipient.
    pub messages: u64,
    /// Different recipients.
    pub distinct_recipients: u64,
    /// The most messages any one recipient got.
    pub max_to_one_recipient: u64,
    /// Messages beyond the first with the same recipient, marker and text.
    pub duplicates: u64,
    /// SMTP connections accepted (0 for HTTP channels, which share a port).
    pub connections: u64,
    /// The most sends any one account made on one endpoint in one second of the sandbox's clock.
    pub peak_per_second: u64,
}

impl Traffic {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            requests: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            refused: (0..600).map(|_| AtomicU64::new(0)).collect(),
            faults: std::sync::Mutex::default(),
            unread: std::sync::Mutex::default(),
            fixed_us: AtomicU64::new(0),
            jitter_us: AtomicU64::new(0),
            draws: Draws::new(seed),
            cap: CapDial::default(),
            received: Received::new(),
        }
    }

    pub(crate) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, code: u16) {
        if let Some(cell) = self.refused.get(usize::from(code)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn struck(&self, kind: FaultKind) {
        let mut faults = self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *faults.entry(kind).or_default() += 1;
    }

    /// Notes an answer about `recipient` that the caller did not stay for.
    pub(crate) fn left_unread(&self, recipient: &str) {
        let mut unread = self.unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *unread.entry(recipient.to_owned()).or_default() += 1;
    }

    /// How many answers about each recipient were never read.
    pub(crate) fn unread(&self) -> BTreeMap<String, u64> {
        let unread = self.unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        unread.clone()
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        self.fixed_us
            .store(latency.fixed_ms.saturating_mul(1000), Ordering::Relaxed);
        self.jitter_us
            .store(latency.jitter_ms.saturating_mul(1000), Ordering::Relaxed);
    }

    /// How long the next answer waits.
    pub(crate) fn latency(&self) -> Duration {
        let fixed = self.fixed_us.load(Ordering::Relaxed);
        let jitter = self.jitter_us.load(Ordering::Relaxed);
        let extra = if jitter == 0 {
            0
        } else {
            self.draws.bits() % (jitter + 1)
        };
        Duration::from_micros(fixed.saturating_add(extra))
    }

    pub(crate) fn summary(&self, peak_per_second: u64) -> ChannelSummary {
        let census = self.received.census();
        let refused = self
            .refused
            .iter()
            .zip(0_u16..)
            .map(|(cell, code)| (code, cell.load(Ordering::Relaxed)));
        ChannelSummary {
            requests: self.requests.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            faults: self
                .faults
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone(),
            messages: census.messages,
            distinct_recipients: census.distinct,
            max_to_one_recipient: census.most_to_one,
            duplicates: census.duplicates,
            connections: self.connections.load(Ordering::Relaxed),
            peak_per_second,
        }
    }

    /// Forgets everything counted and received; dials stay.
    pub(crate) fn clear(&self) {
        for cell in [&self.requests, &self.accepted, &self.connections]
            .into_iter()
            .chain(self.refused.iter())
        {
            cell.store(0, Ordering::Relaxed);
        }
        self.faults
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
        self.unread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
        self.received.clear();
    }
}
