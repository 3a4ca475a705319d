//! The product behind a pooler in transaction mode, where no two statements need meet the same connection of the server.

use std::time::Duration;

use carillon::{app::ProcessKind, db};
use carillon_jobs::BroadcastId;
use carillon_sandbox::{Channel, Latency};

use crate::{
    fixture_db::empty_database,
    pgbouncer::{PgBouncer, SERVER_CONNECTIONS},
    process::Process,
    wait::{comes_to_rest, eventually},
    world::World,
};

/// A world whose processes reach Postgres only through the pooler; the test itself goes straight there.
async fn world_behind(bouncer: &PgBouncer, settings: &[(&str, &str)]) -> World {
    let mut world = World::new(settings).await;
    let through = bouncer.in_front_of(&world.env["DATABASE_URL"]);
    world.env.insert("DATABASE_URL".to_owned(), through);
    let key = "CARILLON__DATABASE__TRANSACTION_POOLER".to_owned();
    world.env.insert(key, "true".to_owned());
    world
}

/// A transaction on each of the server's connections at once: none may hold a statement somebody left behind.
async fn nothing_is_left_on_a_connection(pool: &db::PgPool) {
    let mut transactions = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let mut tx = db::begin(pool).await.unwrap();
        let left: Vec<String> = sqlx::query_scalar("select name from pg_prepared_statements where name <> ''")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        assert_eq!(left, Vec::<String>::new());
        transactions.push(tx);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_behind_a_pooler_is_exact_though_the_pooler_dies() {
    let Some(mut bouncer) = PgBouncer::start().await else {
        return;
    };
    let settings = [
        ("DELIVERY__LEASE_SECS", "3"),
        ("DELIVERY__BELL_STALE_SECS", "1.0"),
        ("BROADCAST__SLICE_SIZE", "50"),
        ("BROADCAST__CHUNK_CUSTOMERS", "300"),
        ("CHANNEL__LINE__IN_FLIGHT", "8"),
        ("CHANNEL__APP__IN_FLIGHT", "4"),
        ("CHANNEL__EMAIL__IN_FLIGHT", "4"),
    ];
    let world = world_behind(&bouncer, &settings).await;
    world
        .customers(900, "s.channel::text = (array['line', 'app', 'email'])[1 + n.i % 3]")
        .await;
    let slow = Latency {
        fixed_ms: 20,
        jitter_ms: 40,
    };
    let sandbox = world.sandbox.handle();
    let channels = [Channel::Line, Channel::Fcm, Channel::Smtp];
    for channel in channels {
        sandbox.set_latency(channel, slow);
    }
    let received = || {
        channels
            .iter()
            .map(|channel| sandbox.channel_summary(*channel).messages)
            .sum::<u64>()
    };
    let id = world
        .draft("priority_single", &["app", "line", "email"], "嗨 {first_name}")
        .await;
    let mut processes = ["scheduler", "worker", "worker"].map(|kind| world.process(kind));
    world.send(id).await;

    eventually("sending has begun", 30, async || received() > 100).await;
    command(&world, &["broadcast", "pause", &id.to_string()]).await;
    let at_rest = comes_to_rest("sending after a pause", received).await;
    assert!(at_rest < 900, "paused in the middle");
    command(&world, &["broadcast", "resume", &id.to_string()]).await;

    eventually("sending goes on", 30, async || received() > at_rest + 60).await;
    // The server breaks every connection of the pooler; then the pooler itself is killed.
    world
        .run("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'carillon-%' and datname = current_database()")
        .await;
    let before = received();
    eventually("sending goes on", 30, async || received() > before + 60).await;
    bouncer.kill();
    bouncer.run().await;
    world.ended(id, 60).await;
    prove(&world, id).await;

    let cancelled = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    world.send(cancelled).await;
    let before = received();
    eventually("the second is sent", 30, async || received() > before).await;
    command(&world, &["broadcast", "cancel", &cancelled.to_string()]).await;
    world.ended(cancelled, 30).await;
    assert_eq!(world.state(cancelled).await, "cancelled");
    command(&world, &["audit"]).await;

    for process in &mut processes {
        assert_eq!(process.stop().await, 0, "{}", process.log());
        for words in ["prepared statement", "already exists", "does not exist"] {
            assert_eq!(process.said(words), 0, "{}", process.log());
        }
        // A connection that breaks while it is being made is told by the library, as an error.
        let log = process.log();
        let mut errors = log.lines().filter(|line| line.contains("ERROR"));
        assert!(errors.all(|line| line.contains("communicating with database")), "{log}");
    }
    nothing_is_left_on_a_connection(&world.app(ProcessKind::Worker).db).await;
}

async fn prove(world: &World, id: BroadcastId) {
    let summary = |channel| world.sandbox.handle().channel_summary(channel);
    assert_eq!(summary(Channel::Line).messages, 300, "LINE: exactly once each");
    for channel in [Channel::Line, Channel::Fcm, Channel::Smtp] {
        assert_eq!(summary(channel).max_to_one_recipient, 1, "{channel:?}");
    }
    let (accepted, unknown) = (world.count(id, "accepted").await, world.count(id, "unknown").await);
    println!("{unknown} unknown");
    assert_eq!(accepted + unknown, 900);
    world.audit().await;
}

/// An operator's command that must succeed.
async fn command(world: &World, args: &[&str]) {
    let mut process = Process::start(&world.env, args);
    let code = process.exit_code(Duration::from_secs(30)).await;
    assert_eq!(code, 0, "{args:?}: {}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_side_by_side_on_few_connections_keep_to_themselves() {
    let Some(bouncer) = PgBouncer::start().await else {
        return;
    };
    let world = world_behind(
        &bouncer,
        &[("DATABASE__POOL_WORKER", "12"), ("DATABASE__LOCK_TIMEOUT_SECS", "7")],
    )
    .await;
    let pool = world.app(ProcessKind::Worker).db;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..12_i32 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for round in 0..100 {
                // Each of another text, so that another's statement gives another answer.
                let text = format!("select $1::int * 1000 + {round} + {task}");
                let query = sqlx::query_scalar::<_, i32>(sqlx::AssertSqlSafe(text)).bind(task);
                let sum = if round % 2 == 0 {
                    query.fetch_one(&pool).await
                } else {
                    let mut tx = db::begin(&pool).await.unwrap();
                    let sum = query.fetch_one(&mut *tx).await;
                    tx.commit().await.unwrap();
                    sum
                };
                assert_eq!(sum.unwrap(), task * 1000 + round + task);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    // What no connection can keep comes with every transaction.
    let limit: String = sqlx::query_scalar("select current_setting('lock_timeout')")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(limit, "7s");
    nothing_is_left_on_a_connection(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_through_a_pooler_and_an_undeclared_one_is_named() {
    let Some(bouncer) = PgBouncer::start().await else {
        return;
    };
    let mut world = world_behind(&bouncer, &[("WEB__PORT", "0")]).await;
    let empty = empty_database().await;
    let through = bouncer.in_front_of(&empty.url);
    world.env.insert("DATABASE_URL".to_owned(), through);
    command(&world, &["migrate"]).await;
    command(&world, &["migrate"]).await;
    command(&world, &["migrate", "--check"]).await;
    command(&world, &["audit"]).await;
    nothing_is_left_on_a_connection(&world.app(ProcessKind::Worker).db).await;

    world.env.remove("CARILLON__DATABASE__TRANSACTION_POOLER");
    for kind in ["web", "worker", "scheduler", "migrate"] {
        let mut process = Process::start(&world.env, &[kind]);
        let code = process.exit_code(Duration::from_secs(20)).await;
        let log = process.log();
        assert!(
            log.contains("set CARILLON__DATABASE__TRANSACTION_POOLER=true"),
            "{kind}: {log}"
        );
        assert_eq!(code, 2, "{kind}: {log}");
    }
}
