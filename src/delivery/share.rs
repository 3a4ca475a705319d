//! How much of a worker one turn on a lane may use, pure.
//!
//! While nobody waits, a lane has all it can use. Where lanes wait, a turn is shorter, works on fewer slices side by side and
//! begins fewer messages together, so that a round over everybody who waits still takes about `turn_ms`. Where many wait for the
//! slots of the workers, a turn also ends after so many messages: equal time is not equal work on a busy machine. That is what
//! lets two hundred shops with equal work end at about the same time, and a newcomer begin soon.
//!
//! It must never give nothing: a turn that is too small to send anything would be spent on taking and leaving the lane.

use std::time::Duration;

use crate::delivery::{DeliveryConfig, store::TakenLane};

/// A turn is no shorter: taking and leaving a lane costs the database about as much as sending twenty messages.
const SHORTEST_TURN: Duration = Duration::from_millis(200);
/// Nor are fewer messages begun together, for the same reason.
const SMALLEST_WINDOW: u32 = 25;
/// Messages a turn begins where more than twice as many lanes wait as are served, in two windows.
const QUANTUM: u32 = 100;
/// Time is then only a bound for lanes that are slow by nature.
const PATIENCE: f64 = 2.0;

/// How many jobs wait behind the one in hand, and how many one worker runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Jobs of this kind in the ready list.
    pub waiting: u64,
    /// Slots of this process.
    pub slots: u32,
}

/// What one turn may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    /// How long it lasts.
    pub(super) turn: Duration,
    /// Slices worked on side by side.
    pub(super) parallel: usize,
    /// The turn is over once so many messages were begun.
    pub(super) quantum: u32,
    /// Its part of what a lane uses alone, above 0 and at most 1.
    part: f64,
    /// Deliveries the lane has left: no more are ever begun together, or asked permits for.
    remaining: u32,
}

impl Share {
    /// The share of a lane just taken.
    pub(super) fn of(lane: &TakenLane, crowd: Crowd, config: &DeliveryConfig, slice_size: u32) -> Self {
        let part_of = |places: u32, waiting: u64| {
            let places = f64::from(places.max(1));
            places / (places + f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)))
        };
        let part_of_slots = part_of(crowd.slots, crowd.waiting);
        // On a shared sender the messages of every turn are counted anyway, and who had fewer goes first.
        let part_of_sender = part_of(config.lanes_per_sender, lane.rivals.into());
        let part = part_of_slots.min(part_of_sender);
        let many = part_of_slots <= part_of_sender && part_of_slots < 0.5;
        let turn = config.lane_budget();
        let remaining = u32::try_from(lane.remaining).unwrap_or(u32::MAX).max(1);
        let slices = remaining.div_ceil(slice_size.max(1));
        // Rounded up: one slice is always worked on.
        let parallel = u32::try_from(config.parallel_slices).unwrap_or(1);
        let wanted = (1..parallel)
            .find(|n| f64::from(*n) >= f64::from(parallel) * part)
            .unwrap_or(parallel);
        Self {
            turn: turn
                .mul_f64(if many { (part * PATIENCE).min(1.0) } else { part })
                .max(SHORTEST_TURN.min(turn)),
            quantum: if many { QUANTUM } else { u32::MAX },
            parallel: wanted.min(slices) as usize,
            part,
            remaining,
        }
    }

    /// How many of `alone` members are begun together. Those of a multicast are one request and stay together.
    pub(super) fn window(&self, alone: u32, multicast: bool) -> u32 {
        if multicast {
            return alone.min(self.remaining);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and alone"
        )]
        let part = (f64::from(alone) * self.part).ceil() as u32;
        let part = if self.quantum == QUANTUM {
            QUANTUM / 2
        } else {
            part.max(SMALLEST_WINDOW)
        };
        part.min(alone).min(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use carillon_jobs::{BroadcastId, SenderId, ShopId};

    use super::*;
    use crate::{channel::Channel, delivery::store::LaneMode};

    fn config() -> DeliveryConfig {
        #[derive(serde::Deserialize)]
        struct File {
            delivery: DeliveryConfig,
        }
        let file: Result<File, _> = toml::from_str(include_str!("../../config/default.toml"));
        #[allow(clippy::unwrap_used)]
        file.unwrap().delivery
    }

    fn share(remaining: u64, waiting: u64, rivals: u32) -> Share {
        let lane = TakenLane {
            broadcast: BroadcastId::new(),
            sender: SenderId::new(),
            channel: Channel::Line,
            epoch: 1,
            mode: LaneMode::Send,
            strikes: 0,
            remaining,
            shop: ShopId::new(),
            shared: rivals > 0,
            rivals,
        };
        Share::of(&lane, Crowd { waiting, slots: 50 }, &config(), 500)
    }

    #[test]
    fn alone_a_lane_has_everything_and_never_more_than_it_needs() {
        let alone = share(1_000_000, 0, 0);
        assert_eq!(
            (alone.turn, alone.parallel),
            (config().lane_budget(), config().parallel_slices)
        );
        assert_eq!(alone.window(500, false), 500);
        let small = share(10, 0, 0);
        assert_eq!(
            (small.parallel, small.window(500, false), small.window(500, true)),
            (1, 10, 10)
        );
    }

    #[test]
    fn a_round_over_all_who_wait_takes_about_one_turn() {
        // Four times as many shops as places: a quarter of the time, of the slices and of the window each.
        let quarter = share(1_000_000, 0, 12);
        assert_eq!(quarter.turn, config().lane_budget() / 4);
        assert_eq!((quarter.parallel, quarter.window(500, false)), (1, 125));
        assert_eq!(quarter.window(500, true), 500, "a multicast is one request");
        // A few more lanes than slots count the same way.
        assert_eq!(
            share(1_000_000, 25, 0).turn,
            config().lane_budget().mul_f64(50.0 / 75.0)
        );
    }

    #[test]
    fn where_many_wait_for_slots_turns_are_equal_by_messages() {
        let many = share(1_000_000, 150, 0);
        assert_eq!((many.turn, many.quantum), (config().lane_budget() / 2, QUANTUM));
        assert_eq!(
            (many.parallel, many.window(500, false), many.window(10, false)),
            (1, QUANTUM / 2, 10)
        );
    }

    #[test]
    fn however_many_wait_a_turn_is_worth_taking() {
        let least = share(1_000_000, 1_000_000, 1_000);
        assert_eq!(
            (least.turn, least.parallel, least.window(500, false)),
            (SHORTEST_TURN, 1, QUANTUM / 2)
        );
        let on_sender = share(1_000_000, 0, 1_000);
        assert_eq!(
            (on_sender.turn, on_sender.window(500, false)),
            (SHORTEST_TURN, SMALLEST_WINDOW)
        );
        assert_eq!(on_sender.window(10, false), 10);
    }
}
