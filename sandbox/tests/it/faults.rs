//! Faults over HTTP: what each does to the caller, and what it counts.

use std::time::{Duration, Instant};

use carillon_sandbox::{Channel, Fault, FaultKind, LINE_TOKEN, Latency, RateCap, Running, Sandbox, SandboxConfig};
use serde_json::json;

use crate::client::{Answer, answer, http, line, soon, start, text, user};

async fn push(running: &Running, n: u32) -> Result<Answer, reqwest::Error> {
    let url = format!("{}/v2/bot/message/push", running.http_url());
    let body = json!({"to": user(n), "messages": text("x")});
    answer(http().post(url).bearer_auth(LINE_TOKEN).json(&body)).await
}

fn counted(running: &Running) -> u64 {
    running.handle().channel_summary(Channel::Line).messages
}

#[tokio::test]
async fn faults_before_acceptance_answer_and_count_nobody() {
    let running = start().await;
    let cases = [
        (
            FaultKind::Throttled,
            429,
            "The API rate limit has been exceeded. Try again later.",
        ),
        (FaultKind::Quota, 429, "You have reached your monthly limit."),
        (FaultKind::ServerError, 500, "Internal Server Error"),
        (FaultKind::Unavailable, 503, "Service Unavailable"),
        (FaultKind::InvalidRecipient, 400, "Failed to send messages"),
    ];
    for (kind, status, message) in cases {
        running
            .handle()
            .set_fault(Fault::new(Channel::Line, kind).times(1))
            .unwrap();
        let refused = push(&running, 1).await.unwrap();
        assert_eq!((refused.status, refused.message()), (status, message));
        assert_eq!(refused.header("retry-after"), "");
    }
    let fault = Fault::new(Channel::Line, FaultKind::Throttled)
        .retry_after_secs(3)
        .times(1);
    running.handle().set_fault(fault).unwrap();
    assert_eq!(push(&running, 1).await.unwrap().header("retry-after"), "3");
    assert_eq!(counted(&running), 0);
    let summary = running.handle().channel_summary(Channel::Line);
    assert_eq!((summary.requests, summary.accepted), (6, 0));
    assert_eq!((summary.refused[&429], summary.faults[&FaultKind::Throttled]), (3, 2));
}

#[tokio::test]
async fn a_reset_before_counts_nobody_and_a_reset_after_counts() {
    let running = start().await;
    for (kind, expected) in [(FaultKind::ResetBefore, 0), (FaultKind::ResetAfter, 1)] {
        running
            .handle()
            .set_fault(Fault::new(Channel::Line, kind).times(1))
            .unwrap();
        assert!(push(&running, 1).await.is_err());
        assert_eq!(counted(&running), expected);
    }
}

#[tokio::test]
async fn a_hang_never_answers_and_only_hang_after_counts() {
    let running = start().await;
    for (kind, expected) in [(FaultKind::Hang, 0), (FaultKind::HangAfter, 1)] {
        running
            .handle()
            .set_fault(Fault::new(Channel::Line, kind).times(1))
            .unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(200), push(&running, 1)).await;
        assert!(waited.is_err());
        assert_eq!(counted(&running), expected);
    }
}

#[tokio::test]
async fn answers_that_lie_are_counted_as_accepted() {
    let running = start().await;
    let handle = running.handle();
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::Truncated).times(1))
        .unwrap();
    assert!(push(&running, 1).await.is_err());
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::Garbage).times(1))
        .unwrap();
    let garbage = push(&running, 2).await.unwrap();
    assert!(garbage.status == 200 && garbage.body.is_string());
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::ServerErrorAfter).times(1))
        .unwrap();
    assert_eq!(push(&running, 3).await.unwrap().status, 500);
    let reply = Fault::new(Channel::Line, FaultKind::ReplyAfter)
        .with_reply(502, "<html>")
        .times(1);
    handle.set_fault(reply).unwrap();
    assert_eq!(push(&running, 4).await.unwrap().status, 502);
    assert_eq!(counted(&running), 4);
}

#[tokio::test]
async fn a_rule_hits_only_its_recipients_and_its_endpoint() {
    let running = start().await;
    let fault = Fault::new(Channel::Line, FaultKind::InvalidRecipient)
        .recipients([user(7)])
        .at("multicast");
    let id = running.handle().set_fault(fault).unwrap();
    assert_eq!(push(&running, 7).await.unwrap().status, 200);
    let among = json!({"to": [user(1), user(7)], "messages": text("x")});
    let without = json!({"to": [user(1), user(2)], "messages": text("x")});
    assert_eq!(line(&running, "multicast", &without).await.status, 200);
    assert_eq!(line(&running, "multicast", &among).await.status, 400);
    assert_eq!(running.handle().faults()[0].hits, 1);
    running.handle().clear_fault(id);
    assert_eq!(line(&running, "multicast", &among).await.status, 200);
}

#[tokio::test]
async fn the_same_seed_draws_the_same_faults() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let config = SandboxConfig {
            seed,
            ..SandboxConfig::default()
        };
        let running = Sandbox::start(config).await.unwrap();
        let fault = Fault::new(Channel::Line, FaultKind::ServerError).probability(0.5);
        running.handle().set_fault(fault).unwrap();
        let mut statuses = Vec::new();
        for n in 0..40 {
            statuses.push(push(&running, n).await.unwrap().status);
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let failed = runs[0].iter().filter(|status| **status == 500).count();
    assert!((8..=32).contains(&failed), "{failed} of 40");
}

#[tokio::test]
async fn strictness_is_never_masked_by_a_fault() {
    let running = start().await;
    running
        .handle()
        .set_fault(Fault::new(Channel::Line, FaultKind::ServerError))
        .unwrap();
    assert_eq!(line(&running, "push", &json!({"to": user(1)})).await.status, 400);
}

#[tokio::test]
async fn the_rate_cap_answers_429_above_it_and_recovers() {
    let running = start().await;
    let cap = RateCap {
        per_second: 2,
        burst: Some(2),
    };
    running.handle().set_rate_cap(Channel::Line, Some(cap));
    let mut statuses = Vec::new();
    for n in 0..3 {
        statuses.push(push(&running, n).await.unwrap().status);
    }
    assert_eq!(statuses, [200, 200, 429]);
    // Another endpoint has its own bucket.
    let body = json!({"to": [user(1)], "messages": text("x")});
    assert_eq!(line(&running, "multicast", &body).await.status, 200);
    running.handle().advance_clock(Duration::from_secs(1));
    assert_eq!(push(&running, 9).await.unwrap().status, 200);
}

#[tokio::test]
async fn latency_and_delay_hold_the_answer_back() {
    let running = start().await;
    let latency = Latency {
        fixed_ms: 60,
        jitter_ms: 10,
    };
    running.handle().set_latency(Channel::Line, latency);
    running
        .handle()
        .set_fault(Fault::new(Channel::Line, FaultKind::Delay).delay_ms(60))
        .unwrap();
    let began = Instant::now();
    assert_eq!(soon(push(&running, 1)).await.unwrap().status, 200);
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused() {
    let running = start().await;
    let handle = running.handle();
    let wrong = [
        Fault::new(Channel::Line, FaultKind::ServerError).at("rcpt"),
        Fault::new(Channel::Line, FaultKind::ServerError).probability(1.5),
        Fault::new(Channel::Line, FaultKind::Reply),
        Fault::new(Channel::Line, FaultKind::Delay),
        Fault::new(Channel::Fcm, FaultKind::Quota),
    ];
    for fault in wrong {
        assert!(handle.set_fault(fault).is_err());
    }
    assert!(handle.faults().is_empty());
}
