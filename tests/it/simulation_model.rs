//! What the simulated shops should have, told plainly: accounts and holds in memory, one token at a time.
//!
//! It knows nothing of SQL, and never asks the database what a balance is.

use std::collections::BTreeSet;

use chrono_tz::Tz;
use uuid::Uuid;

use crate::{
    simulation_broadcasts::Broadcast,
    simulation_calendar::{Time, allowance, day, period_after, period_at, starts_at},
    simulation_orders::Order,
};

/// Kind, operation, changes of (allowance, extra, held allowance, held extra), the four after it, and whether it was late.
pub(crate) type Line = (String, String, [i64; 4], [i64; 4], bool);

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

    pub(crate) fn hold(&mut self, name: Uuid, cost: i64, at: Time) -> Option<Hold> {
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

    pub(crate) fn settle(&mut self, hold: &mut Hold, captured: i64, released: i64, name: &str) {
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

    pub(crate) fn refund(&mut self, hold: &mut Hold, tokens: i64, name: &str) {
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
