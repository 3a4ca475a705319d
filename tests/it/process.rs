//! A real process of the product: started with an environment of its own, told things, listened to, killed at the end.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::wait::eventually;

/// How long any process may take from the first SIGTERM to its end: platforms kill after 30 seconds.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A running process; killed, and its log removed, when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs the product's binary.
    pub(crate) fn start(env: &BTreeMap<String, String>, args: &[&str]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_carillon")).args(args).envs(env))
    }

    /// Runs any program, all that it says kept.
    pub(crate) fn run(command: &mut Command) -> Self {
        let log = std::env::temp_dir().join(format!("carillon-log-{}", Uuid::new_v4().simple()));
        let file = std::fs::File::create(&log).unwrap();
        let same = file.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(same).stderr(file).spawn();
        Self {
            child: child.unwrap(),
            log,
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Everything it has said, on standard output and standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How many lines of its log hold these words.
    pub(crate) fn said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    pub(crate) async fn says(&self, words: &str) {
        let what = format!("it says {words:?}");
        eventually(&what, 30, async || self.said(words) > 0).await;
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end and returns its exit code; -1 when a signal ended it.
    pub(crate) async fn exit_code(&mut self, within: Duration) -> i32 {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < deadline,
                "still running after {within:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Three SIGTERMs, as nervous platforms send them, then its exit code.
    pub(crate) async fn stop(&mut self) -> i32 {
        for _ in 0..3 {
            self.signal("-TERM");
        }
        self.exit_code(STOP_LIMIT).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::env::var_os("CARILLON_TEST_LOGS").is_some() {
            println!("{}", self.log());
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
