//! What LINE charges: its plans, and which of them is enough (pure).
//!
//! Why it exists: a LINE message costs a shop tokens with us and, beyond its plan, money with LINE. A merchant must see both
//! before sending, and choose the plan by arithmetic and not by surprise. Only messages to many are counted, one a recipient;
//! replies are free.
//!
//! It must never round a price in between: sums are thousandths of a TWD, whole numbers throughout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A price of extra messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraStep {
    /// It begins behind so many extra messages of the month.
    pub above: u32,
    /// TWD a thousand messages; as many thousandths of a TWD a message.
    pub twd_per_thousand: u32,
}

/// One plan of LINE's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlan {
    /// Its name: `light`, `medium`, `high`.
    pub name: String,
    /// TWD a month.
    pub monthly_twd: u32,
    /// Messages a month that come with it.
    pub messages: u32,
    /// What messages beyond them cost, step by step; empty: there are none.
    pub extra: Vec<ExtraStep>,
}

/// What a month of so many messages would cost on one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The plan.
    pub plan: String,
    /// TWD a month.
    pub monthly_twd: u32,
    /// Messages that come with it.
    pub messages: u32,
    /// Messages beyond them.
    pub extra_messages: u64,
    /// Thousandths of a TWD together; none: the plan has no extra messages, and these are too many.
    pub total_milli_twd: Option<u64>,
}

impl LinePlan {
    /// Whether a month may go beyond the messages that come with the plan.
    #[must_use]
    pub const fn may_exceed(&self) -> bool {
        !self.extra.is_empty()
    }

    /// Thousandths of a TWD for a month's messages beyond those that come with the plan; none where it has no more.
    #[must_use]
    pub fn extra_milli_twd(&self, messages: u64) -> Option<u64> {
        let beyond = messages.saturating_sub(self.messages.into());
        if beyond > 0 && !self.may_exceed() {
            return None;
        }
        let ends = self
            .extra
            .iter()
            .skip(1)
            .map(|next| u64::from(next.above))
            .chain([u64::MAX]);
        let steps = self.extra.iter().zip(ends).map(|(step, end)| {
            let n = beyond.min(end).saturating_sub(step.above.into());
            n.saturating_mul(step.twd_per_thousand.into())
        });
        Some(steps.fold(0, u64::saturating_add))
    }

    /// Thousandths of a TWD that `more` messages add to a month that has `used` already; none where they do not fit.
    #[must_use]
    pub fn added_milli_twd(&self, used: u64, more: u64) -> Option<u64> {
        let after = self.extra_milli_twd(used.saturating_add(more))?;
        Some(after - self.extra_milli_twd(used)?)
    }

    fn offer(&self, messages: u64) -> Offer {
        let monthly = u64::from(self.monthly_twd) * 1_000;
        Offer {
            plan: self.name.clone(),
            monthly_twd: self.monthly_twd,
            messages: self.messages,
            extra_messages: messages.saturating_sub(self.messages.into()),
            total_milli_twd: self
                .extra_milli_twd(messages)
                .map(|extra| monthly.saturating_add(extra)),
        }
    }
}

/// LINE's plans, the smallest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlans(Vec<LinePlan>);

impl LinePlans {
    /// The plans, the smallest first.
    #[must_use]
    pub fn all(&self) -> &[LinePlan] {
        &self.0
    }

    /// The plan of an account by what LINE says is its limit this month: the one whose messages it is, or the one that may
    /// exceed them where the limit is higher or there is none. None for a limit no plan explains.
    #[must_use]
    pub fn of_limit(&self, limit: Option<u64>) -> Option<&LinePlan> {
        let highest = || self.0.iter().rev().find(|plan| plan.may_exceed());
        let Some(limit) = limit else { return highest() };
        let exactly = self.0.iter().find(|plan| u64::from(plan.messages) == limit);
        exactly.or_else(|| highest().filter(|plan| limit > plan.messages.into()))
    }

    /// What a month of so many messages would cost on each plan, the smallest plan first.
    #[must_use]
    pub fn offers(&self, messages: u64) -> Vec<Offer> {
        self.0.iter().map(|plan| plan.offer(messages)).collect()
    }

    /// The cheapest of the offers that is enough; of two the smaller plan.
    #[must_use]
    pub fn cheapest(offers: &[Offer]) -> Option<&Offer> {
        let enough = offers.iter().filter(|offer| offer.total_milli_twd.is_some());
        enough.min_by_key(|offer| offer.total_milli_twd)
    }

    /// Its figures as they stand in Postgres.
    pub(super) fn document(&self) -> serde_json::Value {
        let plans = self.0.iter().map(|plan| {
            let row = serde_json::json!({
                "monthly_twd": plan.monthly_twd, "messages": plan.messages, "extra": plan.extra,
            });
            (plan.name.clone(), row)
        });
        serde_json::Value::Object(plans.collect())
    }
}

/// A plan as a file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanInFile {
    monthly_twd: u32,
    messages: u32,
    #[serde(default)]
    extra: Vec<ExtraStep>,
}

