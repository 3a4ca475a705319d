//! Section `[delivery]`: how lanes and slices are worked through.
//!
//! Defaults and explanations stand in `config/default.toml` and only there.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    channel::KeyMemory,
    config::{Report, Section},
    delivery::store::Places,
};

/// `[delivery]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryConfig {
    /// Milliseconds a job works on a lane before it goes to the tail of the queue, while nobody waits.
    pub turn_ms: u64,
    /// Lanes of one shop in the ready list or at work at once.
    pub lanes_per_shop: u32,
    /// Lanes on one sender of the platform in the ready list or at work at once, of all shops together.
    pub lanes_per_sender: u32,
    /// Slices of one lane worked on side by side.
    pub parallel_slices: usize,
    /// Milliseconds' worth of messages begun ahead where few are sent to at the same moment; 0: none.
    pub ahead_ms: u64,
    /// Seconds until a lane and its slices whose worker died are taken over.
    pub lease_secs: u64,
    /// Milliseconds between looks at whether a broadcast in hand was paused or cancelled.
    pub watch_ms: u64,
    /// Milliseconds a worker waits for permits itself; a longer wait is the lane's.
    pub permit_patience_ms: u64,
    /// Seconds for which an interrupted LINE send is repeated with its key; the provider forgets it after 24 hours.
    pub key_life_secs: u64,
    /// The same for Mitake, which forgets a key after 12 hours.
    pub mitake_key_life_secs: u64,
    /// Seconds after which a bell that nobody answered is rung again.
    pub bell_stale_secs: f64,
}

impl DeliveryConfig {
    /// How long a turn lasts.
    #[must_use]
    pub const fn lane_budget(&self) -> Duration {
        Duration::from_millis(self.turn_ms)
    }

    /// How much is begun ahead.
    #[must_use]
    pub const fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms)
    }

    /// The lease of a turn: on its lane and on the slices it claims.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_secs)
    }

    /// Between two looks at the broadcast in hand.
    #[must_use]
    pub const fn watch_every(&self) -> Duration {
        Duration::from_millis(self.watch_ms)
    }

    /// How long a worker waits for permits itself.
    #[must_use]
    pub const fn permit_patience(&self) -> Duration {
        Duration::from_millis(self.permit_patience_ms)
    }

    /// For how long a key is trusted.
    #[must_use]
    pub const fn key_life(&self, memory: KeyMemory) -> Duration {
        Duration::from_secs(match memory {
            KeyMemory::Line => self.key_life_secs,
            KeyMemory::Mitake => self.mitake_key_life_secs,
        })
    }

    /// How many lanes may be under way at once.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            per_shop: self.lanes_per_shop,
            per_sender: self.lanes_per_sender,
            bell_stale: self.bell_stale(),
        }
    }

    /// When a bell counts as lost.
    #[must_use]
    pub fn bell_stale(&self) -> Duration {
        Duration::from_secs_f64(self.bell_stale_secs)
    }
}

impl Section for DeliveryConfig {
    fn check(&self, report: &mut Report<'_>) {
        report.range("turn_ms", self.turn_ms, 50..=60_000);
        report.range("lanes_per_shop", self.lanes_per_shop, 1..=1_000);
        report.range("lanes_per_sender", self.lanes_per_sender, 1..=1_000);
        report.range("parallel_slices", self.parallel_slices, 1..=64);
        report.range("ahead_ms", self.ahead_ms, 0..=1_000);
        report.range("lease_secs", self.lease_secs, 1..=600);
        report.range("watch_ms", self.watch_ms, 50..=900);
        report.range("permit_patience_ms", self.permit_patience_ms, 0..=10_000);
        report.range("key_life_secs", self.key_life_secs, 1..=23 * 3600);
        report.range("mitake_key_life_secs", self.mitake_key_life_secs, 1..=11 * 3600);
        report.range("bell_stale_secs", self.bell_stale_secs, 0.1..=60.0);
    }
}
