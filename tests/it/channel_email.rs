//! A mail relay as the sandbox speaks it.

use carillon::channel::{Channel, ErrorClass, SendOutcome};
use carillon_sandbox::{Channel as Provider, Fault, FaultKind};
use futures::future::join_all;
use uuid::Uuid;

use crate::channel_scene::{Scene, all_shapes, email_credentials, full};

const AMY: &str = "amy@customer.example";

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

#[tokio::test]
async fn every_shape_of_mail_is_valid_and_arrives_as_written() {
    let scene = Scene::new(Channel::Email).await;
    for content in all_shapes() {
        let message = scene.render(&content, "小\"美\\", Uuid::from_u128(0xd));
        let outcome = scene
            .channels
            .send(&scene.sender, AMY, &message, Uuid::from_u128(0xd))
            .await;
        assert_eq!(class(&outcome), None, "{content}: {outcome:?}");
    }
    let received = scene.sandbox.handle().received_by(Provider::Smtp, AMY);
    assert_eq!(received.len(), 4);
    for mail in received {
        assert!(
            mail.text.contains("小\"美\\ 您好，全館 {5 折} https://shop.example"),
            "{}",
            mail.text
        );
        assert!(mail.body.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));
        assert!(
            mail.marker.contains("0000000000000000000000000000000b"),
            "{}",
            mail.marker
        );
    }
}

#[tokio::test]
async fn a_crowd_of_mails_shares_the_configured_connections() {
    let scene = Scene::new(Channel::Email).await;
    let message = scene.render(&full(), "小美", Uuid::nil());
    let addresses: Vec<String> = (0..200).map(|one| format!("c{one}@customer.example")).collect();
    let sends = addresses
        .iter()
        .map(|to| scene.channels.send(&scene.sender, to, &message, Uuid::nil()));
    assert!(join_all(sends).await.iter().all(|outcome| class(outcome).is_none()));
    let summary = scene.sandbox.handle().channel_summary(Provider::Smtp);
    assert_eq!((summary.distinct_recipients, summary.max_to_one_recipient), (200, 1));
    assert!(summary.connections <= 10, "{} connections", summary.connections);
}

#[tokio::test]
async fn every_fault_gets_its_class_at_every_stage() {
    use FaultKind::{
        BadCredentials, Garbage, Hang, HangAfter, InvalidRecipient, ResetAfter, ResetBefore, ServerError,
        ServerErrorAfter, Throttled, Truncated, Unavailable,
    };
    for (stage, fault, expected) in [
        ("connect", ResetBefore, ErrorClass::Unreachable),
        ("ehlo", Hang, ErrorClass::Unreachable),
        ("auth", BadCredentials, ErrorClass::Credentials),
        ("mail", Throttled, ErrorClass::Throttled),
        ("mail", ResetBefore, ErrorClass::Unreachable),
        ("rcpt", InvalidRecipient, ErrorClass::Recipient),
        ("rcpt", Unavailable, ErrorClass::Throttled),
        ("data", ServerError, ErrorClass::Throttled),
        ("data", ResetBefore, ErrorClass::Unreachable),
        ("body", ServerError, ErrorClass::Throttled),
        ("body", ServerErrorAfter, ErrorClass::Throttled),
        ("body", ResetBefore, ErrorClass::Uncertain),
        ("body", ResetAfter, ErrorClass::Uncertain),
        ("body", Hang, ErrorClass::Uncertain),
        ("body", HangAfter, ErrorClass::Uncertain),
        ("body", Truncated, ErrorClass::Uncertain),
        ("body", Garbage, ErrorClass::Uncertain),
    ] {
        let scene = Scene::new(Channel::Email).await;
        let message = scene.render(&full(), "小美", Uuid::nil());
        let rule = Fault::new(Provider::Smtp, fault).at(stage).times(1);
        scene.sandbox.handle().set_fault(rule).unwrap();
        let outcome = scene.channels.send(&scene.sender, AMY, &message, Uuid::nil()).await;
        assert_eq!(class(&outcome), Some(expected), "{stage} {fault:?}: {outcome:?}");
        let again = scene.channels.send(&scene.sender, AMY, &message, Uuid::nil()).await;
        assert_eq!(class(&again), None, "{stage} {fault:?}: {again:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_a_matter_of_credentials() {
    let scene = Scene::new(Channel::Email).await;
    let stranger = scene.sender(&email_credentials(&scene.sandbox, "wrong"));
    let message = scene.render(&full(), "小美", Uuid::nil());
    let outcome = scene.channels.send(&stranger, AMY, &message, Uuid::nil()).await;
    assert_eq!(class(&outcome), Some(ErrorClass::Credentials));
}
