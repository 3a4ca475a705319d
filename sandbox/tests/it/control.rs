//! The control API: everything the handle can do, over HTTP.

use carillon_sandbox::{Running, SandboxConfig, StartError};
use serde_json::{Value, json};

use crate::client::{Answer, answer, http, line, start, text, user};

async fn get(running: &Running, path: &str) -> Answer {
    answer(http().get(format!("{}/_sandbox/{path}", running.http_url())))
        .await
        .unwrap()
}

async fn post(running: &Running, path: &str, body: &Value) -> Answer {
    answer(
        http()
            .post(format!("{}/_sandbox/{path}", running.http_url()))
            .json(body),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn what_was_received_can_be_listed_filtered_and_counted() {
    let running = start().await;
    for (n, body) in [(1, "alpha"), (2, "beta"), (1, "gamma")] {
        line(&running, "push", &json!({"to": user(n), "messages": text(body)})).await;
    }
    let all = get(&running, "received?channel=line&limit=2").await.body;
    assert_eq!(
        (&all["count"], all["messages"].as_array().unwrap().len()),
        (&json!(3), 2)
    );
    let one = get(&running, &format!("received?channel=line&recipient={}", user(1)))
        .await
        .body;
    assert_eq!(
        (&one["messages"][0]["text"], &one["messages"][1]["text"]),
        (&json!("alpha"), &json!("gamma"))
    );
    let found = get(&running, "received?channel=line&contains=bet").await.body;
    assert_eq!(
        (&found["count"], &found["messages"][0]["recipient"]),
        (&json!(1), &json!(user(2)))
    );
    let counts = get(&running, "recipients?channel=line").await.body;
    assert_eq!(counts, json!(format!("{}\t2\n{}\t1\n", user(1), user(2))));
    assert_eq!(get(&running, "received?channel=pigeon").await.status, 400);
    let summary = get(&running, "summary").await.body;
    assert_eq!(
        (&summary["line"]["messages"], &summary["fcm"]["messages"]),
        (&json!(3), &json!(0))
    );
}

#[tokio::test]
async fn faults_are_set_listed_and_cleared() {
    let running = start().await;
    let rule =
        json!({"channel": "line", "fault": "reset_after", "probability": 0.01, "count": null, "recipients": [user(1)]});
    let id = post(&running, "faults", &rule).await.body["id"].clone();
    let listed = get(&running, "faults").await.body;
    assert_eq!(
        (&listed[0]["id"], &listed[0]["fault"], &listed[0]["hits"]),
        (&id, &json!("reset_after"), &json!(0))
    );
    let url = format!("{}/_sandbox/faults?id={id}", running.http_url());
    assert_eq!(answer(http().delete(url)).await.unwrap().status, 200);
    assert_eq!(get(&running, "faults").await.body, json!([]));
    for wrong in [
        json!({"channel": "line", "fault": "explode"}),
        json!({"channel": "line"}),
        json!({"channel": "smtp", "fault": "hang", "stage": "tea"}),
    ] {
        let refused = post(&running, "faults", &wrong).await;
        assert!(refused.status == 400 && refused.body["error"].is_string());
    }
}

#[tokio::test]
async fn accounts_are_registered_and_revoked_and_errors_never_repeat_a_credential() {
    let running = start().await;
    let credentials = json!({"access_token": "t-1", "channel_id": "7", "bot_user_id": user(7), "monthly_quota": 10});
    let account = json!({"channel": "line", "credentials": credentials});
    assert_eq!(post(&running, "accounts", &account).await.status, 200);
    let info = format!("{}/v2/bot/info", running.http_url());
    assert_eq!(answer(http().get(&info).bearer_auth("t-1")).await.unwrap().status, 200);
    let revoke = json!({"channel": "line", "credential": "t-1"});
    assert_eq!(post(&running, "accounts/revoke", &revoke).await.status, 200);
    assert_eq!(answer(http().get(&info).bearer_auth("t-1")).await.unwrap().status, 401);
    assert_eq!(post(&running, "accounts/revoke", &revoke).await.status, 400);
    let wrong = json!({"channel": "smtp", "credentials": {"user": "u", "password": ["top-secret"]}});
    let refused = post(&running, "accounts", &wrong).await;
    assert_eq!(refused.status, 400);
    assert!(!refused.body.to_string().contains("top-secret"));
}

#[tokio::test]
async fn dials_turn_and_reset_forgets_everything_but_accounts() {
    let running = start().await;
    assert_eq!(
        post(&running, "rate-cap", &json!({"channel": "line", "per_second": 1}))
            .await
            .status,
        200
    );
    let push = json!({"to": user(1), "messages": text("x")});
    assert_eq!(line(&running, "push", &push).await.status, 200);
    assert_eq!(line(&running, "push", &push).await.status, 429);
    assert_eq!(
        post(&running, "latency", &json!({"channel": "line", "fixed_ms": 1}))
            .await
            .status,
        200
    );
    let hour = json!({"advance_secs": 3600});
    assert_eq!(post(&running, "clock", &hour).await.status, 200);
    let issued = post(&running, "reply-tokens", &json!({"user_id": user(3)})).await.body;
    let reply = json!({"replyToken": issued["reply_token"], "messages": text("x")});
    assert_eq!(line(&running, "reply", &reply).await.status, 200);
    post(&running, "faults", &json!({"channel": "line", "fault": "server_error"})).await;
    assert_eq!(post(&running, "reset", &json!({})).await.status, 200);
    let summary = get(&running, "summary").await.body;
    assert_eq!(
        (&summary["line"]["requests"], &summary["line"]["messages"]),
        (&json!(0), &json!(0))
    );
    for _ in 0..3 {
        assert_eq!(line(&running, "push", &push).await.status, 200);
    }
}

#[tokio::test]
async fn the_process_tells_what_it_cost() {
    let running = start().await;
    let used = get(&running, "cpu").await.body;
    assert!(used["total_secs"].as_f64().unwrap() >= 0.0);
    assert!(used["resident_bytes"].as_u64().unwrap() > 100_000);
    assert_eq!(get(&running, "health").await.status, 200);
    assert_eq!(get(&running, "nothing").await.status, 404);
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_a_dropped_sandbox_frees_it() {
    let running = start().await;
    let port = running.http_addr.port();
    let config = SandboxConfig {
        http_port: port,
        ..SandboxConfig::default()
    };
    let taken = carillon_sandbox::Sandbox::start(config.clone()).await;
    assert!(matches!(taken, Err(StartError::Listen { port: p, .. }) if p == port));
    drop(running);
    let began = std::time::Instant::now();
    // The listener closes when its task is next polled.
    while carillon_sandbox::Sandbox::start(config.clone()).await.is_err() {
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
}
