//! Broadcasts of the simulation, told plainly: who is left, who may have got it, and what that costs. See `simulation_model`.

use chrono::TimeDelta;
use uuid::Uuid;

use crate::{
    simulation_calendar::Time,
    simulation_model::{Hold, Model, Shop},
};

/// How long a worker may keep a slice.
pub(crate) const LEASE_SECS: i64 = 60;

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
