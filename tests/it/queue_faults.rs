//! What happens to Redis: killed, restarted, away at boot, flushed, misconfigured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use carillon::queue::{Outcome, QueueError, RedisConn, check_server};
use carillon_jobs::Envelope;
use redis::AsyncCommands as _;
use tokio::sync::Semaphore;

use crate::{
    fixture::{Fixture, Runs, job, others_slots},
    redis_server::{Memory, RedisServer},
    wait::until,
};

#[tokio::test]
async fn redis_killed_and_restarted_during_work_loses_nothing() {
    let mut server = RedisServer::start(Memory::Kept).await;
    let mut fixture = Fixture::at(&server.url()).await;
    // Enough for every kind to keep all it would like to.
    fixture.config.concurrency = 40 + others_slots();
    let (runs, begun, gate) = (Runs::default(), Runs::default(), Arc::new(Semaphore::new(50)));
    let worker = fixture.worker({
        let (runs, begun, gate) = (runs.clone(), begun.clone(), Arc::clone(&gate));
        move |job, _| {
            begun.note(&job);
            let (runs, gate) = (runs.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                runs.note(&job);
                Ok(Outcome::Done)
            }
        }
    });
    let jobs: Vec<_> = (0..500).map(|_| job().0).collect();
    fixture.queue.ring_many(&jobs).await.unwrap();
    until("some have run and the next have begun", || async {
        runs.jobs() == 50 && begun.jobs() == 90
    })
    .await;
    server.kill();
    assert!(matches!(fixture.queue.ring(job().0).await, Err(QueueError::Redis(_))));
    gate.add_permits(450);
    until("what was claimed has ended", || async { runs.jobs() == 90 }).await;
    server.restart().await;
    until("all have run", || async { runs.jobs() == 500 }).await;
    let fresh = redis::Client::open(server.url()).unwrap();
    let mut connection = fresh.get_multiplexed_async_connection().await.unwrap();
    until("Redis is empty", || {
        let mut connection = connection.clone();
        async move { connection.keys::<_, Vec<String>>("*").await.unwrap().is_empty() }
    })
    .await;
    let _: String = connection.ping().await.unwrap();
    assert_eq!(
        runs.total(),
        500,
        "outcomes were repeated until Redis took them, so nothing ran twice"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_boots_while_redis_is_away_starts_when_it_answers() {
    let mut server = RedisServer::start(Memory::Kept).await;
    let mut fixture = Fixture::at(&server.url()).await;
    server.kill();
    fixture.redis = RedisConn::connect(&server.url(), &fixture.config).unwrap();
    let runs = Runs::default();
    let worker = fixture.doing_worker(&runs);
    assert!(fixture.queue.ring(job().0).await.is_err());
    server.restart().await;
    until("a bell gets through", || async {
        fixture.queue.ring(job().0).await.is_ok()
    })
    .await;
    until("it has run", || async { runs.total() >= 1 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn flushed_data_and_scripts_and_killed_clients_are_survived() {
    let server = RedisServer::start(Memory::Kept).await;
    let fixture = Fixture::at(&server.url()).await;
    let done = Arc::new(AtomicU32::new(0));
    let worker = fixture.worker({
        let done = Arc::clone(&done);
        move |_, _| {
            done.fetch_add(1, Ordering::SeqCst);
            async { Ok(Outcome::Done) }
        }
    });
    let commands: [&[&str]; 3] = [
        &["FLUSHALL"],
        &["SCRIPT", "FLUSH"],
        &["CLIENT", "KILL", "TYPE", "normal"],
    ];
    for command in commands {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        let mut connection = redis::Client::open(server.url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let _: Result<redis::Value, _> = call.query_async(&mut connection).await;
        let before = done.load(Ordering::SeqCst);
        let mut envelope = Envelope::new(job().0);
        envelope.unique = Some("so that the push uses a script too".to_owned());
        until("a bell gets through", || async {
            fixture.queue.ring(envelope.clone()).await.is_ok()
        })
        .await;
        until("it has run", || async { done.load(Ordering::SeqCst) > before }).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_redis_that_may_evict_is_refused() {
    let server = RedisServer::start(Memory::Kept).await;
    let fixture = Fixture::at(&server.url()).await;
    assert!(check_server(&mut fixture.raw.clone()).await.is_ok());
    let mut call = redis::cmd("CONFIG");
    call.arg(&["SET", "maxmemory-policy", "allkeys-lru"]);
    let _: String = call.query_async(&mut fixture.raw.clone()).await.unwrap();
    let error = check_server(&mut fixture.raw.clone()).await.unwrap_err();
    assert!(error.to_string().contains("noeviction"), "{error}");
}

#[tokio::test]
async fn a_redis_whose_memory_is_full_is_drained() {
    let server = RedisServer::start(Memory::Kept).await;
    let mut fixture = Fixture::at(&server.url()).await;
    fixture.config.lease_ms = Some(600);
    let delayed = Envelope {
        run_at: Some(chrono::Utc::now() + Duration::from_millis(300)),
        ..Envelope::new(job().0)
    };
    let jobs: Vec<Envelope> = (0..50).map(|_| job().0.into()).chain([delayed]).collect();
    fixture.queue.ring_many(jobs).await.unwrap();
    let mut call = redis::cmd("CONFIG");
    call.arg(&["SET", "maxmemory", "1000"]);
    let _: String = call.query_async(&mut fixture.raw.clone()).await.unwrap();
    let refused = fixture.queue.ring(job().0).await.unwrap_err();
    assert!(refused.to_string().contains("OOM"), "{refused}");

    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            let run = runs.note(&job);
            async move {
                // Longer than a lease, and then once more after a retry: renewing and settling work too.
                let one_and_a_half = Duration::from_millis(900);
                let lost = tokio::time::timeout(one_and_a_half, context.lease.lost().cancelled_owned()).await;
                assert!(lost.is_err(), "the lease was lost");
                assert!(!context.lease.is_lost());
                if run == 1 {
                    return Err(carillon::queue::JobError::retry("once"));
                }
                Ok(Outcome::Done)
            }
        }
    });
    until("Redis is empty", || async {
        runs.jobs() == 51 && fixture.keys().await.is_empty()
    })
    .await;
    assert_eq!(runs.total(), 102);
    worker.stop().await;
}
