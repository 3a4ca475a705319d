//! The queue against a bare loop: jobs a second that do nothing, and the time from a bell to the start.
//!
//! And what a worker process costs when there is nothing to do: its share of a core, from `/proc`.
//!
//! The bare loop is one BLMOVE a job, each of its workers on a connection of its own. It neither parses nor settles, has
//! no lease, no retry and no limit, so it is less than a queue; ours does all of that within the time it is measured for.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::queue::{self, Outcome, Queue, QueueConfig, RedisConn};
use carillon_jobs::{BroadcastId, BroadcastSend, Envelope, Kind};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{bed::Bed, usage::cpu_secs};

const CONCURRENCIES: [u32; 4] = [10, 50, 100, 500];
/// The concurrency whose ratio counts.
const COUNTED: u32 = 100;
/// So many times the rounds of the others: one sample lasts less than half a second.
const MORE: usize = 3;
const USAGE: &str = "usage: queue [--jobs N] [--rounds N] [--samples N] [--idle-secs N] [--concurrency N]";

struct Plan {
    url: String,
    jobs: usize,
    rounds: usize,
    samples: usize,
    idle_secs: usize,
    /// The only concurrency to measure.
    concurrency: Option<u32>,
}

pub(crate) fn run(arguments: &[String]) {
    let mut plan = Plan {
        url: std::env::var("CARILLON_TEST_REDIS_URL").expect("CARILLON_TEST_REDIS_URL is set"),
        jobs: 40_000,
        rounds: 5,
        samples: 200,
        idle_secs: 20,
        concurrency: None,
    };
    for pair in arguments.chunks(2) {
        let value = pair.get(1).and_then(|value| value.parse().ok()).expect(USAGE);
        match pair[0].as_str() {
            "--jobs" => plan.jobs = value,
            "--rounds" => plan.rounds = value,
            "--samples" => plan.samples = value,
            "--idle-secs" => plan.idle_secs = value,
            "--concurrency" => {
                let only = u32::try_from(value).ok().filter(|only| CONCURRENCIES.contains(only));
                plan.concurrency = Some(only.expect("--concurrency is one of 10, 50, 100, 500"));
            }
            _ => panic!("{USAGE}"),
        }
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(bench(&plan));
}

async fn bench(plan: &Plan) {
    let mut throughput = serde_json::Map::new();
    let mut counted = 0.0;
    let chosen = |concurrency: &u32| plan.concurrency.is_none_or(|only| only == *concurrency);
    for concurrency in CONCURRENCIES.into_iter().filter(chosen) {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..plan.rounds * if concurrency == COUNTED { MORE } else { 1 } {
            // In turn, and neither always first: whatever the machine does beside this meets both alike.
            if round % 2 == 0 {
                bare.push(bare_jobs_per_sec(plan, concurrency).await);
                ours.push(our_jobs_per_sec(plan, concurrency).await);
            } else {
                ours.push(our_jobs_per_sec(plan, concurrency).await);
                bare.push(bare_jobs_per_sec(plan, concurrency).await);
            }
        }
        // Of pairs measured within a second of each other: over the whole run, one side's median may be from a quiet minute
        // and the other's from a busy one.
        let mut ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
        let ratio = percentile(&mut ratios, 50);
        let (ours, bare) = (percentile(&mut ours, 50), percentile(&mut bare, 50));
        eprintln!("concurrency {concurrency:>3}: ours {ours:>7.0} jobs/s, bare {bare:>7.0} jobs/s, ratio {ratio:.2}");
        if concurrency == plan.concurrency.unwrap_or(COUNTED) {
            counted = ratio;
        }
        throughput.insert(
            concurrency.to_string(),
            json!({ "ours_per_sec": ours.round(), "bare_per_sec": bare.round(), "ratio": round(ratio) }),
        );
    }
    let bare = bare_latency(plan).await;
    let bell = our_latency(plan, true).await;
    let silent = our_latency(plan, false).await;
    for (name, (p50, p99)) in [("bare BLMOVE", bare), ("with bell", bell), ("plain RPUSH", silent)] {
        eprintln!("from push to start, {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    let idle = idle_percent_of_a_core(plan.idle_secs as u64).await;
    eprintln!("an idle worker process: {idle:.2} % of a core");
    let latency = |(p50, p99): (f64, f64)| json!({ "p50_ms": round(p50), "p99_ms": round(p99) });
    println!(
        "{}",
        json!({
            "subject": "queue",
            "ratio": round(counted),
            "floor": format!("bare BLMOVE loop, one job a call, concurrency {}", plan.concurrency.unwrap_or(COUNTED)),
            "jobs": plan.jobs,
            "rounds": plan.rounds,
            "throughput": throughput,
            "start_latency": { "bell": latency(bell), "plain_rpush": latency(silent), "bare": latency(bare) },
            "idle_worker_percent_of_a_core": round(idle),
        })
    );
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

pub(crate) fn config(concurrency: u32) -> QueueConfig {
    let others = Kind::ALL.iter().filter(|kind| **kind != Kind::BroadcastSend);
    let others: u32 = others.map(|kind| kind.policy().reserved_slots).sum();
    QueueConfig {
        key_prefix: format!("{{bench-{}}}", uuid::Uuid::new_v4().simple()),
        // So many of the kind that is measured: the others keep some for themselves.
        concurrency: concurrency + others,
        ..QueueConfig::default()
    }
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}

fn text() -> String {
    let args = BroadcastSend {
        broadcast_id: BroadcastId::new(),
        sender_id: None,
    };
    let mut envelope = Envelope::new(args);
    envelope.id = Some(uuid::Uuid::now_v7().to_string());
    envelope.to_text().unwrap()
}

async fn fill(connection: &mut MultiplexedConnection, list: &str, jobs: usize) {
    for chunk in (0..jobs).collect::<Vec<_>>().chunks(1_000) {
        let texts: Vec<String> = chunk.iter().map(|_| text()).collect();
        let _: i64 = connection.rpush(list, texts).await.unwrap();
    }
}

async fn bare_jobs_per_sec(plan: &Plan, concurrency: u32) -> f64 {
    let config = config(concurrency);
    let (ready, taken) = (
        format!("{}:ready", config.key_prefix),
        format!("{}:taken", config.key_prefix),
    );
    let mut admin = connect(&plan.url).await;
    fill(&mut admin, &ready, plan.jobs).await;
    let mut connections = Vec::new();
    for _ in 0..concurrency {
        connections.push(connect(&plan.url).await);
    }
    let left = Arc::new(AtomicU64::new(plan.jobs as u64));
    let started = Instant::now();
    let loops: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let (ready, taken, left) = (ready.clone(), taken.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                while left
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let mut command = redis::cmd("BLMOVE");
                    command.arg(&ready).arg(&taken).arg("LEFT").arg("RIGHT").arg(1);
                    let job: String = command.query_async(&mut connection).await.unwrap();
                    std::hint::black_box(job);
                }
            })
        })
        .collect();
    for one in loops {
        one.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let _: i64 = admin.unlink(&[ready, taken]).await.unwrap();
    plan.jobs as f64 / seconds
}

async fn our_jobs_per_sec(plan: &Plan, concurrency: u32) -> f64 {
    let config = config(concurrency);
    let ready = format!("{}:ready:broadcast-send", config.key_prefix);
    let mut admin = connect(&plan.url).await;
    fill(&mut admin, &ready, plan.jobs).await;
    let redis = RedisConn::connect(&plan.url, &config).unwrap();
    let (done, all_done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let jobs = plan.jobs as u64;
    let begun = Arc::new(OnceLock::new());
    let handler = {
        let (done, all_done, begun) = (Arc::clone(&done), Arc::clone(&all_done), Arc::clone(&begun));
        move |job, _| {
            std::hint::black_box(job);
            begun.get_or_init(Instant::now);
            if done.fetch_add(1, Ordering::AcqRel) + 1 == jobs {
                all_done.notify_one();
            }
            async { Ok(Outcome::Done) }
        }
    };
    let prefix = config.key_prefix.clone();
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(queue::run(config, redis, no_database(), handler, shutdown.clone()));
    all_done.notified().await;
    // From the first job: a worker that starts connects to both servers and asks what is paused, and the connections of the
    // bare loop are made before its clock starts, too.
    let started = *begun.get().expect("the first job has begun");
    let seconds = loop {
        // Settled too, and nothing left behind: that is part of the work.
        let keys: u64 = admin
            .exists(&[ready.as_str(), &format!("{prefix}:run:broadcast-send")])
            .await
            .unwrap();
        if keys == 0 {
            break started.elapsed().as_secs_f64();
        }
    };
    shutdown.cancel();
    worker.await.unwrap();
    jobs as f64 / seconds
}

/// Only dead jobs go to Postgres, and here none die. A server that answers, though: a worker asks it at once what is paused.
pub(crate) fn no_database() -> carillon::db::PgPool {
    let url =
        std::env::var("CARILLON_TEST_DATABASE_URL").expect("CARILLON_TEST_DATABASE_URL is not set; bin/bench does it");
    PgPoolOptions::new().connect_lazy(&url).unwrap().into()
}

/// Spread over the poll interval, so that no push keeps step with it.
fn pause(sample: usize) -> Duration {
    Duration::from_millis(15 + (sample as u64 * 37) % 101)
}

async fn our_latency(plan: &Plan, bell: bool) -> (f64, f64) {
    let config = config(10);
    let ready = format!("{}:ready:broadcast-send", config.key_prefix);
    let redis = RedisConn::connect(&plan.url, &config).unwrap();
    let queue = Queue::new(redis.clone(), &config);
    let (send, mut starts) = mpsc::unbounded_channel();
    let handler = move |_, _| {
        let _ = send.send(Instant::now());
        async { Ok(Outcome::Done) }
    };
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(queue::run(config, redis, no_database(), handler, shutdown.clone()));
    let mut connection = connect(&plan.url).await;
    let mut waits = Vec::new();
    for sample in 0..plan.samples + 5 {
        tokio::time::sleep(pause(sample)).await;
        let text = text();
        let pushed = Instant::now();
        if bell {
            queue.push_raw("broadcast-send", text.as_bytes()).await.unwrap();
        } else {
            let _: i64 = connection.rpush(&ready, text).await.unwrap();
        }
        let started = starts.recv().await.unwrap();
        // The first few find connections being made.
        if sample >= 5 {
            waits.push(started.saturating_duration_since(pushed).as_secs_f64() * 1_000.0);
        }
    }
    shutdown.cancel();
    worker.await.unwrap();
    (percentile(&mut waits, 50), percentile(&mut waits, 99))
}

async fn bare_latency(plan: &Plan) -> (f64, f64) {
    let prefix = config(1).key_prefix;
    let (ready, taken) = (format!("{prefix}:ready"), format!("{prefix}:taken"));
    let (send, mut starts) = mpsc::unbounded_channel();
    let mut blocked = connect(&plan.url).await;
    let waiting = tokio::spawn({
        let (ready, taken) = (ready.clone(), taken.clone());
        async move {
            loop {
                let mut command = redis::cmd("BLMOVE");
                command.arg(&ready).arg(&taken).arg("LEFT").arg("RIGHT").arg(0);
                let _: String = command.query_async(&mut blocked).await.unwrap();
                let _ = send.send(Instant::now());
            }
        }
    });
    let mut connection = connect(&plan.url).await;
    let mut waits = Vec::new();
    for sample in 0..plan.samples {
        tokio::time::sleep(pause(sample)).await;
        let pushed = Instant::now();
        let _: i64 = connection.rpush(&ready, text()).await.unwrap();
        let started = starts.recv().await.unwrap();
        waits.push(started.saturating_duration_since(pushed).as_secs_f64() * 1_000.0);
    }
    waiting.abort();
    let _: i64 = connection.unlink(&taken).await.unwrap();
    (percentile(&mut waits, 50), percentile(&mut waits, 99))
}

/// A real worker of the product on a queue where nothing happens.
async fn idle_percent_of_a_core(secs: u64) -> f64 {
    let bed = Bed::new().await;
    let worker = bed.process("worker");
    // Its start is not part of being idle.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, started) = (cpu_secs(worker.id()), Instant::now());
    tokio::time::sleep(Duration::from_secs(secs)).await;
    let used = cpu_secs(worker.id()) - before;
    let percent = used / started.elapsed().as_secs_f64() * 100.0;
    drop(worker);
    bed.close().await;
    percent
}
