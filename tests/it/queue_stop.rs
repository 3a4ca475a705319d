//! Stopping: no new claims at once, slices finished, the rest given back, and an end in time whatever hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::queue::{JobError, Outcome};
use carillon_jobs::Envelope;

use crate::{
    fixture::{Fixture, Runs, job, others_slots},
    redis_server::{Memory, RedisServer},
    wait::until,
};

#[tokio::test]
async fn a_stop_gives_back_what_cannot_finish_and_counts_no_attempt() {
    let mut fixture = Fixture::new().await;
    fixture.config.concurrency = 200 + others_slots();
    fixture.config.drain_secs = 1;
    let started = Runs::default();
    let jobs: Vec<Envelope> = (0..300)
        .map(|_| {
            let mut envelope = Envelope::new(job().0);
            envelope.max_attempts = Some(1);
            envelope
        })
        .collect();
    let worker = fixture.worker({
        let started = started.clone();
        move |job, context| {
            let run = started.note(&job);
            let listens = started.jobs() % 2 == 0;
            async move {
                assert_eq!(run, 1);
                if listens {
                    context.stop.cancelled().await;
                    Ok(Outcome::GiveBack)
                } else {
                    std::future::pending().await
                }
            }
        }
    });
    fixture.queue.ring_many(jobs).await.unwrap();
    until("all slots are taken", || async { started.jobs() == 200 }).await;
    let asked = Instant::now();
    // Several are one.
    worker.shutdown.cancel();
    worker.shutdown.cancel();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(8), "took {:?}", asked.elapsed());
    assert_eq!(started.jobs(), 200, "nothing was claimed after the stop");
    let depth = fixture.depth().await;
    assert_eq!((depth.ready, depth.running, depth.delayed), (300, 0, 0));

    let finished = Runs::default();
    let worker = fixture.worker({
        let finished = finished.clone();
        move |job, context| {
            assert_eq!(context.attempt, 1, "what was given back was no attempt");
            finished.note(&job);
            async { Ok(Outcome::Done) }
        }
    });
    until("a second worker has run all", || async { finished.jobs() == 300 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_lets_a_running_slice_finish() {
    let fixture = Fixture::new().await;
    let (begun, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let worker = fixture.worker({
        let (begun, finished) = (Arc::clone(&begun), Arc::clone(&finished));
        move |_, context| {
            let (begun, finished) = (Arc::clone(&begun), Arc::clone(&finished));
            async move {
                begun.store(true, Ordering::SeqCst);
                context.stop.cancelled().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
                finished.store(true, Ordering::SeqCst);
                Ok(Outcome::Done)
            }
        }
    });
    fixture.queue.ring(job().0).await.unwrap();
    until("it runs", || async { begun.load(Ordering::SeqCst) }).await;
    worker.stop().await;
    assert!(finished.load(Ordering::SeqCst));
    assert!(fixture.keys().await.is_empty());
}

#[tokio::test]
async fn a_stop_ends_in_time_though_redis_hangs() {
    let server = RedisServer::start(Memory::Kept).await;
    let mut fixture = Fixture::at(&server.url()).await;
    fixture.config.drain_secs = 2;
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            runs.note(&job);
            async move {
                context.stop.cancelled().await;
                Err(JobError::retry("stopped"))
            }
        }
    });
    let (job, id) = job();
    fixture.queue.ring(job).await.unwrap();
    until("it runs", || async { runs.of(id) == 1 }).await;
    server.signal("-STOP");
    let asked = Instant::now();
    worker.stop().await;
    server.signal("-CONT");
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
}

#[test]
fn a_stop_ends_in_time_though_a_handler_cannot_be_stopped() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut fixture = Fixture::new().await;
        fixture.config.drain_secs = 1;
        let runs = Runs::default();
        let worker = fixture.worker({
            let runs = runs.clone();
            move |job, _| {
                runs.note(&job);
                // Blocks its thread, as a handler never should.
                std::thread::park_timeout(Duration::from_secs(15));
                async { Ok(Outcome::Done) }
            }
        });
        fixture.queue.ring(job().0).await.unwrap();
        until("it runs", || async { runs.total() == 1 }).await;
        let asked = Instant::now();
        worker.stop().await;
        assert!(asked.elapsed() < Duration::from_secs(8), "took {:?}", asked.elapsed());
        // Nobody else may have it before its lease is over: it still runs.
        assert_eq!(fixture.depth().await.running, 1);
    });
    runtime.shutdown_background();
}