/// Checks what a file says; the names have been looked at.
pub(super) fn plans_of(file: BTreeMap<String, PlanInFile>, most: u32) -> Result<LinePlans, String> {
    let mut plans = Vec::with_capacity(file.len());
    for (name, plan) in file {
        let PlanInFile {
            monthly_twd,
            messages,
            extra,
        } = plan;
        let figures = extra.iter().flat_map(|step| [step.above, step.twd_per_thousand]);
        if figures.chain([monthly_twd, messages]).any(|figure| figure > most) {
            return Err(format!("a figure of `{name}` is more than {most}"));
        }
        if extra.first().is_some_and(|first| first.above != 0) {
            return Err(format!("the first step of `{name}` must begin above 0"));
        }
        if extra
            .iter()
            .zip(extra.iter().skip(1))
            .any(|(step, next)| next.above <= step.above)
        {
            return Err(format!("the steps of `{name}` must begin one behind the other"));
        }
        plans.push(LinePlan {
            name,
            monthly_twd,
            messages,
            extra,
        });
    }
    if plans.is_empty() {
        return Err("it holds nothing".to_owned());
    }
    plans.sort_by(|a, b| (a.messages, &a.name).cmp(&(b.messages, &b.name)));
    Ok(LinePlans(plans))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{ExtraStep, LinePlan, LinePlans};
    use crate::prices::Prices;

    fn built_in() -> LinePlans {
        let day = "2026-11-01".parse().unwrap();
        Prices::embedded().unwrap().line_plans_at(day).unwrap().clone()
    }

    fn stepped() -> LinePlan {
        let step = |above, twd_per_thousand| ExtraStep {
            above,
            twd_per_thousand,
        };
        LinePlan {
            name: "high".to_owned(),
            monthly_twd: 1_200,
            messages: 6_000,
            extra: vec![step(0, 200), step(1_000, 150), step(3_000, 11)],
        }
    }

    /// (friends, sends a month) → the plan to take, and TWD a month.
    #[test]
    fn the_calculator_finds_the_cheapest_plan_that_is_enough() {
        let plans = built_in();
        for ((friends, sends), wanted) in [
            ((0, 0), ("light", 0)),
            ((100, 2), ("light", 0)),
            ((200, 1), ("light", 0)),
            ((201, 1), ("medium", 800)),
            ((1_000, 3), ("medium", 800)),
            ((1_500, 2), ("medium", 800)),
            ((3_001, 1), ("high", 1_200)),
            ((3_000, 2), ("high", 1_200)),
            ((6_001, 1), ("high", 1_200)),
            ((10_000, 2), ("high", 1_200 + 2_800)),
            ((50_000, 4), ("high", 1_200 + 38_800)),
        ] {
            let offers = plans.offers(friends * sends);
            let cheapest = LinePlans::cheapest(&offers).unwrap();
            let twd = cheapest.total_milli_twd.unwrap() / 1_000;
            assert_eq!((cheapest.plan.as_str(), twd), wanted, "{friends} × {sends}");
        }
    }

    #[test]
    fn only_the_high_plan_goes_beyond_its_messages() {
        let plans = built_in();
        let named: Vec<(&str, u32, bool)> = plans
            .all()
            .iter()
            .map(|plan| (plan.name.as_str(), plan.messages, plan.may_exceed()))
            .collect();
        assert_eq!(
            named,
            [("light", 200, false), ("medium", 3_000, false), ("high", 6_000, true)]
        );
        assert_eq!(plans.offers(3_001).get(1).unwrap().total_milli_twd, None);
        // A single extra message is two tenths of a TWD.
        assert_eq!(plans.all().last().unwrap().extra_milli_twd(6_001), Some(200));
    }

    #[test]
    fn a_limit_tells_the_plan() {
        let plans = built_in();
        let name = |limit| plans.of_limit(limit).map(|plan| plan.name.as_str());
        assert_eq!(
            [Some(200), Some(3_000), Some(6_000), Some(50_000), None, Some(500)].map(name),
            [
                Some("light"),
                Some("medium"),
                Some("high"),
                Some("high"),
                Some("high"),
                None
            ]
        );
    }

    #[test]
    fn each_step_prices_its_own_messages() {
        let plan = stepped();
        for (messages, milli) in [
            (6_000, 0),
            (6_001, 200),
            (7_000, 200_000),
            (7_001, 200_150),
            (9_000, 200_000 + 300_000),
            (9_100, 500_000 + 1_100),
        ] {
            assert_eq!(plan.extra_milli_twd(messages), Some(milli), "{messages}");
        }
        assert_eq!(plan.added_milli_twd(5_900, 200), Some(100 * 200));
        assert_eq!(plan.added_milli_twd(6_999, 2), Some(200 + 150));
    }

    proptest! {
        /// Cut into broadcasts in any way, a month costs the same.
        #[test]
        fn a_month_costs_what_its_parts_add(parts in prop::collection::vec(0_u64..4_000, 0..12)) {
            let plan = stepped();
            let (mut used, mut sum) = (0, 0);
            for part in parts {
                sum += plan.added_milli_twd(used, part).unwrap();
                used += part;
            }
            prop_assert_eq!(Some(sum), plan.extra_milli_twd(used));
        }

        /// More messages never cost less, whichever plan is taken.
        #[test]
        fn more_is_never_cheaper(messages in 0_u64..200_000, more in 0_u64..10_000) {
            let plans = built_in();
            let price = |n| LinePlans::cheapest(&plans.offers(n)).and_then(|offer| offer.total_milli_twd);
            prop_assert!(price(messages) <= price(messages + more));
        }
    }
}
