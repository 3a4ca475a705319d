//! The ledger's rules told a second time, one token at a time and without SQL: what the real one is held against.

use std::collections::{BTreeMap, BTreeSet};

/// One thing a caller may ask for. Shops and broadcasts are small numbers; broadcast `b` belongs to shop `b % SHOPS`.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Hold {
        broadcast: usize,
        cost: i64,
    },
    /// `key` names the operation; the same one twice must not count twice.
    Settle {
        broadcast: usize,
        captured: i64,
        released: i64,
        key: usize,
    },
    Refund {
        broadcast: usize,
        tokens: i64,
        key: usize,
    },
    Refill {
        shop: usize,
        month: usize,
        allowance: i64,
    },
    TopUp {
        shop: usize,
        tokens: i64,
        key: usize,
    },
    Close {
        broadcast: usize,
    },
}

pub(crate) const SHOPS: usize = 3;
pub(crate) const BROADCASTS: usize = 6;

/// What the caller hears: a number (missing tokens, or 1 for "did it" and 0 for "nothing to do"), or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Number(i64),
    Refused,
}

/// kind, operation, changes of (allowance, extra, held allowance, held extra), and the four after it.
pub(crate) type Line = (String, String, [i64; 4], [i64; 4]);

#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) now: [i64; 4],
    pub(crate) period: String,
    pub(crate) lines: Vec<Line>,
    keys: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) period: String,
    pub(crate) open: [i64; 2],
    pub(crate) captured: [i64; 2],
    pub(crate) released: i64,
    pub(crate) refunded: [i64; 2],
    pub(crate) closed: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) accounts: BTreeMap<usize, Account>,
    pub(crate) holds: BTreeMap<usize, Hold>,
}

impl Account {
    /// False, and nothing happened, where the operation is known already.
    fn post(&mut self, kind: &str, operation: String, change: [i64; 4]) -> bool {
        if !self.keys.insert(operation.clone()) {
            return false;
        }
        (0..4).for_each(|i| self.now[i] += change[i]);
        self.lines.push((kind.to_owned(), operation, change, self.now));
        true
    }
}

impl Model {
    /// Does it, all or nothing.
    pub(crate) fn apply(&mut self, operation: &Operation) -> Answer {
        let mut trial = self.clone();
        match trial.attempt(operation) {
            Some(number) => {
                *self = trial;
                Answer::Number(number)
            }
            None => Answer::Refused,
        }
    }

    fn attempt(&mut self, operation: &Operation) -> Option<i64> {
        match *operation {
            Operation::Hold { broadcast, cost } => self.hold(broadcast, cost),
            Operation::Settle {
                broadcast,
                captured,
                released,
                key,
            } => self.settle(broadcast, captured, released, key),
            Operation::Refund { broadcast, tokens, key } => self.refund(broadcast, tokens, key),
            Operation::Refill { shop, month, allowance } => Some(self.refill(shop, month, allowance)),
            Operation::TopUp { shop, tokens, key } => {
                let posted =
                    self.accounts
                        .entry(shop)
                        .or_default()
                        .post("top_up", format!("top_up:{key}"), [0, tokens, 0, 0]);
                Some(i64::from(posted))
            }
            Operation::Close { broadcast } => {
                let hold = self.holds.get_mut(&broadcast)?;
                hold.closed = true;
                (hold.open == [0, 0]).then_some(1)
            }
        }
    }

    fn hold(&mut self, broadcast: usize, cost: i64) -> Option<i64> {
        let Some(account) = self.accounts.get_mut(&(broadcast % SHOPS)) else {
            return Some(cost);
        };
        let [allowance, extra, held_allowance, held_extra] = account.now;
        let free = allowance - held_allowance + extra - held_extra;
        if cost > free {
            return Some(cost - free);
        }
        if self.holds.contains_key(&broadcast) {
            return None;
        }
        let mut open = [0, 0];
        for _ in 0..cost {
            let bucket = usize::from(open[0] == allowance - held_allowance);
            open[bucket] += 1;
        }
        if cost > 0 && !account.post("hold", format!("hold:{broadcast}"), [0, 0, open[0], open[1]]) {
            return None;
        }
        self.holds.insert(
            broadcast,
            Hold {
                period: account.period.clone(),
                open,
                ..Hold::default()
            },
        );
        Some(0)
    }

    fn settle(&mut self, broadcast: usize, captured: i64, released: i64, key: usize) -> Option<i64> {
        if captured + released == 0 {
            return Some(1);
        }
        let hold = self.holds.get_mut(&broadcast)?;
        let account = self.accounts.get_mut(&(broadcast % SHOPS))?;
        let (mut spent, mut back) = ([0, 0], [0, 0]);
        for _ in 0..captured {
            let bucket = usize::from(hold.open[0] == 0);
            hold.open[bucket] -= 1;
            spent[bucket] += 1;
        }
        for _ in 0..released {
            let bucket = usize::from(hold.open[1] > 0);
            hold.open[bucket] -= 1;
            back[bucket] += 1;
        }
        if hold.open.iter().any(|&open| open < 0) {
            return None;
        }
        hold.captured = [hold.captured[0] + spent[0], hold.captured[1] + spent[1]];
        hold.released += released;
        let name = format!("{broadcast}:{key}");
        let change = [-spent[0], -spent[1], -spent[0], -spent[1]];
        if captured > 0 && !account.post("capture", format!("capture:{name}"), change) {
            return None;
        }
        if released > 0 && !account.post("release", format!("release:{name}"), [0, 0, -back[0], -back[1]]) {
            return None;
        }
        let late = back[0] > 0 && account.period != hold.period;
        if late && !account.post("expire", format!("expire:{name}"), [-back[0], 0, 0, 0]) {
            return None;
        }
        Some(1)
    }

    fn refund(&mut self, broadcast: usize, tokens: i64, key: usize) -> Option<i64> {
        let hold = self.holds.get_mut(&broadcast)?;
        let account = self.accounts.get_mut(&(broadcast % SHOPS))?;
        if tokens <= 0 {
            return None;
        }
        let mut back = [0, 0];
        for _ in 0..tokens {
            let bucket = usize::from(hold.refunded[1] < hold.captured[1]);
            hold.refunded[bucket] += 1;
            back[bucket] += 1;
        }
        if hold.refunded[0] > hold.captured[0] {
            return None;
        }
        let name = format!("{broadcast}:{key}");
        if !account.post("refund", format!("refund:{name}"), [back[0], back[1], 0, 0]) {
            return None;
        }
        let late = back[0] > 0 && account.period != hold.period;
        if late && !account.post("expire", format!("expire:refund:{name}"), [-back[0], 0, 0, 0]) {
            return None;
        }
        Some(1)
    }

    fn refill(&mut self, shop: usize, month: usize, allowance: i64) -> i64 {
        let account = self.accounts.entry(shop).or_default();
        let period = format!("2026-{month:02}");
        if account.period >= period {
            return 0;
        }
        let left = account.now[0] - account.now[2];
        if left > 0 {
            account.post("expire", format!("expire:period:{period}"), [-left, 0, 0, 0]);
        }
        account.post("grant", format!("grant:{period}"), [allowance, 0, 0, 0]);
        account.period = period;
        1
    }
}
