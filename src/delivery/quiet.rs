//! When nobody may be disturbed: a shop's quiet hours on a channel (pure).
//!
//! Why it exists: a push at three in the morning is how a shop loses a customer. None unless a shop sets them. They are times of
//! day on the recipient's clock where it is known, else on the shop's. What is planned waits, and leaves when the quiet time ends, or
//! expires at the broadcast's deadline; it uses no worker and no attempt meanwhile. SQL has the same rule (`is_quiet`, `quiet_until`),
//! because claims ask it for each member; a test holds one against the other.
//!
//! It must never depend on anything but its arguments.

use chrono::{DateTime, Days, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use crate::clock::first_moment;

/// From one time of day up to another, over midnight where the end is not behind the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuietHours {
    starts: NaiveTime,
    ends: NaiveTime,
}

/// Quiet hours that begin when they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quiet hours end when they begin: choose two different times")]
pub struct NeverQuiet;

impl QuietHours {
    /// From `starts` up to `ends`, which is not quiet any more.
    ///
    /// # Errors
    /// They are the same.
    pub fn new(starts: NaiveTime, ends: NaiveTime) -> Result<Self, NeverQuiet> {
        if starts == ends {
            Err(NeverQuiet)
        } else {
            Ok(Self { starts, ends })
        }
    }

    /// When they begin.
    #[must_use]
    pub const fn starts(&self) -> NaiveTime {
        self.starts
    }

    /// When they end.
    #[must_use]
    pub const fn ends(&self) -> NaiveTime {
        self.ends
    }

    /// Whether clocks of this zone show a quiet time.
    #[must_use]
    pub fn is_quiet(&self, now: DateTime<Utc>, zone: Tz) -> bool {
        let time = now.with_timezone(&zone).time();
        if self.starts < self.ends {
            self.starts <= time && time < self.ends
        } else {
            time >= self.starts || time < self.ends
        }
    }

    /// When the quiet time that holds now is over; none when it is not quiet.
    #[must_use]
    pub fn until(&self, now: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        if !self.is_quiet(now, zone) {
            return None;
        }
        let local = now.with_timezone(&zone);
        let days = u64::from(self.ends <= local.time());
        let end = local
            .date_naive()
            .checked_add_days(Days::new(days))?
            .and_time(self.ends);
        // Where clocks were put back the end comes twice, and the first may be over.
        let first = first_moment(zone, end).filter(|moment| *moment > now);
        first.or_else(|| Some(zone.from_local_datetime(&end).latest()?.to_utc()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, NaiveTime, Offset as _, TimeDelta, TimeZone as _, Utc};
    use chrono_tz::{TZ_VARIANTS, Tz};
    use proptest::prelude::*;

    use super::{NeverQuiet, QuietHours};

    fn hours(starts: &str, ends: &str) -> QuietHours {
        let time = |text: &str| NaiveTime::parse_from_str(text, "%H:%M").unwrap();
        QuietHours::new(time(starts), time(ends)).unwrap()
    }

    fn until(hours: QuietHours, now: &str, zone: Tz) -> Option<String> {
        let until = hours.until(now.parse().unwrap(), zone);
        until.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn a_night_goes_over_midnight_and_ends_in_the_morning() {
        let night = hours("22:00", "08:00");
        for (now, wanted) in [
            ("2026-11-22T13:59:59Z", None),
            ("2026-11-22T14:00:00Z", Some("2026-11-23T00:00:00Z")),
            ("2026-11-22T16:30:00Z", Some("2026-11-23T00:00:00Z")),
            ("2026-11-22T23:59:59Z", Some("2026-11-23T00:00:00Z")),
            ("2026-11-23T00:00:00Z", None),
        ] {
            assert_eq!(until(night, now, Tz::Asia__Taipei).as_deref(), wanted, "{now}");
        }
        let noon = hours("12:00", "13:30");
        assert_eq!(
            until(noon, "2026-11-22T04:00:00Z", Tz::Asia__Taipei).as_deref(),
            Some("2026-11-22T05:30:00Z")
        );
        assert_eq!(until(noon, "2026-11-22T05:30:00Z", Tz::Asia__Taipei), None);
        assert_eq!(QuietHours::new(NaiveTime::MIN, NaiveTime::MIN), Err(NeverQuiet));
    }

    /// Berlin: 02:00 becomes 03:00 on 29 March 2026, and 03:00 becomes 02:00 on 25 October.
    #[test]
    fn the_clock_change_is_respected() {
        let night = hours("22:00", "02:30");
        // 02:30 is never shown: the first moment behind the gap.
        assert_eq!(
            until(night, "2026-03-29T00:30:00Z", Tz::Europe__Berlin).as_deref(),
            Some("2026-03-29T01:00:00Z")
        );
        // It comes twice: quiet until the first, and once more from 02:00 to the second.
        assert_eq!(
            until(night, "2026-10-24T23:00:00Z", Tz::Europe__Berlin).as_deref(),
            Some("2026-10-25T00:30:00Z")
        );
        assert_eq!(until(night, "2026-10-25T00:30:00Z", Tz::Europe__Berlin), None);
        assert_eq!(
            until(night, "2026-10-25T01:00:00Z", Tz::Europe__Berlin).as_deref(),
            Some("2026-10-25T01:30:00Z")
        );
        // A night in which clocks go forward is an hour shorter.
        let long = hours("22:00", "08:00");
        assert_eq!(
            until(long, "2026-03-28T21:00:00Z", Tz::Europe__Berlin).as_deref(),
            Some("2026-03-29T06:00:00Z")
        );
    }

    proptest! {
        /// In every zone: when it is quiet the end lies ahead, within a day and what clocks are changed by, and nobody is disturbed
        /// before it nor kept waiting at it, wherever the clock was not changed in between.
        #[test]
        fn it_is_quiet_up_to_the_end_and_not_at_it(
            secs in 946_684_800_i64..4_102_444_800, zone in 0..TZ_VARIANTS.len(), starts in 0_u32..96, ends in 0_u32..96,
        ) {
            prop_assume!(starts != ends);
            let time = |quarter: u32| NaiveTime::from_num_seconds_from_midnight_opt(quarter * 900, 0).unwrap();
            let zone = *TZ_VARIANTS.get(zone).unwrap();
            let now: DateTime<Utc> = DateTime::from_timestamp(secs, 0).unwrap();
            let hours = QuietHours::new(time(starts), time(ends)).unwrap();
            let Some(until) = hours.until(now, zone) else {
                prop_assert!(!hours.is_quiet(now, zone));
                return Ok(());
            };
            prop_assert!(hours.is_quiet(now, zone));
            prop_assert!(until > now && until - now <= TimeDelta::hours(24 + 36));
            prop_assert!(!hours.is_quiet(until, zone));
            let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
            if offset(now) == offset(until) && until - now < TimeDelta::hours(24) {
                let step = (until - now) / 16;
                for part in 0..16 {
                    prop_assert!(hours.is_quiet(now + step * part, zone));
                }
                prop_assert!(hours.is_quiet(until - TimeDelta::seconds(1), zone));
            }
        }
    }
}
