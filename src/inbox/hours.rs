//! Working hours: whether somebody is on shift at a moment (pure).
//!
//! Why it exists: shifts are written in a shop's wall clock, may cross midnight, and clocks change twice a year.
//!
//! It must never read a clock.

use chrono::{DateTime, Datelike as _, Days, NaiveTime, Utc, Weekday};
use chrono_tz::Tz;

/// One set of working hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingHours {
    /// Whose wall clock.
    pub zone: Tz,
    /// Days on which a shift begins.
    pub days: Vec<Weekday>,
    /// The first moment of a shift.
    pub starts_at: NaiveTime,
    /// The first moment after it. Not after `starts_at`: it is on the following day, and equal means a whole day.
    pub ends_at: NaiveTime,
}

impl WorkingHours {
    /// Whether a shift is under way, by what the wall clock shows: in the hour that is shown twice in autumn both count.
    #[must_use]
    pub fn on_shift(&self, now: DateTime<Utc>) -> bool {
        let there = now.with_timezone(&self.zone);
        let (today, time) = (there.date_naive(), there.time());
        let begins = |day: Option<chrono::NaiveDate>| day.is_some_and(|day| self.days.contains(&day.weekday()));
        if self.starts_at < self.ends_at {
            return begins(Some(today)) && (self.starts_at..self.ends_at).contains(&time);
        }
        // It crosses midnight: today's part of today's shift, or what is left of yesterday's.
        (begins(Some(today)) && time >= self.starts_at)
            || (begins(today.checked_sub_days(Days::new(1))) && time < self.ends_at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use chrono::{TimeDelta, TimeZone as _};
    use proptest::prelude::*;

    use super::*;

    fn hours(zone: Tz, days: &[Weekday], starts_at: (u32, u32), ends_at: (u32, u32)) -> WorkingHours {
        let time = |(hour, minute)| NaiveTime::from_hms_opt(hour, minute, 0).unwrap();
        WorkingHours {
            zone,
            days: days.to_vec(),
            starts_at: time(starts_at),
            ends_at: time(ends_at),
        }
    }

    /// 2026-11-23 is a Monday.
    fn at(zone: Tz, day: u32, hour: u32, minute: u32, second: u32) -> DateTime<Utc> {
        zone.with_ymd_and_hms(2026, 11, day, hour, minute, second)
            .unwrap()
            .to_utc()
    }

    #[test]
    fn a_shift_begins_with_its_first_minute_and_ends_before_its_last() {
        let zone = chrono_tz::Asia::Taipei;
        let day = hours(zone, &[Weekday::Mon], (9, 0), (18, 0));
        assert!(!day.on_shift(at(zone, 23, 8, 59, 59)));
        assert!(day.on_shift(at(zone, 23, 9, 0, 0)));
        assert!(day.on_shift(at(zone, 23, 17, 59, 59)));
        assert!(!day.on_shift(at(zone, 23, 18, 0, 0)));
        assert!(!day.on_shift(at(zone, 24, 10, 0, 0)));
        // The same moment, told in another zone's clock.
        assert!(day.on_shift(at(chrono_tz::UTC, 23, 1, 0, 0)));
        assert!(!day.on_shift(at(chrono_tz::UTC, 23, 10, 0, 0)));
    }

    #[test]
    fn a_shift_over_midnight_belongs_to_the_day_it_begins() {
        let zone = chrono_tz::Asia::Taipei;
        let night = hours(zone, &[Weekday::Mon], (22, 0), (6, 0));
        assert!(!night.on_shift(at(zone, 23, 5, 59, 59)), "that was Sunday's");
        assert!(!night.on_shift(at(zone, 23, 21, 59, 59)));
        assert!(night.on_shift(at(zone, 23, 22, 0, 0)));
        assert!(night.on_shift(at(zone, 24, 0, 0, 0)));
        assert!(night.on_shift(at(zone, 24, 5, 59, 59)));
        assert!(!night.on_shift(at(zone, 24, 6, 0, 0)));
        assert!(!night.on_shift(at(zone, 24, 23, 0, 0)), "Tuesday has none");
    }

    #[test]
    fn a_shift_that_ends_when_it_begins_lasts_a_day() {
        let zone = chrono_tz::Asia::Taipei;
        let whole = hours(zone, &[Weekday::Mon], (9, 0), (9, 0));
        assert!(!whole.on_shift(at(zone, 23, 8, 59, 59)));
        assert!(whole.on_shift(at(zone, 23, 9, 0, 0)));
        assert!(whole.on_shift(at(zone, 24, 8, 59, 59)));
        assert!(!whole.on_shift(at(zone, 24, 9, 0, 0)));
    }

    #[test]
    fn clocks_that_change_change_nothing_but_the_length_of_a_shift() {
        let zone = chrono_tz::America::New_York;
        let early = hours(zone, &[Weekday::Sun], (1, 0), (3, 0));
        // 2026-11-01, 2:00 becomes 1:00: three hours long.
        let began = Utc.with_ymd_and_hms(2026, 11, 1, 5, 0, 0).unwrap();
        assert!(!early.on_shift(began - TimeDelta::seconds(1)));
        assert!(early.on_shift(began));
        assert!(early.on_shift(began + TimeDelta::minutes(90)));
        assert!(!early.on_shift(began + TimeDelta::hours(3)));
        // 2026-03-08, 2:00 becomes 3:00: one hour long.
        let began = Utc.with_ymd_and_hms(2026, 3, 8, 6, 0, 0).unwrap();
        assert!(early.on_shift(began));
        assert!(!early.on_shift(began + TimeDelta::hours(1)));
    }

    proptest! {
        /// Where clocks never change, a shift is a stretch of whole minutes behind each of its days' midnights.
        #[test]
        fn a_plain_walk_over_the_week_says_the_same(
            starts in 0..1440_u32, ends in 0..1440_u32, days in prop::collection::btree_set(0..7_u32, 1..7), minute in 0..(7 * 1440_u32),
        ) {
            let all = [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
            let chosen: Vec<Weekday> = days.iter().map(|day| all[*day as usize]).collect();
            let hours = hours(chrono_tz::UTC, &chosen, (starts / 60, starts % 60), (ends / 60, ends % 60));
            let length = if ends > starts { ends - starts } else { ends + 1440 - starts };
            let expected = days.iter().any(|day| (minute + 7 * 1440 - (day * 1440 + starts)) % (7 * 1440) < length);
            let now = at(chrono_tz::UTC, 23, 0, 0, 0) + TimeDelta::minutes(i64::from(minute));
            prop_assert_eq!(hours.on_shift(now), expected);
        }
    }
}
