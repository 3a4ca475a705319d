//! What the simulated shops should have, told plainly: accounts, holds and broadcasts in memory, one token at a time.
//!
//! It knows nothing of SQL, and never asks the database what a balance is.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use chrono_tz::Tz;
use uuid::Uuid;

use crate::{
    simulation_calendar::{Time, allowance, day, period_after, period_at, starts_at},
    simulation_orders::Order,
};

/// Kind, operation, changes of (allowance, extra, held allowance, held extra), the four after it, and whether it was late.
pub(crate) type Line = (String, String, [i64; 4], [i64; 4], bool);

/// How long a worker may keep a slice.
pub(crate) const LEASE_SECS: i64 = 60;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) plan: &'static str,
    pub(crate) active: bool,
    pub(crate) zone: Tz,
    pub(crate) anchor: u32,
}

#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) id: Uuid,
    pub(crate) customers: Vec<i64>,
    pub(crate) is: Settings,
    pub(crate) now: [i64; 4],
    pub(crate) period: String,
    /// The most that was granted for the period.
    pub(crate) granted: i64,
    /// When the next refill falls due; none while suspended.
    pub(crate) due: Option<Time>,
    pub(crate) lines: Vec<Line>,
    keys: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) period: String,
    pub(crate) open: [i64; 2],
    pub(crate) captured: [i64; 2],
    pub(crate) refunded: [i64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Planned,
    Sending,
    Ended,
    Cancelled,
}

#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Customers without a result, and those of them whose message may be out.
    pub(crate) left: Vec<i64>,
    pub(crate) flying: Vec<i64>,
    settles: u32,
    epoch: u32,
    intent: u32,
    lease_until: Option<Time>,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) channel: &'static str,
    pub(crate) price: i64,
    pub(crate) slices: Vec<Slice>,
    pub(crate) accepted: Vec<i64>,
}

#[derive(Debug)]
pub(crate) struct Broadcast {
    pub(crate) id: Uuid,
    pub(crate) shop: usize,
    pub(crate) stage: Stage,
    pub(crate) deadline_hours: i64,
    pub(crate) deadline: Time,
    pub(crate) lanes: Vec<Lane>,
    hold: Hold,
}

/// A slice in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) broadcast: usize,
    pub(crate) lane: usize,
    pub(crate) slice: usize,
    pub(crate) epoch: u32,
    pub(crate) intent: u32,
    pub(crate) flying: Vec<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) shops: Vec<Shop>,
    pub(crate) broadcasts: Vec<Broadcast>,
    pub(crate) orders: Vec<Order>,
    /// Refills in all: shops and periods.
    pub(crate) refills: i64,
}

impl Shop {
    pub(crate) fn new(id: Uuid, is: Settings, at: Time) -> Self {
        Self {
            id,
            customers: Vec::new(),
            now: [0; 4],
            period: String::new(),
            granted: 0,
            due: is.active.then_some(at),
            is,
            lines: Vec::new(),
            keys: BTreeSet::new(),
        }
    }

    /// Tokens nobody has set aside, of one bucket.
    pub(crate) fn free(&self, bucket: usize) -> i64 {
        self.now[bucket] - self.now[bucket + 2]
    }

    pub(crate) fn post(&mut self, kind: &str, operation: String, change: [i64; 4], late: bool) {
        assert!(self.keys.insert(operation.clone()), "posted twice: {operation}");
        (0..4).for_each(|i| self.now[i] += change[i]);
        let [allowance, extra, held_allowance, held_extra] = self.now;
        assert!(
            (0..=allowance).contains(&held_allowance) && (0..=extra).contains(&held_extra),
            "overdrawn by {operation}"
        );
        self.lines.push((kind.to_owned(), operation, change, self.now, late));
    }

    fn calendar(&self, at: Time) -> String {
        period_at(at, self.is.zone, self.is.anchor)
    }

    pub(crate) fn is_due(&self, at: Time) -> bool {
        self.due.is_some_and(|due| due <= at)
    }

