//! What a process starts with and what it refuses: shown on the real program. Who is away is waited for.

use std::{collections::BTreeMap, time::Duration};

use carillon_sandbox::Channel;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    gate::Gate,
    process::Process,
    redis_server::{Memory, RedisServer},
    wait::eventually,
    world::World,
};

const KINDS: [&str; 3] = ["web", "worker", "scheduler"];

/// Every process must refuse to start, with exit code 2 and these words.
async fn refused(env: &BTreeMap<String, String>, words: &[&str]) {
    for kind in KINDS {
        let mut process = Process::start(env, &[kind]);
        let code = process.exit_code(Duration::from_secs(20)).await;
        let log = process.log();
        assert_eq!(code, 2, "{kind}: {log}");
        assert!(log.lines().any(|line| line.starts_with("error: ")), "{kind}: {log}");
        for words in words {
            assert!(log.contains(words), "{kind} should say {words:?}: {log}");
        }
    }
}

fn with<'a>(
    env: &BTreeMap<String, String>,
    more: impl IntoIterator<Item = (&'a str, String)>,
) -> BTreeMap<String, String> {
    let mut env = env.clone();
    env.insert("CARILLON__WEB__PORT".to_owned(), "0".to_owned());
    env.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    env
}

/// A server that answers INFO as an old Redis does, and everything else with OK.
async fn old_redis() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = vec![0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut asked).await {
                    let asked = String::from_utf8_lossy(&asked[..n]).to_uppercase();
                    // One answer a command; a command begins with the number of its words.
                    let answer = |command: &str| {
                        let info = "redis_version:6.0.16\r\nmaxmemory_policy:noeviction\r\n";
                        if command.contains("\r\nINFO\r\n") {
                            format!("${}\r\n{info}\r\n", info.len())
                        } else {
                            "+OK\r\n".to_owned()
                        }
                    };
                    let answers: Vec<String> = asked.split('*').skip(1).map(answer).collect();
                    let answers = answers.concat();
                    if stream.write_all(answers.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_waiting_mends_is_refused_with_the_remedy() {
    let world = World::new(&[]).await;
    let url = &world.env["DATABASE_URL"];
    // An evicting Redis and a database without the schema: see the tests of the operator's commands.
    refused(
        &with(&world.env, [("REDIS_URL", old_redis().await)]),
        &["Redis 6.0.16 is too old: use 6.2 or later"],
    )
    .await;
    let locked = RedisServer::start(Memory::Lost).await;
    let mut password = redis::cmd("CONFIG");
    password.arg(&["SET", "requirepass", "sesame"]);
    password.exec_async(&mut locked.connect().await).await.unwrap();
    let wrong = locked.url().replace("//", "//:other@");
    for url in [locked.url(), wrong] {
        refused(
            &with(&world.env, [("REDIS_URL", url)]),
            &["Redis refuses these credentials", "REDIS_URL"],
        )
        .await;
    }
    refused(
        &with(&world.env, [("CARILLON__SECRET__KEYS", String::new())]),
        &["secret.keys", "carillon config new-key", "CARILLON__SECRET__KEYS"],
    )
    .await;
    let nowhere = format!("{}_gone", url.split_once('?').map_or(url.as_str(), |(url, _)| url));
    refused(
        &with(&world.env, [("DATABASE_URL", nowhere)]),
        &["does not exist (3D000)", "look at DATABASE_URL"],
    )
    .await;
}

/// A newer release has migrated: an old process goes on, or a rolling deploy could not be. Unless what it needs is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_worked_with_until_it_takes_something_away() {
    let world = World::new(&[]).await;
    let newer = |version: i32, name: &str| {
        format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values ({version}, '{name}', true, '', 0)"
        )
    };
    world.run(&newer(90_001, "receipts")).await;
    let env = with(&world.env, []);
    for kind in KINDS {
        let mut process = Process::start(&env, &[kind]);
        process.says("migrated for a newer program; going on").await;
        process.says("Ready to start").await;
        assert_eq!(process.stop().await, 0, "{}", process.log());
    }
    assert_eq!(
        run(&env, &["migrate"]).await,
        (0, "the schema was up to date\n".to_owned())
    );

    world.run(&newer(90_002, "contract old columns")).await;
    refused(
        &env,
        &[
            "a newer program has taken away what this one needs (migrations [90002])",
            "start that release",
        ],
    )
    .await;
    // The release step of a deploy that goes back too far fails before any process is started.
    let (code, log) = run(&env, &["migrate"]).await;
    assert!(code == 1 && log.contains("start that release"), "{code} {log}");
    let (code, log) = run(&env, &["jobs", "dead"]).await;
    assert!(code == 2 && log.contains("start that release"), "{code} {log}");

    world.run("delete from _sqlx_migrations where version > 90000").await;
    world
        .run("update _sqlx_migrations set checksum = 'x' where version = 1")
        .await;
    refused(&env, &["migrations [1] were applied with another text or only half"]).await;
}

