//! `plan`: planning a broadcast against the same routing as one bare `INSERT … SELECT`.
//!
//! The floor writes the deliveries of the same shop with the same joins and the same CASE in one statement, one commit,
//! into the same empty partition: no chunks, no slices, no skipped customers, no counters, no checkpoint, no hold. Ours
//! is what a worker does from `queued` to `sending`, statistics and hold included. Both write the same deliveries, which
//! is checked; but the floor leaves out who shares a mailbox (one in a hundred), which is to its advantage. Both are measured in turn; the database is the one at DATABASE_URL, in a database of its own.

use std::time::Instant;

use carillon::{
    broadcast::{self, Advance, Audience, BroadcastConfig, Mode, NewBroadcast, Planner},
    channel::Channel,
    cli::seed::{Plan, plant},
    db::{self, PgPool},
    prices::{self, Prices},
    secret::{Hidden, Secrets},
};
use carillon_jobs::{BroadcastId, ShopId};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const ROUNDS: usize = 5;

/// Runs it: `[--customers N] [--rounds N]`.
pub(crate) fn run(arguments: &[String]) {
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, |value| value.parse().expect("a number"))
    };
    let (customers, rounds) = (option("--customers", 100_000), option("--rounds", ROUNDS));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(measure(u32::try_from(customers).unwrap(), rounds));
    println!("{result}");
}

async fn measure(customers: u32, rounds: usize) -> serde_json::Value {
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
    let result = in_turn(&pool, customers, rounds).await;
    pool.close().await;
    execute(&mut admin, &format!("drop database {name} with (force)")).await;
    result
}

async fn in_turn(pool: &PgPool, customers: u32, rounds: usize) -> serde_json::Value {
    db::migrate(pool).await.unwrap();
    prices::publish(pool, &Prices::embedded().unwrap()).await.unwrap();
    let shop = seed(pool, customers).await;
    let mut modes = Vec::new();
    for (mode, channels) in [
        (Mode::PrioritySingle, &[Channel::App, Channel::Line, Channel::Email][..]),
        (Mode::AppPlusOne, &[Channel::App, Channel::Line][..]),
    ] {
        let (mut floors, mut ours) = (Vec::new(), Vec::new());
        let mut deliveries = 0;
        for round in 0..=rounds {
            let (floor, written) = bare(pool, shop, mode).await;
            let (our, planned, twins) = planned(pool, shop, mode, channels).await;
            assert_eq!(written, planned - twins, "both write the same deliveries");
            deliveries = planned;
            // The first round warms caches and statements.
            if round > 0 {
                eprintln!(
                    "{mode} round {round}: bare {floor:.3} s, ours {our:.3} s, {:.2}",
                    floor / our
                );
                floors.push(floor);
                ours.push(our);
            }
        }
        let (floor, our) = (median(floors), median(ours));
        let per_row = our * 1e6 / deliveries as f64;
        modes.push(serde_json::json!({
            "mode": mode, "deliveries": deliveries, "bare_secs": floor, "our_secs": our,
            "micros_per_delivery": per_row, "ratio": floor / our,
        }));
    }
    let ratio = modes
        .iter()
        .filter_map(|mode| mode["ratio"].as_f64())
        .fold(f64::INFINITY, f64::min);
    serde_json::json!({ "benchmark": "plan", "customers": customers, "rounds": rounds, "modes": modes, "ratio": ratio })
}

