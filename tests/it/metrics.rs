//! `/metrics`: what the processes answer is what happened, to whoever may know.
// Counts are whole numbers.
#![allow(clippy::float_cmp)]

use std::{collections::BTreeMap, net::TcpListener};

use carillon::{app::ProcessKind, channel::Channel, fleet, metrics, pause::Scope};
use carillon_jobs::Kind;

use crate::{
    cli::run_with,
    fixture::{Fixture, text},
    process::Process,
    scene::{self, APP, LINE},
    wait::{eventually, until},
    world::World,
};

/// A port nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that answers `/metrics`, and where.
pub(crate) async fn start(world: &mut World, kind: &str) -> (Process, u16) {
    let port = free_port();
    let (key, other) = ("CARILLON__METRICS__PORT", "CARILLON__WEB__PORT");
    let (key, other) = if kind == "web" { (other, key) } else { (key, other) };
    world.env.remove(other);
    world.env.insert(key.to_owned(), port.to_string());
    let process = world.process(kind);
    eventually("it answers", 20, async || scrape(port, &[]).await.is_some()).await;
    (process, port)
}

/// The text; `None`: nobody answers.
pub(crate) async fn scrape(port: u16, headers: &[(&str, &str)]) -> Option<(u16, String)> {
    let mut request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/metrics"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

/// Its series: `name{labels}` to value.
async fn figures(port: u16) -> BTreeMap<String, f64> {
    let (status, text) = scrape(port, &[]).await.expect("it answers");
    assert_eq!(status, 200, "{text}");
    series(&text)
}

fn series(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_answers_with_what_happened() {
    let mut world = World::new(&[]).await;
    world
        .customers(300, "s.channel::text = (array['line', 'app', 'email'])[1 + n.i % 3]")
        .await;
    let (_worker, worker_port) = start(&mut world, "worker").await;
    let (_scheduler, scheduler_port) = start(&mut world, "scheduler").await;
    let (_web, web_port) = start(&mut world, "web").await;
    let channels = ["app", "line", "email"];
    let id = world.draft("priority_single", &channels, "哈囉 {first_name}").await;
    world.send(id).await;
    world.ended(id, 60).await;

    let worker = figures(worker_port).await;
    for channel in channels {
        let accepted = worker[&format!("carillon_sends_total{{channel=\"{channel}\",class=\"accepted\"}}")];
        assert_eq!(accepted, 100.0, "{channel}");
        let requests = worker[&format!("carillon_send_seconds_count{{channel=\"{channel}\"}}")];
        assert_eq!(requests, 100.0, "{channel}: a request each");
        let permits = worker[&format!("carillon_permits_granted_total{{channel=\"{channel}\"}}")];
        assert!(permits >= 100.0, "{channel}: {permits} permits");
    }
    assert!(
        worker["carillon_job_attempts_total{kind=\"broadcast-send\"}"] >= 4.0,
        "a plan and three lanes"
    );
    assert_eq!(worker["carillon_redis_up"], 1.0);
    assert_eq!(worker["carillon_postgres_up"], 1.0);
    assert!(worker["carillon_postgres_connections{state=\"idle\"}"] >= 1.0);
    assert!(worker["process_resident_memory_bytes"] > 1e6);
    assert!(
        !worker.contains_key("carillon_queue_jobs{kind=\"broadcast-send\",place=\"ready\"}"),
        "the fleet is others' to tell"
    );
    until("every turn is over", async || {
        let now = figures(worker_port).await;
        let sum = |name: &str| -> f64 {
            now.iter()
                .filter(|(key, _)| key.starts_with(name))
                .map(|(_, value)| value)
                .sum()
        };
        sum("carillon_leases_held{") == 0.0
            && sum("carillon_job_attempts_total{") == sum("carillon_job_outcomes_total{")
    })
    .await;

    for port in [scheduler_port, web_port] {
        let fleet = figures(port).await;
        assert_eq!(fleet["carillon_ledger_drift_tokens{check=\"holds_are_lanes\"}"], 0.0);
        assert_eq!(
            fleet["carillon_queue_jobs{kind=\"broadcast-send\",place=\"running\"}"],
            0.0
        );
        assert!(fleet["carillon_redis_used_bytes"] > 0.0);
        assert!(fleet["carillon_fleet_seen_timestamp_seconds"] > 1e9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_is_who_is_near_or_has_the_token() {
    let mut world = World::new(&[]).await;
    let (web, port) = start(&mut world, "web").await;
    assert_eq!(scrape(port, &[]).await.unwrap().0, 200);
    let through_a_proxy = scrape(port, &[("X-Forwarded-For", "203.0.113.9")]).await.unwrap();
    assert_eq!(
        (through_a_proxy.0, through_a_proxy.1.contains("carillon_")),
        (404, false)
    );
    drop(web);

    let token = "0123456789abcdef0123";
    world
        .env
        .insert("CARILLON__METRICS__TOKEN".to_owned(), token.to_owned());
    let (_web, port) = start(&mut world, "web").await;
    assert_eq!(scrape(port, &[]).await.unwrap().0, 404);
    let bearer = format!("Bearer {token}");
    let known = [("Authorization", bearer.as_str()), ("X-Forwarded-For", "203.0.113.9")];
    assert_eq!(scrape(port, &known).await.unwrap().0, 200);

    world
        .env
        .insert("CARILLON__METRICS__TOKEN".to_owned(), "short".to_owned());
    let refused = run_with(&world.env, &["web"], "").await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.err.contains("metrics.token") && !refused.err.contains("short"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_does_not_stop_a_worker() {
    let mut world = World::new(&[]).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    world.env.insert("CARILLON__METRICS__PORT".to_owned(), port.to_string());
    world.customers(3, "s.channel = 'app'").await;
    let _worker = world.process("worker");
    let id = world.draft("priority_single", &["app"], "Hello").await;
    world.send(id).await;
    world.ended(id, 30).await;
    drop(taken);
    eventually("it has the port", 20, async || scrape(port, &[]).await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_the_fleet_finds_what_waits_is_paused_dead_or_off() {
    let world = World::new(&[]).await;
    let app = world.app(ProcessKind::Web);
    let shop = scene::shop(world.pool(), 10, 1_000).await;
    let id = shop.opened(&[LINE, APP], 5).await;
    let (line, push) = (Channel::Line as usize, Channel::App as usize);

    world
        .run("update lane set due_at = now() - interval '90 seconds'")
        .await;
    let seen = fleet::look(&app).await.unwrap();
    assert_eq!((seen.channels[line].lanes, seen.channels[line].waiting), (1, 10));
    assert!((89.0..120.0).contains(&seen.channels[line].oldest_due_secs), "{seen:?}");
    assert_eq!(seen.broadcasts, [0, 0, 0, 1, 0]);
    assert_eq!(seen.drift, [0, 0, 0], "{seen:?}");

    // Whoever waits behind its own shop is not overdue.
    let lease = |at: &str| format!("update lane set lease_until = {at} where channel = 'app'");
    world.run(&lease("now() + interval '1 min'")).await;
    let seen = fleet::look(&app).await.unwrap();
    assert_eq!(
        (seen.channels[push].held, seen.channels[line].oldest_due_secs),
        (1, 0.0)
    );
    world.run(&lease("null")).await;

    // Nor is who waits for a person.
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    world
        .run(&format!(
            "update lane set lease_until = now() - interval '1 second' where broadcast_id = '{id}' and channel = 'app'"
        ))
        .await;
    let queue = app.queue().unwrap();
    carillon::pause::pause(world.pool(), Scope::Kind(Kind::BroadcastSend), "a test", "tester")
        .await
        .unwrap();
    queue.push_raw("broadcast-send", b"{}").await.unwrap();
    world
        .run(
            "insert into dead_job (reference, kind, reason, error, attempts, crashes, snoozes, raw, raw_length, raw_sha256, first_at, died_at)
             select i::text, case i when 3 then 'of-the-future' else 'broadcast-send' end, 'poison', '', 0, 3, 0, '', 0, sha256(''), now(), now()
               from generate_series(1, 3) i;
             insert into broadcast (id, shop_id, name, mode, content, audience, state, queued_at)
             select new_broadcast_id(), id, 'Sale', 'priority_single', '{}', '{\"all\": true}', 'queued', now() - interval '10 minutes' from shop limit 1",
        )
        .await;
    let claim = scene::claim(world.pool(), id, "app", 5, 0.0).await.unwrap();
    scene::settle(
        world.pool(),
        id,
        "app",
        &claim,
        (&claim.in_flight, "unknown"),
        (None, None),
    )
    .await;
    let seen = fleet::look(&app).await.unwrap();
    // The world's own shop has a sender of each channel beside that of the scene.
    assert_eq!(
        (seen.channels[line].senders_paused, seen.channels[line].oldest_due_secs),
        (2, 0.0)
    );
    assert_eq!((seen.channels[push].abandoned, seen.channels[push].unknown), (1, 5));
    assert!(
        seen.kinds_paused == [Kind::BroadcastSend] && seen.kinds[0].depth.ready == 1,
        "{seen:?}"
    );
    assert_eq!(seen.dead.values().sum::<i64>(), 2, "a kind of the future has no series");
    assert!((599.0..700.0).contains(&seen.unplanned_secs), "{seen:?}");
    assert_eq!(
        seen.drift,
        [0, 0, 0],
        "what was charged and given back is seen on both sides: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_comparison_of_the_books_finds_its_own_drift() {
    let world = World::new(&[]).await;
    let app = world.app(ProcessKind::Scheduler);
    let shop = scene::shop(world.pool(), 4, 1_000).await;
    shop.opened(&[LINE], 5).await;
    let own = format!("where shop_id = '{}'", shop.id);
    let lie = "set local session_replication_role = replica";
    for (column, table, off, by, drift) in [
        ("held_allowance", "token_account", "-", 3, [3, 3, 0]),
        ("extra", "token_account", "+", 7, [0, 7, 0]),
        ("remaining", "lane", "-", 2, [0, 0, 10]),
    ] {
        let back = if off == "-" { "+" } else { "-" };
        world
            .run(&format!(
                "{lie}; update {table} set {column} = {column} {off} {by} {own}"
            ))
            .await;
        assert_eq!(fleet::look(&app).await.unwrap().drift, drift, "{column}");
        world
            .run(&format!(
                "{lie}; update {table} set {column} = {column} {back} {by} {own}"
            ))
            .await;
        assert_eq!(fleet::look(&app).await.unwrap().drift, [0, 0, 0], "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_dead_worker_is_counted_as_crashed_once() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(400);
    let (job, _) = text();
    fixture.rpush(&job).await;
    let started = std::sync::Arc::new(tokio::sync::Notify::new());
    let begun = started.clone();
    let dying = fixture.killable(None, move |_, _| {
        let begun = begun.clone();
        async move {
            begun.notify_one();
            std::future::pending().await
        }
    });
    started.notified().await;
    dying.kill();
    let worker = fixture.worker(|_, _| async { Ok(carillon::queue::Outcome::Done) });
    let now = || series(&metrics::text(Vec::new()));
    until("the second one has done it", async || {
        now()["carillon_job_outcomes_total{kind=\"broadcast-send\",outcome=\"done\"}"] == 1.0
    })
    .await;
    worker.stop().await;
    let now = now();
    assert_eq!(
        now["carillon_job_outcomes_total{kind=\"broadcast-send\",outcome=\"crashed\"}"],
        1.0
    );
    assert_eq!(now["carillon_leases_taken_over_total{kind=\"broadcast-send\"}"], 1.0);
    assert_eq!(now["carillon_job_attempts_total{kind=\"broadcast-send\"}"], 2.0);
}
