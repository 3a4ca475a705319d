//! The calendar against what its words mean: walked minute by minute, cut anywhere, in every zone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use chrono::{DateTime, NaiveTime, TimeDelta, Utc, Weekday};
use chrono_tz::{TZ_VARIANTS, Tz};
use proptest::{
    prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    test_runner::Config,
};

use super::*;

fn rhythm(every: Every, at: &str, zone: &str) -> Rhythm {
    Rhythm {
        every,
        at: NaiveTime::parse_from_str(at, "%H:%M").unwrap(),
        zone: zone.parse().unwrap(),
    }
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Names and moments after one instant.
fn next(rhythm: &Rhythm, after: &str, count: usize) -> Vec<(String, String)> {
    let shown = |period: Period| (period.name, period.due_at.format("%Y-%m-%dT%H:%MZ").to_string());
    rhythm.next(utc(after), count).into_iter().map(shown).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, at)| ((*name).to_owned(), (*at).to_owned()))
        .collect()
}

#[test]
fn a_month_that_lacks_the_day_is_due_on_its_last_one() {
    let last = rhythm(Every::Month { day: 31 }, "00:00", "Asia/Taipei");
    let expected = [
        ("2024-01", "2024-01-30T16:00Z"),
        ("2024-02", "2024-02-28T16:00Z"),
        ("2024-03", "2024-03-30T16:00Z"),
        ("2024-04", "2024-04-29T16:00Z"),
    ];
    assert_eq!(next(&last, "2024-01-01T00:00:00Z", 4), pairs(&expected));
    let days = |day, month: &str| {
        let due_at = rhythm(Every::Month { day }, "00:00", "UTC")
            .named(month)
            .unwrap()
            .due_at;
        due_at.format("%d").to_string()
    };
    assert_eq!(
        [28, 29, 30, 31].map(|day| days(day, "2026-02")),
        ["28", "28", "28", "28"]
    );
    assert_eq!(
        [28, 29, 30, 31].map(|day| days(day, "2028-02")),
        ["28", "29", "29", "29"]
    );
    assert_eq!(
        [28, 29, 30, 31].map(|day| days(day, "2100-02")),
        ["28", "28", "28", "28"]
    );
    assert_eq!(
        [28, 29, 30, 31].map(|day| days(day, "2026-11")),
        ["28", "29", "30", "30"]
    );
}

#[test]
fn weeks_are_those_of_iso_8601() {
    let monday = rhythm(Every::Week { weekday: Weekday::Mon }, "00:00", "UTC");
    let expected = [
        ("2026-W52", "2026-12-21T00:00Z"),
        ("2026-W53", "2026-12-28T00:00Z"),
        ("2027-W01", "2027-01-04T00:00Z"),
    ];
    assert_eq!(next(&monday, "2026-12-20T00:00:00Z", 3), pairs(&expected));
    // The week belongs to 2026, its Sunday to 2027.
    let sunday = rhythm(Every::Week { weekday: Weekday::Sun }, "23:00", "UTC");
    assert_eq!(sunday.named("2026-W53").unwrap().due_at, utc("2027-01-03T23:00:00Z"));
    assert_eq!(sunday.named("2027-W53"), None);
}

#[test]
fn a_time_in_a_gap_is_due_behind_it_and_one_that_comes_twice_the_first_time() {
    let berlin = rhythm(Every::Day, "02:30", "Europe/Berlin");
    let expected = [
        ("2026-03-28", "2026-03-28T01:30Z"),
        // 02:00 to 03:00 is left out: 03:00 is the first moment behind it.
        ("2026-03-29", "2026-03-29T01:00Z"),
        ("2026-03-30", "2026-03-30T00:30Z"),
    ];
    assert_eq!(next(&berlin, "2026-03-27T12:00:00Z", 3), pairs(&expected));
    assert_eq!(berlin.named("2026-10-25").unwrap().due_at, utc("2026-10-25T00:30:00Z"));
    // Midnight itself is in the gap.
    let beirut = rhythm(Every::Day, "00:00", "Asia/Beirut");
    assert_eq!(beirut.named("2026-03-29").unwrap().due_at, utc("2026-03-28T22:00:00Z"));
    // A whole day is: two periods are due at one moment, and neither is lost.
    let apia = rhythm(Every::Day, "10:00", "Pacific/Apia");
    let expected = [
        ("2011-12-29", "2011-12-29T20:00Z"),
        ("2011-12-30", "2011-12-30T10:00Z"),
        ("2011-12-31", "2011-12-30T20:00Z"),
    ];
    assert_eq!(next(&apia, "2011-12-29T00:00:00Z", 3), pairs(&expected));
    // Half an hour.
    let lord_howe = rhythm(Every::Day, "02:15", "Australia/Lord_Howe");
    assert_eq!(
        lord_howe.named("2026-10-04").unwrap().due_at,
        utc("2026-10-03T15:30:00Z")
    );
}

