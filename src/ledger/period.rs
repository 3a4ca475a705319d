//! The name of an allowance period, such as `2026-11`: the month in which it began in the shop's time zone; and the calendar,
//! which says when that was.
//!
//! A name, not a time, so that a refill run twice, late or by two schedulers is still the same refill. A period begins at
//! midnight of the shop's anchor day, or of the month's last day where the month is shorter. Pure: nothing here reads a clock.
//! SQL has the same calendar (`period_starts_at`, `period_at`); a test holds one against the other.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::{GapInfo, Tz};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A period's name. Later periods compare greater, as do their texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period {
    year: u16,
    month: u8,
}

/// Not a period's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a period is a year from 2000 to 9999 and a month, such as 2026-11")]
pub struct InvalidPeriod;

impl Period {
    /// The period that begins in `month` (1 to 12) of `year` (2000 to 9999).
    pub fn new(year: u16, month: u8) -> Result<Self, InvalidPeriod> {
        if (2000..=9999).contains(&year) && (1..=12).contains(&month) {
            Ok(Self { year, month })
        } else {
            Err(InvalidPeriod)
        }
    }

    /// The current period of a shop at a time: the latest that has begun. None for times before the year 2000 or after 9999.
    #[must_use]
    pub fn at(time: DateTime<Utc>, zone: Tz, anchor_day: u8) -> Option<Self> {
        let local = time.with_timezone(&zone).date_naive();
        let month = Self::of(local)?;
        let begun = |period: &Self| period.starts_at(zone, anchor_day).is_some_and(|start| start <= time);
        // Where the clock is put back over midnight of the first day, the month before is on the clock once more.
        let candidates = [month.next(), Some(month), month.previous()];
        candidates.into_iter().flatten().find(begun)
    }

    /// When this period begins in a zone, for an anchor day of 1 to 31. Where midnight is skipped, the moment at which it would
    /// have been by the clock before; where it comes twice, the first. None for what no calendar has.
    #[must_use]
    pub fn starts_at(self, zone: Tz, anchor_day: u8) -> Option<DateTime<Utc>> {
        let first = NaiveDate::from_ymd_opt(self.year.into(), self.month.into(), 1)?;
        let last = first.checked_add_months(Months::new(1))?.pred_opt()?;
        let day = u32::from(anchor_day).clamp(1, last.day());
        let midnight = first
            .checked_add_days(Days::new(u64::from(day) - 1))?
            .and_hms_opt(0, 0, 0)?;
        if let Some(time) = zone.from_local_datetime(&midnight).earliest() {
            return Some(time.with_timezone(&Utc));
        }
        let (_, before) = GapInfo::new(&midnight, &zone)?.begin?;
        let offset = TimeDelta::seconds(before.fix().local_minus_utc().into());
        Some(midnight.checked_sub_signed(offset)?.and_utc())
    }

    /// The period after this one; none after 9999-12.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self.month {
            12 => Self::new(self.year.checked_add(1)?, 1).ok(),
            month => Self::new(self.year, month + 1).ok(),
        }
    }

    /// The period before this one; none before 2000-01.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        match self.month {
            1 => Self::new(self.year - 1, 12).ok(),
            month => Self::new(self.year, month - 1).ok(),
        }
    }

    /// The period named by a day's month.
    fn of(day: NaiveDate) -> Option<Self> {
        Self::new(u16::try_from(day.year()).ok()?, u8::try_from(day.month()).ok()?).ok()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let (year, month) = text.split_once('-').ok_or(InvalidPeriod)?;
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if year.len() != 4 || month.len() != 2 || !digits(year) || !digits(month) {
            return Err(InvalidPeriod);
        }
        Self::new(
            year.parse().map_err(|_| InvalidPeriod)?,
            month.parse().map_err(|_| InvalidPeriod)?,
        )
    }
}

impl TryFrom<String> for Period {
    type Error = InvalidPeriod;

    fn try_from(text: String) -> Result<Self, InvalidPeriod> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_period_reads_back_what_it_shows_and_nothing_else() {
        assert_eq!("2026-11".parse::<Period>().unwrap().to_string(), "2026-11");
        for wrong in [
            "",
            "2026",
            "2026-1",
            "2026-13",
            "2026-00",
            "1999-12",
            "+026-11",
            "2026-+1",
            "2026-11-01",
        ] {
            assert_eq!(wrong.parse::<Period>(), Err(InvalidPeriod), "{wrong}");
        }
    }

