//! What tests stand on: a database and a key space of their own, a worker to start and stop, and waiting on conditions.

use std::{
    collections::HashMap,
    future::Future,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use carillon::queue::{self, JobContext, JobError, Outcome, Queue, QueueConfig, RedisConn};
use carillon_jobs::{BroadcastId, BroadcastSend, Job};
use redis::AsyncCommands as _;
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a condition may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; `bin/test` starts the services and sets it"))
}

/// Waits until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A fresh database with the schema.
pub async fn database() -> PgPool {
    let admin_url = env("CARILLON_TEST_DATABASE_URL");
    let name = format!("carillon_test_{}", Uuid::new_v4().simple());
    let mut admin = PgConnection::connect(&admin_url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&mut admin)
        .await
        .unwrap();
    let mut url = url::Url::parse(&admin_url).unwrap();
    url.set_path(&name);
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(5))
        .connect(url.as_str())
        .await
        .unwrap();
    sqlx::migrate!("./migrations").run(&pool).await.unwrap();
    pool
}

/// A queue of its own, and a database.
pub struct Fixture {
    pub pool: PgPool,
    pub config: QueueConfig,
    pub redis: RedisConn,
    pub queue: Queue,
    /// For looking at and meddling with what lies in Redis.
    pub raw: redis::aio::MultiplexedConnection,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::at(&env("CARILLON_TEST_REDIS_URL")).await
    }

    pub async fn at(redis_url: &str) -> Self {
        let config = QueueConfig {
            key_prefix: format!("{{test-{}}}", Uuid::new_v4().simple()),
            concurrency: 10,
            retry_first_ms: 10,
            ..QueueConfig::default()
        };
        let redis = RedisConn::connect(redis_url, &config).unwrap();
        let raw = redis::Client::open(redis_url)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        Self {
            pool: database().await,
            queue: Queue::new(redis.clone(), &config),
            config,
            redis,
            raw,
        }
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.config.key_prefix)
    }

    pub async fn depth(&self) -> queue::Depth {
        self.queue.depths().await.unwrap().remove(0)
    }

    /// The keys the queue has in Redis.
    pub async fn keys(&self) -> Vec<String> {
        self.raw
            .clone()
            .keys(format!("{}:*", self.config.key_prefix))
            .await
            .unwrap()
    }

    pub async fn rpush(&self, text: &str) {
        let _: i64 = self
            .raw
            .clone()
            .rpush(self.key("ready:broadcast-send"), text)
            .await
            .unwrap();
    }

    /// Starts a worker in this runtime.
    pub fn worker<H, F>(&self, handler: H) -> Worker
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

    /// Starts a worker that [`Killable::kill`] ends as SIGKILL would: nothing it holds is told to anybody.
    pub fn killable<H, F>(&self, redis_url: Option<&str>, handler: H) -> Killable
    where
        H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let url = redis_url.map_or_else(|| env("CARILLON_TEST_REDIS_URL"), str::to_owned);
        let (config, pool) = (self.config.clone(), self.pool.clone());
        runtime.spawn(async move {
            let redis = RedisConn::connect(&url, &config).unwrap();
            queue::run(config, redis, pool, handler, CancellationToken::new()).await;
        });
        Killable {
            runtime: Some(runtime),
        }
    }
}

pub struct Worker {
    pub shutdown: CancellationToken,
    pub running: JoinHandle<()>,
}

impl Worker {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

pub struct Killable {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Killable {
    pub fn kill(mut self) {
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
pub fn job() -> (Job, BroadcastId) {
    let broadcast_id = BroadcastId::new();
    let args = BroadcastSend {
        broadcast_id,
        sender_id: None,
    };
    (args.into(), broadcast_id)
}

pub fn text() -> (String, BroadcastId) {
    let id = BroadcastId::new();
    (format!(r#"{{"args":{{"broadcast_id":"{id}"}}}}"#), id)
}

pub fn broadcast_of(job: &Job) -> BroadcastId {
    let Job::BroadcastSend(args) = job;
    args.broadcast_id
}

/// How often each job was started.
#[derive(Clone, Default)]
pub struct Runs(Arc<Mutex<HashMap<BroadcastId, u32>>>);

impl Runs {
    /// Notes a start, and says the how-manieth it is.
    pub fn note(&self, job: &Job) -> u32 {
        let mut runs = self.0.lock().unwrap();
        let count = runs.entry(broadcast_of(job)).or_default();
        *count += 1;
        *count
    }

    pub fn of(&self, id: BroadcastId) -> u32 {
        self.0.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    pub fn jobs(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn total(&self) -> u32 {
        self.0.lock().unwrap().values().sum()
    }
}

/// A Redis of the test's own, with an append-only file, to kill and start again.
pub struct PrivateRedis {
    folder: std::path::PathBuf,
    port: u16,
    child: Option<Child>,
}

impl PrivateRedis {
    pub async fn start() -> Self {
        let folder =
            std::env::temp_dir().join(format!("carillon-redis-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        // Bound and let go: the port was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            folder,
            port,
            child: None,
        };
        server.restart().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub async fn restart(&mut self) {
        let child = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let client = redis::Client::open(self.url()).unwrap();
        until("the private Redis answers", || async {
            match client.get_multiplexed_async_connection().await {
                Ok(mut connection) => connection.ping::<String>().await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
