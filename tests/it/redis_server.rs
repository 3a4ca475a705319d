//! A Redis of a test's own, for tests that stop, kill, restart or misconfigure it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use redis::aio::MultiplexedConnection;
use uuid::Uuid;

use crate::wait::until;

/// What a private Redis remembers when it is killed and runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Everything it acknowledged.
    Kept,
    /// Nothing.
    Lost,
}

/// A private Redis; killed, and its folder removed, when dropped.
pub(crate) struct RedisServer {
    folder: PathBuf,
    port: u16,
    memory: Memory,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub(crate) async fn start(memory: Memory) -> Self {
        let folder = std::env::temp_dir().join(format!("carillon-redis-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        // Bound and let go: the port was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self {
            folder,
            port,
            memory,
            process: None,
        };
        server.restart().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Runs it again after [`Self::kill`], without waiting until it answers.
    pub(crate) fn run(&mut self) {
        let appendonly = match self.memory {
            Memory::Kept => "yes",
            Memory::Lost => "no",
        };
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command
            .args(["--appendonly", appendonly, "--appendfsync", "always", "--dir"])
            .arg(&self.folder);
        let process = command
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
    }

    /// Runs it again and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.run();
        self.connect().await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends a signal such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// A connection, as soon as it answers.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = None;
        until("the private Redis answers", async || {
            let Ok(mut fresh) = client.get_multiplexed_async_connection().await else {
                return false;
            };
            let answers = redis::cmd("PING").query_async::<String>(&mut fresh).await.is_ok();
            connection = answers.then_some(fresh);
            answers
        })
        .await;
        connection.unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
