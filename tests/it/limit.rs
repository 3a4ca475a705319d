//! Rate limits on a real Redis: the fleet's cap, refusals, a flush, a restart.
//!
//! `CARILLON_TEST_REDIS_URL` names the Redis; each test has its own key prefix there. What breaks Redis uses a
//! private server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_precision_loss, clippy::print_stdout)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use carillon::limit::{Call, Grant, LimitConfig, LimitKey, Limits, PerSecond};
use carillon_jobs::SenderId;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::{
    fixture_db::service,
    redis_server::{Memory, RedisServer},
};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn redis_url() -> String {
    service("CARILLON_TEST_REDIS_URL")
}

pub(crate) fn config() -> LimitConfig {
    let file: toml::Table = include_str!("../../config/default.toml").parse().unwrap();
    file["limit"].clone().try_into().unwrap()
}

async fn connect(url: &str) -> ConnectionManager {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(SECOND))
        .set_max_delay(Duration::from_millis(200));
    ConnectionManager::new_with_config(redis::Client::open(url).unwrap(), config)
        .await
        .unwrap()
}

/// As four processes: each with its own connection and its own leases, all on the same buckets.
async fn four_processes(url: &str) -> Vec<Limits> {
    let prefix = format!("{{{}}}", SenderId::new());
    let mut fleet = Vec::new();
    for _ in 0..4 {
        fleet.push(Limits::new(connect(url).await, &prefix, config()));
    }
    fleet
}

fn key(rate: f64) -> LimitKey {
    LimitKey {
        sender: SenderId::new(),
        call: Call::Single,
        rate: PerSecond::try_from(rate).unwrap(),
        shop: None,
    }
}

/// Waits as told until there are permits; `None` once `until` has come.
async fn permits(limits: &Limits, key: &LimitKey, until: Instant) -> Option<u32> {
    loop {
        let left = until.checked_duration_since(Instant::now())?;
        match limits.acquire(key, 5).await {
            Grant::Granted(permits) => return Some(permits),
            Grant::Wait(wait) => tokio::time::sleep(wait.min(left)).await,
        }
    }
}

/// All processes take what they can until then; the moments of the permits, in order.
async fn take_all(fleet: &[Limits], key: LimitKey, until: Instant) -> Vec<Instant> {
    let tasks = fleet.iter().cloned().map(|limits| {
        tokio::spawn(async move {
            let mut moments = Vec::new();
            while let Some(permits) = permits(&limits, &key, until).await {
                moments.extend((0..permits).map(|_| Instant::now()));
            }
            moments
        })
    });
    let mut moments = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        moments.extend(task.await.unwrap());
    }
    moments.sort();
    moments
}

