//! LINE: authentication, strictness of requests, quota, reply tokens, counting.

use carillon_sandbox::{Account, Channel, LINE_CHANNEL_ID, LINE_TOKEN, LineAccount, ReceivedQuery};
use serde_json::json;

use crate::client::{answer, http, line, start, text, user};

#[tokio::test]
async fn a_push_is_accepted_and_counted_for_its_recipient() {
    let running = start().await;
    let body = json!({"to": user(1), "messages": text("hello"), "customAggregationUnits": ["b_1"]});
    let sent = line(&running, "push", &body).await;
    assert_eq!(sent.status, 200);
    assert!(
        sent.body["sentMessages"][0]["id"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .is_ok()
    );
    assert_eq!(sent.header("x-line-request-id").len(), 36);
    let got = running.handle().received_by(Channel::Line, &user(1));
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].text.as_str(), got[0].marker.as_str()), ("hello", "b_1"));
    assert_eq!(got[0].body, text("hello").to_string());
}

#[tokio::test]
async fn a_multicast_counts_each_recipient_once_and_in_order() {
    let running = start().await;
    let to: Vec<String> = (0..500).map(user).collect();
    let sent = line(&running, "multicast", &json!({"to": to, "messages": text("sale")})).await;
    assert_eq!((sent.status, sent.body), (200, json!({})));
    let summary = running.handle().channel_summary(Channel::Line);
    assert_eq!((summary.requests, summary.accepted), (1, 1));
    assert_eq!((summary.messages, summary.distinct_recipients), (500, 500));
    assert_eq!((summary.max_to_one_recipient, summary.duplicates), (1, 0));
    let got = running.handle().received(Channel::Line, &ReceivedQuery::default());
    assert_eq!(got.iter().map(|m| m.recipient.clone()).collect::<Vec<_>>(), to);
}

#[tokio::test]
async fn the_same_text_twice_to_one_recipient_is_a_duplicate_and_another_text_is_not() {
    let running = start().await;
    for body in ["one", "one", "two"] {
        line(&running, "push", &json!({"to": user(1), "messages": text(body)})).await;
    }
    let summary = running.handle().channel_summary(Channel::Line);
    assert_eq!((summary.max_to_one_recipient, summary.duplicates), (3, 1));
}

#[tokio::test]
async fn an_unknown_token_is_refused_with_401() {
    let running = start().await;
    let url = format!("{}/v2/bot/message/push", running.http_url());
    let body = json!({"to": user(1), "messages": text("x")});
    for request in [http().post(&url), http().post(&url).bearer_auth("nobody")] {
        let refused = answer(request.json(&body)).await.unwrap();
        assert_eq!(refused.status, 401);
        assert!(
            refused
                .message()
                .starts_with("Authentication failed due to the following reason")
        );
        assert_eq!(refused.header("x-line-request-id").len(), 36);
    }
    assert_eq!(running.handle().channel_summary(Channel::Line).refused[&401], 2);
}

#[tokio::test]
async fn a_rotated_token_works_beside_the_old_one_until_that_is_revoked() {
    let running = start().await;
    let handle = running.handle();
    let rotated = LineAccount {
        access_token: "new-token".to_owned(),
        channel_id: LINE_CHANNEL_ID.to_owned(),
        bot_user_id: user(9),
        display_name: String::new(),
        monthly_quota: None,
        channel_secret: None,
    };
    handle.register(Account::Line(rotated)).unwrap();
    let url = format!("{}/v2/bot/message/push", running.http_url());
    let body = json!({"to": user(1), "messages": text("x")});
    let push = async |token: &str| {
        answer(http().post(&url).bearer_auth(token).json(&body))
            .await
            .unwrap()
            .status
    };
    assert_eq!((push(LINE_TOKEN).await, push("new-token").await), (200, 200));
    assert!(handle.revoke(Channel::Line, LINE_TOKEN));
    assert_eq!((push(LINE_TOKEN).await, push("new-token").await), (401, 200));
}

#[tokio::test]
async fn requests_line_would_refuse_are_refused_and_count_for_nobody() {
    let running = start().await;
    let many: Vec<String> = (0..501).map(user).collect();
    let cases = [
        ("push", json!({"messages": text("x")}), 400),
        ("push", json!({"to": user(1)}), 400),
        ("push", json!({"to": [user(1)], "messages": text("x")}), 400),
        ("push", json!({"to": "U123", "messages": text("x")}), 400),
        (
            "push",
            json!({"to": user(1).to_uppercase() + "A", "messages": text("x")}),
            400,
        ),
        ("push", json!({"to": user(1), "messages": []}), 400),
        ("push", json!({"to": user(1), "messages": text("x"), "extra": 1}), 400),
        (
            "push",
            json!({"to": user(1), "messages": text("x"), "notificationDisabled": "no"}),
            400,
        ),
        (
            "push",
            json!({"to": user(1), "messages": text("x"), "customAggregationUnits": ["a b"]}),
            400,
        ),
        ("push", json!([]), 400),
        ("multicast", json!({"to": user(1), "messages": text("x")}), 400),
        ("multicast", json!({"to": [], "messages": text("x")}), 400),
        ("multicast", json!({"to": [user(1), 7], "messages": text("x")}), 400),
        ("multicast", json!({"to": many, "messages": text("x")}), 400),
        ("broadcasts", json!({}), 404),
    ];
    for (call, body, status) in cases {
        let refused = line(&running, call, &body).await;
        assert_eq!(refused.status, status, "{call} {body}");
        assert!(!refused.message().is_empty());
    }
    assert_eq!(running.handle().channel_summary(Channel::Line).messages, 0);
}

