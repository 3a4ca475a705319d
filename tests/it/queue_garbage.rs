//! A hundred thousand jobs of every fate leave nothing in Redis: no key, and no memory to speak of. `bin/bench garbage` does
//! the same with a million.

use std::time::{Duration, Instant};

use carillon::queue::{JobError, Outcome};
use carillon_jobs::{BroadcastId, BroadcastSend, Envelope};
use chrono::Utc;
use uuid::Uuid;

use crate::{
    fixture::{Fixture, Runs, broadcast_of},
    redis_server::{Memory, RedisServer},
    wait::eventually,
};

const JOBS: u128 = 100_000;
/// Of a million jobs at most 5 MB may be left, and that is mostly what a server at work has anyway.
const ALLOWED_BYTES: i64 = 5_000_000;

/// What happens to a job, told by its number.
fn envelope(number: u128) -> Envelope {
    let mut envelope = Envelope::new(BroadcastSend {
        broadcast_id: BroadcastId(Uuid::from_u128(number)),
        sender_id: None,
    });
    match number % 100 {
        1 => envelope.run_at = Some(Utc::now() + Duration::from_millis(200)),
        2 => envelope.unique = Some(format!("key {number}")),
        _ => {}
    }
    envelope
}

fn end(number: u128, run: u32) -> Result<Outcome, JobError> {
    match (number % 100, run) {
        (3, 1) => Err(JobError::retry("once")),
        (4, 1) => Ok(Outcome::Again),
        (5, 1) => Ok(Outcome::SnoozeFor {
            wait: Duration::from_millis(50),
        }),
        (6, 1) => Ok(Outcome::GiveBack),
        (7, _) if number % 1_000 == 7 => Err(JobError::dead("never")),
        _ => Ok(Outcome::Done),
    }
}

async fn used_bytes(fixture: &Fixture) -> i64 {
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query_async(&mut fixture.raw.clone())
        .await
        .unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_jobs_of_every_fate_leave_nothing_in_redis() {
    let server = RedisServer::start(Memory::Lost).await;
    let mut fixture = Fixture::at(&server.url()).await;
    fixture.config.concurrency = 50;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, _| {
            let end = end(broadcast_of(&job).0.as_u128(), runs.note(&job));
            async move { end }
        }
    });
    // Some first, so that connections and scripts are there before the memory is looked at.
    ring(&fixture, 0, 1_000).await;
    eventually("the first are gone", 30, async || {
        runs.jobs() == 1_000 && fixture.keys().await.is_empty()
    })
    .await;
    let before = used_bytes(&fixture).await;
    ring(&fixture, 1_000, JOBS).await;
    eventually("all are gone", 120, async || {
        runs.jobs() as u128 == JOBS + 1_000 && fixture.keys().await.is_empty()
    })
    .await;
    // The server gives the buffers of quiet connections back within seconds.
    let asked = Instant::now();
    eventually("the memory is given back", 20, async || {
        used_bytes(&fixture).await - before <= ALLOWED_BYTES
    })
    .await;
    let left = used_bytes(&fixture).await - before;
    println!(
        "{left} bytes more than before, {:?} after the last job",
        asked.elapsed()
    );
    worker.stop().await;
}

async fn ring(fixture: &Fixture, first: u128, count: u128) {
    for start in (first..first + count).step_by(5_000) {
        let jobs = (start..(start + 5_000).min(first + count)).map(envelope);
        fixture.queue.ring_many(jobs).await.unwrap();
    }
}
