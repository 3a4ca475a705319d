//! A shop's own rules: its frequency cap against the rule in plain Rust, and its quiet hours from the clock to the last message.

use carillon::{
    broadcast::{
        self, Advance, Audience, CapSpan, FrequencyCap, Mode, route,
        rules::{set_cap, set_quiet},
    },
    channel::Channel,
    delivery::quiet::QuietHours,
};
use carillon_jobs::{CustomerId, ShopId};
use carillon_sandbox::Channel as Provider;
use chrono::{DateTime, NaiveTime, TimeDelta, Timelike as _, Utc};
use chrono_tz::TZ_VARIANTS;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    broadcast_scene::{
        ALL, Person, Shop, advance_fully, at, column, config, deliveries, one, people, person, planner, run, shop,
        skipped,
    },
    fixture_db::{TestDb, database},
    wait::until,
    world::World,
};

const MONTH: CapSpan = CapSpan::Month;

#[allow(clippy::unnecessary_wraps, reason = "what is set may also be none")]
fn cap(broadcasts: u16, span: CapSpan) -> Option<FrequencyCap> {
    Some(FrequencyCap { broadcasts, span })
}

/// Sends one more broadcast to the whole shop, or to those with the tag, and plans it.
async fn plan_one(shop: &Shop, chunk: u32, tag: bool) -> carillon_jobs::BroadcastId {
    let mut new = shop.new_broadcast(Mode::PrioritySingle, &ALL);
    if tag {
        new.audience = Audience::Tag("vip".to_owned());
    }
    let config = config(chunk);
    let id = broadcast::create(&shop.pool, &config, &new).await.unwrap();
    broadcast::send(&shop.pool, id).await.unwrap();
    advance_fully(&planner(&shop.pool, &config), id).await;
    id
}

/// How many marketing broadcasts of this month each customer has or may have, row by row.
async fn got(shop: &Shop) -> Vec<(i64, i64)> {
    let sql = format!(
        "select (c.id, (select count(distinct d.broadcast_id) from delivery_with_state d
                         join broadcast b on b.id = d.broadcast_id and b.purpose = 'marketing' and b.shop_id = c.shop_id
                        where d.customer_id = c.id and b.sending_at >= date_trunc('month', now() at time zone 'Asia/Taipei') at time zone 'Asia/Taipei'
                          and d.state not in ('failed', 'skipped', 'cancelled', 'expired')))::text
           from customer c where c.shop_id = '{}' order by c.id",
        shop.id
    );
    let rows: Vec<String> = column(&shop.pool, &sql).await;
    rows.iter()
        .map(|row| {
            let (id, n) = row.trim_matches(['(', ')']).split_once(',').unwrap();
            (id.parse().unwrap(), n.parse().unwrap())
        })
        .collect()
}

#[test]
fn a_capped_plan_is_the_rule_and_the_estimate_in_chunks_of_any_size() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(database());
    let settings = Config {
        cases: 20,
        failure_persistence: None,
        ..Config::default()
    };
    let tags = prop::collection::vec(any::<bool>(), 12);
    let strategy = (tags, 1_u16..4, 0_u8..4, prop_oneof![Just(1_u32), Just(5), Just(100)]);
    TestRunner::new(settings)
        .run(&strategy, |(tags, most, ended, chunk)| {
            runtime.block_on(compare(&db, &tags, most, ended, chunk));
            Ok(())
        })
        .unwrap();
}

