//! FCM as the sandbox speaks it.

use carillon::channel::{Channel, ErrorClass, SendOutcome};
use carillon_sandbox::{Channel as Provider, Fault, FaultKind};
use futures::future::join_all;
use uuid::Uuid;

use crate::channel_scene::{Scene, all_shapes, full};

const DEVICE: &str = "cXYZ-device_1:APA91bAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

#[tokio::test]
async fn every_shape_of_push_is_valid_and_arrives_as_written() {
    let scene = Scene::new(Channel::App).await;
    for content in all_shapes() {
        let message = scene.render(&content, "小\"美\\", Uuid::from_u128(0xd));
        let outcome = scene
            .channels
            .send(&scene.sender, DEVICE, &message, Uuid::from_u128(0xd))
            .await;
        assert!(
            matches!(outcome, SendOutcome::Accepted { provider_id: Some(_) }),
            "{content}: {outcome:?}"
        );
    }
    let received = scene.sandbox.handle().received_by(Provider::Fcm, DEVICE);
    assert_eq!(received.len(), 4);
    for message in received {
        assert!(
            message.text.contains("小\"美\\ 您好，全館 {5 折} https://shop.example"),
            "{}",
            message.text
        );
        assert_eq!(message.marker, "00000000-0000-0000-0000-00000000000b");
    }
}

#[tokio::test]
async fn a_thousand_pushes_go_out_on_one_login() {
    let scene = Scene::new(Channel::App).await;
    let message = scene.render(&full(), "小美", Uuid::nil());
    for hundred in 0..10 {
        let devices: Vec<String> = (0..100).map(|one| format!("{DEVICE}{hundred}_{one}")).collect();
        let sends = devices
            .iter()
            .map(|to| scene.channels.send(&scene.sender, to, &message, Uuid::nil()));
        assert!(join_all(sends).await.iter().all(|outcome| class(outcome).is_none()));
    }
    let summary = scene.sandbox.handle().channel_summary(Provider::Fcm);
    assert_eq!((summary.distinct_recipients, summary.max_to_one_recipient), (1_000, 1));
}

#[tokio::test]
async fn a_revoked_token_is_renewed_without_a_lost_push() {
    let scene = Scene::new(Channel::App).await;
    let message = scene.render(&full(), "小美", Uuid::nil());
    for _ in 0..3 {
        let sends = (0..20).map(|_| scene.channels.send(&scene.sender, DEVICE, &message, Uuid::nil()));
        assert!(join_all(sends).await.iter().all(|outcome| class(outcome).is_none()));
        scene.sandbox.handle().revoke_fcm_access_tokens();
    }
}

#[tokio::test]
async fn every_fault_gets_its_class() {
    let scene = Scene::new(Channel::App).await;
    let handle = scene.sandbox.handle();
    let message = scene.render(&full(), "小美", Uuid::nil());
    for (fault, expected) in [
        (FaultKind::Throttled, ErrorClass::Throttled),
        (FaultKind::Unavailable, ErrorClass::Throttled),
        (FaultKind::ServerError, ErrorClass::Uncertain),
        (FaultKind::ServerErrorAfter, ErrorClass::Uncertain),
        (FaultKind::ResetBefore, ErrorClass::Uncertain),
        (FaultKind::ResetAfter, ErrorClass::Uncertain),
        (FaultKind::Hang, ErrorClass::Uncertain),
        (FaultKind::Truncated, ErrorClass::Uncertain),
        (FaultKind::Garbage, ErrorClass::Uncertain),
        (FaultKind::InvalidRecipient, ErrorClass::Recipient),
    ] {
        handle.set_fault(Fault::new(Provider::Fcm, fault).times(1)).unwrap();
        let outcome = scene.channels.send(&scene.sender, DEVICE, &message, Uuid::nil()).await;
        assert_eq!(class(&outcome), Some(expected), "{fault:?}: {outcome:?}");
        let again = scene.channels.send(&scene.sender, DEVICE, &message, Uuid::nil()).await;
        assert_eq!(class(&again), None, "{fault:?}: {again:?}");
    }
    for fault in [
        FaultKind::BadCredentials,
        FaultKind::ServerError,
        FaultKind::ResetBefore,
        FaultKind::Garbage,
    ] {
        handle.revoke_fcm_access_tokens();
        handle
            .set_fault(Fault::new(Provider::Fcm, fault).at("token").times(1))
            .unwrap();
        let before = handle.channel_summary(Provider::Fcm).messages;
        let outcome = scene.channels.send(&scene.sender, DEVICE, &message, Uuid::nil()).await;
        let known = matches!(class(&outcome), Some(ErrorClass::Unreachable | ErrorClass::Credentials));
        assert!(known, "{fault:?}: {outcome:?}");
        assert_eq!(handle.channel_summary(Provider::Fcm).messages, before);
        handle.clear_faults();
        let again = scene.channels.send(&scene.sender, DEVICE, &message, Uuid::nil()).await;
        assert_eq!(class(&again), None, "{fault:?}: {again:?}");
    }
}
