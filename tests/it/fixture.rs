//! What the queue's tests stand on: a database and a key space of their own, and a worker to start, stop and kill.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
};

use carillon::{
    db::PgPool,
    queue::{
        self, JobContext, JobError, Outcome, Queue, QueueConfig, RedisConn,
        dead::{self, DeadFilter, DeadJob},
    },
};
use carillon_jobs::{BroadcastId, BroadcastSend, Job, Kind};
use redis::AsyncCommands as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    fixture_db::{TestDb, database, service},
    wait::until,
};

/// A queue of its own, and a database.
pub(crate) struct Fixture {
    pub(crate) pool: PgPool,
    pub(crate) db: TestDb,
    pub(crate) config: QueueConfig,
    pub(crate) redis: RedisConn,
    pub(crate) queue: Queue,
    /// For looking at and meddling with what lies in Redis.
    pub(crate) raw: redis::aio::MultiplexedConnection,
}

/// Slots no broadcast may take: those the other kinds keep for themselves.
pub(crate) fn others_slots() -> u32 {
    let others = Kind::ALL.iter().filter(|kind| **kind != Kind::BroadcastSend);
    others.map(|kind| kind.policy().reserved_slots).sum()
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::at(&service("CARILLON_TEST_REDIS_URL")).await
    }

    pub(crate) async fn at(redis_url: &str) -> Self {
        let config = QueueConfig {
            key_prefix: format!("{{test-{}}}", Uuid::new_v4().simple()),
            concurrency: 10 + others_slots(),
            retry_first_ms: 10,
            ..QueueConfig::default()
        };
        let redis = RedisConn::connect(redis_url, &config).unwrap();
        let raw = redis::Client::open(redis_url)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let db = database().await;
        Self {
            pool: db.pool.clone(),
            db,
            queue: Queue::new(redis.clone(), &config),
            config,
            redis,
            raw,
        }
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.config.key_prefix)
    }

    pub(crate) async fn depth(&self) -> queue::Depth {
        self.queue.depths().await.unwrap().remove(0)
    }

    /// The keys the queue has in Redis.
    pub(crate) async fn keys(&self) -> Vec<String> {
        self.raw
            .clone()
            .keys(format!("{}:*", self.config.key_prefix))
            .await
            .unwrap()
    }

    /// Waits until the queue has left nothing in Redis.
    pub(crate) async fn emptied(&self) {
        until("Redis is empty", async || self.keys().await.is_empty()).await;
    }

    /// The dead jobs that have become rows, newest first.
    pub(crate) async fn dead_rows(&self) -> Vec<DeadJob> {
        dead::list(&self.pool, &DeadFilter::default(), None, 100).await.unwrap()
    }

    pub(crate) async fn rpush(&self, text: &str) {
        let _: i64 = self
            .raw
            .clone()
            .rpush(self.key("ready:broadcast-send"), text)
            .await
            .unwrap();
    }

    /// Starts a worker in this runtime.
    pub(crate) fn worker<H, F>(&self, handler: H) -> Worker
    where
        H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let run = queue::run(
            self.config.clone(),
            self.redis.clone(),
            self.pool.clone(),
            handler,
            shutdown.clone(),
        );
        Worker {
            shutdown,
            running: tokio::spawn(run),
        }
    }

    /// Starts a worker that does every job at once, and notes it.
    pub(crate) fn doing_worker(&self, runs: &Runs) -> Worker {
        let runs = runs.clone();
        self.worker(move |job, _| {
            runs.note(&job);
            async { Ok(Outcome::Done) }
        })
    }

    /// Starts a worker that [`Killable::kill`] ends and that never finishes a job; it notes those it begins.
    pub(crate) fn holding_killable(&self, redis_url: Option<&str>, begun: &Runs) -> Killable {
        let begun = begun.clone();
        self.killable(redis_url, move |job, _| {
            begun.note(&job);
            std::future::pending()
        })
    }

    /// Starts a worker that [`Killable::kill`] ends as SIGKILL would: nothing it holds is told to anybody.
    pub(crate) fn killable<H, F>(&self, redis_url: Option<&str>, handler: H) -> Killable
    where
        H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let url = redis_url.map_or_else(|| service("CARILLON_TEST_REDIS_URL"), str::to_owned);
        let (config, pool) = (self.config.clone(), self.pool.clone());
        runtime.spawn(async move {
            let redis = RedisConn::connect(&url, &config).unwrap();
            queue::run(config, redis, pool, handler, CancellationToken::new()).await;
        });
        Killable { runtime: Some(runtime) }
    }
}

pub(crate) struct Worker {
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

impl Worker {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

pub(crate) struct Killable {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Killable {
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A job, and the id in it by which a test tells it from others.
pub(crate) fn job() -> (Job, BroadcastId) {
    let broadcast_id = BroadcastId::new();
    let args = BroadcastSend {
        broadcast_id,
        sender_id: None,
    };
    (args.into(), broadcast_id)
}

pub(crate) fn text() -> (String, BroadcastId) {
    let id = BroadcastId::new();
    (format!(r#"{{"args":{{"broadcast_id":"{id}"}}}}"#), id)
}

pub(crate) fn broadcast_of(job: &Job) -> BroadcastId {
    let Job::BroadcastSend(args) = job else {
        panic!("these jobs are broadcasts: {job:?}")
    };
    args.broadcast_id
}

/// How often each job was started.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<HashMap<BroadcastId, u32>>>);

impl Runs {
    /// Notes a start, and says the how-manieth it is.
    pub(crate) fn note(&self, job: &Job) -> u32 {
        let mut runs = self.0.lock().unwrap();
        let count = runs.entry(broadcast_of(job)).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn of(&self, id: BroadcastId) -> u32 {
        self.0.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    pub(crate) fn jobs(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn total(&self) -> u32 {
        self.0.lock().unwrap().values().sum()
    }
}
