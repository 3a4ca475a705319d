//! The ledger against a plain model: whatever is done in whatever order, both say the same.

use std::collections::BTreeMap;

use carillon::db::PgPool;
use carillon::ledger;
use carillon_jobs::ShopId;
use futures::future::join_all;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fake_clock::FakeClock,
    fixture_db::database,
    ledger_model::{Answer, BROADCASTS, Hold, Line, Model, Operation, PLANS, SHOPS, month},
    scene::run,
};

/// The ids of one run of the model: keys are made of them, so every run has its own.
struct World {
    pool: PgPool,
    clock: FakeClock,
    /// Months that have passed.
    now: usize,
    shops: Vec<Uuid>,
    broadcasts: Vec<Uuid>,
}

/// As selected by `World::hold`.
type HoldRow = (String, Vec<i64>, Vec<i64>, i64, Vec<i64>, bool);

/// A time in the nth month of a run.
fn noon(n: usize) -> String {
    format!("{}-15 12:00+08", month(n))
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let tokens = prop_oneof![3 => 0..12i64, 1 => 0..60i64];
    let broadcast = 0..BROADCASTS;
    let operation = prop_oneof![
        3 => (broadcast.clone(), tokens.clone()).prop_map(|(broadcast, cost)| Operation::Hold { broadcast, cost }),
        6 => (broadcast.clone(), tokens.clone(), tokens.clone(), 0..50usize).prop_map(
            |(broadcast, captured, released, key)| Operation::Settle { broadcast, captured, released, key }),
        2 => (broadcast.clone(), 0..8i64, 0..50usize).prop_map(
            |(broadcast, tokens, key)| Operation::Refund { broadcast, tokens, key }),
        1 => (0..SHOPS, 0..7usize, 0..40i64).prop_map(
            |(shop, month, allowance)| Operation::Refill { shop, month, allowance }),
        2 => Just(Operation::NextMonth),
        2 => Just(Operation::RefillDue),
        2 => (0..SHOPS, 0..PLANS.len()).prop_map(|(shop, plan)| Operation::ChangePlan { shop, plan }),
        1 => (0..SHOPS).prop_map(|shop| Operation::Suspend { shop }),
        1 => (0..SHOPS).prop_map(|shop| Operation::Return { shop }),
        2 => (0..SHOPS, tokens, 0..10usize).prop_map(|(shop, tokens, key)| Operation::TopUp { shop, tokens, key }),
        1 => broadcast.prop_map(|broadcast| Operation::Close { broadcast }),
    ];
    prop::collection::vec(operation, 1..60)
}

impl World {
    async fn new(clock: &FakeClock) -> Self {
        let pool = &clock.pool;
        clock.set(&noon(0)).await;
        let shops: Vec<Uuid> = (0..SHOPS).map(|_| Uuid::now_v7()).collect();
        for shop in &shops {
            run(
                pool,
                &format!("insert into shop (id, name, url, plan) values ('{shop}', 'S', 'u', 'core')"),
            )
            .await;
        }
        Self {
            pool: pool.clone(),
            clock: clock.clone(),
            now: 0,
            shops,
            broadcasts: (0..BROADCASTS).map(|_| Uuid::now_v7()).collect(),
        }
    }

    async fn apply(&mut self, operation: &Operation) -> Answer {
        if matches!(operation, Operation::NextMonth) {
            self.now += 1;
            self.clock.set(&noon(self.now)).await;
            return Answer::Number(1);
        }
        if matches!(operation, Operation::RefillDue) {
            // A refused operation answers before its locks are gone, and a refill passes over who is locked.
            run(&self.pool, "select from token_account for no key update").await;
        }
        let sql = match *operation {
            Operation::Hold { broadcast: b, cost } => {
                format!(
                    "select ledger_hold('{}', '{}', {cost})",
                    self.broadcasts[b],
                    self.shops[b % SHOPS]
                )
            }
            Operation::Settle {
                broadcast: b,
                captured,
                released,
                key,
            } => {
                let id = self.broadcasts[b];
                format!(
                    "with done as (select ledger_settle('{id}', 'line', {captured}, {released}, '{id}:{key}')) select count(*) from done"
                )
            }
            Operation::Refund {
                broadcast: b,
                tokens,
                key,
            } => {
                let id = self.broadcasts[b];
                format!(
                    "with done as (select ledger_refund('{id}', 'line', {tokens}, '{id}:{key}')) select count(*) from done"
                )
            }
            Operation::Refill {
                shop,
                month: n,
                allowance,
            } => {
                format!(
                    "select ledger_refill('{}', '{}', {allowance})::int::bigint",
                    self.shops[shop],
                    month(n)
                )
            }
            Operation::NextMonth => unreachable!("above"),
            // Enough for the shops of every case before this one: they are due as well.
            Operation::RefillDue => format!("select count(*) from refill_due_shops('{}', 1000)", month(self.now)),
            Operation::ChangePlan { shop, plan } => {
                format!("select change_plan('{}', '{}')", self.shops[shop], PLANS[plan].0)
            }
            Operation::Suspend { shop } | Operation::Return { shop } => {
                let state = if matches!(operation, Operation::Suspend { .. }) {
                    "suspended"
                } else {
                    "active"
                };
                let id = self.shops[shop];
                format!(
                    "with done as (update shop set state = '{state}' where id = '{id}' returning 1) select count(*) from done"
                )
            }
            Operation::TopUp { shop, tokens, key } => {
                format!(
                    "select ledger_top_up('{}', {tokens}, '{key}')::int::bigint",
                    self.shops[shop]
                )
            }
            Operation::Close { broadcast: b } => {
                let id = self.broadcasts[b];
                format!(
                    "with done as (update token_hold set state = 'closed' where broadcast_id = '{id}' returning 1) select count(*) from done"
                )
            }
        };
        match sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
        {
            Ok(0) if matches!(operation, Operation::Close { .. }) => Answer::Refused,
            Ok(number) => Answer::Number(number),
            Err(sqlx::Error::Database(_)) => Answer::Refused,
            Err(other) => panic!("{other}"),
        }
    }

