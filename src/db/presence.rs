//! Whether PostgreSQL answers, told once when it stops and once when it is back: an outage of an hour is two lines, not two
//! thousand.

use std::sync::atomic::{AtomicBool, Ordering};

/// What this process last knew. Clone an `Arc` of it where several ask.
#[derive(Debug, Default)]
pub struct Presence {
    away: AtomicBool,
}

impl Presence {
    /// Takes note of an answer, whatever it said.
    pub fn answered(&self) {
        // Read first: this is called after every turn, and nearly always there is nothing to change.
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("PostgreSQL answers again");
        }
    }

    /// Takes note of an error that may pass.
    pub fn away(&self, error: &str) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(error, "PostgreSQL does not answer; work goes on when it does");
        }
    }
}