#[test]
fn an_hour_that_comes_twice_is_one_period_and_one_left_out_shares_the_next_ones_moment() {
    let berlin = rhythm(Every::Hour, "00:00", "Europe/Berlin");
    let back = [
        ("2026-10-25T01", "2026-10-24T23:00Z"),
        ("2026-10-25T02", "2026-10-25T00:00Z"),
        ("2026-10-25T03", "2026-10-25T02:00Z"),
    ];
    assert_eq!(next(&berlin, "2026-10-24T22:30:00Z", 3), pairs(&back));
    let forward = [
        ("2026-03-29T01", "2026-03-29T00:00Z"),
        ("2026-03-29T02", "2026-03-29T01:00Z"),
        ("2026-03-29T03", "2026-03-29T01:00Z"),
        ("2026-03-29T04", "2026-03-29T02:00Z"),
    ];
    assert_eq!(next(&berlin, "2026-03-28T23:30:00Z", 4), pairs(&forward));
    let kolkata = rhythm(Every::Hour, "00:15", "Asia/Kolkata");
    assert_eq!(
        kolkata.named("2026-11-22T05").unwrap().due_at,
        utc("2026-11-21T23:45:00Z")
    );
}

#[test]
fn the_line_is_behind_the_moment_and_moments_are_never_torn() {
    let hours = rhythm(Every::Hour, "00:00", "UTC");
    let due = |after: &str, until: &str, limit| hours.due_between(utc(after), utc(until), limit);
    let names = |due: Due| due.periods.into_iter().map(|period| period.name).collect::<Vec<_>>();
    assert_eq!(
        names(due("2026-11-22T05:00:00Z", "2026-11-22T06:00:00Z", 9)),
        ["2026-11-22T06"]
    );
    assert!(
        due("2026-11-22T05:00:00Z", "2026-11-22T05:59:59.999Z", 9)
            .periods
            .is_empty()
    );
    assert!(
        due("2026-11-22T06:00:00Z", "2026-11-22T05:00:00Z", 9)
            .periods
            .is_empty()
    );
    let some = due("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z", 3);
    assert!(some.more);
    assert_eq!(names(some), ["2026-11-22T01", "2026-11-22T02", "2026-11-22T03"]);
    assert!(!due("2026-11-22T00:00:00Z", "2026-11-22T03:00:00Z", 3).more);
    let apia = rhythm(Every::Hour, "00:00", "Pacific/Apia");
    let whole_day = apia.due_between(utc("2011-12-30T09:30:00Z"), utc("2011-12-30T10:00:00Z"), 1);
    assert_eq!((whole_day.periods.len(), whole_day.more), (25, false));
}

