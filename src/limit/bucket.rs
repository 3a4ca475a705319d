//! The arithmetic of one sender's bucket, pure: time, configuration and wishes come as arguments.
//!
//! This is the specification of `lease.lua` and `throttle.lua`, which do the same on Redis' clock; a property test
//! holds the three together on a real server. It exists so that the promise ("never more than rate × t + burst") can
//! be proved by tests that need no server and no waiting.
//!
//! A bucket is one moment, `spent_until_us`: everything the rate earns up to then is given away. It lies in the past
//! while permits are left over (at most the burst) and in the future while permits were leased ahead of their time
//! (at most the horizon). All times are microseconds since 1970, rates are requests a second; both are `f64` because
//! Lua knows no other number, and whole microseconds stay exact until the year 2255.

use super::{LimitConfig, PerSecond};

/// No 429 slows a sender below one request in two seconds: slower, nobody could see it recover.
const SLOWEST_PER_SEC: f64 = 0.5;
/// 429s that arrive within this time of a slowing belong to requests sent before it, and slow nothing further.
const ONE_EVENT_US: f64 = 1_000_000.0;
/// A first 429 after clean time costs little: most likely the rate was just being tried out.
const FIRST_FACTOR: f64 = 0.8;
/// Another one during the hold costs nearly half: the true limit is far away and must be found in seconds.
const AGAIN_FACTOR: f64 = 0.6;
/// A clean second never raises by more than this share, so that a limit far below the configured one is not overrun.
const LARGEST_RAISE: f64 = 0.1;
const SECOND_US: f64 = 1_000_000.0;

/// What is configured for one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Permits a second.
    pub configured_per_sec: f64,
    /// How much unused time an idle bucket keeps (but always one permit).
    pub burst_us: f64,
    /// How far ahead of its moment a permit may be leased.
    pub ahead_us: f64,
    /// Clean time after a 429 before the first raise.
    pub hold_us: f64,
    /// Share of the configured rate that a clean second gives back.
    pub raise: f64,
    /// The longest closing that is believed.
    pub max_close_us: f64,
}

impl Rules {
    /// The rules for a bucket of this rate.
    pub fn new(config: &LimitConfig, rate: PerSecond) -> Self {
        Self {
            configured_per_sec: rate.get(),
            burst_us: f64::from(config.burst_percent.get()) * SECOND_US / 100.0,
            ahead_us: f64::from(config.lease_ms.get()) * 500.0,
            hold_us: f64::from(config.hold_secs.get()) * SECOND_US,
            raise: f64::from(config.raise_percent.get()) / 100.0,
            max_close_us: f64::from(config.max_close_secs.get()) * SECOND_US,
        }
    }
}

/// The state of a bucket, field by field as in its Redis hash. `Default` is an absent one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bucket {
    /// Everything earned up to this moment is given away.
    pub spent_until_us: Option<f64>,
    /// The lowered rate; `None` while the configured one holds.
    pub rate_per_sec: Option<f64>,
    /// Nothing is leased before this moment.
    pub closed_until_us: f64,
    /// When a 429 last lowered the rate.
    pub slowed_at_us: f64,
    /// When a clean second last raised it.
    pub raised_at_us: f64,
    /// When the last 429 came.
    pub throttled_at_us: f64,
}

/// The answer of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leased {
    /// Permits handed out, 0 to as many as wished.
    pub permits: f64,
    /// When the last of them may be used, counted from now; those before it one step earlier each.
    pub last_in_us: f64,
    /// With no permits: when to ask again, counted from now.
    pub wait_us: f64,
    /// The rate the permits are spaced at.
    pub rate_per_sec: f64,
}

impl Bucket {
    /// Permits a second now.
    pub fn effective_per_sec(&self, rules: &Rules) -> f64 {
        self.rate_per_sec
            .map_or(rules.configured_per_sec, |rate| rate.min(rules.configured_per_sec))
    }