    /// The name of the period the shop's refill would be for.
    pub(crate) fn due_period(&self, at: Time) -> String {
        self.calendar(at)
    }

    /// The refill of the current period, if there is none yet. Says what it did.
    pub(crate) fn refill(&mut self, at: Time) -> &'static str {
        if !self.is.active {
            self.due = None;
            return "suspended";
        }
        let period = self.calendar(at);
        if self.period >= period {
            self.due = Some(starts_at(&period_after(&self.period), self.is.zone, self.is.anchor));
            return "current";
        }
        let began = starts_at(&period, self.is.zone, self.is.anchor);
        let fell_due = self.due.map_or(began, |due| due.max(began));
        let late = day(at, self.is.zone) > day(fell_due, self.is.zone);
        let left = self.free(0);
        if left > 0 {
            self.post("expire", format!("expire:period:{period}"), [-left, 0, 0, 0], late);
        }
        // What the plan gives for a period is decided on the period's first day, whoever comes when.
        self.granted = allowance(self.is.plan, began);
        self.post("grant", format!("grant:{period}"), [self.granted, 0, 0, 0], late);
        self.due = Some(starts_at(&period_after(&period), self.is.zone, self.is.anchor));
        self.period = period;
        "refilled"
    }

    /// What the plan gives beyond the most that was granted in the period the shop is in.
    fn upgrade(&mut self, at: Time) {
        let period = self.period.clone();
        let began = starts_at(&period, self.is.zone, self.is.anchor).min(at);
        let gives = allowance(self.is.plan, began);
        if gives > self.granted {
            let more = gives - self.granted;
            self.granted = gives;
            self.post(
                "grant",
                format!("grant:{period}:upgrade:{gives}"),
                [more, 0, 0, 0],
                false,
            );
        }
    }

    /// Its row is changed, by whomever.
    pub(crate) fn change(&mut self, to: &Settings, at: Time) {
        if *to == self.is {
            return;
        }
        // What fell due under the old plan is the old plan's.
        if to.plan != self.is.plan {
            self.refill(at);
        }
        self.is = to.clone();
        if !self.is.active {
            self.due = None;
            return;
        }
        self.due = self.due.or(Some(at));
        self.refill(at);
        self.upgrade(at);
    }

    fn hold(&mut self, name: Uuid, cost: i64, at: Time) -> Option<Hold> {
        if self.is_due(at) {
            self.refill(at);
        }
        if cost > self.free(0) + self.free(1) {
            return None;
        }
        let (mut open, free) = ([0, 0], self.free(0));
        (0..cost).for_each(|_| open[usize::from(open[0] == free)] += 1);
        if cost > 0 {
            self.post("hold", format!("hold:{name}"), [0, 0, open[0], open[1]], false);
        }
        Some(Hold {
            period: self.period.clone(),
            open,
            ..Hold::default()
        })
    }

    fn settle(&mut self, hold: &mut Hold, captured: i64, released: i64, name: &str) {
        let (mut spent, mut back) = ([0, 0], [0, 0]);
        for _ in 0..captured {
            let bucket = usize::from(hold.open[0] == 0);
            hold.open[bucket] -= 1;
            hold.captured[bucket] += 1;
            spent[bucket] += 1;
        }
        for _ in 0..released {
            let bucket = usize::from(hold.open[1] > 0);
            hold.open[bucket] -= 1;
            back[bucket] += 1;
        }
        if captured > 0 {
            let change = [-spent[0], -spent[1], -spent[0], -spent[1]];
            self.post("capture", format!("capture:{name}"), change, false);
        }
        if released > 0 {
            self.post("release", format!("release:{name}"), [0, 0, -back[0], -back[1]], false);
        }
        self.expire_old(hold, back[0], &format!("expire:{name}"));
    }

    fn refund(&mut self, hold: &mut Hold, tokens: i64, name: &str) {
        let mut back = [0, 0];
        for _ in 0..tokens {
            let bucket = usize::from(hold.refunded[1] < hold.captured[1]);
            hold.refunded[bucket] += 1;
            back[bucket] += 1;
        }
        self.post("refund", format!("refund:{name}"), [back[0], back[1], 0, 0], false);
        self.expire_old(hold, back[0], &format!("expire:refund:{name}"));
    }

    /// Allowance of a period that has ended does not come back.
    fn expire_old(&mut self, hold: &Hold, allowance: i64, name: &str) {
        if allowance > 0 && hold.period != self.period {
            self.post("expire", name.to_owned(), [-allowance, 0, 0, 0], false);
        }
    }
}