    fn start(period: &str, zone: Tz, anchor_day: u8) -> String {
        let start = period.parse::<Period>().unwrap().starts_at(zone, anchor_day).unwrap();
        start.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    fn at(time: &str, zone: Tz, anchor_day: u8) -> String {
        Period::at(time.parse().unwrap(), zone, anchor_day).unwrap().to_string()
    }

    #[test]
    fn a_period_begins_at_midnight_of_the_anchor_day() {
        assert_eq!(start("2026-11", Tz::Asia__Taipei, 1), "2026-10-31T16:00:00Z");
        assert_eq!(at("2026-10-31T15:59:59Z", Tz::Asia__Taipei, 1), "2026-10");
        assert_eq!(at("2026-10-31T16:00:00Z", Tz::Asia__Taipei, 1), "2026-11");
        assert_eq!(at("2026-11-14T15:59:59Z", Tz::Asia__Taipei, 15), "2026-10");
        assert_eq!(at("2026-11-14T16:00:00Z", Tz::Asia__Taipei, 15), "2026-11");
        assert_eq!(at("2027-01-01T00:00:00Z", Tz::Asia__Taipei, 2), "2026-12");
    }

    #[test]
    fn an_anchor_day_beyond_the_month_is_its_last_day() {
        let days = ["2026-01", "2026-02", "2026-03", "2026-04", "2028-02", "2100-02"];
        let on = |anchor| days.map(|period| start(period, Tz::UTC, anchor)[..10].to_owned());
        assert_eq!(
            on(31),
            [
                "2026-01-31",
                "2026-02-28",
                "2026-03-31",
                "2026-04-30",
                "2028-02-29",
                "2100-02-28"
            ]
        );
        assert_eq!(
            on(29),
            [
                "2026-01-29",
                "2026-02-28",
                "2026-03-29",
                "2026-04-29",
                "2028-02-29",
                "2100-02-28"
            ]
        );
        assert_eq!(at("2026-02-27T23:59:59Z", Tz::UTC, 31), "2026-01");
        assert_eq!(at("2026-02-28T00:00:00Z", Tz::UTC, 31), "2026-02");
        assert_eq!(at("2026-03-30T23:59:59Z", Tz::UTC, 31), "2026-02");
    }

    #[test]
    fn a_midnight_that_is_skipped_or_comes_twice_begins_one_period() {
        // Cairo's clocks jump from 00:00 to 01:00 on 2026-04-24; Havana's go back from 01:00 to 00:00 on 2026-11-01.
        assert_eq!(start("2026-04", Tz::Africa__Cairo, 24), "2026-04-23T22:00:00Z");
        assert_eq!(start("2026-11", Tz::America__Havana, 1), "2026-11-01T04:00:00Z");
        assert_eq!(at("2026-11-01T03:59:59Z", Tz::America__Havana, 1), "2026-10");
        assert_eq!(at("2026-11-01T05:00:00Z", Tz::America__Havana, 1), "2026-11");
        // Samoa had no 2011-12-30; in St. John's it was 31 October again from one minute past midnight of 1 November 2009.
        assert_eq!(start("2011-12", Tz::Pacific__Apia, 30), "2011-12-30T10:00:00Z");
        assert_eq!(start("2009-11", Tz::America__St_Johns, 1), "2009-11-01T02:30:00Z");
        assert_eq!(at("2009-11-01T02:45:00Z", Tz::America__St_Johns, 1), "2009-11");
    }

    proptest! {
        #[test]
        fn every_moment_is_in_one_period_whatever_zone_and_anchor(
            secs in 951_868_800_i64..4_070_000_000, zone in 0..chrono_tz::TZ_VARIANTS.len(), anchor_day in 1..=31_u8
        ) {
            let (time, zone) = (DateTime::from_timestamp(secs, 0).unwrap(), chrono_tz::TZ_VARIANTS[zone]);
            let period = Period::at(time, zone, anchor_day).unwrap();
            let next = period.next().unwrap();
            prop_assert_eq!(next.previous(), Some(period));
            let (start, end) = (period.starts_at(zone, anchor_day).unwrap(), next.starts_at(zone, anchor_day).unwrap());
            prop_assert!(start <= time && time < end, "{} {} {}", start, time, end);
            prop_assert_eq!(Period::at(start, zone, anchor_day), Some(period));
            prop_assert_eq!(Period::at(start - TimeDelta::seconds(1), zone, anchor_day), period.previous());
            // Named by the month it begins in, by the shop's clock; a day that was skipped belongs to the one after it.
            let days = (end - start).num_days();
            prop_assert!((27..=32).contains(&days), "{} days", days);
        }
    }

    #[test]
    fn periods_and_their_texts_sort_alike() {
        let (a, b) = (Period::new(2026, 9).unwrap(), Period::new(2026, 10).unwrap());
        assert!(a < b && a.to_string() < b.to_string());
    }
}
