//! Packages of bought tokens: which there are on a day, and what they cost (pure).
//!
//! It must never price a quantity that is not a listed package: there is no price per block.

use chrono::NaiveDate;
use serde::Serialize;

use super::{
    Kind, Prices,
    table::{Rows, Table},
};

/// A package and its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockPrice {
    /// The price table it stands in; an order keeps it.
    pub version: String,
    /// How many blocks.
    pub blocks: u32,
    /// Tokens in all of them.
    pub tokens: u64,
    /// What the package costs, in whole TWD.
    pub price_twd: u32,
}

impl Prices {
    /// What a package of this many blocks costs on a day; none when no such package is listed.
    #[must_use]
    pub fn block_price_at(&self, day: NaiveDate, blocks: u32) -> Option<BlockPrice> {
        self.block_prices_at(day)
            .into_iter()
            .find(|package| package.blocks == blocks)
    }

    /// Every package of a day, smallest first.
    #[must_use]
    pub fn block_prices_at(&self, day: NaiveDate) -> Vec<BlockPrice> {
        let Some(Table {
            version,
            rows: Rows::BlockPrices(table),
            ..
        }) = self.at(Kind::BlockPrices, day)
        else {
            return Vec::new();
        };
        let package = |(blocks, price_twd): (&u32, &u32)| BlockPrice {
            version: version.clone(),
            blocks: *blocks,
            tokens: u64::from(*blocks) * u64::from(table.tokens_per_block),
            price_twd: *price_twd,
        };
        table.price_twd.iter().map(package).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, NaiveDate};
    use chrono_tz::Asia::Taipei;

    use super::Prices;

    fn listed(day: NaiveDate) -> Vec<(u32, u64, u32)> {
        let prices = Prices::embedded().unwrap();
        let packages = prices.block_prices_at(day);
        packages
            .into_iter()
            .map(|package| (package.blocks, package.tokens, package.price_twd))
            .collect()
    }

    /// The day in Asia/Taipei on which an instant falls.
    fn taipei(instant: &str) -> NaiveDate {
        DateTime::parse_from_rfc3339(instant)
            .unwrap()
            .with_timezone(&Taipei)
            .date_naive()
    }

    #[test]
    fn the_price_list_changes_at_midnight_in_taipei() {
        let old = [(1, 12_500, 799), (10, 125_000, 6_999), (100, 1_250_000, 59_999)];
        let new = [
            (1, 12_500, 799),
            (5, 62_500, 3_595),
            (10, 125_000, 6_790),
            (50, 625_000, 31_950),
            (100, 1_250_000, 55_900),
        ];
        assert_eq!(listed(taipei("2025-08-31T23:59:59+08:00")), old);
        assert_eq!(listed(taipei("2025-09-01T00:00:00+08:00")), new);
        assert_eq!(listed(taipei("2025-08-31T15:59:59Z")), old);
        assert_eq!(listed(taipei("2025-08-31T16:00:00Z")), new);
        assert!(listed("2023-12-31".parse().unwrap()).is_empty());
    }

    #[test]
    fn only_a_listed_package_has_a_price() {
        let prices = Prices::embedded().unwrap();
        let (old, new) = ("2025-08-31".parse().unwrap(), "2025-09-01".parse().unwrap());
        assert_eq!(prices.block_price_at(old, 5), None);
        let package = prices.block_price_at(new, 5).unwrap();
        assert_eq!(
            (package.version.as_str(), package.price_twd),
            ("blocks-2025-09-01", 3_595)
        );
        for blocks in [0, 2, 4, 6, 99, 101, u32::MAX] {
            assert_eq!(prices.block_price_at(new, blocks), None, "{blocks}");
        }
    }
}
