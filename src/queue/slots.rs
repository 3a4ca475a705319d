//! Free slots: how many jobs this process may claim, in total and of each kind.
//!
//! Each kind has slots nobody else may take, so that a flood of one kind cannot keep another from running; the rest are
//! shared in order of priority. A slot is taken when a job is claimed and free again when its handler has ended.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// What one claim may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Free {
    /// Of each kind's own slots.
    pub(crate) own: Vec<u32>,
    /// Of those anybody may take.
    pub(crate) shared: u32,
}

impl Free {
    pub(crate) fn total(&self) -> u32 {
        self.own.iter().sum::<u32>() + self.shared
    }
}

#[derive(Debug)]
pub(crate) struct Slots {
    reserved: Vec<u32>,
    running: Vec<AtomicU32>,
    shared: u32,
    /// Told each time a slot becomes free.
    pub(crate) freed: Notify,
}

impl Slots {
    /// `wanted` is what each kind would like to have for itself; together they get at most half of the slots, so that
    /// some are always shared.
    pub(crate) fn new(concurrency: u32, wanted: &[u32]) -> Self {
        let sum: u32 = wanted.iter().sum();
        let half = concurrency / 2;
        let mut reserved: Vec<u32> = wanted
            .iter()
            .map(|n| if sum <= half { *n } else { n * half / sum })
            .collect();
        // Rounding down must leave no kind without: one whose jobs come last would wait for the end of every flood. Only with
        // fewer slots than that is nothing reserved for some, and priority alone decides.
        let mut left = half.saturating_sub(reserved.iter().sum());
        for (own, wants) in reserved.iter_mut().zip(wanted) {
            if *own == 0 && *wants > 0 && left > 0 {
                *own = 1;
                left -= 1;
            }
        }
        let shared = concurrency - reserved.iter().sum::<u32>();
        Self {
            running: reserved.iter().map(|_| AtomicU32::new(0)).collect(),
            reserved,
            shared,
            freed: Notify::new(),
        }
    }

    pub(crate) fn free(&self) -> Free {
        let mut used_shared = 0;
        let own = self
            .reserved
            .iter()
            .zip(&self.running)
            .map(|(reserved, running)| {
                let running = running.load(Ordering::Acquire);
                used_shared += running.saturating_sub(*reserved);
                reserved.saturating_sub(running)
            })
            .collect();
        Free {
            own,
            shared: self.shared.saturating_sub(used_shared),
        }
    }

    pub(crate) fn take(&self, kind: usize, count: u32) {
        if let Some(running) = self.running.get(kind) {
            running.fetch_add(count, Ordering::AcqRel);
        }
    }

    pub(crate) fn give(&self, kind: usize) {
        if let Some(running) = self.running.get(kind) {
            running.fetch_sub(1, Ordering::AcqRel);
        }
        self.freed.notify_one();
    }

    pub(crate) fn running(&self) -> u32 {
        self.running.iter().map(|n| n.load(Ordering::Acquire)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_their_own() {
        let slots = Slots::new(10, &[2, 1]);
        assert_eq!(
            slots.free(),
            Free {
                own: vec![2, 1],
                shared: 7
            }
        );
        slots.take(0, 9);
        assert_eq!(
            slots.free(),
            Free {
                own: vec![0, 1],
                shared: 0
            }
        );
        slots.give(0);
        assert_eq!(
            slots.free(),
            Free {
                own: vec![0, 1],
                shared: 1
            }
        );
    }

    #[test]
    fn with_few_slots_every_kind_still_has_one_of_its_own() {
        assert_eq!(
            Slots::new(8, &[16, 2, 4]).free(),
            Free {
                own: vec![2, 1, 1],
                shared: 4
            }
        );
    }

    #[test]
    fn one_slot_is_shared_and_not_reserved() {
        assert_eq!(
            Slots::new(1, &[4, 4]).free(),
            Free {
                own: vec![0, 0],
                shared: 1
            }
        );
    }

    proptest! {
        #[test]
        fn never_more_than_the_concurrency(concurrency in 1..500_u32, wanted in proptest::collection::vec(0..50_u32, 1..6), taken in proptest::collection::vec((0..6_usize, 1..20_u32), 0..30)) {
            let slots = Slots::new(concurrency, &wanted);
            for (kind, count) in taken {
                let free = slots.free();
                prop_assert!(free.total() + slots.running() <= concurrency);
                let room = free.own.get(kind).map_or(0, |own| own + free.shared);
                slots.take(kind, count.min(room));
            }
            prop_assert!(slots.running() <= concurrency);
        }
    }
}
