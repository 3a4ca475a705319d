//! How fast each sender may send, for the whole fleet of workers.
//!
//! Providers count our requests per account, not per process, and punish who exceeds their limit; so the truth is
//! one token bucket per sender in Redis, and a process may send only with permits it took from there.
//!
//! - `bucket`: the arithmetic of a bucket, pure; the two Lua scripts do exactly this on the server's clock.
//! - `fleet`: the scripts and how they are called.
//! - `lease`: the few permits one process holds for at most a tenth of a second, and their pace; pure but for the clock
//!   of `governor`.
//! - `turns`: whose turn it is among shops that share a sender, pure.
//! - `limits`: [`Limits`], which ties them together.
//! - `config`: the `[limit]` section.
//!
//! What must never happen here: a permit without Redis' consent. Redis away, slow, flushed or with a clock that jumps
//! means fewer permits. The most that any second can exceed the rate by is the burst and half a lease (2 % and 4 % by
//! default); a replica promoted with an old bucket can give one burst and half a lease twice, once.
//!
//! A sender of the platform (a mail relay, a push project) is shared by shops: they take turns on the permits of a process,
//! and which of them are at work at all is decided by their lanes' places (`lanes_to_ring`).

pub mod bucket;
mod config;
mod fleet;
mod lease;
mod limits;
mod turns;

use std::{fmt, time::Duration};

use carillon_jobs::{SenderId, ShopId};
use chrono::{DateTime, Utc};

pub use config::{BadRate, Bounded, LimitConfig, PerSecond};
pub use fleet::LimitError;
pub use limits::Limits;

/// Which of a provider's limits a request counts against: LINE counts each endpoint on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// One request for one recipient.
    Single,
    /// One request for many recipients.
    Multicast,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Multicast => "multicast",
        })
    }
}

/// The bucket a request takes its permit from, and how fast that bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitKey {
    /// The account whose limit it is.
    pub sender: SenderId,
    /// The kind of request.
    pub call: Call,
    /// The configured rate: the sender's own, or the default of `[limit]` for its channel.
    pub rate: PerSecond,
    /// On whose behalf, where shops share the sender and take turns; `None`: nobody else wants it.
    pub shop: Option<ShopId>,
}

/// The answer to [`Limits::acquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing may be sent without a permit"]
pub enum Grant {
    /// So many requests (1 to as many as were asked for) may be started now. They cannot be given back.
    Granted(u32),
    /// None now; ask again after this long. Asking earlier is harmless and costs no call to Redis.
    Wait(Duration),
}

/// What a sender's bucket says, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitStatus {
    /// Requests a second by configuration.
    pub configured_per_sec: f64,
    /// Requests a second now; below the configured rate after a 429 and until enough clean seconds have passed.
    pub effective_per_sec: f64,
    /// Nothing is sent before this moment (by Redis' clock); `None` when open.
    pub closed_until: Option<DateTime<Utc>>,
    /// When the provider last refused a request as too fast.
    pub last_throttled_at: Option<DateTime<Utc>>,
}
