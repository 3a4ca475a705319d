//! When the tokens of a paid order arrive (pure).
//!
//! Why it exists: the rule has corners (a Tuesday's cutoff, orders large and small, the ends of months), and a shop plans its
//! campaigns by it. So it is one function of its arguments, and its whole table is tested.
//!
//! It must never read a clock: when an order was charged is an argument, and what came of it is kept with the order.

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc, Weekday};
use chrono_tz::Tz;

use super::TopUpConfig;

/// When an order of so many blocks, charged at this moment, is credited. All days are those of the zone in `rules`.
///
/// - Normal: at 00:00 of the day after.
/// - Large: orders are processed on Tuesdays and credited at 00:00 of that week's Thursday. What is charged on a Tuesday at or
///   after the cutoff has missed it, and waits for the Thursday of next week.
#[must_use]
pub fn credit_at(charged_at: DateTime<Utc>, blocks: u32, rules: &TopUpConfig) -> DateTime<Utc> {
    let charged = charged_at.with_timezone(&rules.zone);
    let days = if blocks < rules.large_order_blocks {
        1
    } else {
        days_until_its_thursday(charged.weekday(), charged.time() < rules.cutoff)
    };
    let day = charged.date_naive();
    start_of_day(day.checked_add_days(Days::new(days)).unwrap_or(day), rules.zone)
}

/// Days from the charge of a large order to the Thursday it is credited on.
const fn days_until_its_thursday(charged_on: Weekday, before_cutoff: bool) -> u64 {
    match charged_on {
        Weekday::Tue if before_cutoff => 2,
        Weekday::Tue => 9,
        Weekday::Wed => 8,
        Weekday::Thu => 7,
        Weekday::Fri => 6,
        Weekday::Sat => 5,
        Weekday::Sun => 4,
        Weekday::Mon => 3,
    }
}

