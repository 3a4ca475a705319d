//! Fourteen months of two hundred shops, in which whatever can go wrong does: every caller may die between any two statements and
//! comes again, bells are lost or come twice, three schedulers look at once, and for weeks there is none. What a plain model says
//! should have come of it is compared with the ledger entry by entry.
//!
//! `CARILLON_SIMULATION_SEED` repeats a run. Map: `simulation_model`, `simulation_broadcasts` and `simulation_orders` are the model,
//! `simulation_calendar` its calendar; `simulation_proof` compares; `simulation_world` is the database, `simulation_acts` and `simulation_orders_acts` what is done to both,
//! `simulation_fleet` the schedulers and workers.

use chrono::TimeDelta;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use uuid::{Builder, Uuid};

use crate::{
    scene::assert_clean,
    simulation_acts::Act,
    simulation_broadcasts::{Broadcast, Claim, Stage},
    simulation_calendar::{PLANS, Time},
    simulation_fleet::{Bell, Scheduler},
    simulation_model::{Model, Settings, Shop},
    simulation_orders_acts::OrderAct,
    simulation_world::{Fate, World, ZONES},
};

const BEGIN: &str = "2025-06-10T03:00:00Z";
const END: &str = "2026-08-10T03:00:00Z";
const SHOPS: usize = 200;
/// Nobody looks and nobody works: over the first of a month, over the last days of February, and over three anchor days of everybody.
const DOWN: [(&str, &str); 3] = [
    ("2025-07-30T20:00:00Z", "2025-08-02T09:00:00Z"),
    ("2025-10-20T00:00:00Z", "2026-01-18T13:00:00Z"),
    ("2026-02-26T00:00:00Z", "2026-03-01T05:00:00Z"),
];

