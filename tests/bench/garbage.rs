//! What a million jobs leave behind in Redis: its memory before the first and after the last.
//!
//! Most are done at once; of every hundred one is retried, one delayed and one unique, because it is their keys and sets
//! that would stay. The worker and the producer share the server, as in production.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::queue::{self, JobContext, JobError, Outcome, Queue, RedisConn};
use carillon_jobs::{BroadcastId, BroadcastSend, Envelope, Job};
use chrono::Utc;
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::queue::{config, connect, no_database};

/// What may be left, in bytes: fragments, buffers of connections, the scripts.
const ALLOWED: f64 = 5e6;
/// Jobs that wait at once, at most.
const WAITING: u64 = 50_000;
const USAGE: &str = "usage: garbage [--jobs N]";

pub(crate) fn run(arguments: &[String]) {
    let mut jobs = 1_000_000;
    for pair in arguments.chunks(2) {
        assert_eq!(pair[0], "--jobs", "{USAGE}");
        jobs = pair.get(1).and_then(|value| value.parse().ok()).expect(USAGE);
    }
    tokio::runtime::Runtime::new().unwrap().block_on(measure(jobs));
}

async fn measure(jobs: u64) {
    let url = std::env::var("CARILLON_TEST_REDIS_URL").expect("CARILLON_TEST_REDIS_URL is set");
    let config = config(100);
    let redis = RedisConn::connect(&url, &config).unwrap();
    let queue = Queue::new(redis.clone(), &config);
    let mut admin = connect(&url).await;
    let prefix = config.key_prefix.clone();
    let done = Arc::new(AtomicU64::new(0));
    let shutdown = CancellationToken::new();
    let handler = {
        let done = Arc::clone(&done);
        move |job, context| {
            let end = end(&job, &context);
            if matches!(end, Ok(Outcome::Done)) {
                done.fetch_add(1, Ordering::AcqRel);
            }
            async move { end }
        }
    };
    let worker = tokio::spawn(queue::run(config, redis, no_database(), handler, shutdown.clone()));
    // Once through everything, so that scripts and connections are there before the memory is looked at.
    ring(&queue, &done, 0, 5_000).await;
    wait_empty(&mut admin, &prefix, &done, 5_000).await;
    let before = used_memory(&mut admin).await;
    let started = Instant::now();
    ring(&queue, &done, 5_000, jobs).await;
    wait_empty(&mut admin, &prefix, &done, 5_000 + jobs).await;
    let seconds = started.elapsed().as_secs_f64();
    let after = settled_memory(&mut admin, before).await;
    shutdown.cancel();
    worker.await.unwrap();
    let left = after - before;
    eprintln!(
        "{jobs} jobs in {seconds:.1} s; Redis held {:.2} MB before, {:.2} MB after: {:.2} MB left",
        before / 1e6,
        after / 1e6,
        left / 1e6
    );
    println!(
        "{}",
        json!({ "subject": "garbage", "ratio": ALLOWED / left.max(1.0), "floor": "5 MB more than before the first job",
                "jobs": jobs, "seconds": seconds, "before_bytes": before, "after_bytes": after, "left_bytes": left })
    );
    assert!(left <= ALLOWED, "{left} bytes are left");
}

/// Which of a hundred a job is.
fn nth(job: &Job) -> u64 {
    let Job::BroadcastSend(args) = job else {
        panic!("a broadcast's job")
    };
    // The last field of the id is the job's number.
    u64::try_from(args.broadcast_id.0.as_u128() & 0xffff_ffff).unwrap() % 100
}

fn end(job: &Job, context: &JobContext) -> Result<Outcome, JobError> {
    if nth(job) == 1 && context.attempt == 1 {
        return Err(JobError::retry("once"));
    }
    Ok(Outcome::Done)
}

async fn ring(queue: &Queue, done: &AtomicU64, first: u64, count: u64) {
    for start in (first..first + count).step_by(500) {
        while start.saturating_sub(done.load(Ordering::Acquire)) > WAITING {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let jobs = (start..(start + 500).min(first + count)).map(envelope);
        queue.ring_many(jobs).await.unwrap();
    }
}

fn envelope(number: u64) -> Envelope {
    let broadcast_id = BroadcastId(Uuid::from_u128(u128::from(number)));
    let mut envelope = Envelope::new(BroadcastSend {
        broadcast_id,
        sender_id: None,
    });
    match number % 100 {
        2 => envelope.run_at = Some(Utc::now() + Duration::from_millis(300)),
        3 => envelope.unique = Some(format!("key {number}")),
        _ => {}
    }
    envelope
}

async fn wait_empty(admin: &mut MultiplexedConnection, prefix: &str, done: &AtomicU64, jobs: u64) {
    while done.load(Ordering::Acquire) < jobs {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    loop {
        let keys: Vec<String> = admin.keys(format!("{prefix}:*")).await.unwrap();
        if keys.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Bytes, by the server's own count.
async fn used_memory(admin: &mut MultiplexedConnection) -> f64 {
    let info: String = redis::cmd("INFO").arg("memory").query_async(admin).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

/// The memory once it has come to rest: the server gives the buffers of quiet connections back within seconds.
async fn settled_memory(admin: &mut MultiplexedConnection, before: f64) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = used_memory(admin).await;
        if now <= before || Instant::now() >= deadline {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
