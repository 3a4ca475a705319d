//! The product under the simulation: a database on a clock of its own, and every way a caller may die while it asks for something.
//!
//! See `simulation` for what is done, and `simulation_model` for what should come of it.

use std::{fmt::Write as _, future::poll_fn, pin::pin, task::Poll};

use carillon::{db, scheduler::ScheduleList};
use chrono_tz::Tz;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fake_clock::FakeClock,
    fixture_db::{TestDb, database},
    scene::{one, run},
    simulation_broadcasts::Broadcast,
    simulation_calendar::{ALLOWANCES, PLANS, Time},
    simulation_model::{Line, Shop},
    wait::until,
};

/// What becomes of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It hears the answer.
    Lives,
    /// It dies after so many statements of its transaction.
    Dies(usize),
    /// Everything is committed, and it dies before it hears so.
    Deaf,
}

pub(crate) struct World {
    pub(crate) clock: FakeClock,
    pub(crate) schedules: ScheduleList,
    _db: TestDb,
}

/// Kind, operation, changes, balances after, late.
type EntryRow = (String, String, Vec<i64>, Vec<i64>, bool);

impl World {
    pub(crate) async fn new(at: Time) -> Self {
        let db = database().await;
        let clock = FakeClock::new(&db).await;
        // Columns too are on this clock. Asked where `now()` is still the name of PostgreSQL's own.
        run(
            &db.pool,
            "do $$ declare c record; begin
                 for c in select table_name, column_name from information_schema.columns
                           where table_schema = 'public' and column_default = 'now()' loop
                     execute format('alter table public.%I alter column %I set default fake.now()', c.table_name, c.column_name);
                 end loop;
             end $$",
        )
        .await;
        clock.set(&at.to_rfc3339()).await;
        for (from, tokens) in &ALLOWANCES[1..] {
            let plans: Vec<(&str, i64)> = PLANS.into_iter().zip(*tokens).collect();
            clock.publish_plans(from, &plans).await;
        }
        Self {
            clock,
            schedules: ScheduleList::embedded().unwrap(),
            _db: db,
        }
    }