fn most_within(moments: &[Instant], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, moment) in moments.iter().enumerate() {
        while *moment - moments[first] > window {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

/// A provider that accepts ten requests in any second and refuses the rest without saying for how long.
#[derive(Default)]
struct Provider(Mutex<VecDeque<Instant>>);

impl Provider {
    fn accepts(&self, now: Instant) -> bool {
        let mut accepted = self.0.lock().unwrap();
        accepted.retain(|moment| now.duration_since(*moment) < SECOND);
        let accepts = accepted.len() < 10;
        if accepts {
            accepted.push_back(now);
        }
        accepts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_use_one_cap_in_full_while_another_sender_is_cut_down_and_converges() {
    let fleet = four_processes(&redis_url()).await;
    let until = Instant::now() + Duration::from_millis(10_200);
    let (moments, ()) = tokio::join!(
        take_all(&fleet, key(50.0), until),
        a_sender_cut_to_ten_a_second_converges(&fleet)
    );
    let (in_one, in_ten) = (most_within(&moments, SECOND), most_within(&moments, 10 * SECOND));
    println!(
        "cap 50/s: {} permits in 10.2 s, at most {in_one} in a second and {in_ten} in ten",
        moments.len()
    );
    assert!(in_one <= 55, "{in_one} in one second");
    assert!(in_ten <= 510, "{in_ten} in ten seconds");
    assert!(in_ten >= 475, "only {in_ten} in ten seconds");
}

async fn a_sender_cut_to_ten_a_second_converges(fleet: &[Limits]) {
    let cut = key(50.0);
    let provider = Arc::new(Provider::default());
    let start = Instant::now();
    let until = start + 10 * SECOND;
    let tasks: Vec<_> = fleet
        .iter()
        .cloned()
        .map(|limits| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while let Some(permits) = permits(&limits, &cut, until).await {
                    for _ in 0..permits {
                        let now = Instant::now();
                        let accepted = provider.accepts(now);
                        answers.push((now - start, accepted));
                        if accepted {
                            limits.succeeded(&cut, 1).await;
                        } else {
                            limits.throttled(&cut, None).await;
                        }
                    }
                }
                answers
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.unwrap());
    }
    let status = fleet[0].status(&cut).await.unwrap();
    let refused = answers.iter().filter(|(_, accepted)| !accepted).count();
    let late: Vec<_> = answers.iter().filter(|(at, _)| *at > 6 * SECOND).collect();
    let late_refused = late.iter().filter(|(_, accepted)| !accepted).count();
    println!(
        "cap cut to 10/s: {} asked, {refused} refused, in the last four seconds {} and {late_refused}; now {:.1}/s",
        answers.len(),
        late.len(),
        status.effective_per_sec
    );
    assert!((5.5..=11.0).contains(&status.effective_per_sec), "{status:?}");
    assert!(status.last_throttled_at.is_some());
    assert!(
        late_refused <= 4 && late.len() >= 20,
        "{late_refused} of {} refused",
        late.len()
    );
}

#[tokio::test]
async fn a_retry_after_closes_the_sender_for_every_process() {
    let fleet = four_processes(&redis_url()).await;
    let key = key(100.0);
    fleet[0].throttled(&key, Some(Duration::from_millis(700))).await;
    let closed = Instant::now();
    let status = fleet[1].status(&key).await.unwrap();
    assert!(status.closed_until.is_some());
    assert!((status.effective_per_sec - 80.0).abs() < 1e-9, "{status:?}");
    for limits in &fleet {
        assert!(matches!(limits.acquire(&key, 1).await, Grant::Wait(wait) if wait > Duration::from_millis(300)));
    }
    assert!(permits(&fleet[2], &key, closed + 3 * SECOND).await.is_some());
    assert!(closed.elapsed() >= Duration::from_millis(690));
    assert_eq!(fleet[1].status(&key).await.unwrap().closed_until, None);
}

#[tokio::test]
async fn tasks_that_ask_at_once_share_one_call() {
    let url = redis_url();
    let limits = &four_processes(&url).await[0];
    let key = key(100_000.0);
    permits(limits, &key, Instant::now() + SECOND).await.unwrap();
    let asked: Vec<_> = futures::future::join_all((0..200).map(|_| limits.acquire(&key, 1))).await;
    assert!(
        asked
            .iter()
            .all(|grant| matches!(grant, Grant::Granted(1) | Grant::Wait(_)))
    );
    let mut grants = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        grants += u32::from(matches!(limits.acquire(&key, 1).await, Grant::Granted(1)));
    }
    assert!(grants > 1_000, "{grants} grants in 200 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_flushed_killed_and_restarted_never_means_more_than_the_cap() {
    let mut server = RedisServer::start(Memory::Lost).await;
    let mut conn = server.connect().await;
    let fleet = four_processes(&server.url()).await;
    let key = key(50.0);
    let start = Instant::now();
    let (taker, takers) = (fleet.clone(), start + Duration::from_millis(4_500));
    let taking = tokio::spawn(async move { take_all(&taker, key, takers).await });
    for flush in 1..=3 {
        tokio::time::sleep_until((start + flush * 400 * Duration::from_millis(1)).into()).await;
        redis::cmd("FLUSHALL").exec_async(&mut conn).await.unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut conn).await.unwrap();
    }
    tokio::time::sleep_until((start + 2 * SECOND).into()).await;
    server.kill();
    let killed = Instant::now();
    tokio::time::sleep_until((killed + Duration::from_millis(700)).into()).await;
    server.run();
    let restarted = Instant::now();
    let moments = taking.await.unwrap();
    let while_away = moments
        .iter()
        .filter(|at| **at > killed + Duration::from_millis(150) && **at < restarted)
        .count();
    let back = moments
        .iter()
        .find(|at| **at > restarted)
        .expect("permits come back by themselves");
    let before_kill = moments.iter().filter(|at| **at < killed).count();
    let in_one = most_within(&moments, SECOND);
    println!(
        "flushed three times: {before_kill} permits in 2 s; back {} ms after the restart; at most {in_one} in a second",
        back.duration_since(restarted).as_millis()
    );
    assert_eq!(while_away, 0, "permits without Redis");
    assert!(in_one <= 55, "{in_one} in one second");
    // That it goes on, not how fast: a busy machine takes fewer.
    assert!(before_kill >= 20, "{before_kill} before the kill");
}