#[test]
fn only_the_one_right_way_to_write_a_period_is_its_name() {
    let month = rhythm(Every::Month { day: 1 }, "00:00", "UTC");
    let week = rhythm(Every::Week { weekday: Weekday::Mon }, "00:00", "UTC");
    let day = rhythm(Every::Day, "00:00", "UTC");
    let hour = rhythm(Every::Hour, "00:00", "UTC");
    for (rhythm, right) in [
        (month, "2026-11"),
        (week, "2026-W47"),
        (day, "2026-11-22"),
        (hour, "2026-11-22T05"),
    ] {
        assert_eq!(rhythm.named(right).unwrap().name, right);
        assert_eq!(rhythm.every.example(), right);
        for wrong in [
            "",
            "2026",
            "2026-1",
            "2026-13",
            "2026-00",
            "1999-12",
            "10000-01",
            "+2026-11",
            "2026-+1",
            "2026-W1",
            "2026-W00",
            "2026-W54",
            "2025-W53",
            "2026-11-2",
            "2026-02-29",
            "2026-11-31",
            "2026-11-22T24",
            "2026-11-22T5",
            "2026-11-22T+5",
            "2026-11-22T05:00",
            "2026-11-22 05",
            " 2026-11",
            "2026-11\n",
            "二〇二六",
            "T",
            "-W",
        ] {
            assert_eq!(rhythm.named(wrong), None, "{wrong}");
        }
    }
    for (rhythm, others) in [
        (month, ["2026-W47", "2026-11-22", "2026-11-22T05"]),
        (week, ["2026-11", "2026-11-22", "2026-11-22T05"]),
        (day, ["2026-11", "2026-W47", "2026-11-22T05"]),
        (hour, ["2026-11", "2026-W47", "2026-11-22"]),
    ] {
        assert!(others.iter().all(|name| rhythm.named(name).is_none()), "{rhythm:?}");
    }
}

#[test]
fn the_calendar_ends_quietly_at_both_ends() {
    for every in [
        Every::Month { day: 1 },
        Every::Week { weekday: Weekday::Mon },
        Every::Day,
    ] {
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
            let rhythm = rhythm(every, "00:00", zone);
            let first = rhythm.next(DateTime::<Utc>::MIN_UTC + TimeDelta::days(400), 1);
            assert!(first[0].name.starts_with("2000-"), "{first:?}");
            assert!(
                rhythm
                    .next(utc("9999-12-31T23:59:59Z") + TimeDelta::days(2), 3)
                    .is_empty()
            );
        }
    }
}

/// The first minute at which the clocks show a time or a later one, found by walking from well before it.
fn walked(zone: Tz, local: chrono::NaiveDateTime) -> DateTime<Utc> {
    let mut at = local.and_utc() - TimeDelta::hours(30);
    while at.with_timezone(&zone).naive_local() < local {
        at += TimeDelta::minutes(1);
    }
    at
}

fn any_rhythm() -> impl Strategy<Value = Rhythm> {
    let every = prop_oneof![
        (1_u8..=31).prop_map(|day| Every::Month { day }),
        (0_u8..7).prop_map(|day| Every::Week {
            weekday: Weekday::try_from(day).unwrap()
        }),
        Just(Every::Day),
        Just(Every::Hour),
    ];
    (every, 0_u32..24, 0_u32..60, 0..TZ_VARIANTS.len()).prop_map(|(every, hour, minute, zone)| Rhythm {
        every,
        at: NaiveTime::from_hms_opt(if every == Every::Hour { 0 } else { hour }, minute, 0).unwrap(),
        zone: TZ_VARIANTS[zone],
    })
}

/// Seconds from 2000 to 2060.
fn any_instant() -> impl Strategy<Value = DateTime<Utc>> {
    (946_684_800_i64..2_840_140_800).prop_map(|secs| DateTime::from_timestamp(secs, 0).unwrap())
}

