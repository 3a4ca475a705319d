//! Jobs whose time comes: a great many in the same second, and one on an idle queue.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use carillon::queue::{JobError, Outcome};
use carillon_jobs::Envelope;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;

use crate::{
    fixture::{Fixture, Runs, broadcast_of, job, text},
    redis_server::{Memory, RedisServer},
    wait::{eventually, until},
};

/// Delayed jobs, all due at the same moment, as [`carillon::queue::Queue::ring_many`] leaves them in Redis.
async fn delay(fixture: &Fixture, jobs: usize, due: DateTime<Utc>) {
    for chunk in (0..jobs).collect::<Vec<_>>().chunks(5_000) {
        let mut command = redis::cmd("ZADD");
        command.arg(fixture.key("due:broadcast-send"));
        for _ in chunk {
            command.arg(due.timestamp_millis()).arg(text().0);
        }
        let _: i64 = command.query_async(&mut fixture.raw.clone()).await.unwrap();
    }
}

async fn all_run(jobs: usize, workers: usize) {
    let server = RedisServer::start(Memory::Lost).await;
    let mut fixture = Fixture::at(&server.url()).await;
    fixture.config.concurrency = 50;
    delay(&fixture, jobs, Utc::now()).await;
    let runs = Runs::default();
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            let runs = runs.clone();
            fixture.worker(move |job, _| {
                runs.note(&job);
                async { Ok(Outcome::Done) }
            })
        })
        .collect();
    eventually("all have run and Redis is empty", 180, async || {
        runs.jobs() == jobs && fixture.keys().await.is_empty()
    })
    .await;
    assert_eq!(u64::from(runs.total()), jobs as u64, "each once");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_jobs_due_at_once_all_run_with_one_worker() {
    all_run(200_000, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_jobs_due_at_once_all_run_with_four_workers() {
    all_run(200_000, 4).await;
}

/// What one script call did, as MONITOR tells it: for each command and key, how many members it named in all, or asked for
/// at once.
#[derive(Debug, Default)]
struct Call(BTreeMap<(String, String), usize>);

impl Call {
    fn add(&mut self, words: &[String]) {
        let key = words.get(1).cloned().unwrap_or_default();
        let count = self.0.entry((words[0].clone(), key)).or_default();
        match words[0].as_str() {
            // Key, then members.
            "zrem" | "hdel" | "rpush" | "lpush" => *count += words.len() - 2,
            // Key, then pairs.
            "hset" | "zadd" => *count += (words.len() - 2) / 2,
            "hget" | "hexists" => *count += 1,
            // How many at most comes last; what they bring is named by the commands above.
            "zrangebyscore" | "lpop" | "hrandfield" => *count = (*count).max(words.last().unwrap().parse().unwrap()),
            _ => {}
        }
    }

    /// Jobs that were promoted and jobs that were claimed.
    fn moved(&self) -> usize {
        let moves = |key: &&(String, String)| key.0 == "rpush" || (key.0 == "hset" && key.1.contains(":run:"));
        self.0.keys().filter(moves).map(|key| self.0[key]).sum()
    }

    fn most(&self) -> usize {
        self.0.values().copied().max().unwrap_or(0).max(self.moved())
    }
}

/// Splits a line of MONITOR, such as `1700000000.1 [0 lua] "zrem" "key" "member"`; the first word is the command.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                if quoted {
                    words.push(String::new());
                }
            }
            _ if quoted => words.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_script_call_touches_more_than_five_hundred_members() {
    let server = RedisServer::start(Memory::Lost).await;
    let mut fixture = Fixture::at(&server.url()).await;
    // More slots than one call may fill, and jobs of every origin: due, fresh, abandoned, retried.
    fixture.config.concurrency = 2_000;
    fixture.config.lease_ms = Some(1_000);
    let held = Runs::default();
    let doomed = fixture.holding_killable(Some(&server.url()), &held);
    let abandoned: Vec<_> = (0..1_500).map(|_| job().0).collect();
    fixture.queue.ring_many(&abandoned).await.unwrap();
    until("the doomed one has them all", || async { held.jobs() == 1_500 }).await;
    doomed.kill();
    // The others keep theirs however slow this machine is.
    fixture.config.lease_ms = None;
    let fresh: Vec<_> = (0..3_000).map(|_| job().0).collect();
    fixture.queue.ring_many(&fresh).await.unwrap();
    delay(&fixture, 20_000, Utc::now()).await;

    let monitor = redis::Client::open(server.url())
        .unwrap()
        .get_async_monitor()
        .await
        .unwrap();
    let calls = tokio::spawn(async move {
        let mut lines = monitor.into_on_message::<String>();
        let (mut calls, mut scripts) = (vec![Call::default()], BTreeMap::<String, u32>::new());
        while let Some(line) = lines.next().await {
            let mut words = words(&line);
            words[0].make_ascii_lowercase();
            if line.contains(" lua] ") {
                calls.last_mut().unwrap().add(&words);
                continue;
            }
            // A command of a client stands between any two scripts.
            calls.push(Call::default());
            *scripts.entry(words[0].clone()).or_default() += 1;
            if words[0] == "echo" {
                break;
            }
        }
        (calls, scripts)
    });
    let runs = Runs::default();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let runs = runs.clone();
            fixture.worker(move |job, _| {
                let retried = runs.note(&job) == 1 && broadcast_of(&job).0.as_u128().is_multiple_of(7);
                async move {
                    if retried {
                        return Err(JobError::retry("once more"));
                    }
                    Ok(Outcome::Done)
                }
            })
        })
        .collect();
    eventually("all have run and Redis is empty", 120, async || {
        runs.jobs() == 24_500 && fixture.keys().await.is_empty()
    })
    .await;
    for worker in workers {
        worker.stop().await;
    }
    let _: String = redis::cmd("ECHO")
        .arg("end")
        .query_async(&mut fixture.raw.clone())
        .await
        .unwrap();
    let (calls, scripts) = calls.await.unwrap();
    let most = calls.iter().max_by_key(|call| call.most()).unwrap();
    println!("{} calls of scripts; the largest: {most:?}", scripts["evalsha"]);
    assert!(most.most() <= 500, "{most:?}");
    assert!(most.most() > 250, "the monitor has seen the large ones");
}

