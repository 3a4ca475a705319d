//! The time as this process sees it, handed in so that a test can choose it.
//!
//! What is due, leased or expired is never decided with it: that is PostgreSQL's `now()` or Redis' `TIME`, because the clocks
//! of two machines differ. This one is for tokens that run out, log lines and the calendar.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// No clock was ever put forward by more; the whole day that Samoa left out is the record.
const LONGEST_GAP_SECS: i64 = 36 * 3_600;

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

/// The first moment at which the clocks of a zone show this time or a later one (pure).
#[must_use]
pub fn first_moment(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let at = |secs: i64| zone.from_local_datetime(&(local + TimeDelta::seconds(secs))).earliest();
    let moment = at(0).or_else(|| {
        // In a gap: the first second behind it is looked for by halves, between one inside of it and one behind.
        let (mut inside, mut behind) = (0, LONGEST_GAP_SECS);
        while behind - inside > 1 {
            let middle = i64::midpoint(inside, behind);
            if at(middle).is_some() {
                behind = middle;
            } else {
                inside = middle;
            }
        }
        at(behind)
    })?;
    Some(moment.to_utc())
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
