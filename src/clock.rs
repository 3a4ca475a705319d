//! The time as this process sees it, handed in so that a test can choose it.
//!
//! What is due, leased or expired is never decided with it: that is PostgreSQL's `now()` or Redis' `TIME`, because the clocks
//! of two machines differ. This one is for tokens that run out, log lines and the calendar.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

/// A clock; clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Mutex<DateTime<Utc>>>>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until it is moved.
    #[must_use]
    pub fn simulated(start: DateTime<Utc>) -> Self {
        Self(Some(Arc::new(Mutex::new(start))))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            None => Utc::now(),
            Some(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a simulated clock forward, for all its clones. The machine's clock cannot be moved: nothing happens.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.0 {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_stands_still_until_moved_and_its_clones_follow() {
        let start = DateTime::<Utc>::UNIX_EPOCH;
        let clock = Clock::simulated(start);
        let clone = clock.clone();
        assert_eq!(clone.now(), start);
        clock.advance(Duration::from_secs(90));
        assert_eq!(clone.now(), start + Duration::from_secs(90));
    }
}
