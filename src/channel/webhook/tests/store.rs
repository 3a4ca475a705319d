//! The shop's own front: the format of docs/webhooks.md.

use serde_json::{Value, json};

use super::*;
use crate::channel::webhook::{Attachment, AttachmentKind, Contact, Echo, InboundMessage, MediaSource, Thread};

fn told(event: Value) -> WebhookEvent {
    only(events(Provider::Store, &json!({"events": [event]})))
}

#[test]
fn the_documents_example_is_read_as_it_says() {
    let document = include_str!("../../../../docs/webhooks.md");
    let (_, rest) = document.split_once("```json\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let told = parse(Provider::Store, example.as_bytes(), "", received_at(), None).unwrap();
    assert!(!told.is_empty());
    for event in &told {
        assert!(!matches!(event.what, What::Unknown(_)), "{event:?}");
    }
}

#[test]
fn a_message_of_a_member_is_told_whole() {
    let event = told(json!({
        "id": "evt-1", "type": "message", "at": "2026-11-22T13:00:00+08:00",
        "customer": {"external_id": "C-9", "name": "王小明", "email": "a@b.tw", "phone": "0912345678"},
        "message": {"id": "m-1", "text": "有貨嗎", "reply_to": "m-0",
            "attachments": [{"type": "image", "url": "https://shop.tw/a.jpg", "name": "a.jpg"}]},
    }));
    assert_eq!((event.key.as_str(), event.from.as_deref()), ("evt-1", Some("C-9")));
    assert_eq!(event.at.to_rfc3339(), "2026-11-22T05:00:00+00:00");
    let expected = InboundMessage {
        message_id: "m-1".into(),
        text: Some("有貨嗎".into()),
        attachments: vec![Attachment {
            kind: AttachmentKind::Image,
            source: Some(MediaSource::Url("https://shop.tw/a.jpg".into())),
            label: Some("a.jpg".into()),
        }],
        reply_to: Some("m-0".into()),
        profile_name: Some("王小明".into()),
        thread: Thread::Store,
        contact: Contact {
            email: Some("a@b.tw".into()),
            phone: Some("0912345678".into()),
        },
        ..InboundMessage::default()
    };
    assert_eq!(event.what, What::Message(expected));
}

#[test]
fn orders_and_staff_have_their_threads() {
    let thread = Thread::Order("1001".into());
    let message = json!({"id": "m", "text": "x"});
    let customer = json!({"external_id": "C"});
    let of_order = json!({"id": "1", "type": "order_message", "order": {"number": 1001}, "customer": customer, "message": message});
    assert!(matches!(told(of_order).what, What::Message(message) if message.thread == thread));
    let echo = |thread| Echo {
        message_id: "m".into(),
        text: Some("x".into()),
        thread,
        ..Echo::default()
    };
    let staff = json!({"id": "2", "type": "staff_message", "customer": customer, "message": message});
    assert_eq!(told(staff).what, What::Echo(echo(Thread::Store)));
    let staff = json!({"id": "3", "type": "staff_order_message", "order": {"number": "1001"}, "customer": customer, "message": message});
    assert_eq!(told(staff).what, What::Echo(echo(thread)));
    let no_order = json!({"id": "4", "type": "order_message", "customer": customer, "message": message});
    assert_eq!(unknown(&told(no_order)), "order_message");
}

#[test]
fn a_guest_is_named_by_the_visit_else_by_what_was_left() {
    for (customer, expected) in [
        (json!({"guest_id": "v1", "email": "a@b.tw"}), Some("guest:v1")),
        (json!({"email": "A@B.tw", "phone": "09"}), Some("guest:a@b.tw")),
        (json!({"phone": "0912345678"}), Some("guest:0912345678")),
        (json!({"external_id": 7}), Some("7")),
        (json!({"name": "nobody"}), None),
    ] {
        let event = told(json!({"id": "1", "type": "message", "customer": customer, "message": {"id": "m"}}));
        assert_eq!(event.from.as_deref(), expected);
    }
}

#[test]
fn the_other_words() {
    let customer = json!({"external_id": "C"});
    let message_id = "m".to_owned();
    let edited = json!({"type": "message_edited", "customer": customer, "message": {"id": "m", "text": "new"}});
    assert_eq!(
        told(edited).what,
        What::Edited {
            message_id: message_id.clone(),
            text: "new".into()
        }
    );
    let gone = json!({"type": "message_unsent", "customer": customer, "message": {"id": "m"}});
    assert_eq!(
        told(gone).what,
        What::Unsent {
            message_id: message_id.clone()
        }
    );
    let read = json!({"type": "message_read", "customer": customer, "message": {"id": "m"}});
    assert_eq!(told(read).what, What::Seen { message_id });
    let consent = json!({"type": "consent", "customer": customer, "wanted": false});
    assert_eq!(told(consent).what, What::Consent { wanted: false });
    assert_eq!(
        unknown(&told(json!({"type": "order_paid", "customer": customer}))),
        "order_paid"
    );
    assert!(matches!(refused(Provider::Store, "{}"), ParseError::Shape(_)));
}