impl Broadcast {
    pub(crate) fn new(
        id: Uuid,
        shop: usize,
        deadline_hours: i64,
        lanes: Vec<(&'static str, i64, Vec<Vec<i64>>)>,
    ) -> Self {
        let slice = |left: Vec<i64>| Slice {
            left,
            ..Slice::default()
        };
        let lanes = lanes.into_iter().map(|(channel, price, slices)| Lane {
            channel,
            price,
            slices: slices.into_iter().map(slice).collect(),
            accepted: Vec::new(),
        });
        Self {
            id,
            shop,
            stage: Stage::Planned,
            deadline_hours,
            deadline: Time::MAX_UTC,
            lanes: lanes.collect(),
            hold: Hold::default(),
        }
    }

    pub(crate) fn left(&self) -> usize {
        let slices = self.lanes.iter().flat_map(|lane| &lane.slices);
        slices.map(|slice| slice.left.len()).sum()
    }

    fn cost(&self) -> i64 {
        let lanes = self.lanes.iter();
        lanes
            .map(|lane| lane.price * i64::try_from(lane.slices.iter().map(|s| s.left.len()).sum::<usize>()).unwrap())
            .sum()
    }

    /// Results of some members of a slice, and what follows from them.
    fn record(&mut self, shop: &mut Shop, lane: usize, place: usize, results: &[(i64, bool)]) {
        let (name, lane) = (self.id, &mut self.lanes[lane]);
        let slice = &mut lane.slices[place];
        slice
            .left
            .retain(|customer| results.iter().all(|(who, _)| who != customer));
        slice.flying.retain(|customer| slice.left.contains(customer));
        slice.settles += 1;
        if slice.left.is_empty() {
            slice.lease_until = None;
        }
        let accepted: Vec<i64> = results.iter().filter(|(_, ok)| *ok).map(|(who, _)| *who).collect();
        let captured = lane.price * i64::try_from(accepted.len()).unwrap();
        let released = lane.price * i64::try_from(results.len()).unwrap() - captured;
        let name = format!("{name}:{}:{place}:{}", lane.channel, slice.settles);
        lane.accepted.extend(accepted);
        shop.settle(&mut self.hold, captured, released, &name);
        if self.left() == 0 && self.stage == Stage::Sending {
            self.stage = Stage::Ended;
        }
    }
}

impl Model {
    fn parts(&mut self, broadcast: usize) -> (&mut Broadcast, &mut Shop) {
        let broadcast = &mut self.broadcasts[broadcast];
        let shop = &mut self.shops[broadcast.shop];
        (broadcast, shop)
    }

    pub(crate) fn open(&mut self, broadcast: usize, at: Time) -> &'static str {
        let (b, shop) = self.parts(broadcast);
        if b.stage != Stage::Planned {
            return "stale";
        }
        let Some(hold) = shop.hold(b.id, b.cost(), at) else {
            b.stage = Stage::Ended;
            b.lanes.clear();
            return "short";
        };
        b.hold = hold;
        b.deadline = at + TimeDelta::hours(b.deadline_hours);
        if b.left() == 0 {
            b.stage = Stage::Ended;
            return "completed";
        }
        b.stage = Stage::Sending;
        "opened"
    }

    pub(crate) fn cancel(&mut self, broadcast: usize) -> bool {
        let (b, _) = self.parts(broadcast);
        match b.stage {
            Stage::Planned => b.lanes.clear(),
            Stage::Sending => {}
            _ => return false,
        }
        b.stage = Stage::Cancelled;
        true
    }

