//! `refill`: a month's refill of every shop, against the same two entries and the same balance as one bare statement.
//!
//! The floor is one `UPDATE … INSERT` over all accounts in one transaction: no calendar, no plans, no lateness, no next due
//! date, no event for the frontend, no guard, no lock that somebody else may hold; every shop gets the same. Ours is what the job
//! does, step by step, each a transaction of its own, with events and guards. Both write the same entries, which is checked, and begin with the same fresh accounts and an empty
//! ledger. Measured in turn; the database is the one at DATABASE_URL, in a database of its own.

use std::time::Instant;

use carillon::{
    db::{self, PgPool},
    ledger::refill::refill_due,
    prices::{self, Prices},
};
use carillon_jobs::PeriodName;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

/// As `config/default.toml` has it.
const STEP_SHOPS: u32 = 5_000;

/// Runs it: `[--shops N] [--rounds N]`.
pub(crate) fn run(arguments: &[String]) {
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, |value| value.parse().expect("a number"))
    };
    let (shops, rounds) = (option("--shops", 1_000_000), option("--rounds", 3));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{}", runtime.block_on(measure(shops, rounds)));
}

async fn measure(shops: usize, rounds: usize) -> serde_json::Value {
    let options: PgConnectOptions = std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is the address of a Postgres")
        .parse()
        .unwrap();
    let name = format!("carillon_bench_{}", Uuid::new_v4().simple());
    let mut admin = PgConnection::connect_with(&options).await.unwrap();
    execute(&mut admin, &format!("create database {name}")).await;
    let pool: PgPool = sqlx::PgPool::connect_with(options.database(&name))
        .await
        .unwrap()
        .into();
    let result = in_turn(&pool, shops, rounds).await;
    pool.close().await;
    execute(&mut admin, &format!("drop database {name} with (force)")).await;
    result
}

async fn in_turn(pool: &PgPool, shops: usize, rounds: usize) -> serde_json::Value {
    db::migrate(pool).await.unwrap();
    prices::publish(pool, &Prices::embedded().unwrap()).await.unwrap();
    // Only here: shops whose accounts are made below. Their ids are UUIDv7, as the program makes them.
    for sql in [
        "alter table shop disable trigger user",
        &format!(
            "insert into shop (id, name, url, plan) select new_broadcast_id(), 'Shop', 'u', 'core' from generate_series(1, {shops})"
        ),
        "vacuum (analyze) shop",
    ] {
        run_sql(pool, sql).await;
    }
    let period: String = one(pool, "select period_at(now(), 'Asia/Taipei', 1)").await;
    let (mut floors, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        begin(pool, "disable").await;
        let floor = bare(pool, &period).await;
        let expected = written(pool).await;
        begin(pool, "enable").await;
        let our = refilled(pool, &period).await;
        assert_eq!(
            written(pool).await,
            expected,
            "both write the same entries and balances"
        );
        eprintln!("round {round}: bare {floor:.2} s, ours {our:.2} s, {:.2}", floor / our);
        floors.push(floor);
        ours.push(our);
    }
    let (floor, our) = (median(floors), median(ours));
    serde_json::json!({
        "benchmark": "refill", "shops": shops, "rounds": rounds, "bare_secs": floor, "our_secs": our,
        "micros_per_shop": our * 1e6 / shops as f64, "ratio": floor / our,
    })
}

/// Fresh accounts with last month's allowance, all due, and no entries; with guards and events, or without.
async fn begin(pool: &PgPool, guards: &str) {
    for sql in [
        // No trigger keeps the ledger from being emptied.
        "begin; set local session_replication_role = replica;
         truncate token_account, ledger_entry, token_hold, refill_run, event cascade;
         insert into token_account (shop_id, allowance, extra, allowance_period, granted, refill_due_at)
         select id, 3000, 100, to_char(now() - interval '1 month', 'YYYY-MM'), 5000, date_trunc('month', now()) - interval '8 hours' from shop;
         commit",
        &format!("alter table token_account {guards} trigger user; alter table ledger_entry {guards} trigger user"),
        "vacuum (analyze) token_account",
        "checkpoint",
    ] {
        run_sql(pool, sql).await;
    }
}

async fn bare(pool: &PgPool, period: &str) -> f64 {
    let sql = format!(
        "with due as materialized (
            select shop_id, allowance, extra, held_allowance, held_extra from token_account where allowance_period < '{period}'),
         moved as (
            update token_account a set allowance = d.held_allowance + 5000, allowance_period = '{period}'
              from due d where a.shop_id = d.shop_id)
         insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
            allowance_after, extra_after, held_allowance_after, held_extra_after)
         select d.shop_id, e.kind, e.operation, e.change, 0, 0, 0, e.allowance_after, d.extra, d.held_allowance, d.held_extra
           from due d cross join lateral (values
            ('expire', 'expire:period:{period}', d.held_allowance - d.allowance, d.held_allowance),
            ('grant', 'grant:{period}', 5000, d.held_allowance + 5000)) as e (kind, operation, change, allowance_after)"
    );
    let started = Instant::now();
    run_sql(pool, &sql).await;
    started.elapsed().as_secs_f64()
}

async fn refilled(pool: &PgPool, period: &str) -> f64 {
    let period: PeriodName = period.to_owned().try_into().unwrap();
    let started = Instant::now();
    let mut after = None;
    loop {
        let step = refill_due(pool, &period, STEP_SHOPS, after).await.unwrap();
        if step.looked == 0 && after.is_none() {
            break;
        }
        after = step.last;
    }
    started.elapsed().as_secs_f64()
}

/// Sums over everything both must have written alike.
async fn written(pool: &PgPool) -> String {
    one(
        pool,
        "select concat_ws(' ', (select concat_ws(' ', count(*), sum(allowance), sum(allowance_after), sum(extra_after),
                    sum(hashtext(shop_id || operation))) from ledger_entry),
                (select concat_ws(' ', count(*), sum(allowance), sum(extra), sum(hashtext(shop_id || allowance_period))) from token_account))",
    )
    .await
}

async fn run_sql(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap();
}

async fn one(pool: &PgPool, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
