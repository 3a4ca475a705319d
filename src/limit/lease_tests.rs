//! The permits of one process, alone and as a fleet in simulated time: no server, no waiting.

use proptest::prelude::*;

use super::{super::bucket::Bucket, *};

const GRACE: Duration = Duration::from_millis(40);

fn rules(rate: f64) -> Rules {
    Rules {
        configured_per_sec: rate,
        burst_us: 20_000.0,
        ahead_us: 40_000.0,
        hold_us: 1e7,
        raise: 0.02,
        max_close_us: 1e9,
    }
}

fn reply(permits: u32, last_in_ms: u64, rate_per_sec: f64, at: Instant) -> Reply {
    Reply {
        permits,
        last_in: Duration::from_millis(last_in_ms),
        wait: Duration::ZERO,
        rate_per_sec,
        sent: at,
        received: at,
    }
}

#[test]
fn each_permit_has_its_moment_and_its_end() {
    let at = Instant::now();
    let ms = |ms| at + Duration::from_millis(ms);
    let mut lease = Lease::new(&reply(4, 20, 100.0, at), GRACE);
    assert_eq!(
        [0, 9, 10, 19, 20, 39].map(|now| lease.usable(ms(now))),
        [2, 2, 3, 3, 4, 4]
    );
    lease.taken = 2;
    assert_eq!(lease.wait(at, 1), Duration::from_millis(10));
    lease.taken = 0;
    lease.drop_ended(ms(39));
    assert_eq!(lease.usable(ms(39)), 4);
    lease.drop_ended(ms(40));
    assert_eq!(lease.usable(ms(40)), 2);
    lease.drop_ended(ms(60));
    assert!(lease.is_empty());
}

#[test]
fn a_slow_answer_shortens_permits_and_never_hastens_them() {
    let at = Instant::now();
    let late = Reply {
        received: at + Duration::from_millis(30),
        ..reply(1, 0, 100.0, at)
    };
    let mut lease = Lease::new(&late, GRACE);
    assert_eq!(lease.usable(at + Duration::from_millis(30)), 1);
    lease.drop_ended(at + Duration::from_millis(41));
    assert!(lease.is_empty());
}

#[test]
fn a_closed_sender_gives_nothing_even_with_a_lease() {
    let at = Instant::now();
    let mut pace = Pace::default();
    pace.close(at + Duration::from_secs(1));
    pace.receive(&rules(100.0), GRACE, &reply(4, 0, 100.0, at));
    assert_eq!(pace.take(at, 4), Some(Grant::Wait(Duration::from_secs(1))));
}

#[test]
fn a_failed_call_is_not_repeated_at_once() {
    let at = Instant::now();
    let mut pace = Pace::default();
    pace.fail(at, 1.0);
    assert_eq!(pace.take(at, 1), Some(Grant::Wait(FIRST_BACKOFF)));
    assert_eq!(pace.take(at + FIRST_BACKOFF, 1), None);
    for _ in 0..50 {
        pace.fail(at, 1.0);
    }
    assert_eq!(pace.take(at, 1), Some(Grant::Wait(LONGEST_BACKOFF)));
}

proptest! {
    /// A fleet over one bucket in simulated time, with slow answers and stalls, and the bucket lost or put back to an
    /// older snapshot once (governor's own clock is real, so the wall is left out).
    #[test]
    fn a_fleet_never_exceeds_rate_and_burst_whatever_happens_to_the_bucket(
        rate in prop_oneof![Just(50.0), 20.0..3_000.0f64],
        steps in prop::collection::vec((0usize..4, 0u64..12_000, 0u64..15_000, 1u32..60), 50..400),
        restored in prop::option::of((10usize..200, any::<bool>())),
    ) {
        let rules = rules(rate);
        let base = Instant::now();
        let start = 1_800_000_000_000_000.0;
        let mut bucket = Bucket::default();
        let mut snapshot = bucket;
        let mut now = 0;
        let mut fleet: Vec<Option<Lease>> = vec![None; 4];
        let mut taken = Vec::new();
        for (index, (process, pause, delay, wanted)) in steps.into_iter().enumerate() {
            now += pause;
            if index == 5 { snapshot = bucket; }
            if restored == Some((index, true)) { bucket = snapshot; }
            if restored == Some((index, false)) { bucket = Bucket::default(); }
            let at = base + Duration::from_micros(now);
            let slot = &mut fleet[process];
            if slot.is_none_or(|lease| lease.is_empty()) {
                let leased = bucket.lease(&rules, start + now as f64, f64::from(wanted), false);
                let answer = Reply {
                    permits: whole(leased.permits),
                    last_in: Duration::from_micros(whole(leased.last_in_us).into()),
                    wait: Duration::ZERO,
                    rate_per_sec: leased.rate_per_sec,
                    sent: at.checked_sub(Duration::from_micros(delay / 2)).unwrap(),
                    received: at + Duration::from_micros(delay),
                };
                *slot = Some(Lease::new(&answer, GRACE));
            }
            let lease = slot.as_mut().unwrap();
            lease.drop_ended(at);
            let usable = lease.usable(at).min(wanted);
            lease.taken += usable;
            taken.extend((0..usable).map(|_| now));
        }
        let burst = (rate * 0.02).max(1.0);
        // Only an old snapshot, as of a replica that lags, can give permits twice: once, what a lease and a burst hold.
        let twice = if restored.is_some_and(|(_, snapshot)| snapshot) { rate * 0.04 + burst } else { 0.0 };
        for (first, from) in taken.iter().enumerate() {
            let within = taken[first..].iter().take_while(|moment| **moment <= from + 1_000_000).count();
            prop_assert!(within as f64 <= rate * 1.04 + burst + twice + 0.01, "{within} in a second at {rate}/s");
        }
    }
}
