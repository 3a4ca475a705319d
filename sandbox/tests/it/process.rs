//! The `carillon-sandbox` process: what it prints, what its flags set, how it ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::client::{answer, http, text, user};

fn spawn(flags: &[&str]) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_carillon-sandbox"))
        .args(["--http-port", "0", "--smtp-port", "0"])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    (child, serde_json::from_str(&ready).unwrap())
}

#[tokio::test]
async fn it_announces_its_addresses_obeys_its_flags_and_ends_on_sigterm() {
    let fault = r#"{"channel":"line","fault":"invalid_recipient","count":1}"#;
    let flags = [
        "--line-token",
        "mine=1",
        "--fault",
        fault,
        "--latency",
        "line=1+1",
        "--threads",
        "2",
    ];
    let (mut child, ready) = spawn(&flags);
    assert_eq!(ready["pid"], json!(child.id()));
    assert!(ready["smtp"].as_str().unwrap().starts_with("127.0.0.1:"));
    let url = format!("http://{}/v2/bot/message/push", ready["http"].as_str().unwrap());
    let body = json!({"to": user(1), "messages": text("x")});
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let push = http().post(&url).bearer_auth("mine").json(&body);
        statuses.push(answer(push).await.unwrap().status);
    }
    // The fault, the one message of the quota, the quota.
    assert_eq!(statuses, [400, 200, 429]);
    let terminated = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(terminated.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_refuses_flags_that_make_no_sense() {
    for flags in [
        ["--fault", "{}"],
        ["--latency", "pigeon=1"],
        ["--rate-cap", "line=fast"],
        ["--smtp-login", "nobody"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon-sandbox"));
        command.args(["--http-port", "0", "--smtp-port", "0"]).args(flags);
        let output = command.output().unwrap();
        assert!(!output.status.success() && !output.stderr.is_empty(), "{flags:?}");
    }
}
