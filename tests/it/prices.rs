//! Price tables: published once, never changed after they have begun, and read alike by Rust and SQL.

use carillon::{
    broadcast::{Advance, Mode},
    channel::Channel,
    db::PgPool,
    prices::{self, Prices, PublishError},
};
use chrono::NaiveDate;

use crate::{
    broadcast_scene::{advance_fully, config, people, planner, sent, shop as shop_with},
    fake_clock::FakeClock,
    fixture_db::database,
    scene::{one, run},
};

const COSTS: &str =
    "effective_from = \"2024-01-01\"\n[token_costs]\napp = 1\nline = 5\nmessenger = 5\nsms = 32\nemail = 2";
const BLOCKS: &str = "effective_from = \"2024-01-01\"\n[block_prices]\ntokens_per_block = 12500\nprice_twd = { 1 = 799, 10 = 6999, 100 = 59999 }";
const PLANS: &str =
    "effective_from = \"2024-01-01\"\n[plans]\nbusiness = 5000\ncore = 5000\ngrowth = 12500\nall-round = 25000";

/// The built-in tables, beside one more or in place of one.
fn with(version: &str, text: &str) -> Prices {
    let new_blocks = include_str!("../../config/prices/blocks-2025-09-01.toml");
    let mut files = vec![
        ("token-costs-2024-01-01", COSTS),
        ("blocks-2024-01-01", BLOCKS),
        ("blocks-2025-09-01", new_blocks),
        ("plans-2024-01-01", PLANS),
    ];
    files.retain(|(built_in, _)| *built_in != version);
    files.push((version, text));
    Prices::parse(&files).unwrap()
}

async fn refusal(pool: &PgPool, prices: &Prices) -> String {
    let before: i64 = one(pool, "select count(*) from price_table").await;
    let told = match prices::publish(pool, prices).await {
        Err(PublishError::Refused(told)) => told,
        other => panic!("{other:?}"),
    };
    assert_eq!(one::<i64>(pool, "select count(*) from price_table").await, before);
    told
}

#[tokio::test]
async fn publishing_again_changes_nothing_and_an_older_program_may_come_back() {
    let db = database().await;
    let built_in = Prices::embedded().unwrap();
    let again = prices::publish(&db.pool, &built_in).await.unwrap();
    assert!(again.versions.is_empty() && again.unknown_versions.is_empty());
    let newer = with("plans-2999", "effective_from = \"2999-01-01\"\n[plans]\ncore = 6000");
    assert_eq!(
        prices::publish(&db.pool, &newer).await.unwrap().versions,
        ["plans-2999"]
    );
    let older = prices::publish(&db.pool, &built_in).await.unwrap();
    assert_eq!(
        (older.versions.len(), older.unknown_versions),
        (0, vec!["plans-2999".to_owned()])
    );
    // What has not begun may be corrected.
    let corrected = with("plans-2999", "effective_from = \"2998-01-01\"\n[plans]\ncore = 7000");
    assert_eq!(
        prices::publish(&db.pool, &corrected).await.unwrap().versions,
        ["plans-2999"]
    );
    let allowance = "select plan_allowance_at('core', '2998-01-01')";
    assert_eq!(one::<i64>(&db.pool, allowance).await, 7000);
}

#[tokio::test]
async fn what_was_sold_at_a_price_stays_sold_at_it() {
    let db = database().await;
    let pool = &db.pool;
    let changed = with("plans-2024-01-01", &PLANS.replace("core = 5000", "core = 5001"));
    assert_eq!(
        refusal(pool, &changed).await,
        "price table plans-2024-01-01: it has begun on 2024-01-01 and never changes: put the file back as it was, and add a new one"
    );
    let backdated = with("plans-new", "effective_from = \"2026-01-01\"\n[plans]\ncore = 6000");
    assert!(
        refusal(pool, &backdated)
            .await
            .starts_with("price table plans-new: it begins on 2026-01-01, which would change")
    );
    let twice = with("plans-a", "effective_from = \"2999-01-01\"\n[plans]\ncore = 6000");
    prices::publish(pool, &twice).await.unwrap();
    let same_day = with("plans-b", "effective_from = \"2999-01-01\"\n[plans]\ncore = 6000");
    assert_eq!(
        refusal(pool, &same_day).await,
        "price table plans-b: plans-a begins on the same day, 2999-01-01: choose another"
    );
    for sql in [
        "update price_table set document = '{}' where version = 'plans-2024-01-01'",
        "update price_table set effective_from = '2026-01-01' where version = 'plans-a'",
        "delete from price_table where version = 'plans-a'",
        "truncate price_table",
    ] {
        let error = sqlx::query(sql)
            .execute(pool)
            .await
            .unwrap_err()
            .into_database_error()
            .unwrap();
        assert_eq!(error.constraint(), Some("price_table_never_changes"), "{sql}");
    }
}