/// How late each of seven jobs started on a queue where nothing else happens; the middle one, because the machine of a
/// test may have other things to do once or twice.
async fn middle_lateness_ms(retried: bool) -> i64 {
    let fixture = Fixture::new().await;
    let starts: Arc<Mutex<Vec<DateTime<Utc>>>> = Arc::default();
    let runs = Runs::default();
    let worker = fixture.worker({
        let (starts, runs) = (Arc::clone(&starts), runs.clone());
        move |job, _| {
            let again = retried && runs.note(&job) == 1;
            if !again {
                starts.lock().unwrap().push(Utc::now());
            }
            async move {
                if again {
                    return Err(JobError::Retry {
                        error: "once".to_owned(),
                        after: Some(Duration::from_millis(250)),
                    });
                }
                Ok(Outcome::Done)
            }
        }
    });
    let mut late_ms = Vec::new();
    for n in 0..7 {
        let mut envelope = Envelope::new(job().0);
        // Spread over the poll interval, so that no job keeps step with it.
        envelope.run_at = (!retried).then(|| Utc::now() + Duration::from_millis(250 + 17 * n));
        fixture.queue.ring(envelope).await.unwrap();
        let mut due_ms = None;
        until("it waits", || async { only_score(&fixture).await.is_some() }).await;
        until("it has started", async || {
            due_ms = only_score(&fixture).await.or(due_ms);
            starts.lock().unwrap().len() > late_ms.len()
        })
        .await;
        let started_ms = starts.lock().unwrap().last().unwrap().timestamp_millis();
        late_ms.push(started_ms - due_ms.expect("a quarter of a second is enough to see it wait"));
    }
    worker.stop().await;
    late_ms.sort_unstable();
    println!("retried: {retried}; started so many ms after their time: {late_ms:?}");
    late_ms[3]
}

/// When the one delayed job is due.
async fn only_score(fixture: &Fixture) -> Option<i64> {
    let mut command = redis::cmd("ZRANGE");
    command
        .arg(fixture.key("due:broadcast-send"))
        .arg(0)
        .arg(0)
        .arg("WITHSCORES");
    let reply: Vec<(String, i64)> = command.query_async(&mut fixture.raw.clone()).await.unwrap();
    reply.first().map(|(_, score)| *score)
}

#[tokio::test]
async fn a_delayed_job_on_an_idle_queue_starts_within_300_ms_of_its_time() {
    let late = middle_lateness_ms(false).await;
    assert!((-1..=300).contains(&late), "{late} ms");
}

#[tokio::test]
async fn a_retried_job_on_an_idle_queue_starts_within_300_ms_of_its_time() {
    let late = middle_lateness_ms(true).await;
    assert!((-1..=300).contains(&late), "{late} ms");
}
