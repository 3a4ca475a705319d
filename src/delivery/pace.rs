//! How fast members of a slice come back, and how many may therefore be begun ahead, pure.
//!
//! What is begun without a key is what a crash leaves unknown, so no more are begun than keep the sockets busy. Where these are few
//! and the provider quick, as with a mail relay, that would be a settle for every handful; a few milliseconds' worth of
//! messages costs a crash little and spares the database most of its work.
//!
//! It must never begin fewer than the sockets take, nor more than a bound a person can be told.

use std::time::{Duration, Instant};

/// The most that are begun because of their pace.
const MOST_AHEAD: f64 = 128.0;

/// Members that came back a second, lately.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    per_sec: f64,
    since: Option<Instant>,
}

impl Pace {
    /// The first of them were begun; before, nobody was out.
    pub(super) const fn begun(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// So many came back by now. The last few times weigh as much as all before them.
    #[expect(clippy::cast_precision_loss, reason = "members of a slice")]
    pub(super) fn came_back(&mut self, members: usize, now: Instant) {
        let Some(since) = self.since.replace(now) else { return };
        let secs = now.saturating_duration_since(since).as_secs_f64().max(1e-4);
        self.per_sec = f64::midpoint(self.per_sec, members as f64 / secs);
    }

    /// Members begun together where none has a key: `in_flight`, or as many as came back in `ahead` lately.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the bound"
    )]
    pub(super) fn window(self, in_flight: usize, ahead: Duration) -> u32 {
        let ahead = (self.per_sec * ahead.as_secs_f64()).clamp(0.0, MOST_AHEAD) as u32;
        u32::try_from(in_flight).unwrap_or(u32::MAX).max(ahead)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AHEAD: Duration = Duration::from_millis(20);

    fn after(came_back: &[(usize, u64)]) -> Pace {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        pace.begun(now);
        for (members, micros) in came_back {
            now += Duration::from_micros(*micros);
            pace.came_back(*members, now);
        }
        pace
    }

    #[test]
    fn a_slow_relay_gets_what_its_connections_take_and_a_quick_one_more() {
        assert_eq!(Pace::default().window(14, AHEAD), 14);
        // Fifty a second.
        assert_eq!(after(&[(5, 100_000); 9]).window(14, AHEAD), 14);
        // Five thousand a second are a hundred in twenty milliseconds.
        let quick = after(&[(50, 10_000); 12]);
        assert_eq!(quick.window(14, AHEAD), 99);
        assert_eq!(quick.window(270, AHEAD), 270, "more sockets than it can have ahead");
        assert_eq!(quick.window(14, Duration::ZERO), 14);
        assert_eq!(after(&[(1_000, 1); 9]).window(14, AHEAD), 128);
    }

    #[test]
    fn what_was_quick_once_is_soon_forgotten() {
        let mut came_back = vec![(50, 10_000); 12];
        came_back.extend([(5, 100_000); 4]);
        assert!(after(&came_back).window(14, AHEAD) < 14 + 8);
        came_back.extend([(5, 100_000); 4]);
        assert_eq!(after(&came_back).window(14, AHEAD), 14);
    }

    proptest! {
        #[test]
        fn it_stays_between_the_sockets_and_the_bound(
            came_back in prop::collection::vec((0_usize..2_000, 0_u64..10_000_000), 0..20), in_flight in 1_u32..2_000,
        ) {
            let window = after(&came_back).window(in_flight as usize, AHEAD);
            prop_assert!((in_flight..=in_flight.max(128)).contains(&window), "{window}");
        }
    }
}
