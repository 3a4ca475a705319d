//! What is done with top-up orders in the simulation, through the product's own calls, any of which may be cut off.

use carillon::top_up::{self, Moved, NewTopUp, Operator, TopUpError};
use carillon_jobs::{ShopId, TopUpId};

use crate::{
    simulation::Simulation,
    simulation_calendar::{Time, price},
    simulation_orders::{Order, OrderState},
    top_up_scene::RULES,
};

#[derive(Debug, Clone)]
pub(crate) enum OrderAct {
    /// Shop, blocks of a package, and how many of it.
    Request(usize, i32, i32),
    /// Reported with this reference, as charged at this time; none: now.
    Charge(usize, String, Option<Time>),
    Fail(usize),
    Credit(usize),
    GiveBack(usize, Option<i64>),
}

fn told(result: &Result<Moved, TopUpError>) -> &'static str {
    match result {
        Ok(moved) if moved.changed => "done",
        Ok(_) => "repeated",
        Err(TopUpError::WrongState { .. }) => "wrong state",
        Err(TopUpError::OtherPayment(_)) => "other payment",
        Err(TopUpError::ReferenceUsed) => "reference used",
        Err(TopUpError::ChargedAhead) => "ahead",
        Err(TopUpError::ChargedTooEarly) => "too early",
        Err(TopUpError::NotDue { .. }) => "not due",
        Err(TopUpError::NotCredited(_)) => "not credited",
        Err(TopUpError::OutOfRange { .. }) => "out of range",
        Err(TopUpError::TooMuch { .. }) => "too much",
        Err(other) => panic!("{other}"),
    }
}

impl Simulation {
    /// Does it in both; false if the caller died on the way.
    pub(crate) async fn order(&mut self, act: OrderAct) -> bool {
        let (order, waits) = match &act {
            OrderAct::Request(shop, blocks, quantity) => return self.request(*shop, *blocks, *quantity).await,
            OrderAct::Charge(order, ..)
            | OrderAct::Fail(order)
            | OrderAct::Credit(order)
            | OrderAct::GiveBack(order, _) => (*order, self.waits()),
        };
        let (pool, world) = (self.world.clock.pool.clone(), &self.world);
        let id = TopUpId(self.model.orders[order].id.parse().unwrap());
        let heard = match &act {
            OrderAct::Request(..) => unreachable!("above"),
            OrderAct::Charge(_, reference, charged_at) => {
                let operator = Operator {
                    by: "anna".to_owned(),
                    reference: reference.clone(),
                    charged_at: *charged_at,
                };
                world.call(waits, top_up::charge(&pool, &RULES, &operator, id)).await
            }
            OrderAct::Fail(_) => world.call(waits, top_up::fail(&pool, id, "declined", "anna")).await,
            OrderAct::Credit(_) => world.call(waits, top_up::settle(&pool, id)).await,
            OrderAct::GiveBack(_, tokens) => {
                world
                    .call(waits, top_up::refund(&pool, id, *tokens, "asked for", "anna"))
                    .await
            }
        };
        if heard.is_none() {
            // Whether it was done is the one thing that only the database knows; what was done then is the model's to say.
            let state: String = world
                .one(&format!("select state from top_up_order where id = '{id}'"))
                .await;
            let before = format!("{:?}", self.model.orders[order].state).to_lowercase();
            if state != before {
                assert_eq!(self.apply_order(&act), "done", "{act:?} at {}", self.at);
            }
            self.later_orders.push(act);
            return false;
        }
        let expected = self.apply_order(&act);
        assert_eq!(told(&heard.unwrap()), expected, "{act:?} of {id} at {}", self.at);
        true
    }

    fn apply_order(&mut self, act: &OrderAct) -> &'static str {
        let (model, at) = (&mut self.model, self.at);
        match act {
            OrderAct::Request(..) => unreachable!("has its own way"),
            OrderAct::Charge(order, reference, charged) => model.charge(*order, reference, charged.unwrap_or(at), at),
            OrderAct::Fail(order) => model.fail(*order),
            OrderAct::Credit(order) => model.credit(*order, at),
            OrderAct::GiveBack(order, tokens) => model.give_back(*order, *tokens),
        }
    }

    async fn request(&mut self, shop: usize, package_blocks: i32, quantity: i32) -> bool {
        let (waits, pool) = (self.waits(), self.world.clock.pool.clone());
        let id = self.model.shops[shop].id;
        let new = NewTopUp {
            shop: ShopId(id),
            package_blocks,
            quantity,
            by: "anna".to_owned(),
        };
        let sold = price(self.at, package_blocks);
        let heard = self.world.call(waits, top_up::request(&pool, &new)).await;
        let lives = heard.is_some();
        let placed: Option<(String, i64)> = match heard {
            Some(Ok(order)) => Some((order.id.to_string(), order.price_twd)),
            Some(Err(TopUpError::NotSold(_))) => None,
            Some(Err(other)) => panic!("{other}"),
            None => {
                let known: Vec<String> = self.model.orders.iter().map(|order| order.id.clone()).collect();
                let sql = "select id::text, price_twd from top_up_order where shop_id = $1 and id::text <> all ($2)";
                let query = sqlx::query_as(sql).bind(id).bind(known);
                query.fetch_optional(&pool).await.unwrap()
            }
        };
        if lives || placed.is_some() {
            let twd = placed.as_ref().map(|(_, twd)| *twd);
            assert_eq!(
                twd,
                sold.map(|twd| twd * i64::from(quantity)),
                "{package_blocks} blocks at {}",
                self.at
            );
        }
        if let Some((id, _)) = placed {
            self.model.orders.push(Order {
                id,
                shop,
                blocks: package_blocks * quantity,
                requested_at: self.at,
                state: OrderState::Requested,
                reference: None,
                credit_at: None,
            });
        }
        lives
    }
}
