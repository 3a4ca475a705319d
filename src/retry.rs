//! When to try again: exponential steps with full jitter, as a pure function of the attempt.
//!
//! The steps are those of the `backoff` crate. It is unmaintained (RUSTSEC-2025-0012), so it only computes numbers here,
//! behind a type of our own, and nothing else in the tree may use it: its retry loops and its clock never run.

use std::time::Duration;

use backoff::{ExponentialBackoffBuilder, backoff::Backoff as _};

/// The longest wait that a provider's Retry-After is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// A retry policy: the first step, the factor between steps, the longest step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The ceiling of the first delay.
    pub first: Duration,
    /// What the ceiling is multiplied by for each further attempt.
    pub factor: f64,
    /// The ceiling never grows past this.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            factor: 2.0,
            longest: Duration::from_mins(10),
        }
    }
}

impl RetryPolicy {
    /// The longest delay after the `attempt`-th failed attempt (1 is the first).
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let mut steps = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.first)
            .with_multiplier(self.factor)
            .with_max_interval(self.longest)
            .with_max_elapsed_time(None)
            // The jitter is ours, so that the same arguments always give the same delay.
            .with_randomization_factor(0.0)
            .build();
        let mut ceiling = self.first.min(self.longest);
        // Past the longest step nothing changes, so a huge attempt number must not cost a huge loop.
        for _ in 0..attempt.clamp(1, 64) {
            match steps.next_backoff() {
                Some(step) => ceiling = step.min(self.longest),
                None => break,
            }
        }
        ceiling
    }

    /// The delay after the `attempt`-th failed attempt. `random` is uniform in `0.0..1.0`.
    ///
    /// A provider's `retry_after` is the least it can be, stretched by up to a tenth so that those who were refused
    /// together do not come back together.
    #[must_use]
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            1.0
        };
        let jittered = self.ceiling(attempt).mul_f64(random);
        match retry_after {
            None => jittered,
            Some(asked) => {
                let asked = asked.min(MAX_RETRY_AFTER);
                jittered.max(asked.mul_f64(1.0 + random / 10.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ceilings_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let seconds: Vec<u64> = (1..=12).map(|n| policy.ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(policy.ceiling(0), policy.ceiling(1));
        assert_eq!(policy.ceiling(u32::MAX), Duration::from_mins(10));
    }

    proptest! {
        #[test]
        fn a_delay_is_between_nothing_and_its_ceiling(attempt in any::<u32>(), random in 0.0..1.0_f64) {
            let policy = RetryPolicy::default();
            prop_assert!(policy.delay(attempt, None, random) <= policy.ceiling(attempt));
        }

        #[test]
        fn a_retry_after_is_never_undercut(attempt in 1..50_u32, secs in 0..100_000_u64, random in 0.0..1.0_f64) {
            let asked = Duration::from_secs(secs);
            let delay = RetryPolicy::default().delay(attempt, Some(asked), random);
            prop_assert!(delay >= asked.min(MAX_RETRY_AFTER));
        }
    }
}
