//! The schedulers and workers of the simulation: three of the one look at the same time, the other lose bells and die.

use std::time::Duration;

use carillon::{
    ledger::refill::{periods_to_ring, refill_due},
    scheduler::{find, lease::Leader},
};
use rand::{Rng as _, seq::SliceRandom as _};

use crate::{
    scene::run, simulation::Simulation, simulation_calendar::Time, simulation_model::Model,
    simulation_orders_acts::OrderAct,
};

/// A job in the queue. The row of its period, if it has one.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    work: Work,
    row: Option<(String, String)>,
}

#[derive(Debug, Clone)]
enum Work {
    Refill(String),
    TopUps,
    Other,
}

/// One scheduler process.
pub(crate) struct Scheduler {
    leader: Leader,
    leads: bool,
    /// How far its look has come.
    step: u8,
}

const STEPS: u8 = 5;

impl Scheduler {
    pub(crate) fn new(list: &str) -> Self {
        Self {
            leader: Leader::new(list, Duration::from_secs(10)),
            leads: false,
            step: STEPS,
        }
    }
}

impl Model {
    /// A step of the refill job: how many it looks at, refills, and of those late.
    fn refill_step(&mut self, period: &str, limit: usize, at: Time) -> (u32, u32, u32) {
        let due = |n: &usize| self.shops[*n].is_due(at) && self.shops[*n].due_period(at) == period;
        let mut shops: Vec<usize> = (0..self.shops.len()).filter(due).collect();
        shops.sort_by_key(|n| (self.shops[*n].due, self.shops[*n].id));
        shops.truncate(limit);
        let (mut refilled, mut late) = (0, 0);
        for n in &shops {
            if self.shops[*n].refill(at) == "refilled" {
                refilled += 1;
                late += u32::from(self.shops[*n].lines.last().unwrap().4);
            }
        }
        self.refills += i64::from(refilled);
        (u32::try_from(shops.len()).unwrap(), refilled, late)
    }
}

impl Simulation {
    /// Some schedulers look, each a step when it is its turn; some stop in the middle and go on from there the next time.
    pub(crate) async fn look(&mut self) {
        let mut looking: Vec<usize> = (0..self.schedulers.len())
            .filter(|_| self.rng.random_bool(0.6))
            .collect();
        for n in &looking {
            if self.schedulers[*n].step == STEPS {
                self.schedulers[*n].step = 0;
            }
        }
        while !looking.is_empty() {
            let place = self.rng.random_range(0..looking.len());
            let n = looking[place];
            self.scheduler_step(n).await;
            self.schedulers[n].step += 1;
            if self.schedulers[n].step == STEPS || self.rng.random_bool(0.03) {
                looking.swap_remove(place);
            }
        }
    }

    async fn scheduler_step(&mut self, n: usize) {
        let waits = self.waits();
        let pool = self.world.clock.pool.clone();
        let scheduler = &self.schedulers[n];
        match scheduler.step {
            0 => {
                let term = self.world.call(waits, scheduler.leader.lead(&pool)).await;
                // One that was frozen thinks that it leads still.
                let frozen = scheduler.leads && self.rng.random_bool(0.3);
                self.schedulers[n].leads = frozen || term.is_some_and(|term| term.unwrap().is_some());
            }
            1 if scheduler.leads => {
                let found = self.world.call(waits, find(&pool, &self.world.schedules, None)).await;
                found.map(Result::unwrap);
            }
            2 if scheduler.leads => self.ring_rows().await,
            3 => {
                let stale = Duration::from_mins(5);
                let periods = self.world.call(waits, periods_to_ring(&pool, stale)).await;
                for period in periods.map(Result::unwrap).unwrap_or_default() {
                    self.ring(Work::Refill(period.to_string()), None);
                }
            }
            4 if self
                .world
                .one::<bool>("select exists (select from due_top_ups(1))")
                .await =>
            {
                self.ring(Work::TopUps, None);
            }
            _ => {}
        }
    }