proptest! {
    #![proptest_config(Config { cases: 400, failure_persistence: None, ..Config::default() })]

    /// Where the line is cut changes nothing: no period is found twice, none is left out.
    #[test]
    fn cut_anywhere_the_periods_are_the_same(rhythm in any_rhythm(), start in any_instant(), steps in proptest::collection::vec(0_i64..400_000, 1..12)) {
        let end = start + TimeDelta::seconds(steps.iter().sum());
        let whole = rhythm.due_between(start, end, usize::MAX);
        let mut at = start;
        let mut pieces = Vec::new();
        for step in steps {
            let until = at + TimeDelta::seconds(step);
            pieces.extend(rhythm.due_between(at, until, usize::MAX).periods);
            at = until;
        }
        prop_assert_eq!(&pieces, &whole.periods);
        prop_assert!(pieces.is_sorted_by(|a, b| a.due_at <= b.due_at && a.name < b.name));
        prop_assert_eq!(rhythm.next(start, pieces.len()), pieces);
    }

    /// Taken a few at a time, from where the last few ended, the periods are the same as well.
    #[test]
    fn taken_in_parts_the_periods_are_the_same(rhythm in any_rhythm(), start in any_instant(), days in 0_i64..60, limit in 1_usize..9) {
        let end = start + TimeDelta::days(days);
        let mut at = start;
        let mut parts = Vec::new();
        loop {
            let part = rhythm.due_between(at, end, limit);
            let last = part.periods.last().map(|period| period.due_at);
            parts.extend(part.periods);
            if !part.more {
                break;
            }
            at = last.unwrap();
        }
        prop_assert_eq!(parts, rhythm.due_between(start, end, usize::MAX).periods);
    }

    /// A period is found again by its name, and due at the first minute its zone's clocks show its time or a later one.
    #[test]
    fn a_name_stands_for_one_moment(rhythm in any_rhythm(), start in any_instant()) {
        let period = rhythm.next(start, 1).remove(0);
        prop_assert!(period.due_at > start);
        prop_assert_eq!(rhythm.named(&period.name), Some(period.clone()));
        let date = match rhythm.every {
            Every::Month { day } => {
                let first = chrono::NaiveDate::parse_from_str(&format!("{}-01", period.name), "%Y-%m-%d").unwrap();
                let following = first + chrono::Months::new(1);
                let days = u8::try_from((following - first).num_days()).unwrap();
                first + TimeDelta::days(i64::from(day.min(days)) - 1)
            }
            Every::Week { weekday } => {
                let (year, week) = period.name.split_once("-W").unwrap();
                chrono::NaiveDate::from_isoywd_opt(year.parse().unwrap(), week.parse().unwrap(), weekday).unwrap()
            }
            Every::Day | Every::Hour => period.name[..10].parse().unwrap(),
        };
        let hour = match rhythm.every {
            Every::Hour => period.name[11..].parse().unwrap(),
            _ => chrono::Timelike::hour(&rhythm.at),
        };
        let local = date.and_hms_opt(hour, chrono::Timelike::minute(&rhythm.at), 0).unwrap();
        prop_assert_eq!(period.due_at, walked(rhythm.zone, local));
    }

    /// Every calendar day, week and month has its period, whatever the zone does to its clocks.
    #[test]
    fn no_period_is_ever_missing(rhythm in any_rhythm(), start in any_instant()) {
        let periods = rhythm.next(start, 40);
        prop_assert_eq!(periods.len(), 40);
        for pair in periods.windows(2) {
            let (one, two) = (&pair[0].name, &pair[1].name);
            let date = |name: &str| name[..10].parse::<chrono::NaiveDate>().unwrap();
            let follows = match rhythm.every {
                Every::Day => date(one).succ_opt() == Some(date(two)),
                Every::Hour => {
                    let hour = |name: &str| date(name).and_hms_opt(name[11..].parse().unwrap(), 0, 0).unwrap();
                    hour(two) - hour(one) == TimeDelta::hours(1)
                }
                Every::Month { .. } => {
                    let month = |name: &str| format!("{name}-01").parse::<chrono::NaiveDate>().unwrap();
                    month(one) + chrono::Months::new(1) == month(two)
                }
                Every::Week { .. } => {
                    let monday = |name: &str| {
                        let (year, week) = name.split_once("-W").unwrap();
                        chrono::NaiveDate::from_isoywd_opt(year.parse().unwrap(), week.parse().unwrap(), Weekday::Mon).unwrap()
                    };
                    monday(two) - monday(one) == TimeDelta::days(7)
                }
            };
            prop_assert!(follows, "{} {}", one, two);
        }
    }

    /// Nothing that anybody types is a reason to panic.
    #[test]
    fn any_text_is_a_name_or_is_not(rhythm in any_rhythm(), text in "[-0-9TW:+]{0,14}", junk in any::<String>()) {
        for text in [text, junk] {
            if let Some(period) = rhythm.named(&text) {
                prop_assert_eq!(period.name, text);
            }
        }
    }
}
