//! Messenger and Instagram: every event type of Meta's reference.

use serde_json::{Value, json};

use super::*;
use crate::channel::webhook::{
    Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, ReceiptState, Referral,
};

fn all(event: Value) -> Vec<WebhookEvent> {
    let mut event = event;
    event["sender"] = json!({"id": "5678"});
    event["recipient"] = json!({"id": "page"});
    event["timestamp"] = AT_MS.into();
    events(
        Provider::Messenger,
        &json!({"object": "page", "entry": [{"id": "12345", "time": AT_MS, "messaging": [event]}]}),
    )
}

fn told(event: Value) -> WebhookEvent {
    only(all(event))
}

#[test]
fn only_metas_envelope_is_read() {
    for body in [
        "{}",
        r#"{"object": "page"}"#,
        r#"{"object": "user", "entry": []}"#,
        r#"{"object": "page", "entry": 1}"#,
    ] {
        assert!(
            matches!(refused(Provider::Messenger, body), ParseError::Shape(_)),
            "{body}"
        );
    }
    assert_eq!(
        events(
            Provider::Messenger,
            &json!({"object": "instagram", "entry": [{}, 7, null]})
        ),
        []
    );
}

#[test]
fn a_message_is_told_whole() {
    let event = told(json!({"message": {
        "mid": "m_1", "text": "hi", "reply_to": {"mid": "m_0"},
        "attachments": [
            {"type": "image", "payload": {"url": "https://cdn.fb/a.jpg"}},
            {"type": "image", "payload": {"url": "https://cdn.fb/s.png", "sticker_id": 369_239_263_222_822_i64}},
            {"type": "location", "payload": {"coordinates": {"lat": 1, "long": 2}, "title": "Here"}},
            {"type": "fallback", "title": "A page", "url": "https://elsewhere.tw"},
            {"type": "story_mention", "payload": {"url": "javascript:alert(1)"}},
        ],
        "referral": {"ref": "r", "ad_id": 77, "source": "ADS", "type": "OPEN_THREAD",
            "ads_context_data": {"ad_title": "Sale", "post_id": "1_2", "photo_url": "https://cdn.fb/p.jpg"}},
    }}));
    assert_eq!(
        (event.key.as_str(), event.at, event.from.as_deref()),
        ("message:m_1", at(), Some("5678"))
    );
    assert_eq!(event.account.as_deref(), Some("12345"));
    let attachment = |kind, source: Option<&str>, label: Option<&str>| Attachment {
        kind,
        source: source.map(|url| MediaSource::Url(url.into())),
        label: label.map(Into::into),
    };
    let expected = InboundMessage {
        message_id: "m_1".into(),
        text: Some("hi".into()),
        attachments: vec![
            attachment(AttachmentKind::Image, Some("https://cdn.fb/a.jpg"), None),
            attachment(AttachmentKind::Sticker, None, Some("369239263222822")),
            attachment(AttachmentKind::Location, None, Some("Here")),
            attachment(AttachmentKind::Other, None, Some("A page")),
            attachment(AttachmentKind::Other, None, Some("story_mention")),
        ],
        reply_to: Some("m_0".into()),
        referral: Some(Referral {
            ad_id: Some("77".into()),
            title: Some("Sale".into()),
            url: Some("https://www.facebook.com/1_2".into()),
            reference: Some("r".into()),
        }),
        ..InboundMessage::default()
    };
    assert_eq!(event.what, What::Message(expected));
}

#[test]
fn an_echo_names_the_customer_and_our_mark() {
    let body = json!({"object": "page", "entry": [{"id": "page", "messaging": [{
        "sender": {"id": "page"}, "recipient": {"id": "5678"}, "timestamp": AT_MS,
        "message": {"is_echo": true, "app_id": 1, "metadata": mark().to_string(), "mid": "m_2", "text": "Sale"},
    }]}]});
    let event = only(events(Provider::Messenger, &body));
    let expected = Echo {
        message_id: "m_2".into(),
        mark: Some(mark()),
        text: Some("Sale".into()),
        ..Echo::default()
    };
    assert_eq!((event.key.as_str(), event.from.as_deref()), ("echo:m_2", Some("5678")));
    assert_eq!(event.what, What::Echo(expected));
}

