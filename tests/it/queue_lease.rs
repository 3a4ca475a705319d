//! Leases: dead workers' jobs move on, poison does not, a late worker is ignored, handlers learn of their loss.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::queue::{DeadReason, Outcome};
use redis::AsyncCommands as _;
use tokio::sync::Semaphore;

use crate::{
    fixture::{Fixture, Runs, job},
    wait::until,
};

#[tokio::test]
async fn a_killed_workers_jobs_run_elsewhere_when_their_leases_are_over() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(600);
    let begun = Runs::default();
    let doomed = fixture.holding_killable(None, &begun);
    let jobs: Vec<_> = (0..10).map(|_| job().0).collect();
    fixture.queue.ring_many(&jobs).await.unwrap();
    until("all have begun", || async { begun.jobs() == 10 }).await;
    doomed.kill();
    let killed = Instant::now();
    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            assert_eq!(context.attempt, 1, "a crash is not an attempt");
            runs.note(&job);
            async { Ok(Outcome::Done) }
        }
    });
    until("all have run", || async { runs.jobs() == 10 }).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "took {:?}", killed.elapsed());
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_takes_down_three_workers_is_poison() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(300);
    let begun = Runs::default();
    let (job, id) = job();
    fixture.queue.ring(job).await.unwrap();
    for crash in 1..=3 {
        let doomed = fixture.holding_killable(None, &begun);
        until("it has begun", || async { begun.of(id) == crash }).await;
        doomed.kill();
    }
    let worker = fixture.doing_worker(&begun);
    until("it is dead", || async { fixture.dead_rows().await.len() == 1 }).await;
    assert_eq!(begun.of(id), 3, "it takes down at most three");
    let row = fixture.dead_rows().await.remove(0);
    assert_eq!((row.reason, row.crashes, row.attempts), (DeadReason::Poison, 3, 0));
    worker.stop().await;
}

/// A worker whose only thread is blocked for longer than its lease, as by SIGSTOP.
#[tokio::test]
async fn a_worker_that_comes_back_late_changes_nothing_and_goes_on() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(500);
    let release = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let (stalled, saw_loss, late_runs) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
        Runs::default(),
    );
    let late = fixture.killable(None, {
        let (release, stalled, saw_loss, late_runs) = (
            Arc::clone(&release),
            Arc::clone(&stalled),
            Arc::clone(&saw_loss),
            late_runs.clone(),
        );
        move |job, context| {
            if !stalled.swap(true, Ordering::SeqCst) {
                let mut released = release.0.lock().unwrap();
                while !*released {
                    released = release.1.wait(released).unwrap();
                }
                saw_loss.store(context.lease.is_lost(), Ordering::SeqCst);
            }
            late_runs.note(&job);
            async { Ok(Outcome::Done) }
        }
    });
    let (job_one, _) = job();
    fixture.queue.ring(&job_one).await.unwrap();
    until("it has stalled", || async { stalled.load(Ordering::SeqCst) }).await;

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
    until("another has taken over", || async { runs.total() == 1 }).await;
    *release.0.lock().unwrap() = true;
    release.1.notify_all();
    until("the late one has ended its turn", || async { late_runs.total() == 1 }).await;
    assert!(
        saw_loss.load(Ordering::SeqCst),
        "the deadline told it without anybody's help"
    );
    // The late one now takes another job, which shows that its word about the first has reached Redis.
    gate.close();
    let after: Vec<_> = (0..5).map(|_| job().0).collect();
    assert_eq!(fixture.depth().await.running, 1, "its Done did not count");
    worker.running.abort();
    fixture.queue.ring_many(&after).await.unwrap();
    until("the late one goes on", || async { late_runs.jobs() == 6 }).await;
    late.kill();
}

#[tokio::test]
async fn a_handler_learns_that_its_lease_was_lost() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(900);
    let told = Runs::default();
    let worker = fixture.worker({
        let told = told.clone();
        move |job, context| {
            let told = told.clone();
            async move {
                context.lease.lost().cancelled().await;
                assert!(context.lease.is_lost());
                told.note(&job);
                Ok(Outcome::Done)
            }
        }
    });
    fixture.queue.ring(job().0).await.unwrap();
    until("it is claimed", || async { fixture.depth().await.running == 1 }).await;
    // As after FLUSHALL, but for this test alone.
    let _: i64 = fixture.raw.clone().del(fixture.keys().await).await.unwrap();
    until("it was told", || async { told.total() == 1 }).await;
    let (next, id) = job();
    fixture.queue.ring(next).await.unwrap();
    until("the worker goes on", || async { fixture.depth().await.running == 1 }).await;
    assert_eq!(told.of(id), 0);
    worker.running.abort();
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_a_handler_runs() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(600);
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |job: carillon_jobs::Job, context: carillon::queue::JobContext| {
            runs.note(&job);
            async move {
                let three_leases = Duration::from_millis(1_800);
                let lost = tokio::time::timeout(three_leases, context.lease.lost().cancelled_owned()).await;
                assert!(lost.is_err(), "the lease was lost");
                Ok(Outcome::Done)
            }
        }
    };
    let workers = [fixture.worker(handler.clone()), fixture.worker(handler)];
    fixture.queue.ring(job().0).await.unwrap();
    until("Redis is empty", || async {
        runs.total() > 0 && fixture.keys().await.is_empty()
    })
    .await;
    assert_eq!(runs.total(), 1, "nobody took it over");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_running_job_whose_lease_was_deleted_is_found_again() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(600);
    let begun = Runs::default();
    let doomed = fixture.holding_killable(None, &begun);
    fixture.queue.ring(job().0).await.unwrap();
    until("it has begun", || async { begun.total() == 1 }).await;
    doomed.kill();
    let _: i64 = fixture
        .raw
        .clone()
        .del(fixture.key("lease:broadcast-send"))
        .await
        .unwrap();
    let worker = fixture.doing_worker(&begun);
    until("it has run", || async { begun.total() == 2 }).await;
    fixture.emptied().await;
    worker.stop().await;
}