async fn run(env: &BTreeMap<String, String>, args: &[&str]) -> (i32, String) {
    let mut process = Process::start(env, args);
    let code = process.exit_code(Duration::from_secs(20)).await;
    (code, process.log())
}

/// Postgres and Redis are away when everything boots, and once more in the middle: one line each time, and work goes on.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_away_is_waited_for_with_one_line_in_the_log() {
    let settings = [
        ("WEB__PORT", "0"),
        ("DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
        ("DELIVERY__LEASE_SECS", "3"),
        ("DELIVERY__BELL_STALE_SECS", "1.0"),
    ];
    let mut world = World::new(&settings).await;
    let (mut postgres, postgres_url) = Gate::before(&world.env["DATABASE_URL"]).await;
    let (mut redis, redis_url) = Gate::before(&world.env["REDIS_URL"]).await;
    world.env.insert("DATABASE_URL".to_owned(), postgres_url);
    world.env.insert("REDIS_URL".to_owned(), redis_url);
    world.customers(3_000, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    postgres.shut().await;
    redis.shut().await;

    let mut processes = ["worker", "scheduler", "web"].map(|kind| world.process(kind));
    for process in &processes {
        process.says("PostgreSQL does not answer yet").await;
        process.says("Redis does not answer yet").await;
    }
    redis.open().await;
    for process in &processes {
        process.says("Redis answers").await;
        assert_eq!(process.said("Ready to start"), 0, "Postgres is still away");
    }
    postgres.open().await;
    for process in &processes {
        process.says("Ready to start").await;
        for words in ["PostgreSQL does not answer", "Redis does not answer"] {
            assert_eq!(process.said(words), 1, "{}", process.log());
        }
    }

    // No bell: the scheduler finds it.
    world.run(&format!("select send_broadcast('{id}')")).await;
    let received = || world.sandbox.handle().channel_summary(Channel::Line).messages;
    eventually("some have it", 30, async || received() > 100).await;
    postgres.shut().await;
    redis.shut().await;
    processes[0]
        .says("Redis does not answer; work goes on when it does")
        .await;
    processes[1].says("Cannot look for due work").await;
    postgres.open().await;
    redis.open().await;
    world.ended(id, 60).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (3_000, 1));
    world.audit().await;
    for process in &mut processes {
        assert!(process.runs());
        for words in ["does not answer; work goes on", "Cannot look for due work"] {
            assert!(process.said(words) <= 2, "{}", process.log());
        }
    }

    // Nothing to send: a bell that finds Postgres away is where the worker learns of it.
    postgres.shut().await;
    world.send(id).await;
    processes[0]
        .says("PostgreSQL does not answer; work goes on when it does")
        .await;
    postgres.open().await;
    processes[0].says("PostgreSQL answers again").await;
    assert_eq!(
        processes[0].said("PostgreSQL answers again"),
        processes[0].said("PostgreSQL does not answer; work")
    );
}
