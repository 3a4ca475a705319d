//! Whose turn it is among the shops of one process that want permits of one shared sender, pure but for the moments it is given.
//!
//! Permits become usable one after another, and everybody who was told to wait comes back at the same moment: whoever is woken
//! first would take all, again and again. So each shop has a count of what it was granted; what is usable is dealt out, permit
//! by permit, to the shop with the lowest count among those that are known to be coming back for it.
//!
//! It must never hold permits back for somebody who does not come: they end within a tenth of a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use carillon_jobs::ShopId;

/// Who was told to come back at a moment is waited for so much longer.
const LATE: Duration = Duration::from_millis(20);
/// When a shop whose turn it is not looks again.
pub(super) const NEXT_LOOK: Duration = Duration::from_millis(3);
/// Shops beyond so many are forgotten once they no longer wait.
const MANY_SHOPS: usize = 64;

#[derive(Debug, Default)]
struct Shop {
    /// Permits granted, no less than the clock: who was away brings no credit along.
    granted: u64,
    /// Until when it is expected to come back, and for how many.
    comes_until: Option<Instant>,
    wanted: u32,
}

/// The shops that want one sender's permits.
#[derive(Debug, Default)]
pub(super) struct Turns {
    shops: HashMap<ShopId, Shop>,
    /// Nobody counts as having had less than this.
    clock: u64,
}

impl Turns {
    /// How many of `usable` permits this shop may take now; 0: it is another one's turn.
    pub(super) fn share(&self, now: Instant, shop: ShopId, wanted: u32, usable: u32) -> u32 {
        let count = |one: &Shop| one.granted.max(self.clock);
        let mine = self.shops.get(&shop).map_or(self.clock, count);
        let rivals: Vec<(u64, u64)> = self
            .rivals(now, shop)
            .map(|one| (count(one), u64::from(one.wanted)))
            .collect();
        // The most this shop can take so that every rival could still be lifted to the same count. One who stands exactly
        // there has no claim before us: whoever comes first goes first.
        let fits = |take: u64| {
            let level = (mine + take).saturating_sub(1);
            let owed: u64 = rivals
                .iter()
                .map(|(at, wants)| level.saturating_sub(*at).min(*wants))
                .sum();
            take + owed <= u64::from(usable)
        };
        let (mut least, mut most) = (0, u64::from(wanted.min(usable)));
        while least < most {
            let middle = (least + most).div_ceil(2);
            if fits(middle) {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        u32::try_from(least).unwrap_or(wanted)
    }

    /// The shop was granted permits.
    pub(super) fn granted(&mut self, now: Instant, shop: ShopId, permits: u32) {
        if permits == 0 {
            return;
        }
        // Who waits keeps what it is owed: the clock does not pass it.
        let least_waiting = self.rivals(now, shop).map(|one| one.granted.max(self.clock)).min();
        let clock = self.clock;
        let one = self.shops.entry(shop).or_default();
        let began = one.granted.max(clock);
        one.granted = began + u64::from(permits);
        self.clock = clock.max(least_waiting.map_or(began, |least| least.min(began)));
    }

    /// The other shops that are known to be coming back.
    fn rivals(&self, now: Instant, shop: ShopId) -> impl Iterator<Item = &Shop> {
        let others = self.shops.iter().filter(move |(id, _)| **id != shop);
        others
            .map(|(_, one)| one)
            .filter(move |one| one.comes_until.is_some_and(|until| until >= now))
    }

    /// The shop was told to come back at this moment.
    pub(super) fn told_to_wait(&mut self, now: Instant, shop: ShopId, wanted: u32, wait: Duration) {
        if self.shops.len() >= MANY_SHOPS {
            self.shops
                .retain(|_, one| one.comes_until.is_some_and(|until| until >= now));
        }
        let one = self.shops.entry(shop).or_default();
        let until = now + wait + LATE;
        // Several tasks of a shop wait at once; the record is that of the most patient and the most wanting.
        if one.comes_until.is_some_and(|known| known >= now) {
            one.wanted = one.wanted.max(wanted);
            one.comes_until = one.comes_until.max(Some(until));
        } else {
            one.wanted = wanted;
            one.comes_until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn alone_a_shop_takes_all_and_beside_another_half() {
        let (now, a, b) = (Instant::now(), ShopId::new(), ShopId::new());
        let mut turns = Turns::default();
        assert_eq!(turns.share(now, a, 500, 80), 80);
        turns.told_to_wait(now, b, 500, Duration::from_millis(5));
        assert_eq!(turns.share(now, a, 500, 80), 40);
        // One that wants little leaves the rest to the others.
        let mut turns = Turns::default();
        turns.told_to_wait(now, b, 10, Duration::from_millis(5));
        assert_eq!(turns.share(now, a, 500, 80), 70);
    }

    #[test]
    fn single_permits_go_round_and_nobody_is_waited_for_in_vain() {
        let (now, a, b) = (Instant::now(), ShopId::new(), ShopId::new());
        let mut turns = Turns::default();
        turns.told_to_wait(now, b, 10, Duration::from_millis(50));
        assert_eq!(turns.share(now, a, 10, 1), 1, "equal counts: whoever comes first");
        turns.granted(now, a, 1);
        assert_eq!(turns.share(now, a, 10, 1), 0, "now it is the other one's turn");
        assert_eq!(turns.share(now, b, 10, 1), 1);
        let later = now + Duration::from_millis(71);
        assert_eq!(turns.share(later, a, 10, 1), 1, "who does not come is not waited for");
    }

    #[test]
    fn who_was_away_gets_no_credit_for_it() {
        let (now, a, b) = (Instant::now(), ShopId::new(), ShopId::new());
        let mut turns = Turns::default();
        turns.granted(now, b, 1);
        for _ in 0..1_000 {
            turns.granted(now, a, 1);
        }
        turns.told_to_wait(now, a, 10, Duration::from_millis(50));
        let mut row = 0;
        while turns.share(now, b, 10, 1) == 1 && row < 100 {
            turns.granted(now, b, 1);
            row += 1;
        }
        assert!(row <= 2, "{row} in a row");
    }

    proptest! {
        // However they come, shops that always want more are never further apart than the largest grant and one.
        #[test]
        fn counts_stay_together(order in proptest::collection::vec((0..4_usize, 1..9_u32), 200..400)) {
            let now = Instant::now();
            let ids: Vec<ShopId> = (0..4).map(|_| ShopId::new()).collect();
            let mut got = [0_u64; 4];
            let mut turns = Turns::default();
            for id in &ids {
                turns.told_to_wait(now, *id, 8, Duration::from_secs(1));
            }
            for (who, usable) in order {
                let (Some(id), Some(count)) = (ids.get(who), got.get_mut(who)) else { continue };
                let share = turns.share(now, *id, 8, usable);
                prop_assert!(share <= usable);
                turns.granted(now, *id, share);
                *count += u64::from(share);
                let (most, least) = (got.iter().max().copied().unwrap_or(0), got.iter().min().copied().unwrap_or(0));
                prop_assert!(most - least <= 9, "{got:?}");
            }
        }
    }
}
