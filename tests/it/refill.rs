//! Monthly refills: once per shop and period, whoever comes, when, and how often.

use carillon::{app::ProcessKind, db::PgPool};
use carillon_jobs::{Envelope, MonthlyTokenRefill, ShopId};
use futures::future::join_all;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fake_clock::FakeClock,
    fixture_db::{TestDb, database},
    scene::{one, run},
    wait::until,
    world::World,
};

/// A database with a clock, and shops in it.
struct Town {
    _db: TestDb,
    clock: FakeClock,
}

impl Town {
    async fn new(at: &str) -> Self {
        let db = database().await;
        let clock = FakeClock::new(&db).await;
        clock.set(at).await;
        Self { _db: db, clock }
    }

    async fn shop(&self, plan: &str, anchor_day: u8, zone: &str) -> Uuid {
        let id = Uuid::now_v7();
        self.run(&format!(
            "insert into shop (id, name, url, plan, anchor_day, time_zone) values ('{id}', 'Tea', 'u', '{plan}', {anchor_day}, '{zone}')"
        ))
        .await;
        id
    }

    async fn run(&self, sql: &str) {
        run(&self.clock.pool, sql).await;
    }

    async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        one(&self.clock.pool, sql).await
    }

    /// The job for a period: how many shops it refilled.
    async fn refill(&self, period: &str) -> i32 {
        let mut refilled = 0;
        loop {
            let (looked, done): (i32, i32) = sqlx::query_as("select looked, refilled from refill_due_shops($1, 2)")
                .bind(period)
                .fetch_one(&self.clock.pool)
                .await
                .unwrap();
            refilled += done;
            if looked == 0 {
                return refilled;
            }
        }
    }

    /// What reconcile would ring for.
    async fn rings(&self) -> Vec<String> {
        sqlx::query_scalar("select * from refills_to_ring(0) order by 1")
            .fetch_all(&self.clock.pool)
            .await
            .unwrap()
    }

    async fn hold(&self, shop: Uuid, cost: i64) -> (Uuid, i64) {
        let broadcast = Uuid::now_v7();
        (
            broadcast,
            self.one(&format!("select ledger_hold('{broadcast}', '{shop}', {cost})"))
                .await,
        )
    }

    /// A shop's entries in one line each.
    async fn entries(&self, shop: Uuid) -> Vec<String> {
        let sql = format!(
            "select operation || ' ' || allowance || ' → ' || allowance_after || case when late then ' late' else '' end
               from ledger_entry where shop_id = '{shop}' order by id"
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&self.clock.pool)
            .await
            .unwrap()
    }
}

