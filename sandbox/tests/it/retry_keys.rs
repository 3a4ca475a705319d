//! LINE's retry keys: once for 24 hours, whatever races or breaks.

use std::time::Duration;

use carillon_sandbox::{Channel, Fault, FaultKind};
use serde_json::json;

use crate::client::{keyed, line, start, text, user};

const KEY: &str = "123e4567-e89b-42d3-a456-426614174000";

#[tokio::test]
async fn a_key_accepted_before_answers_409_with_what_was_accepted() {
    let running = start().await;
    let body = json!({"to": user(1), "messages": text("x")});
    let first = keyed(&running, "push", KEY, &body).await.unwrap();
    let again = keyed(&running, "push", KEY, &body).await.unwrap();
    assert_eq!((first.status, again.status), (200, 409));
    assert_eq!(again.message(), "The retry key is already accepted");
    assert_eq!(
        again.header("x-line-accepted-request-id"),
        first.header("x-line-request-id")
    );
    assert_ne!(again.header("x-line-request-id"), first.header("x-line-request-id"));
    assert_eq!(again.body["sentMessages"], first.body["sentMessages"]);
    assert_eq!(running.handle().received_by(Channel::Line, &user(1)).len(), 1);
}

#[tokio::test]
async fn a_repeated_multicast_names_no_messages() {
    let running = start().await;
    let body = json!({"to": [user(1), user(2)], "messages": text("x")});
    keyed(&running, "multicast", KEY, &body).await.unwrap();
    let again = keyed(&running, "multicast", KEY, &body).await.unwrap();
    assert_eq!((again.status, again.body.get("sentMessages")), (409, None));
    assert_eq!(running.handle().channel_summary(Channel::Line).messages, 2);
}

#[tokio::test]
async fn the_same_key_with_another_body_or_endpoint_is_refused() {
    let running = start().await;
    let body = json!({"to": user(1), "messages": text("x")});
    keyed(&running, "push", KEY, &body).await.unwrap();
    let other = json!({"to": user(2), "messages": text("x")});
    assert_eq!(keyed(&running, "push", KEY, &other).await.unwrap().status, 400);
    let other = json!({"to": [user(1)], "messages": text("x")});
    assert_eq!(keyed(&running, "multicast", KEY, &other).await.unwrap().status, 400);
    assert_eq!(running.handle().channel_summary(Channel::Line).messages, 1);
}

#[tokio::test]
async fn after_24_hours_the_same_key_is_a_new_request() {
    let running = start().await;
    let handle = running.handle();
    let body = json!({"to": user(1), "messages": text("x")});
    keyed(&running, "push", KEY, &body).await.unwrap();
    handle.advance_clock(Duration::from_secs(24 * 3600 - 10));
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 409);
    handle.advance_clock(Duration::from_secs(11));
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 200);
    assert_eq!(handle.channel_summary(Channel::Line).duplicates, 1);
}

#[tokio::test]
async fn a_key_that_is_no_dashed_uuid_or_stands_on_another_endpoint_is_refused() {
    let running = start().await;
    let body = json!({"to": user(1), "messages": text("x")});
    for key in [
        "",
        "x",
        "123e4567e89b42d3a456426614174000",
        "{123e4567-e89b-42d3-a456-426614174000}",
    ] {
        assert_eq!(keyed(&running, "push", key, &body).await.unwrap().status, 400, "{key}");
    }
    let token = running.handle().issue_reply_token(&user(1));
    let reply = json!({"replyToken": token, "messages": text("x")});
    assert_eq!(keyed(&running, "reply", KEY, &reply).await.unwrap().status, 400);
    let validate = json!({"messages": text("x")});
    assert_eq!(
        keyed(&running, "validate/push", KEY, &validate).await.unwrap().status,
        400
    );
    assert_eq!(line(&running, "reply", &reply).await.status, 200);
}

#[tokio::test]
async fn a_key_refused_before_acceptance_stays_usable() {
    let running = start().await;
    let handle = running.handle();
    let body = json!({"to": user(1), "messages": text("x")});
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::ServerError).times(1))
        .unwrap();
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 500);
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 200);
    assert_eq!(handle.channel_summary(Channel::Line).messages, 1);
}

#[tokio::test]
async fn a_cut_after_acceptance_is_told_by_the_409_and_counted_once() {
    let running = start().await;
    let handle = running.handle();
    let body = json!({"to": user(1), "messages": text("x")});
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::ResetAfter).times(1))
        .unwrap();
    assert!(keyed(&running, "push", KEY, &body).await.is_err());
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 409);
    assert_eq!(handle.received_by(Channel::Line, &user(1)).len(), 1);
}

#[tokio::test]
async fn whom_it_has_accepted_it_does_not_look_at_again() {
    let running = start().await;
    let handle = running.handle();
    let body = json!({"to": user(1), "messages": text("x")});
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 200);
    handle
        .set_fault(Fault::new(Channel::Line, FaultKind::InvalidRecipient))
        .unwrap();
    assert_eq!(keyed(&running, "push", KEY, &body).await.unwrap().status, 409);
}

#[tokio::test]
async fn of_many_racing_requests_with_one_key_exactly_one_is_accepted() {
    let running = start().await;
    let body = json!({"to": user(1), "messages": text("x")});
    let (running, body) = (&running, &body);
    let mut racing = Vec::new();
    for _ in 0..16 {
        racing.push(keyed(running, "push", KEY, body));
    }
    let mut statuses = Vec::new();
    for answer in futures_all(racing).await {
        statuses.push(answer.unwrap().status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15);
    assert_eq!(running.handle().channel_summary(Channel::Line).messages, 1);
}

/// Polls all futures at once and returns their results in order.
async fn futures_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pinned {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        let done = pinned.iter().all(|(_, output)| output.is_some());
        if done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pinned.into_iter().filter_map(|(_, output)| output).collect()
}
