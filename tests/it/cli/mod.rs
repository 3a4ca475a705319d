//! The operator's commands, run as the real program: a wrong call says what is wrong and changes nothing, a good one does
//! what it says, in words and in JSON.

mod calls;
mod jobs;
mod senders;

use std::{collections::BTreeMap, process::Stdio};

use carillon_jobs::BroadcastId;
use redis::AsyncCommands as _;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::world::World;

/// What one run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) async fn run_with(env: &BTreeMap<String, String>, args: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CARILLON_") || matches!(name.as_str(), "DATABASE_URL" | "REDIS_URL" | "PORT") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read its input closes it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) async fn run(world: &World, args: &[&str]) -> Ran {
    run_with(&world.env, args, "").await
}

/// Everything the world's key space holds.
pub(crate) async fn keys(world: &World) -> Vec<String> {
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    redis
        .keys(format!("{{{}}}:*", world.env["CARILLON__REDIS__KEY_PREFIX"]))
        .await
        .unwrap()
}

async fn dead_job(world: &World, error: &str, reason: &str, raw: &str, age: &str) -> i64 {
    world
        .one(&format!(
            "insert into dead_job (reference, kind, job_id, reason, error, attempts, crashes, snoozes, raw, raw_length,
                                   raw_sha256, first_at, died_at)
             values (gen_random_uuid()::text, 'broadcast-send', 'job-1', '{reason}', '{error}', 2, 1, 3, '{raw}'::text::bytea,
                     length('{raw}'), sha256('{raw}'), now() - interval '{age}', now() - interval '{age}')
             returning id"
        ))
        .await
}

fn payload() -> String {
    format!(r#"{{"broadcast_id":"{}"}}"#, BroadcastId::new())
}

const NOBODY: &str = "0197a1b2-0000-7000-8000-000000000000";

/// A fingerprint of every row a command could have changed.
async fn rows(world: &World) -> String {
    world
        .one(
            "select concat((select json_agg(d order by id) from dead_job d), (select json_agg(s order by id) from sender s),
                (select json_agg(b order by id) from broadcast b), (select count(*) from shop), (select count(*) from customer))",
        )
        .await
}
