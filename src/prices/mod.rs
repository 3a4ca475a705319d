//! Prices: what a plan gives, what a message costs, what bought tokens cost, what LINE charges, each as tables with dates (pure but for
//! `publish`).
//!
//! Why it exists: figures are data with effective dates, not constants. The files of `config/prices` are the source; they
//! are checked whole at the start and published to Postgres, so that SQL functions and frontends read the same. A table's
//! version (its file's name) is kept by whatever was priced with it.
//!
//! Table of contents:
//! - `table`: one file, parsed
//! - `timeline`: the tables of a kind one after the other, without gap or overlap
//! - `block`: packages of bought tokens
//! - `line`: LINE's plans and their calculator
//! - `publish`: into Postgres
//!
//! It must never guess: no price is an answer of its own, not zero. Days are those of Asia/Taipei's calendar, and the caller
//! says which one.

mod block;
mod line;
mod publish;
mod table;
mod timeline;

use std::{path::Path, sync::Arc};

use chrono::NaiveDate;
use serde::Deserialize;

pub use block::BlockPrice;
pub use line::{ExtraStep, LinePlan, LinePlans, Offer};
pub use publish::{PublishError, Published, publish};
pub use table::Kind;

use crate::{channel::Channel, config::Section};
use table::{Rows, Table};

/// The files of `config/prices`: version and text.
const EMBEDDED: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/price_files.rs"));

/// Section `prices` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// Every table: those of a folder, or the built-in ones.
    #[serde(rename = "folder")]
    pub tables: Prices,
}

impl Section for PricesConfig {}

/// Why price tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the expected TOML.
    #[error("{version}.toml is not a price table: {problem}")]
    Malformed {
        /// The table.
        version: String,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// There is no table of a kind.
    #[error("there is no table of {0}: add one")]
    Missing(Kind),
    /// Two tables of a kind hold on the same day.
    #[error("{first} and {second} both hold on {day}: end the first where the second begins")]
    Overlap {
        /// The earlier one's version.
        first: String,
        /// The later one's version.
        second: String,
        /// The first such day.
        day: NaiveDate,
    },
    /// No table of a kind holds on some days.
    #[error("no {kind} hold from {from} on, when {version} ends: let the next table begin then")]
    Gap {
        /// Which kind.
        kind: Kind,
        /// The table that ends.
        version: String,
        /// The first day without.
        from: NaiveDate,
    },
    /// A table ends before it begins.
    #[error("{version} ends on {until}, which is not after its first day {from}")]
    Backwards {
        /// The table.
        version: String,
        /// Its first day.
        from: NaiveDate,
        /// The day after its last.
        until: NaiveDate,
    },
}

/// Every price table, checked. In configuration: the path of a folder, or empty for the tables that are built in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Prices(Arc<[Table]>);

impl Prices {
    /// The tables that are built in.
    ///
    /// # Errors
    /// Never in a released build: a test reads them.
    pub fn embedded() -> Result<Self, PricesError> {
        Self::parse(EMBEDDED)
    }

    /// Reads every `*.toml` in a folder.
    ///
    /// # Errors
    /// When one cannot be read, or they are not whole.
    pub fn read(folder: &Path) -> Result<Self, PricesError> {
        let unreadable = |path: &Path, source| PricesError::Unreadable {
            path: path.display().to_string(),
            source,
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
            let path = entry.map_err(|error| unreadable(folder, error))?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            let version = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((version, text));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(version, text)| (&**version, &**text)).collect();
        Self::parse(&files)
    }

    /// Reads tables from TOML, each with its version.
    ///
    /// # Errors
    /// When one is not a table, or a kind is missing, has a gap, an overlap, or an end.
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, PricesError> {
        let tables: Result<Vec<Table>, PricesError> = files
            .iter()
            .map(|(version, text)| Table::parse(version, text))
            .collect();
        let mut tables = tables?;
        tables.sort_by(|a, b| (a.kind(), a.from, &a.version).cmp(&(b.kind(), b.from, &b.version)));
        for kind in Kind::ALL {
            let of_kind: Vec<&Table> = tables.iter().filter(|table| table.kind() == kind).collect();
            timeline::check(kind, &of_kind)?;
        }
        Ok(Self(tables.into()))
    }