    /// A worker takes the next slice. A suspended shop's messages that have not left are given up on the way.
    pub(crate) fn claim(&mut self, broadcast: usize, lane: usize, at: Time) -> Option<Claim> {
        let epochs = self.epochs(broadcast, lane);
        let (b, shop) = self.parts(broadcast);
        for place in 0..b.lanes[lane].slices.len() {
            if b.stage != Stage::Sending || at >= b.deadline {
                return None;
            }
            let slice = &b.lanes[lane].slices[place];
            if slice.left.is_empty() || slice.lease_until.is_some_and(|until| until > at) {
                continue;
            }
            let waiting = slice.left.iter().filter(|who| !slice.flying.contains(who));
            let gone: Vec<(i64, bool)> = waiting.map(|who| (*who, false)).collect();
            if !shop.is.active && !gone.is_empty() {
                b.record(shop, lane, place, &gone);
            }
            let slice = &mut b.lanes[lane].slices[place];
            if slice.left.is_empty() {
                continue;
            }
            slice.epoch += 1;
            slice.lease_until = Some(at + TimeDelta::seconds(LEASE_SECS));
            // Who was sent to before is sent to again under the same key; else everybody is.
            if slice.flying.is_empty() {
                slice.flying.clone_from(&slice.left);
                slice.intent += 1;
            }
            return self.claimed_since(broadcast, lane, &epochs);
        }
        None
    }

    /// The epochs of a lane's slices, and the claim that raised one of them since.
    pub(crate) fn epochs(&self, broadcast: usize, lane: usize) -> Vec<u32> {
        let slices = self.broadcasts[broadcast].lanes[lane].slices.iter();
        slices.map(|slice| slice.epoch).collect()
    }

    pub(crate) fn claimed_since(&self, broadcast: usize, lane: usize, epochs: &[u32]) -> Option<Claim> {
        let slices = &self.broadcasts[broadcast].lanes[lane].slices;
        let place = (0..slices.len()).find(|place| slices[*place].epoch != epochs[*place])?;
        Some(Claim {
            broadcast,
            lane,
            slice: place,
            epoch: slices[place].epoch,
            intent: slices[place].intent,
            flying: slices[place].flying.clone(),
        })
    }

    /// A worker writes down results. False: the slice is no longer its own.
    pub(crate) fn settle(&mut self, claim: &Claim, results: &[(i64, bool)]) -> bool {
        let (b, shop) = self.parts(claim.broadcast);
        let slice = &mut b.lanes[claim.lane].slices[claim.slice];
        if slice.lease_until.is_none() || slice.epoch != claim.epoch {
            return false;
        }
        slice.lease_until = None;
        b.record(shop, claim.lane, claim.slice, results);
        true
    }

    /// Ends the next slice of a broadcast that is not sent any more. False: there was none.
    pub(crate) fn drain(&mut self, broadcast: usize, lane: usize, at: Time) -> bool {
        let (b, shop) = self.parts(broadcast);
        let free = |slice: &Slice| !slice.left.is_empty() && slice.lease_until.is_none_or(|until| until <= at);
        let Some(place) = b.lanes[lane].slices.iter().position(free) else {
            return false;
        };
        let slice = &mut b.lanes[lane].slices[place];
        slice.epoch += 1;
        let rest: Vec<(i64, bool)> = slice.left.iter().map(|who| (*who, false)).collect();
        b.record(shop, lane, place, &rest);
        true
    }

    /// A message that was accepted has failed for good, says its provider. False: that is known.
    pub(crate) fn receipt(&mut self, broadcast: usize, lane: usize, customer: i64) -> bool {
        let (b, shop) = self.parts(broadcast);
        let Some(place) = b.lanes[lane].accepted.iter().position(|who| *who == customer) else {
            return false;
        };
        b.lanes[lane].accepted.swap_remove(place);
        let name = format!("{}:{}:{customer}", b.id, b.lanes[lane].channel);
        shop.refund(&mut b.hold, b.lanes[lane].price, &name);
        true
    }
}
