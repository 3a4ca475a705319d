//! A private Redis for tests that break it.
#![allow(clippy::unwrap_used)]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The one way to wait for something that has no signal of its own.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done().await {
        assert!(Instant::now() < deadline, "not within five seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Redis of one's own, to be killed and started again on the same port.
pub(crate) struct Server {
    port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            port,
            process: None,
        };
        server.run();
        server
    }

    pub(crate) fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &self.port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        let mut conn = None;
        eventually("Redis starts", async || {
            conn = client.get_multiplexed_async_connection().await.ok();
            conn.is_some()
        })
        .await;
        conn.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