    /// Tokens for one message on a channel on a day; none where the channel cannot be chosen.
    #[must_use]
    pub fn token_cost_at(&self, channel: Channel, day: NaiveDate) -> Option<u32> {
        match &self.at(Kind::TokenCosts, day)?.rows {
            Rows::TokenCosts(costs) => costs.get(&channel).copied(),
            Rows::Plans(_) | Rows::BlockPrices(_) | Rows::LinePlans(_) => None,
        }
    }

    /// The version of the token costs that hold on a day.
    #[must_use]
    pub fn token_costs_version_at(&self, day: NaiveDate) -> Option<&str> {
        Some(&self.at(Kind::TokenCosts, day)?.version)
    }

    /// Tokens a plan gives for a period that falls due on a day; none for a plan that is not listed then.
    #[must_use]
    pub fn allowance_at(&self, plan: &str, day: NaiveDate) -> Option<u32> {
        match &self.at(Kind::Plans, day)?.rows {
            Rows::Plans(plans) => plans.get(plan).copied(),
            Rows::TokenCosts(_) | Rows::BlockPrices(_) | Rows::LinePlans(_) => None,
        }
    }

    /// What LINE charges on a day; none where no table says.
    #[must_use]
    pub fn line_plans_at(&self, day: NaiveDate) -> Option<&LinePlans> {
        match &self.at(Kind::LinePlans, day)?.rows {
            Rows::LinePlans(plans) => Some(plans),
            Rows::Plans(_) | Rows::TokenCosts(_) | Rows::BlockPrices(_) => None,
        }
    }

    /// The table of a kind that holds on a day.
    fn at(&self, kind: Kind, day: NaiveDate) -> Option<&Table> {
        self.0.iter().rfind(|table| table.kind() == kind && table.from <= day)
    }
}

impl TryFrom<String> for Prices {
    type Error = PricesError;

