//! FCM: strictness of messages, projects, error bodies.

use carillon_sandbox::{Channel, FCM_ACCESS_TOKEN, FCM_PROJECT, Fault, FaultKind, Running};
use serde_json::{Value, json};

use crate::client::{Answer, answer, http, start};

async fn send(running: &Running, body: &Value) -> Answer {
    let url = format!("{}/v1/projects/{FCM_PROJECT}/messages:send", running.http_url());
    answer(http().post(url).bearer_auth(FCM_ACCESS_TOKEN).json(body))
        .await
        .unwrap()
}

fn code(answer: &Answer) -> (u16, &str, &str) {
    let error = &answer.body["error"];
    let detail = error["details"][0]["errorCode"].as_str().unwrap_or("");
    (answer.status, error["status"].as_str().unwrap_or(""), detail)
}

#[tokio::test]
async fn a_full_message_is_accepted_and_counted() {
    let running = start().await;
    let message = json!({
        "token": "device-1",
        "notification": {"title": "Sale", "body": "Half price", "image": "https://example.com/a.png"},
        "data": {"broadcast_id": "b-1", "url": "https://example.com"},
        "android": {"priority": "HIGH", "ttl": "86400s", "collapse_key": "bc-1",
            "notification": {"tag": "bc-1", "click_action": "OPEN", "channel_id": "promo"}},
        "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"mutable-content": 1}},
            "fcm_options": {"image": "https://example.com/a.png"}},
        "webpush": {"fcm_options": {"link": "https://example.com"}},
        "fcm_options": {"analytics_label": "bc1"},
    });
    let sent = send(&running, &json!({"validate_only": false, "message": message})).await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    assert!(
        sent.body["name"]
            .as_str()
            .unwrap()
            .starts_with("projects/carillon-demo/messages/0:")
    );
    let got = running.handle().received_by(Channel::Fcm, "device-1");
    assert_eq!(
        (got.len(), got[0].marker.as_str(), got[0].text.as_str()),
        (1, "b-1", "Sale\nHalf price")
    );
}

#[tokio::test]
async fn a_message_only_validated_counts_for_nobody() {
    let running = start().await;
    let sent = send(&running, &json!({"validate_only": true, "message": {"token": "a"}})).await;
    assert_eq!(sent.status, 200);
    assert_eq!(running.handle().channel_summary(Channel::Fcm).messages, 0);
}

#[tokio::test]
async fn messages_google_refuses_are_refused_with_the_field_named() {
    let running = start().await;
    let cases = [
        (json!({"message": {}}), "message"),
        (json!({"message": {"token": "a", "topic": "b"}}), "message"),
        (json!({"message": {"token": "a"}, "x": 1}), "x"),
        (json!({"message": {"token": "a", "x": 1}}), "message.x"),
        (json!({"message": {"token": ""}}), "message.token"),
        (json!({"message": {"token": "a", "data": {"n": 1}}}), "message.data.n"),
        (
            json!({"message": {"token": "a", "data": {"from": "x"}}}),
            "message.data.from",
        ),
        (
            json!({"message": {"token": "a", "notification": {"titel": "x"}}}),
            "message.notification.titel",
        ),
        (
            json!({"message": {"token": "a", "android": {"ttl": "1d"}}}),
            "message.android.ttl",
        ),
        (
            json!({"message": {"token": "a", "android": {"ttl": "2419201s"}}}),
            "message.android.ttl",
        ),
        (
            json!({"message": {"token": "a", "android": {"priority": "URGENT"}}}),
            "message.android.priority",
        ),
        (
            json!({"message": {"token": "a", "apns": {"headers": {"apns-priority": 10}}}}),
            "message.apns.headers.apns-priority",
        ),
        (
            json!({"message": {"token": "a", "data": {"k": "x".repeat(4096)}}}),
            "message",
        ),
    ];
    for (body, field) in cases {
        let refused = send(&running, &body).await;
        assert_eq!(code(&refused), (400, "INVALID_ARGUMENT", ""), "{field}");
        assert_eq!(
            refused.body["error"]["details"][0]["fieldViolations"][0]["field"],
            field
        );
    }
    let fits = json!({"message": {"token": "a", "data": {"k": "x".repeat(4095)}}});
    assert_eq!(send(&running, &fits).await.status, 200);
    let token = send(&running, &json!({"message": {"token": "a b"}})).await;
    assert_eq!(code(&token), (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"));
}

#[tokio::test]
async fn another_project_and_an_unknown_token_are_refused() {
    let running = start().await;
    let body = json!({"message": {"token": "a"}});
    let url = format!("{}/v1/projects/other/messages:send", running.http_url());
    let other = answer(http().post(&url).bearer_auth(FCM_ACCESS_TOKEN).json(&body))
        .await
        .unwrap();
    assert_eq!(code(&other), (403, "PERMISSION_DENIED", ""));
    let unknown = answer(http().post(&url).bearer_auth("x").json(&body)).await.unwrap();
    assert_eq!(code(&unknown), (401, "UNAUTHENTICATED", ""));
}

#[tokio::test]
async fn each_fault_answers_as_google_does() {
    let running = start().await;
    let cases = [
        (FaultKind::InvalidRecipient, (404, "NOT_FOUND", "UNREGISTERED")),
        (FaultKind::Throttled, (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")),
        (FaultKind::Unavailable, (503, "UNAVAILABLE", "UNAVAILABLE")),
        (FaultKind::ServerError, (500, "INTERNAL", "INTERNAL")),
        (FaultKind::BadCredentials, (401, "UNAUTHENTICATED", "")),
    ];
    for (kind, expected) in cases {
        let fault = Fault::new(Channel::Fcm, kind)
            .times(1)
            .recipients(["gone"])
            .retry_after_secs(7);
        running.handle().set_fault(fault).unwrap();
        assert_eq!(send(&running, &json!({"message": {"token": "here"}})).await.status, 200);
        let refused = send(&running, &json!({"message": {"token": "gone"}})).await;
        assert_eq!((code(&refused), refused.header("retry-after")), (expected, "7"));
    }
    let mismatch = Fault::new(Channel::Fcm, FaultKind::Reply)
        .with_reply(403, "SENDER_ID_MISMATCH")
        .times(1);
    running.handle().set_fault(mismatch).unwrap();
    let refused = send(&running, &json!({"message": {"token": "gone"}})).await;
    assert_eq!(code(&refused), (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"));
    assert_eq!(running.handle().received_by(Channel::Fcm, "gone").len(), 0);
}