#[tokio::test]
async fn every_wrong_property_is_named_with_its_path() {
    let running = start().await;
    let messages = json!([{"type": "text", "text": ""}, {"type": "text", "text": "a", "colour": 1}]);
    let refused = line(&running, "push", &json!({"to": user(1), "messages": messages})).await;
    assert_eq!(refused.message(), "The request body has 2 error(s)");
    let expected = json!([
        {"message": "May not be empty", "property": "messages[0].text"},
        {"message": "Unknown property", "property": "messages[1].colour"},
    ]);
    assert_eq!(refused.body["details"], expected);
    let to = [user(1), "nobody".to_owned()];
    let refused = line(&running, "multicast", &json!({"to": to, "messages": text("x")})).await;
    assert!(
        refused
            .message()
            .starts_with("The property, to[1], in the request body is invalid")
    );
}

#[tokio::test]
async fn what_is_not_json_or_not_declared_as_json_or_too_large_is_refused() {
    let running = start().await;
    let url = format!("{}/v2/bot/message/push", running.http_url());
    let post = |content_type: &str, body: String| {
        let request = http()
            .post(&url)
            .bearer_auth(LINE_TOKEN)
            .header("content-type", content_type);
        answer(request.body(body))
    };
    let valid = json!({"to": user(1), "messages": text("x")}).to_string();
    assert_eq!(post("text/plain", valid.clone()).await.unwrap().status, 415);
    let parsed = post("application/json", "{\"to\":".to_owned()).await.unwrap();
    assert!(parsed.status == 400 && parsed.message().contains("could not be parsed"));
    let twice = valid.replacen('{', "{\"to\":\"x\",", 1);
    assert_eq!(post("application/json", twice).await.unwrap().status, 400);
    let large = format!("{valid}{}", " ".repeat(2 * 1024 * 1024));
    assert_eq!(post("application/json", large).await.unwrap().status, 413);
    assert_eq!(
        post("application/json; charset=utf-8", valid).await.unwrap().status,
        200
    );
}

#[tokio::test]
async fn the_monthly_quota_is_all_or_nothing_and_replies_are_free() {
    let running = start().await;
    let handle = running.handle();
    let light = LineAccount {
        access_token: "light".to_owned(),
        channel_id: "2".to_owned(),
        bot_user_id: user(2),
        display_name: "Light".to_owned(),
        monthly_quota: Some(3),
        channel_secret: None,
    };
    handle.register(Account::Line(light)).unwrap();
    let base = running.http_url();
    let post = async |call: &str, body: serde_json::Value| {
        let request = http()
            .post(format!("{base}/v2/bot/message/{call}"))
            .bearer_auth("light");
        answer(request.json(&body)).await.unwrap()
    };
    let get = async |path: &str| {
        answer(http().get(format!("{base}/v2/bot/{path}")).bearer_auth("light"))
            .await
            .unwrap()
            .body
    };
    let two = json!({"to": [user(1), user(2)], "messages": text("x")});
    assert_eq!(post("multicast", two.clone()).await.status, 200);
    let refused = post("multicast", two).await;
    assert_eq!(
        (refused.status, refused.message()),
        (429, "You have reached your monthly limit.")
    );
    let token = handle.issue_reply_token(&user(5));
    assert_eq!(
        post("reply", json!({"replyToken": token, "messages": text("x")}))
            .await
            .status,
        200
    );
    assert_eq!(get("message/quota").await, json!({"type": "limited", "value": 3}));
    assert_eq!(get("message/quota/consumption").await, json!({"totalUsage": 2}));
    assert_eq!(get("info").await["userId"], user(2));
    assert_eq!(handle.received_by(Channel::Line, &user(5)).len(), 1);
}

#[tokio::test]
async fn a_reply_token_works_once_and_for_a_minute() {
    let running = start().await;
    let handle = running.handle();
    let used = json!({"replyToken": handle.issue_reply_token(&user(1)), "messages": text("x")});
    assert_eq!(line(&running, "reply", &used).await.status, 200);
    assert_eq!(line(&running, "reply", &used).await.message(), "Invalid reply token");
    let stale = json!({"replyToken": handle.issue_reply_token(&user(1)), "messages": text("x")});
    handle.advance_clock(std::time::Duration::from_secs(61));
    assert_eq!(line(&running, "reply", &stale).await.message(), "Invalid reply token");
    let unknown = json!({"replyToken": "never-issued", "messages": text("x")});
    assert_eq!(line(&running, "reply", &unknown).await.status, 400);
}

#[tokio::test]
async fn a_token_can_be_verified() {
    let running = start().await;
    let url = format!("{}/v2/oauth/verify", running.http_url());
    let known = answer(http().post(&url).form(&[("access_token", LINE_TOKEN)]))
        .await
        .unwrap();
    assert_eq!(
        (known.status, known.body["client_id"].as_str()),
        (200, Some(LINE_CHANNEL_ID))
    );
    let unknown = answer(http().post(&url).form(&[("access_token", "x")])).await.unwrap();
    assert_eq!(
        (unknown.status, unknown.body["error"].as_str()),
        (400, Some("invalid_request"))
    );
}
