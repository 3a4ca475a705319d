//! The life of a job: rung, claimed, run, settled; retried, delayed, snoozed, unique, paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::{
    pause::{self, Scope},
    queue::{JobError, Outcome, Rung, dead},
};
use carillon_jobs::{Envelope, Kind};
use chrono::Utc;
use redis::AsyncCommands as _;
use tokio::sync::Semaphore;

use crate::{
    fixture::{Fixture, Runs, job, others_slots, text},
    wait::until,
};

#[tokio::test]
async fn a_rung_job_runs_once_and_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.doing_worker(&runs);
    let jobs: Vec<_> = (0..1_000).map(|_| job().0).collect();
    let rung = fixture.queue.ring_many(&jobs).await.unwrap();
    assert!(rung.iter().all(|rung| matches!(rung, Rung::Queued { .. })));
    until("all have run", || async { runs.jobs() == 1_000 }).await;
    fixture.emptied().await;
    assert_eq!(runs.total(), 1_000);
    worker.stop().await;
}

#[tokio::test]
async fn a_plain_push_without_a_bell_starts_within_the_poll_interval() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            assert_eq!(context.attempt, 1);
            assert!(!context.id.is_empty(), "a job without an id is given one");
            runs.note(&job);
            async { Ok(Outcome::Done) }
        }
    });
    for _ in 0..5 {
        let (text, id) = text();
        let pushed = Instant::now();
        fixture.rpush(&text).await;
        until("it has run", || async { runs.of(id) == 1 }).await;
        assert!(pushed.elapsed() < Duration::from_secs(1), "took {:?}", pushed.elapsed());
    }
    worker.stop().await;
}