async fn compare(db: &TestDb, tags: &[bool], most: u16, ended: u8, chunk: u32) {
    let shop = shop(&db.pool, 1_000_000).await;
    let mut all: Vec<Person> = people(12);
    for (person, tag) in all.iter_mut().zip(tags) {
        person.tag = *tag;
    }
    shop.add(&all).await;
    // Two to those with the tag and one to all, of which some ended in every way.
    for tag in [true, false, true] {
        if tag && !tags.contains(&true) {
            continue;
        }
        let id = plan_one(&shop, chunk, tag).await;
        let state = ["accepted", "failed", "unknown", "expired"][usize::from(ended)];
        run(
            &shop.pool,
            &format!(
                "insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, reason)
                 select broadcast_id, channel, customer_id, '{state}', 0, 'uncertain' from delivery
                  where broadcast_id = '{id}' and customer_id % 2 = 0"
            ),
        )
        .await;
    }
    set_cap(&shop.pool, shop.id, cap(most, MONTH)).await.unwrap();
    let full: Vec<i64> = got(&shop)
        .await
        .into_iter()
        .filter(|(_, n)| *n >= i64::from(most))
        .map(|(id, _)| id)
        .collect();
    let mut candidates = shop.candidates(&ALL, false).await;
    for candidate in &mut candidates {
        candidate.capped = full.contains(&candidate.customer.0);
    }
    let routed = route(Mode::PrioritySingle, &candidates);
    let new = shop.new_broadcast(Mode::PrioritySingle, &ALL);
    let estimate = broadcast::estimate_new(&shop.pool, &config(chunk), &new).await.unwrap();
    let id = plan_one(&shop, chunk, false).await;

    let mut expected = Vec::new();
    for one in &routed {
        for (place, address) in &one.messages {
            expected.push((one.customer, ALL[*place], address));
        }
    }
    expected.sort_unstable();
    let expected: Vec<String> = expected
        .iter()
        .map(|(who, channel, at)| format!("{who} {channel} {at}"))
        .collect();
    assert_eq!(deliveries(&shop.pool, id).await, expected);
    let nothing = routed
        .iter()
        .filter_map(|one| Some(format!("{} {}", one.customer, one.skipped?.as_str())));
    assert_eq!(skipped(&shop.pool, id).await, nothing.collect::<Vec<_>>());
    assert_eq!(estimate.messages, i64::try_from(expected.len()).unwrap());
    let capped = routed
        .iter()
        .filter(|one| one.skipped == Some(broadcast::SkipReason::FrequencyCap))
        .count();
    assert_eq!(
        estimate.skipped.get("frequency_cap").copied().unwrap_or(0),
        i64::try_from(capped).unwrap()
    );
}

/// Two a month, as the third in a month finds out; a test message, another shop and next month do not.
#[tokio::test]
async fn the_third_broadcast_of_a_month_reaches_nobody_again() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000).await;
    let ids = shop.add(&[person([at("a"), None, None, None])]).await;
    set_cap(&db.pool, shop.id, cap(2, MONTH)).await.unwrap();
    for planned in [1, 1, 0] {
        let id = plan_one(&shop, 10, false).await;
        assert_eq!(deliveries(&db.pool, id).await.len(), planned);
    }
    let last: String = one(
        &db.pool,
        "select string_agg(customer_id || ' ' || reason, ',') from skipped_customer",
    )
    .await;
    assert_eq!(last, format!("{} frequency_cap", CustomerId(ids[0])));
    // The first of them was last month's.
    run(
        &db.pool,
        "update broadcast set sending_at = sending_at - interval '32 days' where id = (select min(id::text)::uuid from broadcast where sending_at is not null)",
    )
    .await;
    let id = plan_one(&shop, 10, false).await;
    assert_eq!(deliveries(&db.pool, id).await.len(), 1);
    // In forty days it still counts.
    set_cap(&db.pool, shop.id, cap(3, CapSpan::Days(40))).await.unwrap();
    assert_eq!(deliveries(&db.pool, plan_one(&shop, 10, false).await).await.len(), 0);
    set_cap(&db.pool, shop.id, None).await.unwrap();
    assert_eq!(deliveries(&db.pool, plan_one(&shop, 10, false).await).await.len(), 1);
}

/// A broadcast that is planned while another one's planning is held up sees what that one has planned, and the other way round.
#[tokio::test]
async fn two_plans_of_a_shop_together_keep_to_the_cap() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000).await;
    let all: Vec<Person> = (0..10)
        .map(|i| person([at(format!("a{i}")), None, None, None]))
        .collect();
    shop.add(&all).await;
    set_cap(&db.pool, shop.id, cap(1, MONTH)).await.unwrap();
    let stepping = crate::broadcast_scene::stepping(3);
    let planner = planner(&db.pool, &stepping);
    let first = crate::broadcast_scene::sent(&shop, &stepping, Mode::PrioritySingle, &ALL).await;
    crate::broadcast_scene::step(&planner, first).await;
    broadcast::pause(&db.pool, first).await.unwrap();
    let second = crate::broadcast_scene::sent(&shop, &stepping, Mode::PrioritySingle, &ALL).await;
    assert_eq!(advance_fully(&planner, second).await, Advance::Opened);
    broadcast::resume(&db.pool, first).await.unwrap();
    advance_fully(&planner, first).await;
    let (one, other) = (
        deliveries(&db.pool, first).await.len(),
        deliveries(&db.pool, second).await.len(),
    );
    assert_eq!((one, other), (3, 7));
    let most: i64 = crate::broadcast_scene::one(
        &db.pool,
        "select max(n) from (select count(*) as n from delivery group by customer_id) d",
    )
    .await;
    assert_eq!(most, 1);
}

