//! The name of an allowance period, such as `2026-11`: the month in which it began in the shop's time zone.
//!
//! A name, not a time, so that a refill run twice, late or by two schedulers is still the same refill. Pure: nothing here
//! reads a clock.

use std::{fmt, str::FromStr};

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
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn periods_and_their_texts_sort_alike() {
        let (a, b) = (Period::new(2026, 9).unwrap(), Period::new(2026, 10).unwrap());
        assert!(a < b && a.to_string() < b.to_string());
    }
}
