//! One price table: a file, parsed (pure).
//!
//! It must never let a figure through that the database could not hold.

use std::{collections::BTreeMap, fmt};

use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    PricesError,
    line::{self, LinePlans},
};
use crate::channel::Channel;

/// The most tokens or TWD a figure may say; keeps every product of figures within the ledger's numbers.
const FIGURE_LIMIT: u32 = 1_000_000_000;
/// The most blocks in a package.
const BLOCKS_LIMIT: u32 = 100_000;
/// The longest name of a table or a plan, in characters.
const NAME_LIMIT: usize = 64;

/// What a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What a plan gives every period.
    Plans,
    /// What a message costs on each channel.
    TokenCosts,
    /// What packages of bought tokens cost.
    BlockPrices,
    /// What LINE charges.
    LinePlans,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Plans, Self::TokenCosts, Self::BlockPrices, Self::LinePlans];

    /// Whether nothing can be sold without a table of it. LINE's prices are only shown.
    pub(super) const fn is_needed(self) -> bool {
        !matches!(self, Self::LinePlans)
    }

    /// Its name in files and in Postgres.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plans => "plans",
            Self::TokenCosts => "token_costs",
            Self::BlockPrices => "block_prices",
            Self::LinePlans => "line_plans",
        }
    }
}

/// In a sentence.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) version: String,
    pub(super) from: NaiveDate,
    /// The first day it does not hold any more, where the file says so; the next table begins then.
    pub(super) until: Option<NaiveDate>,
    pub(super) rows: Rows,
}

/// Its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rows {
    /// Tokens a period, by plan.
    Plans(BTreeMap<String, u32>),
    /// Tokens a message.
    TokenCosts(BTreeMap<Channel, u32>),
    /// Packages.
    BlockPrices(Blocks),
    /// LINE's plans.
    LinePlans(LinePlans),
}

/// Packages of bought tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) tokens_per_block: u32,
    /// Whole TWD of a package, by its number of blocks.
    pub(super) price_twd: BTreeMap<u32, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    effective_from: NaiveDate,
    effective_until: Option<NaiveDate>,
    plans: Option<BTreeMap<String, u32>>,
    token_costs: Option<BTreeMap<String, u32>>,
    block_prices: Option<BlocksInFile>,
    line_plans: Option<BTreeMap<String, line::PlanInFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlocksInFile {
    tokens_per_block: u32,
    price_twd: BTreeMap<String, u32>,
}

impl Table {
    pub(super) fn parse(version: &str, text: &str) -> Result<Self, PricesError> {
        let malformed = |problem: String| PricesError::Malformed {
            version: version.to_owned(),
            problem,
        };
        if !is_name(version) {
            return Err(malformed(
                "its name must be small letters, digits, and . _ -".to_owned(),
            ));
        }
        let file: File = toml::from_str(text).map_err(|error| malformed(error.to_string().trim().to_owned()))?;
        let rows = match (file.plans, file.token_costs, file.block_prices, file.line_plans) {
            (Some(plans), None, None, None) => plans_of(plans),
            (None, Some(costs), None, None) => costs_of(costs),
            (None, None, Some(blocks), None) => blocks_of(blocks),
            (None, None, None, Some(plans)) => line_plans_of(plans),
            _ => Err("it must hold one of [plans], [token_costs], [block_prices] and [line_plans]".to_owned()),
        };
        Ok(Self {
            version: version.to_owned(),
            from: file.effective_from,
            until: file.effective_until,
            rows: rows.map_err(malformed)?,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.rows {
            Rows::Plans(_) => Kind::Plans,
            Rows::TokenCosts(_) => Kind::TokenCosts,
            Rows::BlockPrices(_) => Kind::BlockPrices,
            Rows::LinePlans(_) => Kind::LinePlans,
        }
    }

    /// Its figures as they stand in Postgres.
    pub(super) fn document(&self) -> Value {
        match &self.rows {
            Rows::Plans(plans) => json!(plans),
            Rows::TokenCosts(costs) => {
                let costs: BTreeMap<&str, u32> =
                    costs.iter().map(|(channel, cost)| (channel.as_str(), *cost)).collect();
                json!(costs)
            }
            Rows::BlockPrices(blocks) => {
                let prices: BTreeMap<String, u32> = blocks
                    .price_twd
                    .iter()
                    .map(|(blocks, price)| (blocks.to_string(), *price))
                    .collect();
                json!({ "tokens_per_block": blocks.tokens_per_block, "price_twd": prices })
            }
            Rows::LinePlans(plans) => plans.document(),
        }
    }
}

fn plans_of(plans: BTreeMap<String, u32>) -> Result<Rows, String> {
    if let Some(name) = plans.keys().find(|name| !is_name(name)) {
        return Err(format!(
            "`{name}` is no name of a plan: use small letters, digits, and . _ -"
        ));
    }
    figures(&plans)?;
    Ok(Rows::Plans(plans))
}

fn costs_of(costs: BTreeMap<String, u32>) -> Result<Rows, String> {
    figures(&costs)?;
    let costs: Result<BTreeMap<Channel, u32>, String> = costs
        .into_iter()
        .map(|(name, cost)| Ok((name.parse::<Channel>().map_err(|error| error.to_string())?, cost)))
        .collect();
    Ok(Rows::TokenCosts(costs?))
}

fn blocks_of(file: BlocksInFile) -> Result<Rows, String> {
    figures(&file.price_twd)?;
    if file.tokens_per_block == 0 || file.tokens_per_block > FIGURE_LIMIT / BLOCKS_LIMIT * 10 {
        return Err("tokens_per_block must be 1 to 100000".to_owned());
    }
    let mut price_twd = BTreeMap::new();
    for (name, price) in file.price_twd {
        let blocks: u32 = name
            .parse()
            .ok()
            .filter(|blocks| (1..=BLOCKS_LIMIT).contains(blocks) && blocks.to_string() == name)
            .ok_or_else(|| format!("`{name}` is no number of blocks from 1 to {BLOCKS_LIMIT}"))?;
        if price == 0 {
            return Err(format!("the package of `{name}` costs nothing"));
        }
        price_twd.insert(blocks, price);
    }
    Ok(Rows::BlockPrices(Blocks {
        tokens_per_block: file.tokens_per_block,
        price_twd,
    }))
}

fn line_plans_of(plans: BTreeMap<String, line::PlanInFile>) -> Result<Rows, String> {
    if let Some(name) = plans.keys().find(|name| !is_name(name)) {
        return Err(format!(
            "`{name}` is no name of a plan: use small letters, digits, and . _ -"
        ));
    }
    line::plans_of(plans, FIGURE_LIMIT).map(Rows::LinePlans)
}

fn figures(rows: &BTreeMap<String, u32>) -> Result<(), String> {
    if rows.is_empty() {
        return Err("it holds nothing".to_owned());
    }
    match rows.iter().find(|(_, figure)| **figure > FIGURE_LIMIT) {
        Some((name, _)) => Err(format!("the figure of `{name}` is more than {FIGURE_LIMIT}")),
        None => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (1..=NAME_LIMIT).contains(&name.len()) && name.chars().all(plain)
}
