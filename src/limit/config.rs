//! The `[limit]` section of the configuration: rates and how they give way.
//!
//! Every value is checked while it is read, so that nothing further in has to doubt it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

/// A rate that cannot be meant: not a number, or outside 0.001 to 10,000,000 a second.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("{0} is not a rate between 0.001 and 10000000 a second")]
pub struct BadRate(f64);

/// Requests a second, from 0.001 to 10,000,000.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct PerSecond(f64);

impl PerSecond {
    /// The rate as a plain number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for PerSecond {
    type Error = BadRate;

    fn try_from(rate: f64) -> Result<Self, BadRate> {
        if (0.001..=10_000_000.0).contains(&rate) {
            Ok(Self(rate))
        } else {
            Err(BadRate(rate))
        }
    }
}

impl fmt::Display for PerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// A whole number between `MIN` and `MAX`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(de::Error::custom(format_args!(
                "{number} is not between {MIN} and {MAX}"
            )))
        }
    }
}

/// The `[limit]` section; `config/default.toml` explains each key and holds its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// LINE push and reply requests a second and sender.
    pub line_push_per_sec: PerSecond,
    /// LINE multicast requests a second and sender.
    pub line_multicast_per_sec: PerSecond,
    /// App push messages a second and project.
    pub app_per_sec: PerSecond,
    /// E-mails a second and relay.
    pub email_per_sec: PerSecond,
    /// Messenger messages a second and page.
    pub messenger_per_sec: PerSecond,
    /// WhatsApp messages a second and number.
    pub whatsapp_per_sec: PerSecond,
    /// Text messages a second and account.
    pub sms_per_sec: PerSecond,
    /// Depth of a bucket in percent of one second's permits.
    pub burst_percent: Bounded<1, 5>,
    /// How long a process may keep a permit.
    pub lease_ms: Bounded<10, 100>,
    /// Clean seconds before the first raise after a 429.
    pub hold_secs: Bounded<1, 3600>,
    /// Percent of the configured rate given back by a clean second.
    pub raise_percent: Bounded<1, 100>,
    /// How long a 429 that names no time closes the sender.
    pub close_ms: Bounded<100, 60_000>,
    /// The longest a sender is closed by one 429.
    pub max_close_secs: Bounded<1, 86_400>,
    /// When Redis counts as away.
    pub redis_timeout_ms: Bounded<50, 5_000>,
}

/// Every value was checked while it was read.
impl crate::config::Section for LimitConfig {}

impl LimitConfig {
    /// How long after its moment a permit may still be used.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.lease_ms.get().into()) / 2
    }
}