#[test]
fn buttons_edits_and_deletions_have_their_words() {
    let message_id = "m_1".to_owned();
    let pressed = Postback {
        message_id: Some(message_id.clone()),
        title: Some("Red".into()),
        data: "RED".into(),
        ..Postback::default()
    };
    for event in [
        json!({"postback": {"mid": "m_1", "title": "Red", "payload": "RED"}}),
        json!({"message": {"mid": "m_1", "text": "Red", "quick_reply": {"payload": "RED"}}}),
    ] {
        let event = told(event);
        assert_eq!(
            (event.key.as_str(), event.what),
            ("message:m_1", What::Postback(pressed.clone()))
        );
    }
    let edited = told(json!({"message_edit": {"mid": "m_1", "text": "new", "num_edit": 2}}));
    assert_eq!(edited.key, "edited:m_1:2");
    assert_eq!(
        edited.what,
        What::Edited {
            message_id: message_id.clone(),
            text: "new".into()
        }
    );
    let gone = told(json!({"message": {"mid": "m_1", "is_deleted": true}}));
    assert_eq!(
        (gone.key.as_str(), gone.what),
        ("unsent:m_1", What::Unsent { message_id })
    );
    let started =
        told(json!({"postback": {"title": "Start", "payload": "GO", "referral": {"ref": "r", "ad_id": "0"}}}));
    let What::Postback(started) = started.what else {
        panic!();
    };
    assert_eq!(
        started.referral,
        Some(Referral {
            reference: Some("r".into()),
            ..Referral::default()
        })
    );
}

#[test]
fn receipts_are_of_messages_and_up_to_a_moment() {
    let up_to = ReceiptOf::UpTo(at());
    let one = |id: &str| ReceiptOf::Message {
        provider_id: Some(id.into()),
        mark: None,
    };
    let delivered = all(json!({"delivery": {"mids": ["m_1", "m_2"], "watermark": AT_MS}}));
    let receipts: Vec<_> = delivered.iter().map(|event| event.what.clone()).collect();
    let receipt = |of, state| What::Receipt(Receipt { of, state });
    assert_eq!(
        receipts,
        [
            receipt(one("m_1"), ReceiptState::Delivered),
            receipt(one("m_2"), ReceiptState::Delivered),
            receipt(up_to.clone(), ReceiptState::Delivered),
        ]
    );
    assert_eq!(
        told(json!({"read": {"watermark": AT_MS}})).what,
        receipt(up_to, ReceiptState::Read)
    );
    let seen = told(json!({"messaging_seen": {"mid": "m_1"}}));
    assert_eq!(
        (seen.key.as_str(), seen.what),
        ("read:m_1", receipt(one("m_1"), ReceiptState::Read))
    );
    // Nothing of the customer stands in a key.
    assert!(delivered.iter().all(|event| !event.key.contains("5678")));
}

#[test]
fn a_stop_of_notifications_is_obeyed_and_a_new_topic_is_no_consent() {
    for (status, expected) in [
        ("STOP_NOTIFICATIONS", Some(false)),
        ("RESUME_NOTIFICATIONS", Some(true)),
        ("OTHER", None),
    ] {
        let optin = json!({"optin": {"type": "notification_messages", "notification_messages_status": status}});
        match (told(optin).what, expected) {
            (What::Consent { wanted }, Some(expected)) => assert_eq!(wanted, expected),
            (What::Unknown(name), None) => assert_eq!(name, "optin"),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_advertisement_leads_into_an_old_conversation() {
    let event = told(json!({"referral": {"ref": "r", "ad_id": "9", "source": "ADS", "type": "OPEN_THREAD"}}));
    let expected = Referral {
        ad_id: Some("9".into()),
        reference: Some("r".into()),
        ..Referral::default()
    };
    assert_eq!(event.what, What::Referred(expected));
}

#[test]
fn the_rest_is_kept_by_the_field_it_stands_in() {
    for name in [
        "reaction",
        "pass_thread_control",
        "account_linking",
        "policy_enforcement",
    ] {
        assert_eq!(unknown(&told(json!({name: {"x": 1}}))), name);
    }
    assert_eq!(unknown(&told(json!({"message": {"text": "no id"}}))), "message");
    assert_eq!(unknown(&told(json!({}))), "untyped");
    let lead = json!({"field": "leadgen", "value": {"leadgen_id": 444_444_444_444_u64, "created_time": AT_MS / 1_000}});
    let body = json!({"object": "page", "entry": [{"id": "1", "changes": [lead]}]});
    let event = only(events(Provider::Messenger, &body));
    assert_eq!(
        (unknown(&event), event.key.as_str()),
        ("leadgen", "leadgen:444444444444")
    );
    assert_eq!(event.at.timestamp(), AT_MS / 1_000);
}

#[test]
fn who_is_only_a_reference_yet_has_no_conversation() {
    let body = json!({"object": "page", "entry": [{"id": "1", "messaging": [
        {"sender": {"user_ref": "u"}, "message": {"mid": "m", "text": "x"}},
        {"sender": {"user_ref": "u"}, "read": {"watermark": AT_MS}},
    ]}]});
    let events = events(Provider::Messenger, &body);
    assert_eq!(
        events.iter().map(unknown).collect::<Vec<_>>(),
        ["message.nobody", "read"]
    );
}

#[test]
fn seconds_are_taken_for_seconds() {
    let body = json!({"object": "page", "entry": [{"id": "1", "messaging": [
        {"sender": {"id": "5"}, "timestamp": AT_MS / 1_000, "message": {"mid": "m", "text": "x"}}
    ]}]});
    assert_eq!(only(events(Provider::Messenger, &body)).at.timestamp(), AT_MS / 1_000);
}