async fn seed(pool: &PgPool, customers: u32) -> ShopId {
    let key = Hidden::new("bench:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let secrets = Secrets::new(&[key]).unwrap();
    let line =
        r#"{"channel_id":"2000000001","channel_secret":"5a6d0bd0c0ffee00c0ffee00c0ffee00","access_token":"bench"}"#;
    let email = r#"{"host":"127.0.0.1","port":9925,"tls":"none","from":"shop@mail.example"}"#;
    let app = include_str!("../../sandbox/fcm-demo-key.json");
    let credentials = [(Channel::Line, line), (Channel::Email, email), (Channel::App, app)];
    let plan = Plan {
        shop_name: "Bench",
        customers,
        seed: 1,
        sms_name: "EasyStore",
        extra_tokens: u32::MAX,
        credentials: credentials.map(|(channel, json)| (channel, json.to_owned())).into(),
    };
    let seeded = plant(pool, &secrets, &plan).await.unwrap();
    for table in ["vacuum (analyze) customer", "vacuum (analyze) address"] {
        sqlx::raw_sql(table).execute(pool).await.unwrap();
    }
    seeded.shop
}

/// The same routing in one statement, but for the few customers with shared mailboxes: seconds and deliveries.
async fn bare(pool: &PgPool, shop: ShopId, mode: Mode) -> (f64, i64) {
    clear(pool).await;
    let (shop, id) = (shop.0, BroadcastId::new());
    let sender = |channel: &str| {
        format!("(select id from sender where channel = '{channel}' and (shop_id = '{shop}' or shop_id is null))")
    };
    let join = |place: usize, channel: &str| {
        format!(
            "left join address a{place} on a{place}.customer_id = c.id and a{place}.is_current and a{place}.sender_id = {}",
            sender(channel)
        )
    };
    let ok = |place: usize| format!("a{place}.state = 'active' and not c.opted_out");
    let sql = match mode {
        Mode::PrioritySingle => {
            let first = |value: &dyn Fn(usize) -> String| {
                let whens = (0..3).fold(String::new(), |whens, place| {
                    format!("{whens} when {} then {}", ok(place), value(place))
                });
                format!("case{whens} end")
            };
            let channels = ["app", "line", "email"];
            format!(
                "insert into delivery (broadcast_id, customer_id, channel, address_id, twin_of)
                 select '{id}', * from (select c.id, {} as channel, {} as address_id, {} as twin_of from customer c {} {} {}
                  where c.shop_id = '{shop}' and not c.is_tester) r where channel is not null and twin_of is null",
                first(&|place| format!("'{}'::channel", channels[place])),
                first(&|place| format!("a{place}.id")),
                first(&|place| format!("a{place}.twin_of")),
                join(0, "app"),
                join(1, "line"),
                join(2, "email"),
            )
        }
        Mode::AppPlusOne => format!(
            "insert into delivery (broadcast_id, customer_id, channel, address_id, twin_of)
             select '{id}', r.id, x.channel, x.address_id, x.twin_of
               from (select c.id, case when {} then a0.id end as address_0, a0.twin_of as twin_0,
                            case when {} then a1.id end as address_1, a1.twin_of as twin_1
                       from customer c {} {} where c.shop_id = '{shop}' and not c.is_tester) r
              cross join lateral (values ('app'::channel, address_0, twin_0), ('line', address_1, twin_1))
                    as x (channel, address_id, twin_of)
              where x.address_id is not null and x.twin_of is null",
            ok(0),
            ok(1),
            join(0, "app"),
            join(1, "line"),
        ),
    };
    let started = Instant::now();
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
    (
        started.elapsed().as_secs_f64(),
        i64::try_from(done.rows_affected()).unwrap(),
    )
}

/// From `queued` to `sending`: seconds, deliveries, and how many of them to shared mailboxes.
async fn planned(pool: &PgPool, shop: ShopId, mode: Mode, channels: &[Channel]) -> (f64, i64, i64) {
    clear(pool).await;
    let config = BroadcastConfig::built_in().unwrap();
    let new = NewBroadcast {
        shop,
        name: "Bench".to_owned(),
        mode,
        channels: channels.iter().map(|channel| (*channel, None)).collect(),
        content: serde_json::json!({ "text": "Hello" }),
        audience: Audience::All,
        budget_tokens: None,
        at: None,
        deadline_hours: None,
    };
    let id = broadcast::create(pool, &config, &new).await.unwrap();
    broadcast::send(pool, id).await.unwrap();
    let planner = Planner::new(pool.clone(), config);
    let started = Instant::now();
    while planner.advance(id, &CancellationToken::new()).await.unwrap() != Advance::Opened {}
    let seconds = started.elapsed().as_secs_f64();
    let sql = "select count(*), count(twin_of) from delivery where broadcast_id = $1";
    let (deliveries, twins) = sqlx::query_as(sql).bind(id.0).fetch_one(pool).await.unwrap();
    (seconds, deliveries, twins)
}

/// Both begin with empty tables that nothing is known of, and with no checkpoint ahead.
async fn clear(pool: &PgPool) {
    sqlx::raw_sql("truncate delivery, skipped_customer, slice, delivery_result, lane, tally")
        .execute(pool)
        .await
        .unwrap();
    sqlx::raw_sql("checkpoint").execute(pool).await.unwrap();
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
