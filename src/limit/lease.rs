//! The permits one process holds, and their pace.
//!
//! A lease is a short row of permits, each with its own moment: not usable before it, worthless a little after it.
//! So a process that stalls cannot later send what it missed, and a batch taken in one call still leaves in a steady
//! stream. Redis' moments are translated by the two local instants around the call: never usable earlier than Redis
//! meant, never longer.
//!
//! On top stands `governor`: whatever Redis answers (an old snapshot restored, a clock that jumped, two masters after
//! a failover), this process alone never exceeds the rate.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

use super::{Grant, bucket::Rules, fleet::Reply};

/// Fast senders wait for several permits at once rather than waking for each.
const PACE: Duration = Duration::from_millis(5);
/// A failed call is not repeated sooner than this, doubling up to `LONGEST_BACKOFF`.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// Longer waits are asked about again in between: a person may have opened the sender.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);

/// A row of permits, `step` apart, the last one usable `last_in` after the script ran.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    permits: u32,
    taken: u32,
    step: Duration,
    last_in: Duration,
    received: Instant,
    /// `sent` plus grace: a permit ends this long after its own offset.
    ends_from: Instant,
    used: bool,
}

impl Lease {
    fn new(reply: &Reply, grace: Duration) -> Self {
        Self {
            permits: reply.permits,
            taken: 0,
            step: Duration::from_secs_f64(1.0 / reply.rate_per_sec).max(Duration::from_nanos(1)),
            last_in: reply.last_in,
            received: reply.received,
            ends_from: reply.sent + grace,
            used: false,
        }
    }

    /// How many of the permits have a moment at or before `elapsed`.
    fn reached(&self, elapsed: Duration) -> u32 {
        let ahead = self.last_in.saturating_sub(elapsed);
        let missing = ahead.as_nanos().div_ceil(self.step.as_nanos());
        self.permits.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// The moment of the permit with this index.
    fn moment(&self, index: u32) -> Instant {
        let behind = self.permits.saturating_sub(1).saturating_sub(index);
        self.received + self.last_in.saturating_sub(self.step.saturating_mul(behind))
    }

    fn drop_ended(&mut self, now: Instant) {
        if let Some(elapsed) = now.checked_duration_since(self.ends_from) {
            self.taken = self.taken.max(self.reached(elapsed));
        }
    }

    /// Permits usable now and not yet taken.
    fn usable(&self, now: Instant) -> u32 {
        self.reached(now.saturating_duration_since(self.received))
            .saturating_sub(self.taken)
    }

    fn is_empty(&self) -> bool {
        self.taken >= self.permits
    }

    /// When `wanted` permits (or all there are) will be usable, but not much later than the first of them.
    fn wait(&self, now: Instant, wanted: u32) -> Duration {
        let last = self.taken.saturating_add(wanted).min(self.permits).saturating_sub(1);
        let first = self.moment(self.taken).max(now + PACE);
        self.moment(last).min(first).saturating_duration_since(now)
    }
}

/// One sender as this process knows it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lease: Option<Lease>,
    wall: Option<(f64, DefaultDirectRateLimiter)>,
    /// No call to Redis before this moment.
    silent_until: Option<Instant>,
    /// Nothing is sent before this moment, whatever is leased.
    open_at: Option<Instant>,
    next_batch: u32,
    failures: u32,
    /// A request was accepted since the last call to Redis.
    clean: bool,
    /// When somebody last asked.
    asked_at: Option<Instant>,
}

impl Pace {
    /// Takes up to `wanted` permits; `None` when only Redis can tell.
    pub(super) fn take(&mut self, now: Instant, wanted: u32) -> Option<Grant> {
        self.asked_at = Some(now);
        if let Some(open_at) = self.open_at.filter(|open_at| *open_at > now) {
            return Some(Grant::Wait(open_at - now));
        }
        if let Some(lease) = &mut self.lease {
            lease.drop_ended(now);
            let usable = lease.usable(now).min(wanted);
            if usable > 0 {
                let granted = match &self.wall {
                    Some((_, wall)) => pass(wall, usable),
                    None => Grant::Granted(usable),
                };
                if let Grant::Granted(permits) = granted {
                    lease.taken += permits;
                    lease.used = true;
                }
                return Some(granted);
            }
            if !lease.is_empty() {
                return Some(Grant::Wait(lease.wait(now, wanted)));
            }
        }
        self.silent_until
            .filter(|until| *until > now)
            .map(|until| Grant::Wait(until - now))
    }

