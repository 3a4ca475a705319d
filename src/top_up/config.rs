//! Settings of top-up orders.
//!
//! It must never hold a price: prices are data with dates.

use chrono::NaiveTime;
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, de};

use crate::config::{Report, Section};

/// Section `top_up` of the configuration: the rules of the settlement calendar.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpConfig {
    /// An order of at least this many blocks is a large one.
    pub large_order_blocks: u32,
    /// Until when on a Tuesday a charge still counts for the same week's Thursday.
    #[serde(deserialize_with = "time_of_day")]
    pub cutoff: NaiveTime,
    /// Whose calendar and clock that is.
    #[serde(deserialize_with = "time_zone")]
    pub zone: Tz,
}

impl Section for TopUpConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.range("large_order_blocks", self.large_order_blocks, 1..=1_000_000);
    }
}

impl TopUpConfig {
    /// The values of `config/default.toml`, for tests that read no configuration; a test compares the two.
    #[must_use]
    pub const fn built_in() -> Self {
        Self {
            large_order_blocks: 50,
            cutoff: match NaiveTime::from_hms_opt(12, 0, 0) {
                Some(noon) => noon,
                None => NaiveTime::MIN,
            },
            zone: Tz::Asia__Taipei,
        }
    }
}

fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    ["%H:%M", "%H:%M:%S"]
        .iter()
        .find_map(|format| NaiveTime::parse_from_str(text.trim(), format).ok())
        // A leap second reads as 59 and more than a second's nanoseconds, which no clock of ours ever shows.
        .ok_or_else(|| de::Error::custom(format!("\"{text}\" is no time of day: write it like 12:00")))
}

fn time_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.trim()
        .parse()
        .map_err(|_| de::Error::custom(format!("\"{text}\" is no time zone: write it like Asia/Taipei")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize as _;

    use super::TopUpConfig;

    fn read(cutoff: &str, zone: &str) -> Result<TopUpConfig, toml::de::Error> {
        let text = format!("large_order_blocks = 50\ncutoff = \"{cutoff}\"\nzone = \"{zone}\"");
        TopUpConfig::deserialize(toml::Deserializer::parse(&text)?)
    }

    #[test]
    fn the_defaults_are_those_of_the_document() {
        let document: toml::Table = crate::config::DEFAULT.parse().unwrap();
        let section = document.get("top_up").unwrap().clone();
        assert_eq!(section.try_into::<TopUpConfig>().unwrap(), TopUpConfig::built_in());
    }

    #[test]
    fn a_cutoff_is_a_time_of_day_and_a_zone_one_that_exists() {
        assert_eq!(read("12:00", "Asia/Taipei").unwrap(), TopUpConfig::built_in());
        assert!(read("09:30:15", "UTC").is_ok());
        for (cutoff, zone) in [
            ("noon", "UTC"),
            ("24:00", "UTC"),
            ("", "UTC"),
            ("12:00", "Taipei"),
            ("12:00", ""),
        ] {
            assert!(read(cutoff, zone).is_err(), "{cutoff} {zone}");
        }
    }
}