    /// Hands out up to `wanted` permits. `clean`: since the caller last asked, requests were accepted and none was
    /// refused as too fast.
    pub fn lease(&mut self, rules: &Rules, now_us: f64, wanted: f64, clean: bool) -> Leased {
        if clean {
            self.raise(rules, now_us);
        }
        let rate = self.effective_per_sec(rules);
        let step = SECOND_US / rate;
        let horizon = now_us + rules.ahead_us;
        // An absent bucket owes the whole horizon: the one that was lost may have leased it. A moment beyond the
        // horizon can only come from a clock that went back, and must not stop the sender until the clock catches up.
        let spent = self
            .spent_until_us
            .unwrap_or(horizon)
            .min(horizon)
            .max(now_us - rules.burst_us.max(step));
        self.closed_until_us = self.closed_until_us.min(now_us + rules.max_close_us);
        let mut leased = Leased {
            permits: 0.0,
            last_in_us: 0.0,
            wait_us: 0.0,
            rate_per_sec: rate,
        };
        if self.closed_until_us > now_us {
            leased.wait_us = self.closed_until_us - now_us;
        } else {
            leased.permits = ((horizon - spent) / step).floor().min(wanted);
            if leased.permits < 1.0 {
                leased.wait_us = (spent + step - horizon).ceil().max(1.0);
            }
        }
        let spent = (spent + leased.permits * step).ceil();
        if leased.permits > 0.0 {
            leased.last_in_us = (spent - now_us).max(0.0);
        }
        self.spent_until_us = Some(spent);
        leased
    }

    /// A provider refused a request as too fast: close for `close_us`, and slow down once per event.
    pub fn throttle(&mut self, rules: &Rules, now_us: f64, close_us: f64) {
        let quiet_since = self.slowed_at_us.max(self.closed_until_us);
        if now_us >= self.closed_until_us && now_us - self.slowed_at_us >= ONE_EVENT_US {
            let factor = if now_us - quiet_since < rules.hold_us {
                AGAIN_FACTOR
            } else {
                FIRST_FACTOR
            };
            let rate = self.effective_per_sec(rules);
            self.rate_per_sec = Some((rate * factor).max(SLOWEST_PER_SEC.min(rate)));
            self.slowed_at_us = now_us;
        }
        self.throttled_at_us = now_us;
        self.closed_until_us = self.closed_until_us.max(now_us + close_us.min(rules.max_close_us));
    }

    fn raise(&mut self, rules: &Rules, now_us: f64) {
        let Some(rate) = self.rate_per_sec else {
            return;
        };
        let quiet_since = self.slowed_at_us.max(self.closed_until_us) + rules.hold_us;
        if now_us - quiet_since.max(self.raised_at_us) < SECOND_US {
            return;
        }
        let raised = rate + (rules.configured_per_sec * rules.raise).min(rate * LARGEST_RAISE);
        self.rate_per_sec = (raised < rules.configured_per_sec).then_some(raised);
        self.raised_at_us = now_us;
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_precision_loss)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: f64 = 1_800_000_000_000_000.0;

    fn rules(configured_per_sec: f64) -> Rules {
        Rules {
            configured_per_sec,
            burst_us: 20_000.0,
            ahead_us: 40_000.0,
            hold_us: 10.0 * SECOND_US,
            raise: 0.02,
            max_close_us: 3_600.0 * SECOND_US,
        }
    }

    /// The moments of the permits of one answer.
    fn moments(now: f64, leased: &Leased) -> Vec<f64> {
        let step = SECOND_US / leased.rate_per_sec;
        let mut moments = Vec::new();
        let mut left = leased.permits;
        while left >= 1.0 {
            moments.push(now + (leased.last_in_us - (left - 1.0) * step).max(0.0));
            left -= 1.0;
        }
        moments
    }