    pub(crate) async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        one(&self.clock.pool, sql).await
    }

    /// Runs statements as one transaction. The last one's answer, `refused` where the database says no; none if the caller died.
    pub(crate) async fn ask(&self, fate: Fate, statements: &[String]) -> Option<String> {
        let answer = self.asked(fate, statements).await;
        // Whoever comes next would pass over what the dead one's transaction still has.
        self.dropped_has_ended().await;
        answer
    }

    async fn asked(&self, fate: Fate, statements: &[String]) -> Option<String> {
        let mut tx = db::begin(&self.clock.pool).await.unwrap();
        let mut last = String::new();
        for (place, sql) in statements.iter().enumerate() {
            if fate == Fate::Dies(place) {
                return None;
            }
            match sqlx::query_scalar::<_, String>(AssertSqlSafe(sql.clone()))
                .fetch_one(&mut *tx)
                .await
            {
                Ok(answer) => last = answer,
                Err(sqlx::Error::Database(_)) => return (fate == Fate::Lives).then(|| "refused".to_owned()),
                Err(other) => panic!("{sql}: {other}"),
            }
        }
        match fate {
            // Dropped: the connection gives it up.
            Fate::Dies(_) => None,
            Fate::Deaf => {
                tx.commit().await.unwrap();
                None
            }
            Fate::Lives => {
                tx.commit().await.unwrap();
                Some(last)
            }
        }
    }

    /// Calls the product, and drops the call after it has waited so often. None: nobody knows what came of it.
    pub(crate) async fn call<F: Future>(&self, waits: Option<u32>, call: F) -> Option<F::Output> {
        let Some(mut waits) = waits else {
            return Some(call.await);
        };
        let answer = {
            let mut call = pin!(call);
            poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if waits == 0 => Poll::Ready(None),
                Poll::Pending => {
                    waits -= 1;
                    Poll::Pending
                }
            })
            .await
        };
        if answer.is_none() {
            self.dropped_has_ended().await;
        }
        answer
    }

    /// What was sent is done or given up when its connection is free again.
    async fn dropped_has_ended(&self) {
        until("what was dropped has ended", async || {
            let (open, idle) = self.clock.pool.open_and_idle();
            open == idle
        })
        .await;
    }

    /// Opens shops, each with eight customers who can be reached everywhere.
    pub(crate) async fn add(&self, shops: &mut [Shop]) {
        let mut sql = String::from("insert into shop (id, name, url, plan, state, anchor_day, time_zone) values ");
        for (n, shop) in shops.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let (id, is) = (shop.id, &shop.is);
            let _ = write!(
                sql,
                "{comma}('{id}', 'Tea', 'u', '{}', '{}', {}, '{}')",
                is.plan,
                state(is.active),
                is.anchor,
                is.zone
            );
        }
        let ids: Vec<String> = shops.iter().map(|shop| format!("'{}'", shop.id)).collect();
        let _ = write!(
            sql,
            "; insert into sender (id, shop_id, channel, name, is_primary, credentials)
               select gen_random_uuid(), s.id, c::channel, c, true, '' from shop s, unnest(array['line', 'app']) as c where s.id in ({0});
             insert into customer (shop_id, first_name) select id, 'N' || n from shop, generate_series(1, 8) as n where id in ({0});
             insert into address (shop_id, sender_id, customer_id, address)
             select c.shop_id, s.id, c.id, s.channel::text || c.id from sender s join customer c on c.shop_id = s.shop_id
              where s.shop_id in ({0})",
            ids.join(", ")
        );
        run(&self.clock.pool, &sql).await;
        for shop in shops {
            let sql = format!(
                "select array_agg(id order by id) from customer where shop_id = '{}'",
                shop.id
            );
            shop.customers = self.one(&sql).await;
        }
    }

    /// Writes a broadcast whose planning is about to end.
    pub(crate) async fn plan(&self, broadcast: &Broadcast, shop: Uuid) {
        let id = broadcast.id;
        let mut sql = format!(
            "insert into broadcast (id, shop_id, name, mode, content, audience, deadline_hours, state, plan_epoch)
             values ('{id}', '{shop}', 'Sale', 'app_plus_one', '{{}}', '{{\"all\": true}}', {}, 'planning', 1);",
            broadcast.deadline_hours
        );
        for (position, lane) in broadcast.lanes.iter().enumerate() {
            let all: Vec<String> = lane.slices.iter().flat_map(|s| &s.left).map(i64::to_string).collect();
            let (channel, customers) = (lane.channel, all.join(", "));
            let _ = write!(
                sql,
                "insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens, planned)
                 select '{id}', {position}, '{channel}', id, {}, {} from sender where shop_id = '{shop}' and channel = '{channel}';
                 insert into delivery (broadcast_id, customer_id, address_id, channel)
                 select '{id}', a.customer_id, a.id, '{channel}' from address a join sender s on s.id = a.sender_id
                  where a.customer_id in ({customers}) and s.channel = '{channel}';",
                lane.price,
                all.len()
            );
            for (place, slice) in lane.slices.iter().enumerate() {
                let (first, last, n) = (slice.left[0], slice.left[slice.left.len() - 1], slice.left.len());
                let _ = write!(
                    sql,
                    "insert into slice (broadcast_id, channel, slice_no, first_customer, last_customer, planned, remaining)
                     values ('{id}', '{channel}', {place}, {first}, {last}, {n}, {n});"
                );
            }
        }
        run(&self.clock.pool, &sql).await;
    }

    /// A shop's entries, oldest first.
    pub(crate) async fn lines(&self, shop: Uuid) -> Vec<Line> {
        let rows: Vec<EntryRow> = sqlx::query_as(
            "select kind, operation, array[allowance, extra, held_allowance, held_extra],
                    array[allowance_after, extra_after, held_allowance_after, held_extra_after], late
               from ledger_entry where shop_id = $1 order by id",
        )
        .bind(shop)
        .fetch_all(&self.clock.pool)
        .await
        .unwrap();
        let line = |(kind, operation, change, after, late): (_, _, Vec<i64>, Vec<i64>, _)| {
            (
                kind,
                operation,
                change.try_into().unwrap(),
                after.try_into().unwrap(),
                late,
            )
        };
        rows.into_iter().map(line).collect()
    }
}

pub(crate) fn state(active: bool) -> &'static str {
    if active { "active" } else { "suspended" }
}

/// Where shops are: zones with and without summer time, some of which change their clocks at midnight or by half an hour.
pub(crate) const ZONES: [Tz; 9] = [
    Tz::Asia__Taipei,
    Tz::Asia__Taipei,
    Tz::America__New_York,
    Tz::Europe__Berlin,
    Tz::Asia__Beirut,
    Tz::America__Havana,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Kiritimati,
    Tz::America__Santiago,
];
