//! Top-up orders of the simulation, told plainly. See `simulation_model`.

use std::collections::BTreeMap;

use crate::{
    simulation_calendar::{Time, credit_at},
    simulation_model::Model,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderState {
    Requested,
    Failed,
    Charged,
    Settled,
    Refunded,
}

#[derive(Debug)]
pub(crate) struct Order {
    /// As the database named it.
    pub(crate) id: String,
    pub(crate) shop: usize,
    pub(crate) blocks: i32,
    pub(crate) requested_at: Time,
    pub(crate) state: OrderState,
    pub(crate) reference: Option<String>,
    pub(crate) credit_at: Option<Time>,
}

impl Order {
    pub(crate) fn tokens(&self) -> i64 {
        i64::from(self.blocks) * 12_500
    }
}

impl Model {
    /// Whether a payment was noted; else why not.
    pub(crate) fn charge(&mut self, order: usize, reference: &str, charged_at: Time, at: Time) -> &'static str {
        let paid: BTreeMap<&str, usize> = (0..self.orders.len())
            .filter_map(|n| Some((self.orders[n].reference.as_deref()?, n)))
            .collect();
        let other = paid.get(reference).copied();
        let o = &mut self.orders[order];
        match (&o.reference, other) {
            (Some(known), _) if known == reference => return "repeated",
            (Some(_), _) if o.state == OrderState::Refunded => return "wrong state",
            (Some(_), _) => return "other payment",
            (None, Some(_)) => return "reference used",
            (None, None) if charged_at > at => return "ahead",
            (None, None) if charged_at < o.requested_at => return "too early",
            (None, None) => {}
        }
        o.state = OrderState::Charged;
        o.reference = Some(reference.to_owned());
        o.credit_at = Some(credit_at(charged_at, o.blocks));
        "done"
    }

    pub(crate) fn fail(&mut self, order: usize) -> &'static str {
        let o = &mut self.orders[order];
        match o.state {
            OrderState::Requested => {
                o.state = OrderState::Failed;
                "done"
            }
            OrderState::Failed => "repeated",
            _ => "wrong state",
        }
    }

    pub(crate) fn credit(&mut self, order: usize, at: Time) -> &'static str {
        let o = &mut self.orders[order];
        match o.state {
            OrderState::Charged if o.credit_at.is_some_and(|due| due <= at) => {
                o.state = OrderState::Settled;
                let (name, tokens) = (format!("top_up:{}", o.id), o.tokens());
                self.shops[o.shop].post("top_up", name, [0, tokens, 0, 0], false);
                "done"
            }
            OrderState::Charged => "not due",
            OrderState::Settled => "repeated",
            _ => "wrong state",
        }
    }

    pub(crate) fn give_back(&mut self, order: usize, tokens: Option<i64>) -> &'static str {
        let o = &mut self.orders[order];
        let brought = o.tokens();
        match (o.state, tokens) {
            (OrderState::Requested | OrderState::Failed, _) => return "wrong state",
            (OrderState::Refunded, _) => return "repeated",
            (OrderState::Charged, Some(_)) => return "not credited",
            (_, Some(asked)) if asked < 1 || asked > brought => return "out of range",
            (OrderState::Charged, None) => {}
            (OrderState::Settled, _) => {
                let (shop, asked) = (&mut self.shops[o.shop], tokens.unwrap_or(brought));
                if asked > shop.free(1) {
                    return "too much";
                }
                shop.post(
                    "top_up_refund",
                    format!("top_up_refund:{}", o.id),
                    [0, -asked, 0, 0],
                    false,
                );
            }
        }
        o.state = OrderState::Refunded;
        "done"
    }

    /// The orders that a worker should credit now.
    pub(crate) fn due_orders(&self, at: Time) -> Vec<usize> {
        let due = |o: &Order| o.state == OrderState::Charged && o.credit_at.is_some_and(|due| due <= at);
        (0..self.orders.len()).filter(|n| due(&self.orders[*n])).collect()
    }
}
