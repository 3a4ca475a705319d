//! LINE as the sandbox speaks it: what we send is valid there, and what it answers is understood.

use carillon::channel::{Channel, ErrorClass, Refusal, SendOutcome};
use carillon_sandbox::{Channel as Provider, Fault, FaultKind};
use serde_json::json;
use uuid::Uuid;

use crate::channel_scene::{Scene, all_shapes, full, line_credentials};

const AMY: &str = "U0000000000000000000000000000000a";

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

#[tokio::test]
async fn every_shape_of_message_is_valid_and_arrives_as_written() {
    let scene = Scene::new(Channel::Line).await;
    for content in all_shapes() {
        let key = Uuid::new_v4();
        let message = scene.render(&content, "小\"美\\", key);
        let outcome = scene.channels.send(&scene.sender, AMY, &message, key).await;
        assert!(
            matches!(outcome, SendOutcome::Accepted { provider_id: Some(_) }),
            "{content}: {outcome:?}"
        );
    }
    let received = scene.sandbox.handle().received_by(Provider::Line, AMY);
    assert_eq!(received.len(), 4);
    for message in received {
        let text = "小\"美\\ 您好，全館 {5 折} https://shop.example";
        assert!(message.text.contains(text), "{}", message.text);
        assert_eq!(message.marker, "bc_b");
    }
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_accepted_and_arrives_once() {
    let scene = Scene::new(Channel::Line).await;
    let handle = scene.sandbox.handle();
    for fault in [
        FaultKind::ResetAfter,
        FaultKind::ServerErrorAfter,
        FaultKind::Truncated,
        FaultKind::Garbage,
    ] {
        let key = Uuid::new_v4();
        let to = format!("U{}", key.simple());
        handle.set_fault(Fault::new(Provider::Line, fault).times(1)).unwrap();
        let message = scene.render(&full(), "小美", key);
        let first = scene.channels.send(&scene.sender, &to, &message, key).await;
        assert_eq!(class(&first), Some(ErrorClass::Uncertain), "{fault:?}");
        let repeat = scene.channels.send(&scene.sender, &to, &message, key).await;
        assert!(
            matches!(repeat, SendOutcome::Accepted { provider_id: Some(_) }),
            "{fault:?}: {repeat:?}"
        );
        assert_eq!(handle.received_by(Provider::Line, &to).len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_multicast_reaches_five_hundred_once_however_often_it_is_repeated() {
    let scene = Scene::new(Channel::Line).await;
    let users: Vec<String> = (0..500).map(|number| format!("U{number:032x}")).collect();
    let to: Vec<&str> = users.iter().map(String::as_str).collect();
    let message = scene.render(&json!({"text": "折扣"}), "", Uuid::nil());
    let key = Uuid::new_v4();
    for _ in 0..3 {
        let outcome = scene.channels.multicast(&scene.sender, &to, &message, key).await;
        assert!(matches!(outcome, SendOutcome::Accepted { .. }), "{outcome:?}");
    }
    let summary = scene.sandbox.handle().channel_summary(Provider::Line);
    assert_eq!((summary.distinct_recipients, summary.max_to_one_recipient), (500, 1));
}

#[tokio::test]
async fn every_fault_gets_its_class() {
    let scene = Scene::new(Channel::Line).await;
    let handle = scene.sandbox.handle();
    for (fault, expected) in [
        (FaultKind::Throttled, ErrorClass::Throttled),
        (FaultKind::Quota, ErrorClass::Quota),
        (FaultKind::ServerError, ErrorClass::Uncertain),
        (FaultKind::Unavailable, ErrorClass::Uncertain),
        (FaultKind::ResetBefore, ErrorClass::Uncertain),
        (FaultKind::Hang, ErrorClass::Uncertain),
        (FaultKind::InvalidRecipient, ErrorClass::Recipient),
        (FaultKind::BadCredentials, ErrorClass::Credentials),
    ] {
        handle
            .set_fault(Fault::new(Provider::Line, fault).times(1).retry_after_secs(3))
            .unwrap();
        let key = Uuid::new_v4();
        let message = scene.render(&full(), "小美", key);
        let outcome = scene.channels.send(&scene.sender, AMY, &message, key).await;
        assert_eq!(class(&outcome), Some(expected), "{fault:?}: {outcome:?}");
        if let (FaultKind::Throttled, SendOutcome::Refused(Refusal { retry_after, .. })) = (fault, outcome) {
            assert_eq!(retry_after.map(|wait| wait.as_secs()), Some(3));
        }
        let again = scene.channels.send(&scene.sender, AMY, &message, key).await;
        assert_eq!(class(&again), None, "{fault:?}: {again:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_a_matter_of_credentials() {
    let scene = Scene::new(Channel::Line).await;
    let stranger = scene.sender(&line_credentials("someone-elses-token"));
    let message = scene.render(&full(), "小美", Uuid::nil());
    let outcome = scene.channels.send(&stranger, AMY, &message, Uuid::new_v4()).await;
    assert_eq!(class(&outcome), Some(ErrorClass::Credentials));
}

#[tokio::test]
async fn a_message_of_another_channel_never_leaves() {
    let scene = Scene::new(Channel::Line).await;
    let mail = Scene::new(Channel::Email).await.render(&full(), "小美", Uuid::nil());
    let outcome = scene.channels.send(&scene.sender, AMY, &mail, Uuid::nil()).await;
    assert_eq!(class(&outcome), Some(ErrorClass::Content));
    assert_eq!(scene.sandbox.handle().channel_summary(Provider::Line).requests, 0);
}
