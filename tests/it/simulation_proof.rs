//! What the simulation must have come to: the model's entries, one by one, and some of everything.

use std::collections::BTreeMap;

use crate::{
    simulation::Simulation,
    simulation_orders::{Order, OrderState},
};

/// What is counted: its name, which operations it is, and whether only late ones.
type Rule = (&'static str, fn(&str) -> bool, bool);

impl Simulation {
    pub(crate) async fn assert_equals_model(&self) {
        for (n, shop) in self.model.shops.iter().enumerate() {
            let lines = self.world.lines(shop.id).await;
            let differs = (0..lines.len().max(shop.lines.len())).find(|i| lines.get(*i) != shop.lines.get(*i));
            if let Some(i) = differs {
                let before = &shop.lines[i.saturating_sub(6)..i];
                panic!(
                    "shop {n} {:?}, entry {i}\n after {before:#?}\n model {:?}\n real  {:?}",
                    shop.is,
                    shop.lines.get(i),
                    lines.get(i)
                );
            }
            let account: Vec<i64> = self
                .world
                .one(&format!(
                    "select array[allowance, extra, held_allowance, held_extra] from token_account where shop_id = '{}'",
                    shop.id
                ))
                .await;
            assert_eq!(account, shop.now, "balance of shop {n}");
        }
    }

    /// What happened, by kind: a simulation in which something never happens shows nothing.
    pub(crate) fn seen(&self) -> BTreeMap<&'static str, usize> {
        let mut seen = BTreeMap::new();
        let rules: [Rule; 14] = [
            (
                "grants in time",
                |name| name.starts_with("grant:") && !name.contains("upgrade"),
                false,
            ),
            (
                "grants late",
                |name| name.starts_with("grant:") && !name.contains("upgrade"),
                true,
            ),
            ("upgrades", |name| name.contains(":upgrade:"), false),
            ("resets in time", |name| name.starts_with("expire:period:"), false),
            ("resets late", |name| name.starts_with("expire:period:"), true),
            (
                "releases expired",
                |name| name.starts_with("expire:") && !name.contains("period") && !name.contains("refund"),
                false,
            ),
            ("refunds expired", |name| name.starts_with("expire:refund:"), false),
            ("holds", |name| name.starts_with("hold:"), false),
            ("captures", |name| name.starts_with("capture:"), false),
            ("releases", |name| name.starts_with("release:"), false),
            ("refunds", |name| name.starts_with("refund:"), false),
            ("top-ups", |name| name.starts_with("top_up:"), false),
            ("top-ups taken back", |name| name.starts_with("top_up_refund:"), false),
            ("adjustments", |name| name.starts_with("adjust:"), false),
        ];
        let lines = || self.model.shops.iter().flat_map(|shop| &shop.lines);
        for (name, is, late) in rules {
            seen.insert(name, lines().filter(|line| is(&line.1) && line.4 == late).count());
        }
        let large = |order: &&Order| order.blocks >= 50 && order.state == OrderState::Settled;
        seen.insert("large orders settled", self.model.orders.iter().filter(large).count());
        seen
    }
}
