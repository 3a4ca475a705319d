//! What a message costs, by channel and date (pure).
//!
//! Why it exists: costs are data with effective dates, not constants. A channel without a cost on a day cannot be
//! chosen on that day.
//!
//! It must never guess: no cost is an answer of its own, not zero.

use std::path::Path;

use chrono::NaiveDate;
use serde::Deserialize;

use crate::channel::Channel;

const EMBEDDED: &str = include_str!("../../config/token_costs.toml");

/// Why a list of costs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenCostsError {
    /// The file cannot be read.
    #[error("cannot read the token costs at {path}: {source}")]
    Unreadable {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the expected TOML.
    #[error("the token costs are not as expected: {0}")]
    Malformed(#[from] Box<toml::de::Error>),
    /// Two costs of one channel hold on the same day.
    #[error("two token costs of {channel} hold on {day}: end the first before the second begins")]
    Overlap {
        /// Whose.
        channel: Channel,
        /// The first such day.
        day: NaiveDate,
    },
    /// A cost that ends before it begins.
    #[error("a token cost of {channel} ends on {until}, which is not after its first day {from}")]
    Backwards {
        /// Whose.
        channel: Channel,
        /// Its first day.
        from: NaiveDate,
        /// The day after its last.
        until: NaiveDate,
    },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    channel: Channel,
    tokens: u32,
    effective_from: NaiveDate,
    effective_until: Option<NaiveDate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    cost: Vec<Cost>,
}

/// Every cost, checked. In configuration: the path of a file, or empty for the list that is built in.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenCosts(Vec<Cost>);

impl TokenCosts {
    /// The list that is built in.
    ///
    /// # Errors
    /// Never in a released build: a test reads it.
    pub fn embedded() -> Result<Self, TokenCostsError> {
        Self::parse(EMBEDDED)
    }

    /// Reads a list from a file.
    ///
    /// # Errors
    /// When it cannot be read or holds anything but costs that do not overlap.
    pub fn read(path: &Path) -> Result<Self, TokenCostsError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenCostsError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a list from TOML.
    ///
    /// # Errors
    /// When it holds anything but costs that do not overlap.
    pub fn parse(text: &str) -> Result<Self, TokenCostsError> {
        let mut costs = toml::from_str::<Document>(text).map_err(Box::new)?.cost;
        costs.sort_by_key(|cost| (cost.channel, cost.effective_from));
        for cost in &costs {
            if let Some(until) = cost.effective_until.filter(|until| *until <= cost.effective_from) {
                let (channel, from) = (cost.channel, cost.effective_from);
                return Err(TokenCostsError::Backwards { channel, from, until });
            }
        }
        for (cost, next) in costs.iter().zip(costs.iter().skip(1)) {
            let same = cost.channel == next.channel;
            let begins = next.effective_from;
            if same && (begins == cost.effective_from || cost.effective_until.is_some_and(|end| end > begins)) {
                return Err(TokenCostsError::Overlap {
                    channel: cost.channel,
                    day: begins,
                });
            }
        }
        Ok(Self(costs))
    }

    /// Tokens for one message on a channel, planned on a day of Asia/Taipei's calendar.
    #[must_use]
    pub fn price_at(&self, channel: Channel, day: NaiveDate) -> Option<u32> {
        self.0
            .iter()
            .rfind(|cost| cost.channel == channel && cost.effective_from <= day)
            .filter(|cost| cost.effective_until.is_none_or(|until| day < until))
            .map(|cost| cost.tokens)
    }
}

impl TryFrom<String> for TokenCosts {
    type Error = TokenCostsError;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        if path.is_empty() {
            Self::embedded()
        } else {
            Self::read(Path::new(&path))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::NaiveDate;

    use super::{TokenCosts, TokenCostsError};
    use crate::channel::Channel;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn the_built_in_costs_are_those_of_the_price_list() {
        let costs = TokenCosts::embedded().unwrap();
        let today = day("2026-11-21");
        let of = |channel| costs.price_at(channel, today);
        assert_eq!(
            Channel::ALL.map(of),
            [Some(1), Some(5), Some(5), None, Some(32), Some(2)]
        );
        assert_eq!(costs.price_at(Channel::App, day("2023-12-31")), None);
    }

    #[test]
    fn a_cost_holds_until_the_next_one_or_its_end() {
        let costs = TokenCosts::parse(
            r#"
            [[cost]]
            channel = "whatsapp"
            tokens = 7
            effective_from = "2026-01-01"
            [[cost]]
            channel = "whatsapp"
            tokens = 9
            effective_from = "2026-03-01"
            effective_until = "2026-04-01"
            "#,
        )
        .unwrap();
        let at = |text| costs.price_at(Channel::Whatsapp, day(text));
        assert_eq!(
            [
                at("2025-12-31"),
                at("2026-02-28"),
                at("2026-03-01"),
                at("2026-03-31"),
                at("2026-04-01")
            ],
            [None, Some(7), Some(9), Some(9), None]
        );
    }

    #[test]
    fn overlaps_and_unknown_channels_are_refused() {
        let two = |first_end: &str, second: &str| {
            TokenCosts::parse(&format!(
                "[[cost]]\nchannel = \"app\"\ntokens = 1\neffective_from = \"2026-01-01\"\n{first_end}\n\
                 [[cost]]\nchannel = \"app\"\ntokens = 2\neffective_from = \"{second}\""
            ))
        };
        assert!(matches!(two("", "2026-01-01"), Err(TokenCostsError::Overlap { .. })));
        let long = "effective_until = \"2026-06-01\"";
        assert!(matches!(two(long, "2026-05-31"), Err(TokenCostsError::Overlap { .. })));
        assert!(two(long, "2026-06-01").is_ok());
        let backwards = "effective_until = \"2026-01-01\"";
        assert!(matches!(
            two(backwards, "2026-05-31"),
            Err(TokenCostsError::Backwards { .. })
        ));
        let fax = TokenCosts::parse("[[cost]]\nchannel = \"fax\"\ntokens = 1\neffective_from = \"2026-01-01\"");
        assert!(matches!(fax, Err(TokenCostsError::Malformed(_))));
    }
}
