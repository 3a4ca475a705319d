//! The calendar and the prices of the simulation, told a second time and in the plainest way: by looking at days.
//!
//! Nothing here may call the product's own calendar, which it is held against.

use chrono::{
    DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Timelike as _, Utc, Weekday,
};
use chrono_tz::Tz;

pub(crate) type Time = DateTime<Utc>;

pub(crate) const TAIPEI: Tz = Tz::Asia__Taipei;
pub(crate) const PLANS: [&str; 4] = ["business", "core", "growth", "all-round"];

/// From which day (in Taipei) each plan of `PLANS` gives how much. The first is what the product comes with; the others are
/// published by the simulation, and one of them gives less.
pub(crate) const ALLOWANCES: [(&str, [i64; 4]); 4] = [
    ("2024-01-01", [5_000, 5_000, 12_500, 25_000]),
    ("2025-11-12", [5_000, 6_000, 15_000, 25_000]),
    ("2026-02-20", [4_000, 4_500, 11_000, 20_000]),
    ("2026-06-01", [4_000, 5_500, 13_000, 30_000]),
];

/// From which day which packages are sold, in blocks and TWD.
const PACKAGES: [(&str, &[(i32, i64)]); 2] = [
    ("2024-01-01", &[(1, 799), (10, 6_999), (100, 59_999)]),
    (
        "2025-09-01",
        &[(1, 799), (5, 3_595), (10, 6_790), (50, 31_950), (100, 55_900)],
    ),
];

pub(crate) fn day(at: Time, zone: Tz) -> NaiveDate {
    at.with_timezone(&zone).date_naive()
}

/// What holds on a day of a list that is sorted by its first days.
fn in_force<T: Copy>(list: &[(&str, T)], day: NaiveDate) -> T {
    let begun = |from: &str| from.parse::<NaiveDate>().unwrap() <= day;
    list.iter().rev().find(|(from, _)| begun(from)).unwrap().1
}

/// Tokens a plan gives for a period that begins at this time.
pub(crate) fn allowance(plan: &str, at: Time) -> i64 {
    let place = PLANS.iter().position(|name| *name == plan).unwrap();
    in_force(&ALLOWANCES, day(at, TAIPEI))[place]
}

/// What a package costs on the day of this time; none where it is not sold.
pub(crate) fn price(at: Time, blocks: i32) -> Option<i64> {
    let sold = in_force(&PACKAGES, day(at, TAIPEI));
    sold.iter().find(|(size, _)| *size == blocks).map(|(_, twd)| *twd)
}

/// The anchor day of a month, or its last day where there is none.
fn anchor_date(year: i32, month: u32, anchor: u32) -> NaiveDate {
    (1..=anchor)
        .rev()
        .find_map(|day| NaiveDate::from_ymd_opt(year, month, day))
        .unwrap()
}

/// The period a shop is in: named by this month from its anchor day on, by the month before until then.
pub(crate) fn period_at(at: Time, zone: Tz, anchor: u32) -> String {
    let today = day(at, zone);
    if today >= anchor_date(today.year(), today.month(), anchor) {
        return today.format("%Y-%m").to_string();
    }
    let before = today.with_day(1).unwrap() - Days::new(1);
    before.format("%Y-%m").to_string()
}

pub(crate) fn period_after(period: &str) -> String {
    let first: NaiveDate = format!("{period}-01").parse().unwrap();
    (first + Days::new(31)).format("%Y-%m").to_string()
}

/// The first moment of a period: of its first day, in the shop's zone.
pub(crate) fn starts_at(period: &str, zone: Tz, anchor: u32) -> Time {
    let first: NaiveDate = format!("{period}-01").parse().unwrap();
    day_begins(anchor_date(first.year(), first.month(), anchor), zone)
}

fn day_begins(day: NaiveDate, zone: Tz) -> Time {
    let midnight = day.and_time(NaiveTime::MIN);
    (0..96)
        .map(|quarter| midnight + TimeDelta::minutes(15 * quarter))
        .find_map(|time| zone.from_local_datetime(&time).earliest())
        .unwrap()
        .to_utc()
}

/// When a paid order is credited: walking from day to day until the one the rule names.
pub(crate) fn credit_at(charged_at: Time, blocks: i32) -> Time {
    let local = charged_at.with_timezone(&TAIPEI);
    let mut on = local.date_naive();
    if blocks < 50 {
        return day_begins(on + Days::new(1), TAIPEI);
    }
    // The next time orders are processed, a Tuesday's noon that is still ahead; the tokens come two days later.
    if on.weekday() == Weekday::Tue && local.hour() >= 12 {
        on = on + Days::new(1);
        // Charged too late for this Tuesday, it is not processed before the next one.
    }
    while on.weekday() != Weekday::Tue {
        on = on + Days::new(1);
    }
    day_begins(on + Days::new(2), TAIPEI)
}
