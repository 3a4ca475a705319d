//! The calendar of schedules: which periods there are, what they are called, and when each is due (pure).
//!
//! A period is a name such as `2026-11`, and every name stands for exactly one moment: the first at which the clocks of its
//! zone show its time or a later one. So a time that the clocks are put forward over is due right behind the gap, and one
//! that comes twice is due the first time only. From this follows what the rest stands on: names and moments have the same
//! order, no day, week or month is ever without its period, and periods between two instants neither overlap nor leave
//! anything out, wherever the line is cut.
//!
//! An hour that comes twice when clocks are put back is one period, and one that is skipped shares the moment of the next:
//! what must run every sixty minutes belongs in UTC.
//!
//! It must never read a clock, and never guess a name.

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveTime, Utc, Weekday};
use chrono_tz::Tz;

use crate::clock::first_moment;

/// No period has a name outside of these years.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=9999;

/// How often, and on which day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// Once a month: `2026-11`.
    Month {
        /// The day, 1 to 31; the month's last one where it has fewer.
        day: u8,
    },
    /// Once a week, from Monday to Sunday: `2026-W47`.
    Week {
        /// The day.
        weekday: Weekday,
    },
    /// Once a day: `2026-11-22`.
    Day,
    /// Once an hour: `2026-11-22T05`.
    Hour,
}

impl Every {
    /// Its word in `schedule.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Month { .. } => "month",
            Self::Week { .. } => "week",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    /// How its periods are called, by an example.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Month { .. } => "2026-11",
            Self::Week { .. } => "2026-W47",
            Self::Day => "2026-11-22",
            Self::Hour => "2026-11-22T05",
        }
    }
}

/// When a schedule's periods are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// How often.
    pub every: Every,
    /// The time of day; of an hourly one only the minute counts.
    pub at: NaiveTime,
    /// Whose clocks.
    pub zone: Tz,
}

/// One period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub due_at: DateTime<Utc>,
}

/// Periods due in a stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// The first of them, oldest first.
    pub periods: Vec<Period>,
    /// Whether there are more, due later than these.
    pub more: bool,
}

impl Rhythm {
    /// The periods due after `after` and not after `until`, at most `limit` of them (more only where several are due at
    /// one moment, which are never torn apart).
    #[must_use]
    pub fn due_between(&self, after: DateTime<Utc>, until: DateTime<Utc>, limit: usize) -> Due {
        let mut due = Due::default();
        let mut place = self.first_place(after);
        while let Some(period) = self.period(place).filter(|period| period.due_at <= until) {
            if period.due_at > after {
                let twin = due.periods.last().is_some_and(|last| last.due_at == period.due_at);
                if due.periods.len() >= limit && !twin {
                    due.more = true;
                    return due;
                }
                due.periods.push(period);
            }
            place += 1;
        }
        due
    }

    /// The first `count` periods due after `after`.
    #[must_use]
    pub fn next(&self, after: DateTime<Utc>, count: usize) -> Vec<Period> {
        let first = self.first_place(after);
        (first..)
            .map_while(|place| self.period(place))
            .filter(|period| period.due_at > after)
            .take(count)
            .collect()
    }

    /// The period of this name; `None` when its periods are not called so.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Period> {
        let (date, hour) = name
            .split_once('T')
            .map_or((name, None), |(date, hour)| (date, Some(hour)));
        let place = match (self.every, hour) {
            (Every::Month { .. }, None) => place_of_month(date_of(&format!("{date}-01"))?),
            (Every::Week { .. }, None) => {
                let (year, week) = date.split_once("-W")?;
                let monday = NaiveDate::from_isoywd_opt(year.parse().ok()?, week.parse().ok()?, Weekday::Mon)?;
                place_of_week(monday)
            }
            (Every::Day, None) => i64::from(date_of(date)?.num_days_from_ce()),
            (Every::Hour, Some(hour)) => {
                let hour: i64 = hour.parse().ok().filter(|hour| (0..24).contains(hour))?;
                i64::from(date_of(date)?.num_days_from_ce()) * 24 + hour
            }
            (Every::Month { .. } | Every::Week { .. } | Every::Day, Some(_)) | (Every::Hour, None) => return None,
        };
        // Digits may have been missing, or signs too many: only the one right way to write a name is its name.
        self.period(place).filter(|period| period.name == name)
    }

    /// The place of the first period that may be due after an instant. Those before it are due: their time is before the
    /// month, day or hour that the clocks show then.
    fn first_place(&self, after: DateTime<Utc>) -> i64 {
        let earliest = NaiveDate::from_ymd_opt(*YEARS.start(), 1, 1).unwrap_or_default();
        let local = after.with_timezone(&self.zone).naive_local().max(earliest.into());
        let days = i64::from(local.date().num_days_from_ce());
        match self.every {
            Every::Month { .. } => place_of_month(local.date()),
            // The first days of 2000 belong to the last week of 1999.
            Every::Week { .. } => place_of_week(local.date()).max(place_of_week(earliest + Days::new(6))),
            Every::Day => days,
            Every::Hour => days * 24 + i64::from(chrono::Timelike::hour(&local)),
        }
    }

    /// The period at a place: months, weeks, days and hours are counted through from the year 1.
    fn period(&self, place: i64) -> Option<Period> {
        let (local, name) = match self.every {
            Every::Month { day } => {
                let year = i32::try_from(place.div_euclid(12)).ok()?;
                let first = NaiveDate::from_ymd_opt(year, u32::try_from(place.rem_euclid(12)).ok()? + 1, 1)?;
                let date = (0..4).find_map(|short| first.with_day(u32::from(day).checked_sub(short)?))?;
                (date.and_time(self.at), first.format("%Y-%m").to_string())
            }
            Every::Week { weekday } => {
                let monday = NaiveDate::from_num_days_from_ce_opt(i32::try_from(place * 7 + 1).ok()?)?;
                let date = monday.checked_add_days(Days::new(weekday.num_days_from_monday().into()))?;
                (date.and_time(self.at), monday.format("%G-W%V").to_string())
            }
            Every::Day => {
                let date = NaiveDate::from_num_days_from_ce_opt(i32::try_from(place).ok()?)?;
                (date.and_time(self.at), date.format("%Y-%m-%d").to_string())
            }
            Every::Hour => {
                let date = NaiveDate::from_num_days_from_ce_opt(i32::try_from(place.div_euclid(24)).ok()?)?;
                let hour = u32::try_from(place.rem_euclid(24)).ok()?;
                let local = date.and_hms_opt(hour, chrono::Timelike::minute(&self.at), 0)?;
                (local, local.format("%Y-%m-%dT%H").to_string())
            }
        };
        let named_year: i32 = name.split('-').next()?.parse().ok()?;
        (YEARS.contains(&named_year) && YEARS.contains(&local.year())).then_some(())?;
        Some(Period {
            name,
            due_at: first_moment(self.zone, local)?,
        })
    }
}

fn place_of_month(date: NaiveDate) -> i64 {
    i64::from(date.year()) * 12 + i64::from(date.month0())
}

/// Day 1 of the count is a Monday.
fn place_of_week(date: NaiveDate) -> i64 {
    (i64::from(date.num_days_from_ce()) - 1).div_euclid(7)
}

fn date_of(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