pub(crate) struct Simulation {
    pub(crate) at: Time,
    pub(crate) rng: StdRng,
    pub(crate) world: World,
    pub(crate) model: Model,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) bells: Vec<Bell>,
    /// What callers who died will ask again.
    later: Vec<Act>,
    pub(crate) later_orders: Vec<OrderAct>,
    /// Slices in the hands of workers.
    claims: Vec<Claim>,
    /// Broadcasts that are not over.
    open: Vec<usize>,
    /// Nobody dies any more.
    pub(crate) calm: bool,
}

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let world = World::new(time(BEGIN)).await;
        let list = world.schedules.fingerprint();
        // A schedule begins with the first look at it: without one now, the seed would decide whether the first day counts.
        let first = carillon::scheduler::find(&world.clock.pool, &world.schedules, None).await;
        first.unwrap();
        Self {
            at: time(BEGIN),
            rng: StdRng::seed_from_u64(seed),
            model: Model::default(),
            schedulers: (0..3).map(|_| Scheduler::new(list)).collect(),
            world,
            bells: Vec::new(),
            later: Vec::new(),
            later_orders: Vec::new(),
            claims: Vec::new(),
            open: Vec::new(),
            calm: false,
        }
    }

    /// Whether the next call of the product is dropped, and when.
    pub(crate) fn waits(&mut self) -> Option<u32> {
        (!self.calm && self.rng.random_bool(0.05)).then(|| self.rng.random_range(0..12))
    }

    /// A UUIDv7 of the simulated time.
    fn id(&mut self) -> Uuid {
        let millis = u64::try_from(self.at.timestamp_millis()).unwrap();
        Builder::from_unix_timestamp_millis(millis, &self.rng.random()).into_uuid()
    }

    fn settings(&mut self) -> Settings {
        let day = self.rng.random_range(1..=31);
        Settings {
            plan: PLANS.choose(&mut self.rng).unwrap(),
            active: self.rng.random_bool(0.97),
            zone: *ZONES.choose(&mut self.rng).unwrap(),
            anchor: *[1, 1, 1, 29, 30, 31, day, day].choose(&mut self.rng).unwrap(),
        }
    }

    async fn new_shops(&mut self, count: usize) {
        let mut shops: Vec<Shop> = (0..count)
            .map(|_| Shop::new(self.id(), self.settings(), self.at))
            .collect();
        self.world.add(&mut shops).await;
        self.model.shops.extend(shops);
    }

    /// Does it in both, and lets the caller die now and then.
    async fn act(&mut self, act: Act) {
        let statements = act.statements(&self.model);
        let fate = match self.rng.random_range(0..100) {
            0..4 => Fate::Dies(self.rng.random_range(0..=statements.len())),
            4..8 => Fate::Deaf,
            _ => Fate::Lives,
        };
        let heard = self.world.ask(fate, &statements).await;
        if fate == Fate::Lives {
            let expected = act.apply(&mut self.model, self.at);
            assert_eq!(heard.unwrap(), expected, "{act:?} at {}: {statements:?}", self.at);
            return;
        }
        if fate == Fate::Deaf {
            act.apply(&mut self.model, self.at);
        }
        self.later.push(act);
    }

    fn any_shop(&mut self) -> usize {
        self.rng.random_range(0..self.model.shops.len())
    }

    /// A new broadcast, to some customers on one or two channels, at whatever price makes it cheap or dear.
    async fn broadcast(&mut self) {
        let s = self.any_shop();
        let id = self.id();
        let shop = &self.model.shops[s];
        let most = shop.free(0) + shop.free(1) / 8;
        let budget = self.rng.random_range(0..=most.max(5_000) * 6 / 10);
        let mut lanes = Vec::new();
        for channel in ["line", "app"]
            .into_iter()
            .take(self.rng.random_range(0..12).clamp(0, 2))
        {
            let first = self.rng.random_range(0..7);
            let customers = &self.model.shops[s].customers[first..];
            let slices: Vec<Vec<i64>> = customers
                .chunks(self.rng.random_range(2..6))
                .map(<[i64]>::to_vec)
                .collect();
            lanes.push((channel, budget / i64::try_from(customers.len() * 2).unwrap(), slices));
        }
        let hours = *[1, 24, 24, 400, 720].choose(&mut self.rng).unwrap();
        let broadcast = Broadcast::new(id, s, hours, lanes);
        self.world.plan(&broadcast, self.model.shops[s].id).await;
        self.model.broadcasts.push(broadcast);
        let place = self.model.broadcasts.len() - 1;
        self.open.push(place);
        self.act(Act::Open(place)).await;
    }

    /// A worker does something for a broadcast that is not over.
    async fn send(&mut self) {
        let Some(&b) = self.open.choose(&mut self.rng) else {
            return;
        };
        let broadcast = &self.model.broadcasts[b];
        let (stage, lanes) = (broadcast.stage, broadcast.lanes.len());
        if stage == Stage::Planned {
            return self.act(Act::Open(b)).await;
        }
        if stage == Stage::Ended || broadcast.left() == 0 {
            return self.open.retain(|open| *open != b);
        }
        let lane = self.rng.random_range(0..lanes);
        if stage == Stage::Cancelled {
            return self.act(Act::Drain(b, lane, "cancelled")).await;
        } else if broadcast.deadline <= self.at {
            return self.act(Act::Drain(b, lane, "expired")).await;
        }
        // The model is asked what the database must answer; a worker that dies now leaves the slice to its lease.
        let epochs = self.model.epochs(b, lane);
        self.act(Act::Claim(b, lane)).await;
        if let Some(claim) = self.model.claimed_since(b, lane, &epochs)
            && self.rng.random_bool(0.9)
        {
            self.claims.push(claim);
        }
    }

    async fn settle(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let claim = self.claims.swap_remove(self.rng.random_range(0..self.claims.len()));
        let some = self.rng.random_range(1..=claim.flying.len());
        let told = if self.rng.random_bool(0.7) {
            claim.flying.len()
        } else {
            some
        };
        let results = claim.flying[..told]
            .iter()
            .map(|who| (*who, self.rng.random_bool(0.75)))
            .collect();
        self.act(Act::Settle(claim, results)).await;
    }

    async fn receipt(&mut self) {
        let b = self.rng.random_range(0..self.model.broadcasts.len().max(1));
        let Some(broadcast) = self.model.broadcasts.get(b).filter(|b| !b.lanes.is_empty()) else {
            return;
        };
        let lane = self.rng.random_range(0..broadcast.lanes.len());
        if let (Some(who), true) = (broadcast.lanes[lane].accepted.first(), broadcast.lanes[lane].price > 0) {
            self.act(Act::Receipt(b, lane, *who)).await;
        }
    }

    /// A merchant, or somebody on his behalf, changes the shop.
    async fn change(&mut self) {
        let s = self.any_shop();
        let (new, mut to) = (self.settings(), self.model.shops[s].is.clone());
        match self.rng.random_range(0..8) {
            0..3 => return self.act(Act::ChangePlan(s, new.plan)).await,
            3 => to.plan = new.plan,
            4 | 5 => to.active = !to.active,
            6 => (to.anchor, to.zone) = (new.anchor, new.zone),
            _ => to = new,
        }
        self.act(Act::Change(s, to)).await;
    }

    async fn buy(&mut self) {
        let orders = self.model.orders.len();
        if orders == 0 || self.rng.random_bool(0.3) {
            let blocks = *[1, 1, 5, 10, 50, 100, 7].choose(&mut self.rng).unwrap();
            let request = OrderAct::Request(self.any_shop(), blocks, *[1, 1, 2, 60].choose(&mut self.rng).unwrap());
            self.order(request).await;
            return;
        }
        // Most often about one of the latest, whatever was told of it before.
        let latest = orders.saturating_sub(12);
        let order = if self.rng.random_bool(0.7) {
            self.rng.random_range(latest..orders)
        } else {
            self.rng.random_range(0..orders)
        };
        let act = match self.rng.random_range(0..20) {
            0..13 => {
                let of = if self.rng.random_bool(0.03) {
                    self.rng.random_range(0..orders)
                } else {
                    order
                };
                let ago = TimeDelta::minutes(self.rng.random_range(-60..6_000));
                let when = [None, None, Some(self.at - ago)]
                    .choose(&mut self.rng)
                    .copied()
                    .flatten();
                OrderAct::Charge(order, format!("pay-{of}"), when)
            }
            13..15 => OrderAct::Fail(order),
            15 | 16 => OrderAct::Credit(order),
            17 => OrderAct::GiveBack(order, None),
            _ => OrderAct::GiveBack(order, Some(self.rng.random_range(0..20_000))),
        };
        self.order(act).await;
    }

    /// A correction by two persons.
    async fn adjust(&mut self) {
        let s = self.any_shop();
        let (allowance, extra) = (
            self.rng.random_range(-3_000..3_000),
            self.rng.random_range(-3_000..3_000),
        );
        let ask = format!(
            "select request_adjustment('{}', {allowance}, {extra}, 'as agreed', 'anna')",
            self.model.shops[s].id
        );
        let id: i64 = self.world.one(&ask).await;
        let decide = format!("select decide_adjustment({id}, 'applied', 'ben', null)");
        let heard = self.world.ask(Fate::Lives, &[decide]).await.unwrap();
        let shop = &mut self.model.shops[s];
        if shop.free(0) + allowance < 0 || shop.free(1) + extra < 0 {
            assert_eq!(heard, "refused");
        } else {
            assert_eq!(heard, "done");
            shop.post("adjust", format!("adjust:{id}"), [allowance, extra, 0, 0], false);
        }
    }

    fn is_down(&self) -> bool {
        DOWN.iter()
            .any(|(from, until)| (time(from)..time(until)).contains(&self.at))
    }

    /// Some hours later; often at the very moment at which something falls due, or the second before.
    async fn pass_time(&mut self) {
        let mut next = self.at + TimeDelta::minutes(self.rng.random_range(5..1_000));
        let s = self.any_shop();
        let second = TimeDelta::seconds(self.rng.random_range(0..2));
        if let Some(due) = self.model.shops[s].due.map(|due| due - second)
            && (self.at..next + TimeDelta::hours(12)).contains(&due)
        {
            next = due.max(self.at + TimeDelta::seconds(1));
        }
        self.at = next;
        self.world.clock.set(&self.at.to_rfc3339()).await;
    }

    async fn tick(&mut self) {
        self.pass_time().await;
        if self.model.shops.len() < SHOPS && self.rng.random_bool(0.15) {
            self.new_shops(1).await;
        }
        if !self.is_down() {
            self.look().await;
            self.work().await;
        }
        for _ in 0..self.rng.random_range(6..14) {
            match self.rng.random_range(0..100) {
                0..14 => self.broadcast().await,
                14..44 if !self.is_down() => self.send().await,
                44..72 if !self.is_down() => self.settle().await,
                72..77 => self.receipt().await,
                77..83 => self.change().await,
                83..92 => self.buy().await,
                92 => self.adjust().await,
                93 => {
                    if let Some(&broadcast) = self.open.choose(&mut self.rng) {
                        self.act(Act::Cancel(broadcast)).await;
                    }
                }
                94 => {
                    let shop = self.any_shop();
                    self.act(Act::Refill(shop)).await;
                }
                95.. if !self.later.is_empty() => {
                    let act = self.later.swap_remove(self.rng.random_range(0..self.later.len()));
                    self.act(act).await;
                }
                95.. if !self.later_orders.is_empty() => {
                    let act = self
                        .later_orders
                        .swap_remove(self.rng.random_range(0..self.later_orders.len()));
                    self.order(act).await;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn fourteen_months_of_two_hundred_shops_are_what_a_plain_model_says_entry_by_entry() {
    let seed = std::env::var("CARILLON_SIMULATION_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CARILLON_SIMULATION_SEED={seed}");
    let began = std::time::Instant::now();
    let mut simulation = Simulation::new(seed).await;
    simulation.new_shops(SHOPS - 40).await;
    let (mut ticks, end) = (0, time(END));
    while simulation.at < end {
        simulation.tick().await;
        ticks += 1;
    }
    println!("{ticks} ticks in {:?}", began.elapsed());
    simulation.come_to_rest().await;
    simulation.assert_equals_model().await;
    assert_clean(&simulation.world.clock.pool).await;
    let seen = simulation.seen();
    println!(
        "{} broadcasts, {} orders, {seen:?}",
        simulation.model.broadcasts.len(),
        simulation.model.orders.len()
    );
    assert_eq!(simulation.model.shops.len(), SHOPS);
    assert!(seen.values().all(|n| *n > 0), "{seen:?}");
    // A row for every month and day, found once, whoever looked and whenever nobody did. The last tick may go beyond the end, and find
    // what is due there of one schedule and not yet of another.
    let found = format!("found as (select * from schedule_period where due_at <= '{END}')");
    let rows: Vec<i64> = simulation
        .world
        .one(&format!(
            "with {found} select array_agg(n order by schedule) from (select schedule, count(*) as n from found group by 1) x"
        ))
        .await;
    let missing: Vec<String> = simulation
        .world
        .one(&format!(
            "with {found} select coalesce(array_agg(s.name || ' ' || d::date), '{{}}')
               from schedule s, generate_series((select min(period) from found where length(period) = 10)::date,
                                                (select max(period) from found where length(period) = 10)::date, '1 day') d
              where exists (select from found p where p.schedule = s.name and length(p.period) = 10)
                and not exists (select from found p where p.schedule = s.name and p.period = d::date::text)"
        ))
        .await;
    assert_eq!(missing, Vec::<String>::new(), "days that were never found");
    assert_eq!(rows, [426, 14, 426], "audits, refills, settlements");
    println!("{:?} in all", began.elapsed());
}
