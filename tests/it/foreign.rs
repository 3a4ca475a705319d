//! Producers in other languages, each with nothing but what its interpreter brings along: a delayed job and a wrong text are
//! really pushed, and a real worker runs the one and buries the other. No scheduler runs, so nobody else can have rung.
//!
//! An interpreter that is missing fails its test, because a test that did not run must not look like one that passed.
//! Whoever means to go without names it in `CARILLON_TEST_WITHOUT`, as `bin/test` does, which also says so at its end.

use std::process::Stdio;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::process::Command;

use crate::{wait::eventually, world::World};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/foreign");
const PUSH_LUA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/queue/push.lua");
const WRONG: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/jobs/examples/broadcast-send/invalid/unknown-field.json"
));
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_node_runs_on_a_real_worker() {
    enqueues("node", "node", "enqueue.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_python_runs_on_a_real_worker() {
    enqueues("python3", "python3", "enqueue.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_redis_cli_runs_on_a_real_worker() {
    enqueues("redis-cli", "sh", "enqueue.sh").await;
}

async fn enqueues(needs: &str, interpreter: &str, script: &str) {
    if !is_here(needs).await {
        return;
    }
    let world = World::new(&[]).await;
    world.customers(3, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    world.run(&format!("select send_broadcast('{id}')")).await;
    // Rounded, so that every language writes the same moment.
    let run_at =
        DateTime::from_timestamp_millis((Utc::now() + TimeDelta::milliseconds(1_500)).timestamp_millis()).unwrap();
    let pushed = Command::new(interpreter)
        .arg(format!("{FOLDER}/{script}"))
        .env("REDIS_URL", &world.env["REDIS_URL"])
        .env("PREFIX", &world.env["CARILLON__REDIS__KEY_PREFIX"])
        .env("BROADCAST_ID", id.to_string())
        .env("RUN_AT", run_at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string())
        .env("TRACEPARENT", TRACEPARENT)
        .env("WRONG", WRONG)
        .env("PUSH_LUA", PUSH_LUA)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(
        pushed.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&pushed.stdout),
        String::from_utf8_lossy(&pushed.stderr)
    );

    let _worker = world.process("worker");
    world.ended(id, 60).await;
    assert_eq!(
        (world.state(id).await.as_str(), world.count(id, "accepted").await),
        ("completed", 3)
    );
    let begun: DateTime<Utc> = world
        .one(&format!("select sending_at from broadcast where id = '{id}'"))
        .await;
    assert!(begun >= run_at, "begun at {begun}, was to run at {run_at}");
    eventually("the wrong text is dead", 30, async || {
        world.one::<i64>("select count(*) from dead_job").await == 1
    })
    .await;
    let (reason, error, raw): (String, String, String) = (
        world.one("select reason::text from dead_job").await,
        world.one("select error from dead_job").await,
        world.one("select convert_from(raw, 'UTF8') from dead_job").await,
    );
    assert_eq!((reason.as_str(), raw.as_str()), ("malformed", WRONG));
    assert!(error.starts_with("runAt: unknown field"), "{error}");
    world.audit().await;
}

/// Whether to run, or a failed test that says what to do.
async fn is_here(program: &str) -> bool {
    let without = std::env::var("CARILLON_TEST_WITHOUT").unwrap_or_default();
    if without.split([',', ' ']).any(|left_out| left_out == program) {
        println!("NOT RUN: {program} is named in CARILLON_TEST_WITHOUT");
        return false;
    }
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    assert!(
        found.is_ok_and(|status| status.success()),
        "{program} is not installed, and nothing is installed here: install it, or leave this test out with CARILLON_TEST_WITHOUT={program}"
    );
    true
}