#[tokio::test]
async fn a_shop_always_has_a_plan_that_is_known() {
    let db = database().await;
    let pool = &db.pool;
    for sql in [
        "insert into shop (id, name, url, plan) values (gen_random_uuid(), 'Tea', 'u', 'Core')",
        "insert into shop (id, name, url, plan) values (gen_random_uuid(), 'Tea', 'u', '')",
    ] {
        let error = sqlx::query(sql)
            .execute(pool)
            .await
            .unwrap_err()
            .into_database_error()
            .unwrap();
        assert_eq!(error.constraint(), Some("plan_is_known"));
        assert!(
            error
                .message()
                .ends_with("there are: all-round, business, core, growth")
        );
    }
    let shop = "11111111-1111-7111-8111-111111111111";
    run(
        pool,
        &format!("insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'u', 'growth')"),
    )
    .await;
    let without = with("plans-2999", "effective_from = \"2999-01-01\"\n[plans]\ncore = 6000");
    assert_eq!(
        refusal(pool, &without).await,
        format!(
            "price table plans-2999: shop {shop} has the plan growth, which it does not list: list it, or change the shop's plan first"
        )
    );
    let error = sqlx::query("select change_plan(id, 'gold') from shop")
        .execute(pool)
        .await
        .unwrap_err();
    assert_eq!(error.into_database_error().unwrap().constraint(), Some("plan_is_known"));
    // Nor one that a table which is published already leaves out.
    run(pool, "update shop set plan = 'core'").await;
    prices::publish(pool, &without).await.unwrap();
    let ends = sqlx::query("update shop set plan = 'growth'")
        .execute(pool)
        .await
        .unwrap_err()
        .into_database_error()
        .unwrap();
    assert_eq!(
        ends.message(),
        "the plan growth ends on 2999-01-01: no shop begins it any more"
    );
}

/// Postgres takes anything before a number for a zone, and counts it the other way round: `UTC+8` is eight hours west.
#[tokio::test]
async fn a_shop_has_a_time_zone_that_is_known_by_its_name() {
    let db = database().await;
    let set = async |zone: &str| {
        sqlx::query("select time_zone_must_be_known($1)")
            .bind(zone)
            .execute(&db.pool)
            .await
            .map_err(|error| error.into_database_error().unwrap().constraint().map(str::to_owned))
    };
    for zone in [
        "Asia/Taipei",
        "America/Argentina/ComodRivadavia",
        "Etc/GMT-8",
        "UTC",
        "Singapore",
    ] {
        assert!(set(zone).await.is_ok(), "{zone}");
    }
    for zone in [
        "Mars/Olympus",
        "UTC+8",
        "+08",
        "08:00",
        "Asia/Taipei8",
        "asia/taipei",
        "CET",
        "localtime",
        "Factory",
        "",
        "Asia/Taipei ",
    ] {
        assert_eq!(
            set(zone).await.unwrap_err().as_deref(),
            Some("time_zone_is_known"),
            "{zone}"
        );
    }
    let shop =
        "insert into shop (id, name, url, plan, time_zone) values (gen_random_uuid(), 'Tea', 'u', 'core', 'UTC+8')";
    assert!(sqlx::query(shop).execute(&db.pool).await.is_err());
}

