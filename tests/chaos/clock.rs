//! The one time of a run: milliseconds since it began, for faults, samples, rows and what the providers received alike.
//! It must never be set: it only counts.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Counts from the beginning of the run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    began_at: DateTime<Utc>,
}

impl Clock {
    /// Counts from now.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            began_at: Utc::now(),
        }
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When a row says something happened; the database is on this machine.
    pub fn of(&self, time: DateTime<Utc>) -> u64 {
        u64::try_from((time - self.began_at).num_milliseconds()).unwrap_or(0)
    }

    /// When a stopwatch of this program was started, plus so many milliseconds.
    pub fn after(&self, started: Instant, ms: u64) -> u64 {
        let at = (started + Duration::from_millis(ms)).saturating_duration_since(self.began);
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until this many milliseconds after the beginning.
    pub async fn until(&self, at_ms: u64) {
        tokio::time::sleep_until((self.began + Duration::from_millis(at_ms)).into()).await;
    }
}