    fn most_in_window(moments: &[f64], window_us: f64) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (last, moment) in moments.iter().enumerate() {
            while moments[first] < moment - window_us {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        most
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_rate_times_length_plus_burst(
            rate in prop_oneof![0.5..20.0, 20.0..500.0, 500.0..5_000.0],
            asks in prop::collection::vec((0.0..90_000.0f64, 1.0..300.0f64), 1..200),
            window_us in 1_000.0..2_000_000.0f64,
        ) {
            let rules = rules(rate);
            let mut bucket = Bucket::default();
            let mut now = START;
            let mut all = Vec::new();
            for (pause, wanted) in asks {
                now += pause.floor();
                all.extend(moments(now, &bucket.lease(&rules, now, wanted.floor(), false)));
            }
            all.sort_by(f64::total_cmp);
            let burst = (rate * rules.burst_us / SECOND_US).max(1.0);
            let allowed = rate * window_us / SECOND_US + burst;
            prop_assert!(most_in_window(&all, window_us) as f64 <= allowed + 1e-3);
        }

        #[test]
        fn a_bucket_lost_at_any_moment_gives_no_permit_twice(
            rate in 1.0..2_000.0f64,
            before in prop::collection::vec(0.0..50_000.0f64, 1..50),
            after in prop::collection::vec(0.0..50_000.0f64, 1..50),
        ) {
            let rules = rules(rate);
            let mut bucket = Bucket::default();
            let mut now = START;
            let mut last_before = now;
            for pause in before {
                now += pause.floor();
                last_before = moments(now, &bucket.lease(&rules, now, 50.0, false)).last().copied().unwrap_or(last_before);
            }
            let mut bucket = Bucket::default();
            for pause in after {
                now += pause.floor();
                for moment in moments(now, &bucket.lease(&rules, now, 50.0, false)) {
                    prop_assert!(moment > last_before);
                }
            }
        }

        #[test]
        fn who_asks_when_told_is_served_at_the_full_rate(rate in 0.5..2_000.0f64) {
            let rules = rules(rate);
            let mut bucket = Bucket::default();
            let mut now = START;
            let mut permits = 0.0;
            while now < START + 20.0 * SECOND_US {
                let leased = bucket.lease(&rules, now, 10.0, false);
                permits += leased.permits;
                now += leased.wait_us.max(leased.last_in_us);
            }
            prop_assert!(permits >= 0.99 * rate * 20.0 - 2.0, "{permits} at {rate}/s");
        }

        #[test]
        fn a_clock_that_goes_back_never_stops_a_sender(back in 1.0..1e12f64) {
            let rules = rules(50.0);
            let mut bucket = Bucket::default();
            bucket.lease(&rules, START, 2.0, false);
            bucket.throttle(&rules, START, 1e15);
            let now = START - back.floor();
            let wait = bucket.lease(&rules, now, 2.0, false).wait_us;
            prop_assert!(wait <= rules.max_close_us);
            prop_assert!(bucket.lease(&rules, now + wait, 2.0, false).wait_us <= SECOND_US / 20.0);
        }

        #[test]
        fn a_rate_far_above_the_true_limit_comes_down_and_stays_close(limit in 5.0..40.0f64) {
            let rules = rules(50.0);
            let mut bucket = Bucket::default();
            // One look a second: the provider refuses whenever we are faster than it allows, and closes for a second.
            let mut rates = Vec::new();
            for second in 0..120 {
                let now = START + f64::from(second) * SECOND_US;
                let leased = bucket.lease(&rules, now, 1.0, true);
                if leased.wait_us < SECOND_US / 2.0 && leased.rate_per_sec > limit {
                    bucket.throttle(&rules, now, SECOND_US);
                }
                rates.push(bucket.effective_per_sec(&rules));
            }
            prop_assert!(rates[10] <= limit, "{} after ten seconds at a limit of {limit}", rates[10]);
            let late = &rates[60..];
            prop_assert!(late.iter().all(|rate| *rate <= limit * 1.1 + 1.0));
            prop_assert!(late.iter().sum::<f64>() / late.len() as f64 >= limit * 0.75);
        }
    }

    #[test]
    fn many_refusals_of_one_event_slow_once() {
        let rules = rules(100.0);
        let mut bucket = Bucket::default();
        for late in 0..50 {
            bucket.throttle(&rules, START + f64::from(late) * 1_000.0, 10_000.0);
        }
        assert!((bucket.effective_per_sec(&rules) - 80.0).abs() < 1e-9);
    }

    #[test]
    fn clean_seconds_give_the_configured_rate_back_and_then_forget() {
        let rules = rules(100.0);
        let mut bucket = Bucket::default();
        bucket.throttle(&rules, START, SECOND_US);
        let mut now = START + SECOND_US;
        let mut seconds = 0;
        while bucket.rate_per_sec.is_some() {
            now += SECOND_US;
            seconds += 1;
            bucket.lease(&rules, now, 1.0, true);
            assert!(seconds < 60, "still at {:?}", bucket.rate_per_sec);
        }
        // Ten to hold, then 20 % at 2 % each.
        assert!((19..=22).contains(&seconds), "{seconds}");
    }

    #[test]
    fn without_accepted_requests_a_lowered_rate_stays() {
        let rules = rules(100.0);
        let mut bucket = Bucket::default();
        bucket.throttle(&rules, START, SECOND_US);
        bucket.lease(&rules, START + 1_000.0 * SECOND_US, 1.0, false);
        assert!((bucket.effective_per_sec(&rules) - 80.0).abs() < 1e-9);
    }
}