#[tokio::test]
async fn rust_and_sql_say_the_same_price_on_every_day() {
    let db = database().await;
    let prices = Prices::embedded().unwrap();
    for day in ["2023-12-31", "2024-01-01", "2025-08-31", "2025-09-01", "2026-11-22"] {
        let date: NaiveDate = day.parse().unwrap();
        for blocks in [0, 1, 2, 5, 10, 50, 100, 101] {
            let row: Option<(String, i64, i64)> =
                sqlx::query_as("select version, tokens, price_twd from block_price_at($1, $2)")
                    .bind(date)
                    .bind(blocks)
                    .fetch_optional(&db.pool)
                    .await
                    .unwrap();
            let ours = prices.block_price_at(date, u32::try_from(blocks).unwrap());
            let ours = ours.map(|p| (p.version, i64::try_from(p.tokens).unwrap(), i64::from(p.price_twd)));
            assert_eq!(row, ours, "{blocks} blocks on {day}");
        }
        for plan in ["core", "growth", "all-round", "business", "none"] {
            let row: Option<i64> = one(&db.pool, &format!("select plan_allowance_at('{plan}', '{day}')")).await;
            assert_eq!(row, prices.allowance_at(plan, date).map(i64::from), "{plan} on {day}");
        }
        for channel in Channel::ALL {
            let row: Option<i32> = sqlx::query_scalar(
                "select tokens from token_cost where channel = $1 and effective_from <= $2 and coalesce(effective_until > $2, true)",
            )
            .bind(channel)
            .bind(date)
            .fetch_optional(&db.pool)
            .await
            .unwrap();
            let ours = prices.token_cost_at(channel, date);
            assert_eq!(
                row,
                ours.map(|tokens| i32::try_from(tokens).unwrap()),
                "{channel} on {day}"
            );
        }
    }
}

#[tokio::test]
async fn a_hold_keeps_what_its_broadcast_was_priced_with() {
    let db = database().await;
    let shop = shop_with(&db.pool, 1000).await;
    shop.add(&people(3)).await;
    let config = config(100);
    let id = sent(&shop, &config, Mode::PrioritySingle, &[Channel::Line]).await;
    assert_eq!(advance_fully(&planner(&db.pool, &config), id).await, Advance::Opened);
    for table in ["token_hold where broadcast_id", "broadcast where id"] {
        let version: String = one(&db.pool, &format!("select price_version from {table} = '{id}'")).await;
        assert_eq!(version, "token-costs-2024-01-01");
    }
    // A worker of the release before sets no version, and its holds are taken all the same.
    let old = "018f0000-0000-7000-8000-000000000001";
    let missing: i64 = one(&db.pool, &format!("select ledger_hold('{old}', '{}', 1)", shop.id)).await;
    let version: Option<String> = one(
        &db.pool,
        &format!("select price_version from token_hold where broadcast_id = '{old}'"),
    )
    .await;
    assert_eq!((missing, version), (0, None));
}

#[tokio::test]
async fn a_table_holds_from_midnight_in_taipei() {
    let db = database().await;
    let clock = FakeClock::new(&db).await;
    clock
        .publish_plans("2998-03-01", &[("core", 6000), ("growth", 1)])
        .await;
    let shop = "11111111-1111-7111-8111-111111111111";
    clock.set("2998-02-28 15:59:59Z").await;
    let allowance = "select plan_allowance_at('core', price_day())";
    assert_eq!(one::<i64>(&clock.pool, allowance).await, 5000);
    clock.set("2998-02-28 16:00:00Z").await;
    assert_eq!(one::<i64>(&clock.pool, allowance).await, 6000);
    // A period that began under the old table gives what the old one says, however late it is granted.
    clock.set("2998-02-10 12:00+08").await;
    run(
        &clock.pool,
        &format!("insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'u', 'core')"),
    )
    .await;
    clock.set("2998-03-05 12:00+08").await;
    run(
        &clock.pool,
        &format!("update shop set time_zone = 'Pacific/Honolulu', anchor_day = 31 where id = '{shop}'"),
    )
    .await;
    assert_eq!(
        one::<i64>(&clock.pool, "select allowance from token_account").await,
        5000
    );
}