    fn try_from(folder: String) -> Result<Self, Self::Error> {
        if folder.is_empty() {
            Self::embedded()
        } else {
            Self::read(Path::new(&folder))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Prices, PricesError};
    use crate::channel::Channel;

    const PLANS: (&str, &str) = ("plans", "effective_from = \"2026-01-01\"\n[plans]\ncore = 10");
    const BLOCKS: (&str, &str) = (
        "blocks",
        "effective_from = \"2026-01-01\"\n[block_prices]\ntokens_per_block = 5\nprice_twd = { 1 = 7 }",
    );

    fn costs(dates: &str, costs: &str) -> String {
        format!("{dates}\n[token_costs]\n{costs}")
    }

    #[test]
    fn the_built_in_tables_are_those_of_the_price_list() {
        let prices = Prices::embedded().unwrap();
        let today = "2026-11-21".parse().unwrap();
        let costs = Channel::ALL.map(|channel| prices.token_cost_at(channel, today));
        assert_eq!(costs, [Some(1), Some(5), Some(5), None, Some(32), Some(2)]);
        assert_eq!(prices.token_costs_version_at(today), Some("token-costs-2024-01-01"));
        let plans = ["business", "core", "growth", "all-round", "Core", ""];
        assert_eq!(
            plans.map(|plan| prices.allowance_at(plan, today)),
            [Some(5_000), Some(5_000), Some(12_500), Some(25_000), None, None]
        );
        let before = "2023-12-31".parse().unwrap();
        assert_eq!(prices.token_cost_at(Channel::App, before), None);
        assert_eq!(prices.allowance_at("core", before), None);
    }

    #[test]
    fn a_table_holds_until_the_next_of_its_kind_begins() {
        let first = costs("effective_from = \"2026-01-01\"", "whatsapp = 7\napp = 1");
        let second = costs("effective_from = \"2026-03-01\"", "whatsapp = 9");
        let prices = Prices::parse(&[("b", &second), PLANS, ("a", &first), BLOCKS]).unwrap();
        let at = |channel, day: &str| prices.token_cost_at(channel, day.parse().unwrap());
        assert_eq!(
            ["2025-12-31", "2026-02-28", "2026-03-01"].map(|day| at(Channel::Whatsapp, day)),
            [None, Some(7), Some(9)]
        );
        assert_eq!(
            ["2026-02-28", "2026-03-01"].map(|day| at(Channel::App, day)),
            [Some(1), None]
        );
        assert_eq!(prices.token_costs_version_at("2026-02-28".parse().unwrap()), Some("a"));
    }

    #[test]
    fn gaps_overlaps_ends_and_missing_kinds_are_refused() {
        let refusal = |dates: &[&str]| {
            let texts: Vec<String> = dates.iter().map(|dates| costs(dates, "app = 1")).collect();
            let mut files: Vec<(&str, &str)> = ["a", "b", "c"]
                .into_iter()
                .zip(texts.iter().map(|text| &**text))
                .collect();
            files.extend([PLANS, BLOCKS]);
            Prices::parse(&files).unwrap_err().to_string()
        };
        let (january, june) = ("effective_from = \"2026-01-01\"", "effective_from = \"2026-06-01\"");
        let until = |day: &str| format!("{january}\neffective_until = \"{day}\"");
        assert_eq!(
            refusal(&[january, january]),
            "a and b both hold on 2026-01-01: end the first where the second begins"
        );
        assert_eq!(
            refusal(&[&until("2026-06-02"), june]),
            "a and b both hold on 2026-06-01: end the first where the second begins"
        );
        assert_eq!(
            refusal(&[&until("2026-05-31"), june]),
            "no token costs hold from 2026-05-31 on, when a ends: let the next table begin then"
        );
        assert_eq!(
            refusal(&[&until("2026-06-01")]),
            "no token costs hold from 2026-06-01 on, when a ends: let the next table begin then"
        );
        assert_eq!(
            refusal(&[&until("2026-01-01"), january]),
            "a ends on 2026-01-01, which is not after its first day 2026-01-01"
        );
        assert_eq!(refusal(&[]), "there is no table of token costs: add one");
        let whole = costs(&until("2026-06-01"), "app = 1");
        let next = costs(june, "app = 1");
        assert!(Prices::parse(&[("a", &whole), ("b", &next), PLANS, BLOCKS]).is_ok());
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_name() {
        let from = "effective_from = \"2026-01-01\"\n";
        for (text, problem) in [
            ("[plans]\ncore = 1", "missing field `effective_from`"),
            (from, "must hold one of"),
            (
                &format!("{from}[plans]\ncore = 1\n[token_costs]\napp = 1"),
                "must hold one of",
            ),
            (&format!("{from}[plans]"), "holds nothing"),
            (
                &format!("{from}[plans]\n\"The Core\" = 1"),
                "`The Core` is no name of a plan",
            ),
            (&format!("{from}[plans]\ncore = -1"), "invalid value"),
            (
                &format!("{from}[plans]\ncore = 1_000_000_001"),
                "the figure of `core` is more than",
            ),
            (&format!("{from}[token_costs]\nfax = 1"), "`fax` is not a channel"),
            (&format!("{from}[token_costs]\napp = 1\napp = 2"), "duplicate key"),
            (
                &format!("{from}[block_prices]\ntokens_per_block = 0\nprice_twd = {{ 1 = 1 }}"),
                "tokens_per_block",
            ),
            (
                &format!("{from}[block_prices]\ntokens_per_block = 1\nprice_twd = {{ 0 = 1 }}"),
                "`0` is no number of blocks",
            ),
            (
                &format!("{from}[block_prices]\ntokens_per_block = 1\nprice_twd = {{ ten = 1 }}"),
                "`ten` is no number",
            ),
            (
                &format!("{from}[block_prices]\ntokens_per_block = 1\nprice_twd = {{ 1 = 0 }}"),
                "the package of `1` costs nothing",
            ),
            (&format!("{from}[fees]\na = 1"), "unknown field `fees`"),
        ] {
            let error = Prices::parse(&[("mine", text)]).unwrap_err();
            let told = error.to_string();
            assert!(matches!(error, PricesError::Malformed { .. }), "{told}");
            assert!(
                told.starts_with("mine.toml is not a price table: ") && told.contains(problem),
                "{told}"
            );
        }
        assert!(matches!(
            Prices::parse(&[("a b", "")]),
            Err(PricesError::Malformed { .. })
        ));
    }
}
