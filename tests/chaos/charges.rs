//! What every message cost (pure): whoever was accepted is charged the price once, and nobody else is charged anything.
//! It must never take the sum for the parts: one charged twice and one for nothing are two mistakes.

use super::outcome::Once;

/// One delivery and its price.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// The state it ended in.
    pub state: &'a str,
    /// What stands on it.
    pub charged: i64,
    /// What a message of its lane costs.
    pub price: i64,
    /// It was proved to have arrived after nobody had known, and then it is free.
    pub may_be_free: bool,
}

/// Holds one delivery's charge against its state.
pub fn hold_against(once: &mut Once, charge: Charge<'_>, which: impl Fn() -> String) {
    let Charge {
        state, charged, price, ..
    } = charge;
    if !matches!(state, "accepted" | "delivered" | "read") {
        if charged != 0 {
            once.undue
                .add(|| format!("{} is {state} and was charged {charged} tokens", which()));
        }
        return;
    }
    if charged == 0 && charge.may_be_free {
        *once.counts.entry("free, as nobody had known").or_default() += 1;
        return;
    }
    once.due += 1;
    let what = || format!("{} is {state} and was charged {charged} tokens of {price}", which());
    match charged.cmp(&price) {
        std::cmp::Ordering::Less => once.missing.add(what),
        std::cmp::Ordering::Equal => {
            once.done += 1;
            *once.counts.entry("tokens").or_default() += price.unsigned_abs();
        }
        std::cmp::Ordering::Greater => once.twice.add(what),
    }
}
