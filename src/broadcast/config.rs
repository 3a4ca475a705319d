//! Settings of planning.
//!
//! It must never hold a figure of the price list: costs are data with dates (`prices`).

use serde::Deserialize;

use crate::{
    config::{Report, Section},
    prices::{Prices, PricesError},
};

/// Section `broadcast` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BroadcastConfig {
    /// Customers planned in one transaction.
    pub chunk_customers: u32,
    /// The most deliveries in a slice.
    pub slice_size: u32,
    /// How long one job plans before it goes to the tail of its queue.
    pub plan_budget_secs: f64,
    /// How long a planner that fell silent keeps its broadcast from others.
    pub plan_lease_secs: f64,
    /// How long a shop's other broadcasts wait for one whose planner fell silent.
    pub shop_lease_secs: f64,
    /// A plan of at least this many messages refreshes the statistics of its table before sending opens.
    pub analyze_messages: i64,
    /// Rows of a plan that will never be sent, deleted in one transaction.
    pub purge_rows: i64,
    /// The price tables: those of section `prices`, handed over when the configuration is read.
    #[serde(skip)]
    pub prices: Prices,
    /// What every text message begins with: `channel.sms.sender_name`, handed over when the configuration is read.
    #[serde(skip)]
    pub sms_sender_name: String,
}

impl Section for BroadcastConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.range("chunk_customers", self.chunk_customers, 1..=100_000);
        report.range("slice_size", self.slice_size, 1..=5_000);
        report.range("plan_budget_secs", self.plan_budget_secs, 0.1..=20.0);
        report.range("plan_lease_secs", self.plan_lease_secs, 1.0..=300.0);
        report.range("shop_lease_secs", self.shop_lease_secs, self.plan_lease_secs..=600.0);
        report.range("analyze_messages", self.analyze_messages, 0..=i64::MAX);
        report.range("purge_rows", self.purge_rows, 1..=1_000_000);
    }
}

impl BroadcastConfig {
    /// The values of `config/default.toml`, for tests and benchmarks that read no configuration.
    ///
    /// # Errors
    /// Never in a released build: a test reads the built-in tables.
    pub fn built_in() -> Result<Self, PricesError> {
        Ok(Self {
            chunk_customers: 10_000,
            slice_size: 2_000,
            plan_budget_secs: 3.0,
            plan_lease_secs: 15.0,
            shop_lease_secs: 30.0,
            analyze_messages: 20_000,
            purge_rows: 20_000,
            prices: Prices::embedded()?,
            sms_sender_name: "EasyStore".to_owned(),
        })
    }
}
