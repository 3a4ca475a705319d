//! `monthly-token-refill`: look at the shops whose current period this is (or at one of them) and grant what is due.
//!
//! It names a period, not a moment and not an amount. Who is due and what the plan gives is read from Postgres by the
//! worker, so a job that comes twice, late, or for a period that is over grants nothing twice and nothing too much.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Policy, ShopId};

const PERIOD_PATTERN: &str = "^[2-9][0-9]{3}-(0[1-9]|1[0-2])$";

/// The payload of a `monthly-token-refill` job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonthlyTokenRefill {
    /// The period to refill for, such as `2026-11`: the month in which it began in a shop's time zone.
    pub period: PeriodName,
    /// The one shop to refill. Without it all whose current period it is and who are due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shop_id: Option<ShopId>,
}

impl MonthlyTokenRefill {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        // As for broadcasts: what fails here is a database that stays away, and reconcile rings again after it.
        max_attempts: 20,
        lease_secs: 15,
        reserved_slots: 1,
        priority: 40,
        // A turn is a time budget of a few seconds.
        timeout_secs: 300,
        max_crashes: None,
    };
}

/// The name of a period: a year from 2000 to 9999 and a month, `2026-11`. Later ones compare greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = PERIOD_PATTERN))]
pub struct PeriodName(String);

/// Not the name of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a year and a month, as in 2026-11")]
pub struct NotAPeriod;

impl PeriodName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PeriodName {
    type Error = NotAPeriod;

    fn try_from(text: String) -> Result<Self, NotAPeriod> {
        let (year, month) = text.split_once('-').ok_or(NotAPeriod)?;
        let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_year = digits(year, 4) && !year.starts_with(['0', '1']);
        let is_month = digits(month, 2) && month.parse().is_ok_and(|month: u8| (1..=12).contains(&month));
        if is_year && is_month {
            Ok(Self(text))
        } else {
            Err(NotAPeriod)
        }
    }
}

impl From<PeriodName> for String {
    fn from(name: PeriodName) -> Self {
        name.0
    }
}

impl fmt::Display for PeriodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