/// The audit of accounts and entries; the holds here are of no broadcast, which it would tell.
async fn assert_adds_up(pool: &PgPool) {
    let report = carillon::ledger::audit(pool, None).await.unwrap();
    let names = [
        "balance_is_sum_of_entries",
        "held_is_open_holds",
        "entry_follows_entry",
        "entry_overdraws_nothing",
    ];
    let checks = report.checks.iter().filter(|check| names.contains(&check.name));
    let wrong: Vec<_> = checks
        .inspect(|check| assert!(check.examined > 0))
        .filter(|check| check.broken > 0)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn an_allowance_is_set_and_not_added_and_a_new_shop_has_it_at_once() {
    let town = Town::new("2026-11-22 10:00+08").await;
    let shop = town.shop("core", 1, "Asia/Taipei").await;
    assert_eq!(town.rings().await, ["2026-11"]);
    assert_eq!(town.refill("2026-11").await, 1);
    let (broadcast, missing) = town.hold(shop, 2000).await;
    assert_eq!(missing, 0);
    town.run(&format!("select ledger_settle('{broadcast}', 'line', 2000, 0, 'x')"))
        .await;
    town.clock.set("2026-11-30 23:59:59+08").await;
    assert!(town.rings().await.is_empty());
    assert_eq!(town.refill("2026-12").await, 0);
    town.clock.set("2026-12-01 00:00:00+08").await;
    assert_eq!(town.rings().await, ["2026-12"]);
    assert_eq!(town.refill("2026-11").await, 0);
    assert_eq!((town.refill("2026-12").await, town.refill("2026-12").await), (1, 0));
    let entries = town.entries(shop).await;
    assert_eq!(entries[0], "grant:2026-11 5000 → 5000");
    assert_eq!(
        entries[3..],
        ["expire:period:2026-12 -3000 → 0", "grant:2026-12 5000 → 5000"]
    );
    assert_adds_up(&town.clock.pool).await;
}

#[tokio::test]
async fn the_31st_is_the_last_day_of_a_short_month_by_the_shops_clock() {
    let town = Town::new("2027-01-31 12:00+00").await;
    let (taipei, new_york) = (
        town.shop("core", 31, "Asia/Taipei").await,
        town.shop("growth", 31, "America/New_York").await,
    );
    assert_eq!(town.refill("2027-01").await, 2);
    for (at, refilled) in [
        ("2027-02-27 15:59:59Z", 0),
        ("2027-02-27 16:00:00Z", 1),
        ("2027-02-28 04:59:59Z", 0),
        ("2027-02-28 05:00:00Z", 1),
    ] {
        town.clock.set(at).await;
        assert_eq!(town.refill("2027-02").await, refilled, "{at}");
    }
    for (shop, next) in [(taipei, "2027-03-30 16:00:00+00"), (new_york, "2027-03-31 04:00:00+00")] {
        let due = format!("select refill_due_at = '{next}' from token_account where shop_id = '{shop}'");
        assert!(town.one::<bool>(&due).await, "{next}");
    }
}

#[tokio::test]
async fn after_a_downtime_over_three_anchor_days_only_the_current_period_is_granted_and_marked_late() {
    let town = Town::new("2026-08-10 10:00+08").await;
    let (first, fifteenth) = (
        town.shop("core", 1, "Asia/Taipei").await,
        town.shop("core", 15, "Asia/Taipei").await,
    );
    assert_eq!((town.refill("2026-08").await, town.refill("2026-07").await), (1, 1));
    town.clock.set("2026-11-10 10:00+08").await;
    // One was due on the first, in time for nothing; the other's period began on 15 October.
    assert_eq!(town.rings().await, ["2026-10", "2026-11"]);
    assert_eq!((town.refill("2026-11").await, town.refill("2026-10").await), (1, 1));
    assert_eq!(
        town.entries(first).await[1..],
        ["expire:period:2026-11 -5000 → 0 late", "grant:2026-11 5000 → 5000 late"]
    );
    assert_eq!(town.entries(fifteenth).await.len(), 3);
    // On the anchor day itself nothing is late, whatever was missed before.
    town.clock.set("2027-02-15 23:59:59+08").await;
    assert_eq!(town.refill("2027-02").await, 2);
    let late: Vec<bool> = sqlx::query_scalar(
        "select late from ledger_entry e join shop s on s.id = e.shop_id where operation = 'grant:2027-02' order by anchor_day",
    )
    .fetch_all(&town.clock.pool)
    .await
    .unwrap();
    assert_eq!(late, [true, false]);
    let run: (i64, i64) = sqlx::query_as("select shops, late from refill_run where period = '2027-02'")
        .fetch_one(&town.clock.pool)
        .await
        .unwrap();
    assert_eq!(run, (2, 1));
}

#[tokio::test]
async fn a_hold_posts_its_shops_due_refill_first() {
    let town = Town::new("2026-11-22 10:00+08").await;
    let shop = town.shop("core", 1, "Asia/Taipei").await;
    let (old, missing) = town.hold(shop, 4000).await;
    assert_eq!(missing, 0);
    town.clock.set("2026-12-03 10:00+08").await;
    // Without the refill only 1,000 were left, and bought tokens would have been spent.
    town.run(&format!("select ledger_top_up('{shop}', 12500, 'order')"))
        .await;
    let (new, missing) = town.hold(shop, 5000).await;
    assert_eq!(missing, 0);
    let held: (i64, i64) = sqlx::query_as("select allowance, extra from token_hold where broadcast_id = $1")
        .bind(new)
        .fetch_one(&town.clock.pool)
        .await
        .unwrap();
    assert_eq!(held, (5000, 0));
    assert_eq!(town.refill("2026-12").await, 0);
    // What the old hold gives back is of November and expires.
    town.run(&format!("select ledger_settle('{old}', 'line', 1000, 3000, 'x')"))
        .await;
    let available = "select allowance - held_allowance + extra from token_account";
    assert_eq!(town.one::<i64>(available).await, 12500);
    assert_adds_up(&town.clock.pool).await;
}

#[tokio::test]
async fn an_upgrade_grants_the_difference_once_and_a_downgrade_waits_for_the_reset() {
    let town = Town::new("2026-11-22 10:00+08").await;
    let shop = town.shop("core", 1, "Asia/Taipei").await;
    let change = async |plan: &str| {
        town.one::<i64>(&format!("select change_plan('{shop}', '{plan}')"))
            .await
    };
    // Whoever comes first: the refill that is due is posted before.
    assert_eq!(change("growth").await, 7500);
    assert_eq!(
        (change("core").await, change("growth").await, change("growth").await),
        (0, 0, 0)
    );
    assert_eq!(change("all-round").await, 12500);
    assert_eq!(change("business").await, 0);
    assert_eq!(town.one::<i64>("select allowance from token_account").await, 25000);
    town.clock.set("2026-12-01 00:00+08").await;
    // The reset has come before the upgrade, though nobody was there: it is the old plan's.
    assert_eq!(change("growth").await, 7500);
    assert_eq!(
        town.entries(shop).await[3..],
        [
            "expire:period:2026-12 -25000 → 0",
            "grant:2026-12 5000 → 5000",
            "grant:2026-12:upgrade:12500 7500 → 12500"
        ]
    );
    // A frontend that writes the row itself is no different.
    town.run("update shop set plan = 'all-round'").await;
    assert_eq!(town.one::<i64>("select allowance from token_account").await, 25000);
    assert_adds_up(&town.clock.pool).await;
}

#[tokio::test]
async fn a_bell_from_a_day_that_has_not_come_keeps_none_of_today_back() {
    let town = Town::new("2026-11-25 10:00+08").await;
    town.shop("core", 1, "Asia/Taipei").await;
    assert_eq!(town.rings().await, ["2026-11"]);
    town.clock.set("2026-11-20 10:00+08").await;
    town.shop("core", 1, "Asia/Taipei").await;
    assert_eq!(town.rings().await, ["2026-11"]);
}

#[tokio::test]
async fn who_names_a_shop_never_waits_for_its_change_of_plan() {
    let town = Town::new("2026-11-20 10:00+08").await;
    let shop = town.shop("core", 1, "Asia/Taipei").await;
    let mut change = carillon::db::begin(&town.clock.pool).await.unwrap();
    one::<i64>(&mut *change, &format!("select change_plan('{shop}', 'growth')")).await;
    // A plan that opens its lanes names the shop when it has the account already: it would wait for the change, and the change for it.
    town.run(&format!("select request_top_up('{shop}', 1)")).await;
    change.commit().await.unwrap();
}

#[tokio::test]
async fn a_suspended_shop_gets_nothing_and_on_its_return_the_current_period_only() {
    let town = Town::new("2026-08-10 10:00+08").await;
    let shop = town.shop("core", 1, "Asia/Taipei").await;
    assert_eq!(town.refill("2026-08").await, 1);
    town.run("update shop set state = 'suspended'").await;
    town.clock.set("2026-11-20 10:00+08").await;
    assert!(town.rings().await.is_empty());
    assert_eq!(town.refill("2026-11").await, 0);
    assert_eq!(
        town.one::<String>(&format!("select refill_shop('{shop}')")).await,
        "suspended"
    );
    // It pays for more while it is away.
    assert_eq!(
        town.one::<i64>(&format!("select change_plan('{shop}', 'growth')"))
            .await,
        0
    );
    assert_eq!(town.entries(shop).await.len(), 1);
    town.run("update shop set state = 'active'").await;
    assert_eq!(
        town.entries(shop).await[1..],
        ["expire:period:2026-11 -5000 → 0", "grant:2026-11 12500 → 12500"]
    );
    // Away and back, and a better plan in between, within one period.
    town.run(
        "update shop set state = 'suspended'; update shop set plan = 'all-round'; update shop set state = 'active'",
    )
    .await;
    assert_eq!(
        town.entries(shop).await[3..],
        ["grant:2026-11:upgrade:25000 12500 → 25000"]
    );
    let due = "select refill_due_at = '2026-12-01 00:00+08' from token_account";
    assert!(town.one::<bool>(due).await);
}

#[tokio::test]
async fn a_shop_that_moves_its_anchor_day_or_zone_is_refilled_once_for_each_period_all_the_same() {
    let town = Town::new("2026-11-20 10:00+08").await;
    let shop = town.shop("core", 25, "Asia/Taipei").await;
    assert_eq!(town.refill("2026-10").await, 1);
    town.run("update shop set anchor_day = 10").await;
    town.run("update shop set anchor_day = 28; update shop set anchor_day = 1, time_zone = 'Pacific/Kiritimati'")
        .await;
    town.clock.set("2026-11-30 23:00+08").await;
    assert_eq!(town.rings().await, ["2026-12"]);
    assert_eq!(town.refill("2026-12").await, 1);
    let grants: Vec<String> = town
        .entries(shop)
        .await
        .into_iter()
        .filter(|entry| entry.starts_with("grant"))
        .collect();
    assert_eq!(
        grants,
        [
            "grant:2026-10 5000 → 5000",
            "grant:2026-11 5000 → 5000",
            "grant:2026-12 5000 → 5000"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_single_refills_and_holds_at_once_grant_each_shop_once() {
    let town = Town::new("2026-11-20 10:00+08").await;
    let shops: Vec<Uuid> = join_all((0..120).map(|n| town.shop("core", n % 20 + 1, "Asia/Taipei"))).await;
    let pool = &town.clock.pool;
    let steps = (0..6).map(async |_| while town.refill("2026-11").await > 0 {});
    let singles = shops.iter().step_by(2).map(async |shop| {
        one::<String>(pool, &format!("select refill_shop('{shop}', '2026-11')")).await;
    });
    let holds = shops
        .iter()
        .step_by(3)
        .map(async |shop| assert_eq!(town.hold(*shop, 5000).await.1, 0));
    tokio::join!(join_all(steps), join_all(singles), join_all(holds));
    // Whoever was locked at the wrong moment is due still.
    town.refill("2026-11").await;
    let wrong = "select count(*) from token_account a where 1 <> (select count(*) from ledger_entry e where e.shop_id = a.shop_id
                    and e.kind = 'grant') or a.allowance <> 5000 or a.allowance_period <> '2026-11'";
    assert_eq!(town.one::<i64>(wrong).await, 0);
    assert_adds_up(pool).await;
}

#[tokio::test]
async fn accounts_from_before_are_looked_at_once_and_lose_nothing() {
    let town = Town::new("2026-11-20 10:00+08").await;
    let (current, behind, never) = (
        town.shop("core", 1, "Asia/Taipei").await,
        town.shop("core", 1, "Asia/Taipei").await,
        town.shop("core", 1, "Asia/Taipei").await,
    );
    town.run(&format!(
        "select ledger_refill('{current}', '2026-11', 5000), ledger_refill('{behind}', '2026-10', 5000);
         update token_account set refill_due_at = '-infinity', granted = null"
    ))
    .await;
    assert_eq!(town.refill("2026-11").await, 2);
    assert_eq!(town.entries(current).await, ["grant:2026-11 5000 → 5000"]);
    assert_eq!(town.entries(behind).await.len(), 3);
    assert_eq!(town.entries(never).await.len(), 1);
    assert!(town.rings().await.is_empty());
    // Its one grant says what it was granted.
    assert_eq!(
        town.one::<i64>(&format!("select change_plan('{current}', 'growth')"))
            .await,
        7500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_rings_for_whoever_is_due_and_a_worker_refills() {
    let world = World::new(&[]).await;
    let shop = ShopId::new();
    let _working = world.work();
    world
        .run(&format!(
            "insert into shop (id, name, url, plan) values ('{shop}', 'Cake', 'u', 'growth')"
        ))
        .await;
    let allowance = format!("select allowance from token_account where shop_id = '{shop}'");
    until("the new shop has its allowance", async || {
        world.one::<i64>(&allowance).await == 12500
    })
    .await;
    // A job for one shop; and one for a shop there is not.
    let period = world.one::<String>("select period_at(now(), 'Asia/Taipei', 1)").await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    for shop in [shop, ShopId::new()] {
        let args = MonthlyTokenRefill {
            period: period.clone().try_into().unwrap(),
            shop_id: Some(shop),
        };
        queue.ring(Envelope::new(args)).await.unwrap();
    }
    let dead = "select count(*) from dead_job where kind = 'monthly-token-refill' and reason = 'rejected'";
    until("a job for nobody is dead", async || world.one::<i64>(dead).await == 1).await;
    assert_eq!(world.one::<i64>(&allowance).await, 12500);
    world.audit().await;
}