/// The hour of Taipei's clock, `hours` from now.
fn taipei(hours: i64) -> NaiveTime {
    let at = Utc::now().with_timezone(&chrono_tz::Asia::Taipei) + TimeDelta::hours(hours);
    NaiveTime::from_hms_opt(at.hour(), 0, 0).unwrap()
}

/// Quiet for an hour or two around now.
fn quiet_now() -> QuietHours {
    QuietHours::new(taipei(0), taipei(2)).unwrap()
}

fn received(world: &World) -> u64 {
    world.sandbox.handle().channel_summary(Provider::Line).messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_at_night_waits_in_its_lane_while_other_channels_go() {
    let world = World::new(&[]).await;
    world.customers(200, "s.channel in ('line', 'app')").await;
    let shop = ShopId(world.shop);
    set_quiet(world.pool(), shop, Channel::Line, Some(quiet_now()))
        .await
        .unwrap();
    let id = world.draft("app_plus_one", &["app", "line"], "哈囉 {first_name}").await;
    let config = broadcast::BroadcastConfig::built_in().unwrap();
    let estimate = broadcast::estimate_stored(world.pool(), &config, id).await.unwrap();
    assert_eq!(estimate.quiet.keys().collect::<Vec<_>>(), [&Channel::Line]);
    let working = world.work();
    world.send(id).await;
    until("the app's messages have left and LINE's lane sleeps", async || {
        world
            .one::<bool>(
                "select count(*) = 2 and bool_and(case channel when 'app' then remaining = 0
                            else remaining = 200 and due_at > now() + interval '30 minutes' and lease_until is null and strikes = 0 end)
                   from lane",
            )
            .await
    })
    .await;
    assert_eq!(received(&world), 0);
    let report = broadcast::report(world.pool(), id).await.unwrap();
    let waits = report.channels.iter().find(|one| one.channel == Channel::Line).unwrap();
    assert!(waits.quiet_until.is_some_and(|at| at > Utc::now()));
    let explained = crate::cli::run(&world, &["jobs", "explain", &id.to_string()]).await;
    assert!(explained.out.contains("quiet hours on line"), "{explained:?}");

    // Lifted: everybody gets it once.
    let lifted = crate::cli::run(
        &world,
        &["shop", "quiet", &world.shop.to_string(), "--channel", "line", "--off"],
    )
    .await;
    assert_eq!(lifted.code, 0, "{lifted:?}");
    world.ended(id, 30).await;
    working.stop().await;
    assert_eq!(received(&world), 200);
    world.audit().await;
}