    /// Permits that can be taken now without asking anybody.
    pub(super) fn usable(&mut self, now: Instant) -> u32 {
        match &mut self.lease {
            Some(lease) if self.open_at.is_none_or(|open_at| open_at <= now) => {
                lease.drop_ended(now);
                lease.usable(now)
            }
            _ => 0,
        }
    }

    /// How many permits to ask Redis for: twice the last lease when it was too small, half when it went to waste, and
    /// what the caller needs now; never more than may be leased ahead, so that workers take turns.
    pub(super) fn batch(&mut self, now: Instant, rules: &Rules, wanted: u32) -> u32 {
        let largest = whole(self.rate_per_sec(rules) * rules.ahead_us / 1_000_000.0).max(1);
        if let Some(lease) = self.lease.take() {
            let over = now
                .checked_duration_since(lease.ends_from)
                .is_some_and(|gone| gone >= lease.last_in);
            self.next_batch = if lease.used && !over {
                lease.permits.saturating_mul(2)
            } else {
                lease.permits / 2
            };
        }
        self.next_batch.max(wanted).clamp(1, largest)
    }

    fn rate_per_sec(&self, rules: &Rules) -> f64 {
        self.wall.as_ref().map_or(rules.configured_per_sec, |(rate, _)| *rate)
    }

    /// Takes in what Redis answered.
    pub(super) fn receive(&mut self, rules: &Rules, grace: Duration, reply: &Reply) {
        self.failures = 0;
        if self
            .wall
            .as_ref()
            .is_none_or(|(rate, _)| (rate - reply.rate_per_sec).abs() > f64::EPSILON)
        {
            self.wall = wall(rules, grace, reply.rate_per_sec).map(|wall| (reply.rate_per_sec, wall));
        }
        if reply.permits > 0 {
            self.lease = Some(Lease::new(reply, grace));
            self.silent_until = None;
        } else {
            self.lease = None;
            self.silent_until = Some(reply.received + reply.wait.min(LONGEST_SILENCE));
        }
    }

    /// Redis did not answer: no permits, and silence for a while.
    pub(super) fn fail(&mut self, now: Instant, jitter: f64) {
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(8))
            .min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.lease = None;
        self.silent_until = Some(now + backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
    }

    /// The provider refused a request as too fast: what is leased is void, and nothing leaves here for that long even
    /// if Redis cannot be told.
    pub(super) fn close(&mut self, until: Instant) {
        self.lease = None;
        self.clean = false;
        self.open_at = Some(self.open_at.map_or(until, |open_at| open_at.max(until)));
    }

    pub(super) fn accepted(&mut self) {
        self.clean = true;
    }

    /// Whether a request was accepted since this was last asked.
    pub(super) fn take_clean(&mut self) -> bool {
        std::mem::take(&mut self.clean)
    }

    /// Nobody asked since `since`, and nothing would be forgotten.
    pub(super) fn is_idle(&self, since: Instant, now: Instant) -> bool {
        self.asked_at.is_none_or(|asked_at| asked_at < since) && self.open_at.is_none_or(|open_at| open_at < now)
    }
}

/// The wall lets through what Redis may rightly hand this process at one moment (an idle bucket's burst and what
/// was late by the grace), and else the rate.
fn wall(rules: &Rules, grace: Duration, rate_per_sec: f64) -> Option<DefaultDirectRateLimiter> {
    let at_once = rate_per_sec * (rules.burst_us / 1_000_000.0 + grace.as_secs_f64());
    let burst = NonZeroU32::new(whole(at_once.ceil()).saturating_add(2))?;
    let step = Duration::from_secs_f64(1.0 / rate_per_sec);
    Some(DefaultDirectRateLimiter::direct(
        Quota::with_period(step)?.allow_burst(burst),
    ))
}

fn pass(wall: &DefaultDirectRateLimiter, permits: u32) -> Grant {
    let Some(wanted) = NonZeroU32::new(permits) else {
        return Grant::Wait(PACE);
    };
    match wall.check_n(wanted) {
        Ok(Ok(())) => return Grant::Granted(permits),
        Ok(Err(not_until)) if permits == 1 => {
            return Grant::Wait(not_until.wait_time_from(DefaultClock::default().now()));
        }
        Ok(Err(_)) | Err(_) => {}
    }
    // The whole row does not fit: one at a time is still right, and this is the rare case.
    match wall.check() {
        Ok(()) => Grant::Granted(1),
        Err(not_until) => Grant::Wait(not_until.wait_time_from(DefaultClock::default().now())),
    }
}

/// The whole part of a rate or a count; what does not fit is cut to what does.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and that is meant"
)]
fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss)]
#[path = "lease_tests.rs"]
mod tests;
