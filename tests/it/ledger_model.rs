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
    /// Time goes on. Shop `s` has anchor day 1 and plan `PLANS[…]`; months are counted from the first of the run.
    NextMonth,
    /// The job for the current period.
    RefillDue,
    ChangePlan {
        shop: usize,
        plan: usize,
    },
    Suspend {
        shop: usize,
    },
    Return {
        shop: usize,
    },
}

/// Name and tokens a month, as the test publishes them.
pub(crate) const PLANS: [(&str, i64); 3] = [("core", 20), ("growth", 35), ("all-round", 50)];

/// The name of the nth month of a run.
pub(crate) fn month(n: usize) -> String {
    format!("{}-{:02}", 2040 + n / 12, n % 12 + 1)
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
    /// The highest allowance granted for the period.
    granted: i64,
    plan: usize,
    suspended: bool,
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
    /// Which month it is, counted from the first of the run.
    now: usize,
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

    fn refill(&mut self, period: &str, allowance: i64) {
        let left = self.now[0] - self.now[2];
        if left > 0 {
            self.post("expire", format!("expire:period:{period}"), [-left, 0, 0, 0]);
        }
        self.post("grant", format!("grant:{period}"), [allowance, 0, 0, 0]);
        period.clone_into(&mut self.period);
        self.granted = allowance;
    }
}

impl Model {
    /// Every shop has its account from its first moment, and waits for its first refill.
    pub(crate) fn new() -> Self {
        Self {
            accounts: (0..SHOPS).map(|shop| (shop, Account::default())).collect(),
            ..Self::default()
        }
    }

    /// Brings a shop to the current month; says whether it had to.
    fn refill_due(&mut self, shop: usize) -> bool {
        let period = month(self.now);
        let account = self.accounts.get_mut(&shop).unwrap();
        if account.suspended || account.period >= period {
            return false;
        }
        account.refill(&period, PLANS[account.plan].1);
        true
    }

    /// What the plan gives beyond what was granted for the period the shop is in: this month's, or one it was refilled for ahead.
    fn upgrade(&mut self, shop: usize) -> i64 {
        let now = month(self.now);
        let account = self.accounts.get_mut(&shop).unwrap();
        let more = PLANS[account.plan].1 - account.granted;
        if account.suspended || account.period < now || more <= 0 {
            return 0;
        }
        let period = account.period.clone();
        account.granted += more;
        account.post(
            "grant",
            format!("grant:{period}:upgrade:{}", account.granted),
            [more, 0, 0, 0],
        );
        more
    }

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
            Operation::Refill {
                shop,
                month: n,
                allowance,
            } => {
                let (period, account) = (month(n), self.accounts.get_mut(&shop)?);
                if account.period >= period {
                    return Some(0);
                }
                account.refill(&period, allowance);
                Some(1)
            }
            Operation::NextMonth => {
                self.now += 1;
                Some(1)
            }
            Operation::RefillDue => {
                (0..SHOPS).for_each(|shop| {
                    self.refill_due(shop);
                });
                Some(1)
            }
            Operation::ChangePlan { shop, plan } => {
                if self.accounts[&shop].plan == plan {
                    // Nothing changes, but whoever asks finds the refill done.
                    self.refill_due(shop);
                    return Some(0);
                }
                self.refill_due(shop);
                self.accounts.get_mut(&shop)?.plan = plan;
                Some(self.upgrade(shop))
            }
            Operation::Suspend { shop } => {
                self.accounts.get_mut(&shop)?.suspended = true;
                Some(1)
            }
            Operation::Return { shop } => {
                if self.accounts[&shop].suspended {
                    self.accounts.get_mut(&shop)?.suspended = false;
                    self.refill_due(shop);
                    self.upgrade(shop);
                }
                Some(1)
            }
            Operation::TopUp { shop, tokens, key } => {
                let posted = self
                    .accounts
                    .get_mut(&shop)?
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
        let shop = broadcast % SHOPS;
        // Refused, it takes the refill back that it posted first; the next one posts it again.
        self.refill_due(shop);
        let account = self.accounts.get_mut(&shop)?;
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
}
