//! The lease a handler works under, and the register of everything this process holds.
//!
//! A handler learns that its job is no longer its own in two ways: the token, cancelled when Redis said so or when the
//! deadline passed without a renewal, and the deadline itself, which needs nobody's help. The deadline is monotonic and
//! counted from before the claim was sent, so it is always earlier than what Redis wrote down.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// A handler's hold on its job.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lost: CancellationToken,
    base: Instant,
    /// Nanoseconds after `base`.
    deadline_ns: AtomicU64,
    /// When the attempt has taken too long.
    run_until: Instant,
    task: OnceLock<AbortHandle>,
    aborted: OnceLock<Aborted>,
    /// What the handler is about to do.
    word: Mutex<Option<String>>,
}

/// Why a handler was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// It ran longer than its kind allows.
    TooLong,
    /// Its lease was lost and it did not take the hint.
    LeaseLost,
    /// The process is ending.
    Stopping,
}

/// How long a handler may go on after its lease was lost. Its writes are fenced; this only frees the slot.
const LOST_GRACE: Duration = Duration::from_secs(2);

impl Lease {
    pub(crate) fn new(deadline: Instant, longest_run: Duration) -> Self {
        let base = Instant::now();
        let lease = Self(Arc::new(Inner {
            lost: CancellationToken::new(),
            base,
            deadline_ns: AtomicU64::new(0),
            run_until: base + longest_run,
            task: OnceLock::new(),
            aborted: OnceLock::new(),
            word: Mutex::default(),
        }));
        lease.extend(deadline);
        lease
    }

    /// Cancelled when the job is no longer this handler's. Nothing it does after that will be believed.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.0.lost.clone()
    }

    /// Until when the job is certainly this handler's; moved on by every renewal.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.0.base + Duration::from_nanos(self.0.deadline_ns.load(Ordering::Acquire))
    }

    /// Whether the lease is lost, by either sign. Asked before every side effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled() || Instant::now() >= self.deadline()
    }

    /// Keeps what the handler is about to do; the next renewal takes it to Redis.
    pub(crate) fn say(&self, word: String) {
        *self.0.word.lock().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }

    pub(crate) fn word(&self) -> Option<String> {
        self.0.word.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Redis said that the job is somebody else's.
    pub(crate) fn lose(&self) {
        self.extend(Instant::now());
        self.0.lost.cancel();
    }

    /// Whose task this lease may abort.
    pub(crate) fn attach(&self, task: AbortHandle) {
        // A lease is attached once, when its handler starts; a second handle would be a second handler.
        let _ = self.0.task.set(task);
    }

    pub(crate) fn abort(&self, reason: Aborted) {
        if let Some(task) = self.0.task.get() {
            // The first reason is the true one.
            let _ = self.0.aborted.set(reason);
            task.abort();
        }
    }

    pub(crate) fn aborted(&self) -> Option<Aborted> {
        self.0.aborted.get().copied()
    }

    /// Whether a handler still runs under this lease.
    pub(crate) fn is_running(&self) -> bool {
        self.0.task.get().is_some_and(|task| !task.is_finished())
    }

    pub(crate) fn extend(&self, deadline: Instant) {
        let after = deadline.saturating_duration_since(self.0.base).as_nanos();
        self.0
            .deadline_ns
            .store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// What this process holds: tag number to lease, one map for each kind.
#[derive(Debug)]
pub(crate) struct Held {
    kinds: Vec<Mutex<HashMap<u64, Lease>>>,
}

impl Held {
    pub(crate) fn new(kinds: usize) -> Self {
        Self {
            kinds: (0..kinds).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn insert(&self, kind: usize, leases: impl Iterator<Item = (u64, Lease)>) {
        if let Some(map) = self.kinds.get(kind) {
            map.lock().unwrap_or_else(PoisonError::into_inner).extend(leases);
        }
    }

    pub(crate) fn remove(&self, kind: usize, number: u64) {
        if let Some(map) = self.kinds.get(kind) {
            map.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
    }

    pub(crate) fn of(&self, kind: usize) -> Vec<(u64, Lease)> {
        self.kinds.get(kind).map_or_else(Vec::new, |map| {
            map.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|(number, lease)| (*number, lease.clone()))
                .collect()
        })
    }

    /// Tells handlers whose lease has run out, and aborts those that run too long or did not listen.
    pub(crate) fn supervise(&self) {
        let now = Instant::now();
        for map in &self.kinds {
            for lease in map.lock().unwrap_or_else(PoisonError::into_inner).values() {
                let deadline = lease.deadline();
                if now >= deadline {
                    lease.0.lost.cancel();
                }
                if now >= deadline + LOST_GRACE {
                    lease.abort(Aborted::LeaseLost);
                } else if now >= lease.0.run_until {
                    lease.abort(Aborted::TooLong);
                }
            }
        }
    }

    /// Aborts every handler that is still running.
    pub(crate) fn abort_all(&self) {
        for map in &self.kinds {
            for lease in map.lock().unwrap_or_else(PoisonError::into_inner).values() {
                lease.abort(Aborted::Stopping);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_lost_by_deadline_or_by_word() {
        let lease = Lease::new(Instant::now() + Duration::from_mins(1), Duration::from_mins(1));
        assert!(!lease.is_lost());
        lease.extend(Instant::now());
        assert!(lease.is_lost(), "the deadline alone is enough");
        lease.extend(Instant::now() + Duration::from_mins(1));
        lease.lost().cancel();
        assert!(lease.is_lost());
    }

    #[test]
    fn an_overdue_lease_is_cancelled() {
        let held = Held::new(1);
        let lease = Lease::new(Instant::now(), Duration::from_mins(1));
        held.insert(0, std::iter::once((7, lease.clone())));
        held.supervise();
        assert!(lease.lost().is_cancelled());
        assert_eq!(lease.aborted(), None, "nothing was running");
        held.remove(0, 7);
        assert!(held.of(0).is_empty());
    }
}
