//! The private PostgreSQL and Redis of the run, and how they are crashed and brought back: `bin/services` does it.
//! It must never touch services that are not this run's: without the variables `bin/services run` sets, there is no run.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

/// Where they are.
#[derive(Debug, Clone)]
pub struct Services {
    script: String,
    folder: String,
    postgres_bin: String,
    /// `redis://…`
    pub redis_url: String,
    /// `postgres://…`, a database that is empty at first.
    pub database_url: String,
    /// The script starts whatever is down: two calls at once would both start the same server.
    one_call: Arc<Mutex<()>>,
}

impl Services {
    /// Those of the environment.
    pub fn of_environment() -> Self {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; bin/chaos does it"));
        Self {
            script: variable("CARILLON_SERVICES"),
            folder: variable("CARILLON_SERVICES_DIR"),
            postgres_bin: variable("CARILLON_POSTGRES_BIN"),
            redis_url: variable("REDIS_URL"),
            database_url: variable("DATABASE_URL"),
            one_call: Arc::default(),
        }
    }

    /// SIGKILL; it stays down.
    pub async fn crash(&self, which: &'static str) {
        self.run("kill", which).await;
    }

    /// Starts what is down and waits until it answers; same port, same data.
    pub async fn bring_back(&self, which: &'static str) {
        self.run("restart", which).await;
    }

    async fn run(&self, verb: &'static str, which: &'static str) {
        let _one = self.one_call.lock().await;
        let mut command = tokio::process::Command::new(&self.script);
        command
            .args([verb, &self.folder, which])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let done = command.status().await.unwrap();
        assert!(done.success(), "bin/services {verb} {which} failed");
    }

    /// A connection that gives up soon; an error when Redis is away.
    pub async fn redis(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        redis::Client::open(self.redis_url.as_str())?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// The whole database in a file, as evidence. True when it was written.
    pub fn dump(&self, into: &std::path::Path) -> bool {
        Command::new(format!("{}/pg_dump", self.postgres_bin))
            .args(["--format=custom", "--file"])
            .arg(into)
            .arg(&self.database_url)
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|done| done.success())
    }
}