    /// Ids in texts become the model's small numbers.
    fn plain(&self, text: &str) -> String {
        self.broadcasts
            .iter()
            .enumerate()
            .fold(text.to_owned(), |text, (n, id)| {
                text.replace(&id.to_string(), &n.to_string())
            })
    }

    async fn lines(&self, shop: usize) -> Vec<Line> {
        let sql = format!(
            "select kind, operation, array[allowance, extra, held_allowance, held_extra],
                    array[allowance_after, extra_after, held_allowance_after, held_extra_after]
               from ledger_entry where shop_id = '{}' order by id",
            self.shops[shop]
        );
        let rows: Vec<(String, String, Vec<i64>, Vec<i64>)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&self.pool).await.unwrap();
        rows.into_iter()
            .map(|(kind, operation, change, after)| {
                (
                    kind,
                    self.plain(&operation),
                    change.try_into().unwrap(),
                    after.try_into().unwrap(),
                )
            })
            .collect()
    }

    async fn hold(&self, broadcast: usize) -> Option<Hold> {
        let sql = format!(
            "select period, array[open_allowance, open_extra], array[captured_allowance, captured_extra], released,
                    array[refunded_allowance, refunded_extra], state = 'closed'
               from token_hold where broadcast_id = '{}'",
            self.broadcasts[broadcast]
        );
        let row: Option<HoldRow> = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_optional(&self.pool)
            .await
            .unwrap();
        row.map(|(period, open, captured, released, refunded, closed)| Hold {
            period,
            open: open.try_into().unwrap(),
            captured: captured.try_into().unwrap(),
            released,
            refunded: refunded.try_into().unwrap(),
            closed,
        })
    }

    async fn assert_equals(&self, model: &Model) {
        for (n, &shop) in self.shops.iter().enumerate() {
            let real = ledger::balance(&self.pool, ShopId(shop)).await;
            let account = &model.accounts[&n];
            let real = real.unwrap();
            assert_eq!(
                [real.allowance, real.extra, real.held_allowance, real.held_extra],
                account.now,
                "balance of {n}"
            );
            assert_eq!(
                real.period.map(String::from).unwrap_or_default(),
                account.period,
                "period of {n}"
            );
            assert!(real.available() >= 0 && real.held() >= 0);
            assert_eq!(self.lines(n).await, account.lines, "entries of shop {n}");
        }
        let holds: BTreeMap<usize, Hold> =
            join_all((0..BROADCASTS).map(async |b| self.hold(b).await.map(|hold| (b, hold))))
                .await
                .into_iter()
                .flatten()
                .collect();
        assert_eq!(holds, model.holds);
    }
}

#[test]
fn any_interleaving_of_operations_leaves_what_the_plain_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(database());
    let clock = runtime.block_on(FakeClock::new(&db));
    runtime.block_on(clock.publish_plans("2039-01-01", &PLANS));
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&operations(), |operations| {
            runtime.block_on(async {
                let (mut world, mut model) = (World::new(&clock).await, Model::new());
                for operation in &operations {
                    let expected = model.apply(operation);
                    assert_eq!(world.apply(operation).await, expected, "{operation:?}");
                }
                world.assert_equals(&model).await;
            });
            Ok(())
        })
        .unwrap();
}