    /// As the scheduler's `ring`, into this test's own queue.
    async fn ring_rows(&mut self) {
        let rung: Vec<(String, String, String)> = sqlx::query_as(
            "update schedule_period set state = case state when 'due' then 'rung' else state end, rung_at = now(), rings = rings + 1
              where state in ('due', 'rung') and (rung_at is null or rung_at < now() - interval '10 minutes')
             returning kind, schedule, period",
        )
        .fetch_all(&self.world.clock.pool)
        .await
        .unwrap();
        for (kind, schedule, period) in rung {
            let work = match kind.as_str() {
                "monthly-token-refill" => Work::Refill(period.clone()),
                "top-up-settlement" => Work::TopUps,
                _ => Work::Other,
            };
            self.ring(work, Some((schedule, period)));
        }
    }

    fn ring(&mut self, work: Work, row: Option<(String, String)>) {
        let copies = match self.rng.random_range(0..20) {
            0 => 0,
            1 | 2 => 2,
            _ => 1,
        };
        let bell = Bell { work, row };
        self.bells.extend(std::iter::repeat_n(bell, copies));
    }

    /// Workers take most of what waits, in any order; Redis loses everything now and then.
    pub(crate) async fn work(&mut self) {
        self.bells.shuffle(&mut self.rng);
        if self.rng.random_bool(0.01) {
            self.bells.clear();
        }
        let rest = self.rng.random_range(0..=self.bells.len() / 2);
        while self.bells.len() > rest {
            let bell = self.bells.pop().unwrap();
            let done = match &bell.work {
                Work::Refill(period) => self.refill_all(period).await,
                Work::TopUps => self.credit_all().await,
                Work::Other => true,
            };
            if !done {
                // The lease runs out, and another worker has it later; or it is lost.
                if self.rng.random_bool(0.7) {
                    self.bells.insert(0, bell);
                }
                return;
            }
            if let Some((schedule, period)) = &bell.row {
                let sql = format!(
                    "update schedule_period set state = 'done', done_at = now()
                      where schedule = '{schedule}' and period = '{period}' and state <> 'done'"
                );
                run(&self.world.clock.pool, &sql).await;
            }
        }
    }

    /// The job for a period; false if its worker died.
    async fn refill_all(&mut self, period: &str) -> bool {
        let name = period.to_owned().try_into().unwrap();
        loop {
            let (waits, limit) = (self.waits(), self.rng.random_range(1..60));
            let pool = self.world.clock.pool.clone();
            let Some(step) = self.world.call(waits, refill_due(&pool, &name, limit, None)).await else {
                let shops = "select coalesce(sum(shops), 0)::bigint from refill_run";
                if self.world.one::<i64>(shops).await != self.model.refills {
                    self.model.refill_step(period, limit as usize, self.at);
                }
                return false;
            };
            let step = step.unwrap();
            let expected = self.model.refill_step(period, limit as usize, self.at);
            assert_eq!(
                (step.looked, step.refilled, step.late),
                expected,
                "refill of {period} at {}",
                self.at
            );
            if step.looked == 0 {
                return true;
            }
            if self.rng.random_bool(0.03) {
                return false;
            }
        }
    }

    /// The job for orders that are due; false if its worker died.
    async fn credit_all(&mut self) -> bool {
        let due: Vec<uuid::Uuid> = sqlx::query_scalar("select order_id from due_top_ups(1000)")
            .fetch_all(&self.world.clock.pool)
            .await
            .unwrap();
        let place = |id: &uuid::Uuid| {
            self.model
                .orders
                .iter()
                .position(|order| order.id == id.to_string())
                .unwrap()
        };
        let mut due: Vec<usize> = due.iter().map(place).collect();
        due.sort_unstable();
        assert_eq!(due, self.model.due_orders(self.at), "orders due at {}", self.at);
        due.shuffle(&mut self.rng);
        for order in due {
            if !self.order(OrderAct::Credit(order)).await || self.rng.random_bool(0.03) {
                return false;
            }
        }
        true
    }

    /// Everybody is back, and does what is due.
    pub(crate) async fn come_to_rest(&mut self) {
        for n in 0..self.schedulers.len() {
            self.schedulers[n].step = 1;
            self.schedulers[n].leads = true;
        }
        self.calm = true;
        let pool = self.world.clock.pool.clone();
        find(&pool, &self.world.schedules, None).await.unwrap();
        self.ring_rows().await;
        for period in periods_to_ring(&pool, Duration::ZERO).await.unwrap() {
            while !self.refill_all(period.as_str()).await {}
        }
        while !self.credit_all().await {}
        let rows = "update schedule_period set state = 'done', done_at = now() where state in ('rung', 'due')";
        run(&pool, rows).await;
    }
}
