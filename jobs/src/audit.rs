//! `audit`: prove over the whole database that tokens and deliveries agree, and keep what was found.
//!
//! It carries the name of the period it is for and nothing else. A period that was audited is not audited again, so a job
//! that comes twice, late, or from two schedulers does no harm.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Policy;

const PERIOD_PATTERN: &str = "^[0-9]{4}[0-9A-Za-z-]{0,16}$";

/// The payload of an `audit` job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The period it is for, usually a day such as `2026-11-22`. Once each: another name is another audit.
    pub period: AuditPeriod,
}

impl Audit {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        max_attempts: 5,
        lease_secs: 30,
        reserved_slots: 1,
        // Behind everything a merchant waits for.
        priority: 200,
        // It reads the whole database: hours, after years.
        timeout_secs: 6 * 3600,
        max_crashes: None,
    };
}

/// The name of an audited period: a year, then letters, digits and dashes, at most 20 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = PERIOD_PATTERN))]
pub struct AuditPeriod(#[serde(deserialize_with = "read")] String);

/// Not the name of an audited period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a period begins with its year and has up to 20 letters, digits and dashes, such as 2026-11-22")]
pub struct InvalidAuditPeriod;

impl AuditPeriod {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AuditPeriod {
    type Err = InvalidAuditPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidAuditPeriod> {
        let year = text.bytes().take_while(u8::is_ascii_digit).count();
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if year >= 4 && text.len() <= 20 && plain {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidAuditPeriod)
        }
    }
}

impl fmt::Display for AuditPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<AuditPeriod>()
        .map(|period| period.0)
        .map_err(de::Error::custom)
}