/// Half of the customers are in a zone where it is day: they get it now, the others when their night is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_is_asked_by_their_own_clock() {
    let world = World::new(&[("BROADCAST__SLICE_SIZE", "30")]).await;
    world.customers(100, "s.channel = 'line'").await;
    // Half the world away from Taipei.
    world
        .run("update customer set time_zone = 'America/Argentina/Buenos_Aires' where id % 2 = 0")
        .await;
    let far = format!(
        "select count(*) from customer where time_zone is not null and shop_id = '{}'",
        world.shop
    );
    let far: i64 = world.one(&far).await;
    set_quiet(world.pool(), ShopId(world.shop), Channel::Line, Some(quiet_now()))
        .await
        .unwrap();
    let id = world.draft("priority_single", &["line"], "今天有特價").await;
    let working = world.work();
    world.send(id).await;
    until("those who are awake have it", async || {
        world.count(id, "accepted").await == far
    })
    .await;
    until("the lane sleeps", async || {
        world
            .one::<bool>("select bool_and(due_at > now() + interval '30 minutes' and lease_until is null) from lane")
            .await
    })
    .await;
    assert_eq!(world.count(id, "queued").await, 100 - far);
    let woken: i64 = world
        .one("select count(*) from delivery_result r join customer c on c.id = r.customer_id where c.time_zone is null")
        .await;
    assert_eq!(woken, 0, "nobody asleep was disturbed");
    set_quiet(world.pool(), ShopId(world.shop), Channel::Line, None)
        .await
        .unwrap();
    world.ended(id, 30).await;
    working.stop().await;
    let summary = world.sandbox.handle().channel_summary(Provider::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (100, 1));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sleeps_past_the_deadline_expires_and_costs_nothing() {
    let world = World::new(&[]).await;
    world.customers(50, "s.channel = 'line'").await;
    set_quiet(world.pool(), ShopId(world.shop), Channel::Line, Some(quiet_now()))
        .await
        .unwrap();
    let id = world.draft("priority_single", &["line"], "今天有特價").await;
    let working = world.work();
    world.send(id).await;
    until("the lane sleeps", async || {
        world
            .one::<bool>("select coalesce(bool_and(due_at > now() + interval '30 minutes'), false) from lane")
            .await
    })
    .await;
    world.run("update broadcast set deadline_at = now()").await;
    world.ended(id, 30).await;
    working.stop().await;
    assert_eq!((world.count(id, "expired").await, received(&world)), (50, 0));
    world.audit().await;
}

/// In random zones at random times, Rust and SQL agree; where clocks change SQL may look again up to an hour late.
#[tokio::test]
async fn quiet_hours_in_sql_are_those_in_rust() {
    let db = database().await;
    let known: Vec<String> = column(&db.pool, "select name from pg_timezone_names").await;
    let zones: Vec<_> = TZ_VARIANTS
        .iter()
        .filter(|zone| known.iter().any(|name| name == zone.name()))
        .collect();
    let mut draws = 0x2026_1122_u64;
    let mut draw = |n: u64| {
        draws = draws
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (draws >> 33) % n
    };
    let mut compared = 0;
    for _ in 0..2_000 {
        let zone = *zones[usize::try_from(draw(zones.len() as u64)).unwrap()];
        let secs = 1_600_000_000 + i64::try_from(draw(500_000_000)).unwrap();
        let now: DateTime<Utc> = DateTime::from_timestamp(secs, 0).unwrap();
        let time = |quarter: u64| {
            NaiveTime::from_num_seconds_from_midnight_opt(u32::try_from(quarter).unwrap() * 900, 0).unwrap()
        };
        let Ok(hours) = QuietHours::new(time(draw(96)), time(draw(96))) else {
            continue;
        };
        let (quiet, ends): (bool, Option<DateTime<Utc>>) =
            sqlx::query_as("select is_quiet($1, $2, $3, $4), quiet_until($1, $2, $3, $4)")
                .bind(now)
                .bind(zone.name())
                .bind(hours.starts())
                .bind(hours.ends())
                .fetch_one(&db.pool)
                .await
                .unwrap();
        assert_eq!(quiet, hours.is_quiet(now, zone), "{zone} {now} {hours:?}");
        let Some(rust) = hours.until(now, zone) else {
            assert_eq!(ends, None);
            continue;
        };
        let late = ends.unwrap() - rust;
        assert!(
            (TimeDelta::zero()..=TimeDelta::hours(1)).contains(&late),
            "{zone} {now} {hours:?}: {ends:?} {rust}"
        );
        compared += 1;
    }
    assert!(compared > 500, "{compared}");
}

#[tokio::test]
async fn a_customers_zone_is_one_that_is_known() {
    let db = database().await;
    let shop = shop(&db.pool, 10).await;
    let ids = shop.add(&[person([at("a"), None, None, None])]).await;
    let set = |zone: &str| {
        let sql = format!("update customer set time_zone = '{zone}' where id = {}", ids[0]);
        let pool = db.pool.clone();
        async move { sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await }
    };
    assert!(set("Asia/Tokyo").await.is_ok());
    assert!(set("Moon/Tranquility").await.is_err());
}