#[tokio::test]
async fn three_attempts_are_exactly_three_runs_and_then_a_dead_job() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            let run = runs.note(&job);
            assert_eq!(context.attempt, run);
            async move { Err(JobError::retry(format!("no luck \0 the {run}. time"))) }
        }
    });
    let (job, id) = job();
    let mut envelope = Envelope::new(job);
    envelope.max_attempts = Some(3);
    envelope.id = Some("mine".to_owned());
    fixture.queue.ring(envelope.clone()).await.unwrap();
    until("it is dead", || async { fixture.dead_rows().await.len() == 1 }).await;
    assert_eq!(runs.of(id), 3);
    let row = fixture.dead_rows().await.remove(0);
    assert_eq!(
        (row.kind.as_str(), row.job_id.as_deref()),
        ("broadcast-send", Some("mine"))
    );
    assert_eq!(row.reason, dead::DeadReason::Exhausted);
    assert_eq!((row.attempts, row.crashes, row.snoozes), (3, 0, 0));
    assert_eq!(row.error, "no luck   the 3. time");
    assert_eq!(row.raw, envelope.to_text().unwrap().into_bytes());
    assert!(row.is_whole() && row.first_at <= row.died_at);
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_worker_goes_on() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, _| {
            let run = runs.note(&job);
            // Both before the first await and after it.
            assert!(run != 1, "early");
            async move {
                tokio::task::yield_now().await;
                assert!(run != 2, "late");
                Ok(Outcome::Done)
            }
        }
    });
    let (job, id) = job();
    fixture.queue.ring(job).await.unwrap();
    until("it has run", || async { runs.of(id) == 3 }).await;
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn another_turn_and_a_snooze_are_not_attempts() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            let run = runs.note(&job);
            assert_eq!(context.attempt, 1);
            async move {
                Ok(match run {
                    1..=4 => Outcome::Again,
                    5..=8 => Outcome::Snooze { until: Utc::now() },
                    _ => Outcome::Done,
                })
            }
        }
    });
    let (job, id) = job();
    let mut envelope = Envelope::new(job);
    envelope.max_attempts = Some(1);
    fixture.queue.ring(envelope).await.unwrap();
    until("it has run", || async { runs.of(id) == 9 }).await;
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_delayed_job_starts_at_its_time_however_it_was_pushed() {
    let fixture = Fixture::new().await;
    let started = Arc::new(std::sync::Mutex::new(Vec::new()));
    let worker = fixture.worker({
        let started = Arc::clone(&started);
        move |_, _| {
            started.lock().unwrap().push(Utc::now());
            async { Ok(Outcome::Done) }
        }
    });
    let run_at = Utc::now() + Duration::from_millis(700);
    let mut envelope = Envelope::new(job().0);
    envelope.run_at = Some(run_at);
    fixture.queue.ring(envelope.clone()).await.unwrap();
    // The same text twice, without ids: they are two jobs, and stay two while they wait.
    let foreign = text()
        .0
        .replace(r#"{"args"#, &format!(r#"{{"run_at":"{}","args"#, run_at.to_rfc3339()));
    fixture.rpush(&foreign).await;
    fixture.rpush(&foreign).await;
    until("all wait", || async { fixture.depth().await.delayed == 3 }).await;
    until("all have run", || async { started.lock().unwrap().len() == 3 }).await;
    for at in started.lock().unwrap().iter() {
        let late = (*at - run_at).num_milliseconds();
        assert!((-1..1_000).contains(&late), "started {late} ms after its time");
    }
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_unique_job_keeps_others_out_until_it_is_claimed() {
    let fixture = Fixture::new().await;
    let mut envelope = Envelope::new(job().0);
    envelope.unique = Some("lane 7".to_owned());
    let ring = || fixture.queue.ring(envelope.clone());
    assert!(matches!(ring().await.unwrap(), Rung::Queued { .. }));
    assert_eq!(ring().await.unwrap(), Rung::AlreadyWaiting);

    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let worker = fixture.worker({
        let (runs, gate) = (runs.clone(), Arc::clone(&gate));
        move |job, _| {
            runs.note(&job);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Outcome::Done)
            }
        }
    });
    until("the first runs", || async { runs.total() == 1 }).await;
    assert!(
        matches!(ring().await.unwrap(), Rung::Queued { .. }),
        "what rings while it runs is news"
    );
    until("the second runs", || async { runs.total() == 2 }).await;
    gate.add_permits(2);
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_unique_key_whose_job_vanished_keeps_nobody_out() {
    let fixture = Fixture::new().await;
    let mut envelope = Envelope::new(job().0);
    envelope.unique = Some("k".to_owned());
    fixture.queue.ring(envelope.clone()).await.unwrap();
    let _: i64 = fixture
        .raw
        .clone()
        .del(fixture.key("ready:broadcast-send"))
        .await
        .unwrap();
    assert!(matches!(
        fixture.queue.ring(envelope).await.unwrap(),
        Rung::Queued { .. }
    ));
}

#[tokio::test]
async fn never_more_jobs_are_claimed_than_there_are_slots() {
    let mut fixture = Fixture::new().await;
    // Enough for every kind to keep all it would like to.
    fixture.config.concurrency = 40 + others_slots();
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let jobs: Vec<_> = (0..200).map(|_| job().0).collect();
    fixture.queue.ring_many(&jobs).await.unwrap();
    let runs = Runs::default();
    let worker = fixture.worker({
        let (running, most, runs) = (Arc::clone(&running), Arc::clone(&most), runs.clone());
        move |job, _| {
            let (running, most, runs) = (Arc::clone(&running), Arc::clone(&most), runs.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                runs.note(&job);
                Ok(Outcome::Done)
            }
        }
    });
    until("all have run", || async { runs.jobs() == 200 }).await;
    assert_eq!(most.load(Ordering::SeqCst), fixture.config.concurrency - others_slots());
    worker.stop().await;
}

#[tokio::test]
async fn twenty_thousand_jobs_due_at_once_all_run() {
    let fixture = Fixture::new().await;
    let due = Utc::now() + Duration::from_millis(500);
    let jobs: Vec<Envelope> = (0..20_000)
        .map(|_| {
            let mut envelope = Envelope::new(job().0);
            envelope.run_at = Some(due);
            envelope
        })
        .collect();
    fixture.queue.ring_many(jobs).await.unwrap();
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |job: carillon_jobs::Job, _| {
            runs.note(&job);
            async { Ok(Outcome::Done) }
        }
    };
    let workers = [fixture.worker(handler.clone()), fixture.worker(handler)];
    until("all have run", || async { runs.jobs() == 20_000 }).await;
    fixture.emptied().await;
    assert_eq!(runs.total(), 20_000);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_paused_kind_is_left_alone_until_it_is_resumed() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    pause::pause(&fixture.pool, Scope::Kind(Kind::BroadcastSend), "a look", "anna")
        .await
        .unwrap();
    fixture.queue.ring(job().0).await.unwrap();
    let worker = fixture.doing_worker(&runs);
    let looks = Instant::now();
    until("the worker has looked a few times", || async {
        looks.elapsed() > Duration::from_millis(400)
    })
    .await;
    assert_eq!((runs.total(), fixture.depth().await.ready), (0, 1));
    pause::resume(&fixture.pool, Scope::Kind(Kind::BroadcastSend), "anna")
        .await
        .unwrap();
    until("it has run", || async { runs.total() == 1 }).await;
    worker.stop().await;
}