/// The first moment of a day. Where the clock is put forward over midnight, that is the moment it is put forward.
fn start_of_day(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    // Changes of a zone's clock begin and end at whole quarters of an hour; the longest on record skipped a day.
    (0..=96)
        .map(|quarter| midnight + TimeDelta::minutes(15 * quarter))
        .find_map(|time| zone.from_local_datetime(&time).earliest())
        .map_or_else(|| midnight.and_utc(), |time| time.to_utc())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, Datelike as _, NaiveDateTime, TimeDelta, TimeZone as _, Timelike as _, Utc, Weekday};
    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::{credit_at, start_of_day};
    use crate::top_up::TopUpConfig;

    const RULES: TopUpConfig = TopUpConfig::built_in();

    /// A time of Taipei's clock.
    fn taipei(text: &str) -> DateTime<Utc> {
        let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
        RULES.zone.from_local_datetime(&time).unwrap().to_utc()
    }

    /// The day on which an order charged then is credited; always at 00:00 in Taipei.
    fn day(charged: &str, blocks: u32) -> String {
        let at = credit_at(taipei(charged), blocks, &RULES).with_timezone(&RULES.zone);
        assert_eq!(
            (at.hour(), at.minute(), at.second(), at.nanosecond()),
            (0, 0, 0, 0),
            "{charged}"
        );
        at.format("%a %Y-%m-%d").to_string()
    }

    /// Every weekday, from its first second to its last, with the cutoff to the second.
    const TIMES: [&str; 5] = ["00:00:00", "11:59:59", "12:00:00", "12:00:01", "23:59:59"];

    #[test]
    fn the_whole_table() {
        // Charged on; the day after; the Thursday of a large order before the cutoff; at or after it.
        let table = [
            ("2026-11-16", "Tue 2026-11-17", "Thu 2026-11-19", "Thu 2026-11-19"),
            ("2026-11-17", "Wed 2026-11-18", "Thu 2026-11-19", "Thu 2026-11-26"),
            ("2026-11-18", "Thu 2026-11-19", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-19", "Fri 2026-11-20", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-20", "Sat 2026-11-21", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-21", "Sun 2026-11-22", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-22", "Mon 2026-11-23", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-23", "Tue 2026-11-24", "Thu 2026-11-26", "Thu 2026-11-26"),
            ("2026-11-24", "Wed 2026-11-25", "Thu 2026-11-26", "Thu 2026-12-03"),
        ];
        for (charged, normal, early, late) in table {
            for time in TIMES {
                let at = format!("{charged} {time}");
                let large = if time < "12:00:00" { early } else { late };
                for blocks in [1, 5, 10, 49] {
                    assert_eq!(day(&at, blocks), normal, "{at}, {blocks} blocks");
                }
                for blocks in [50, 51, 100, 100_000] {
                    assert_eq!(day(&at, blocks), large, "{at}, {blocks} blocks");
                }
            }
        }
    }

    #[test]
    fn months_and_years_end_in_between() {
        for (charged, normal, large) in [
            // The end of a month, of a year, and of a February with and without its 29th.
            ("2026-11-30 23:59:59", "Tue 2026-12-01", "Thu 2026-12-03"),
            ("2026-12-29 11:59:59", "Wed 2026-12-30", "Thu 2026-12-31"),
            ("2026-12-29 12:00:00", "Wed 2026-12-30", "Thu 2027-01-07"),
            ("2026-12-31 23:59:59", "Fri 2027-01-01", "Thu 2027-01-07"),
            ("2027-12-31 00:00:00", "Sat 2028-01-01", "Thu 2028-01-06"),
            ("2028-02-28 10:00:00", "Tue 2028-02-29", "Thu 2028-03-02"),
            ("2028-02-29 11:59:59", "Wed 2028-03-01", "Thu 2028-03-02"),
            ("2028-02-29 12:00:00", "Wed 2028-03-01", "Thu 2028-03-09"),
            ("2027-02-28 23:59:59", "Mon 2027-03-01", "Thu 2027-03-04"),
            ("2024-12-31 11:59:59", "Wed 2025-01-01", "Thu 2025-01-02"),
            ("2024-12-31 12:00:00", "Wed 2025-01-01", "Thu 2025-01-09"),
        ] {
            assert_eq!(
                (day(charged, 1), day(charged, 50)),
                (normal.into(), large.into()),
                "{charged}"
            );
        }
    }

    #[test]
    fn days_are_those_of_the_zone_and_not_of_utc() {
        // 15:59:59 UTC is the last second of the day in Taipei, 16:00 the first of the next one.
        let at = |text: &str, blocks| credit_at(text.parse().unwrap(), blocks, &RULES).to_rfc3339();
        assert_eq!(at("2026-11-20T15:59:59.999Z", 1), "2026-11-20T16:00:00+00:00");
        assert_eq!(at("2026-11-20T16:00:00Z", 1), "2026-11-21T16:00:00+00:00");
        // Noon of a Tuesday in Taipei is four o'clock in the morning in UTC.
        assert_eq!(at("2026-11-17T03:59:59.999Z", 50), "2026-11-18T16:00:00+00:00");
        assert_eq!(at("2026-11-17T04:00:00Z", 50), "2026-11-25T16:00:00+00:00");
        // Tuesday there, still Monday here.
        assert_eq!(at("2026-11-16T16:00:00Z", 50), "2026-11-18T16:00:00+00:00");
        assert_eq!(at("2026-11-17T16:00:00Z", 50), "2026-11-25T16:00:00+00:00");
    }

    #[test]
    fn size_cutoff_and_zone_are_settings() {
        let rules = TopUpConfig {
            large_order_blocks: 10,
            cutoff: "09:30:15".parse().unwrap(),
            zone: Tz::Europe__Berlin,
        };
        let at = |text: &str, blocks| {
            let at = credit_at(text.parse().unwrap(), blocks, &rules).with_timezone(&rules.zone);
            at.format("%F %T").to_string()
        };
        // A Tuesday in winter time: UTC + 1.
        assert_eq!(at("2026-11-17T08:30:14Z", 10), "2026-11-19 00:00:00");
        assert_eq!(at("2026-11-17T08:30:15Z", 10), "2026-11-26 00:00:00");
        assert_eq!(at("2026-11-17T08:30:15Z", 9), "2026-11-18 00:00:00");
        // The clock goes back in between: a day of 25 hours.
        assert_eq!(at("2026-10-24T22:00:00Z", 1), "2026-10-26 00:00:00");
    }

    #[test]
    fn a_day_without_a_midnight_begins_when_it_begins() {
        let starts = |day: &str, zone: Tz| start_of_day(day.parse().unwrap(), zone).to_rfc3339();
        // Beirut puts its clock forward at midnight; Samoa once left out a whole day; Havana's midnight comes twice.
        assert_eq!(starts("2026-03-29", Tz::Asia__Beirut), "2026-03-28T22:00:00+00:00");
        assert_eq!(starts("2011-12-30", Tz::Pacific__Apia), "2011-12-30T10:00:00+00:00");
        assert_eq!(starts("2026-11-01", Tz::America__Havana), "2026-11-01T04:00:00+00:00");
    }

    proptest! {
        #[test]
        fn tokens_come_after_the_charge_on_the_day_the_rule_says(secs in 0_i64..4_102_444_800, blocks in 1_u32..200) {
            let charged = DateTime::from_timestamp(secs, 0).unwrap();
            let wait = credit_at(charged, blocks, &RULES) - charged;
            prop_assert!(wait > TimeDelta::zero());
            let on = credit_at(charged, blocks, &RULES).with_timezone(&RULES.zone).weekday();
            if blocks < 50 {
                prop_assert!(wait <= TimeDelta::days(1));
            } else {
                // From a second before the Tuesday's noon to the noon itself.
                prop_assert!(on == Weekday::Thu);
                prop_assert!(wait > TimeDelta::hours(36) && wait <= TimeDelta::hours(36 + 7 * 24));
            }
        }

        #[test]
        fn who_pays_earlier_never_waits_longer(
            first in 0_i64..4_102_444_800, later in 0_i64..1_209_600, blocks in 1_u32..200,
            zone in prop::sample::select(&[Tz::Asia__Taipei, Tz::America__New_York, Tz::Europe__London, Tz::Asia__Beirut][..]),
        ) {
            let rules = TopUpConfig { zone, ..RULES };
            let at = |secs| credit_at(DateTime::from_timestamp(secs, 0).unwrap(), blocks, &rules);
            prop_assert!(at(first) <= at(first + later));
        }
    }
}
