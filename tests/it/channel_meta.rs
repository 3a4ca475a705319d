//! Messenger and WhatsApp as the sandbox speaks them: what we send is valid there, and what it answers is understood.

use carillon::channel::{Channel, ErrorClass, SendOutcome};
use carillon_sandbox::{Channel as Provider, Fault, FaultKind, PHONE_NUMBER_ID, WHATSAPP_TEMPLATE};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    channel_scene::{Scene, all_shapes, full},
    meta_scene::{number, page},
};

const BOTH: [(Channel, Provider, &str); 2] = [
    (Channel::Messenger, Provider::Messenger, "7000000000000001"),
    (Channel::Whatsapp, Provider::Whatsapp, "+886000000001"),
];

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

fn with(mut json: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        json[*name] = value.clone();
    }
    json
}

#[tokio::test]
async fn every_shape_of_message_is_valid_and_arrives_as_written() {
    for (channel, provider, to) in BOTH {
        let scene = Scene::new(channel).await;
        for content in all_shapes() {
            let message = scene.render(&content, "小\"美\\", Uuid::nil());
            let outcome = scene.channels.send(&scene.sender, to, &message, Uuid::nil()).await;
            assert!(
                matches!(outcome, SendOutcome::Accepted { provider_id: Some(_) }),
                "{content}: {outcome:?}"
            );
        }
        let received = scene.sandbox.handle().received_by(provider, to);
        assert_eq!(received.len(), 4);
        for message in received {
            let text = "小\"美\\ 您好，全館 {5 折} https://shop.example";
            assert!(message.text.replace('\n', "").contains(text), "{}", message.text);
            assert_eq!(message.marker, "carillon.0000000000000000000000000000000b");
            assert!(message.body.contains("carillon.0000000000000000000000000000000b.7"));
        }
    }
}

#[tokio::test]
async fn every_fault_gets_its_class() {
    use ErrorClass::{Credentials, Recipient, Throttled, Uncertain};
    for (channel, provider, to) in BOTH {
        let scene = Scene::new(channel).await;
        let handle = scene.sandbox.handle();
        for (fault, expected) in [
            (FaultKind::Throttled, Throttled),
            (FaultKind::ServerError, Uncertain),
            (FaultKind::ServerErrorAfter, Uncertain),
            (FaultKind::Unavailable, Uncertain),
            (FaultKind::ResetBefore, Uncertain),
            (FaultKind::ResetAfter, Uncertain),
            (FaultKind::Hang, Uncertain),
            (FaultKind::HangAfter, Uncertain),
            (FaultKind::Truncated, Uncertain),
            (FaultKind::Garbage, Uncertain),
            (FaultKind::InvalidRecipient, Recipient),
            (FaultKind::BadCredentials, Credentials),
        ] {
            handle
                .set_fault(Fault::new(provider, fault).times(1).retry_after_secs(3))
                .unwrap();
            let message = scene.render(&full(), "小美", Uuid::nil());
            let outcome = scene.channels.send(&scene.sender, to, &message, Uuid::nil()).await;
            assert_eq!(class(&outcome), Some(expected), "{channel} {fault:?}: {outcome:?}");
            if let SendOutcome::Refused(refusal) = outcome
                && expected == Throttled
            {
                assert_eq!(refusal.retry_after.map(|wait| wait.as_secs()), Some(3));
            }
            let again = scene.channels.send(&scene.sender, to, &message, Uuid::nil()).await;
            assert_eq!(class(&again), None, "{channel} {fault:?}: {again:?}");
        }
    }
}

#[tokio::test]
async fn wrong_credentials_of_any_kind_are_a_matter_of_credentials() {
    let wrong = |base: fn() -> Value, id: &str| {
        vec![
            with(base(), &[("access_token", "someone-elses".into())]),
            with(base(), &[("app_secret", "another-secret".into())]),
            with(base(), &[("app_secret", Value::Null)]),
            with(base(), &[(id, "999".into())]),
            with(
                base(),
                &[
                    (id, PHONE_NUMBER_ID.into()),
                    ("access_token", carillon_sandbox::PAGE_TOKEN.into()),
                ],
            ),
        ]
    };
    for ((channel, provider, to), wrong) in BOTH
        .into_iter()
        .zip([wrong(page, "page_id"), wrong(number, "phone_number_id")])
    {
        let scene = Scene::new(channel).await;
        let message = scene.render(&full(), "小美", Uuid::nil());
        for credentials in wrong {
            let stranger = scene.sender(&credentials);
            let outcome = scene.channels.send(&stranger, to, &message, Uuid::nil()).await;
            assert_eq!(
                class(&outcome),
                Some(ErrorClass::Credentials),
                "{channel} {credentials}: {outcome:?}"
            );
        }
        assert_eq!(scene.sandbox.handle().channel_summary(provider).messages, 0);
    }
}

#[tokio::test]
async fn a_template_is_filled_and_one_that_nobody_approved_pauses_the_number() {
    let scene = Scene::new(Channel::Whatsapp).await;
    let (name, language) = WHATSAPP_TEMPLATE;
    let template = |name: &str| {
        json!({"name": name, "language": language, "header_image": true, "body": ["first_name", "text"],
            "button_url_prefix": "https://shop.example/"})
    };
    let to = BOTH[1].2;
    for (name, expected) in [(name, None), ("nobody_approved", Some(ErrorClass::Credentials))] {
        let sender = scene.sender(&with(number(), &[("template", template(name))]));
        let templated = Scene {
            sender,
            ..Scene::new(Channel::Whatsapp).await
        };
        let message = templated.render(&full(), "小美", Uuid::nil());
        let outcome = scene.channels.send(&templated.sender, to, &message, Uuid::nil()).await;
        assert_eq!(class(&outcome), expected, "{outcome:?}");
    }
    let received = scene.sandbox.handle().received_by(Provider::Whatsapp, to);
    let expected = "小美\n小美 您好，全館 {5 折} https://shop.example\nsale?a=1&b=%E6%8A%98";
    assert_eq!(
        received.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(),
        [expected]
    );
}

#[tokio::test]
async fn a_message_of_another_channel_never_leaves() {
    let scene = Scene::new(Channel::Messenger).await;
    let other = Scene::new(Channel::Whatsapp).await.render(&full(), "小美", Uuid::nil());
    let outcome = scene.channels.send(&scene.sender, BOTH[0].2, &other, Uuid::nil()).await;
    assert_eq!(class(&outcome), Some(ErrorClass::Content));
    assert_eq!(scene.sandbox.handle().channel_summary(Provider::Messenger).requests, 0);
}
