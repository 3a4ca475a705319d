//! The sandbox's clock: real time plus an offset a test can push forward.
//! It exists so that rules measured in hours (a LINE retry key lives 24 h) can be shown in a test that takes milliseconds.
//! It must never go backwards, and it never slows what is really waiting (latency, hangs).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time; shared by all parts.
pub(crate) struct Clock {
    started: Instant,
    started_unix: Duration,
    ahead_secs: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix,
            ahead_secs: AtomicU64::new(0),
        }
    }

    /// Time since the sandbox started, offset included.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed() + Duration::from_secs(self.ahead_secs.load(Ordering::Relaxed))
    }

    /// Seconds since 1970, offset included.
    pub(crate) fn unix_secs(&self) -> u64 {
        (self.started_unix + self.elapsed()).as_secs()
    }

    /// Real milliseconds since the sandbox started, without the offset: used for order and pace of what arrived.
    pub(crate) fn real_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// Moves the clock forward.
    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_secs.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}
