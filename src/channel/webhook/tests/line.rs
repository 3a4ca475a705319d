//! LINE: every event type of its reference.

use serde_json::{Value, json};

use super::*;
use crate::channel::webhook::{
    Attachment, AttachmentKind, InboundMessage, MediaSource, Postback, ReceiptOf, ReceiptState,
};

fn event(kind: &str, rest: Value) -> Value {
    let mut event = json!({
        "type": kind, "mode": "active", "timestamp": AT_MS, "webhookEventId": "01H8",
        "deliveryContext": {"isRedelivery": false}, "source": {"type": "user", "userId": "U1"},
    });
    for (name, value) in rest.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

fn told(event: Value) -> WebhookEvent {
    only(events(
        Provider::Line,
        &json!({"destination": "Ubot", "events": [event]}),
    ))
}

fn said(message: Value) -> InboundMessage {
    match told(event("message", json!({"message": message}))).what {
        What::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_consoles_empty_list_is_no_event() {
    assert_eq!(events(Provider::Line, &json!({"destination": "U1", "events": []})), []);
    for body in ["[]", "null", "{}", r#"{"events": {}}"#] {
        assert!(matches!(refused(Provider::Line, body), ParseError::Shape(_)), "{body}");
    }
    assert_eq!(refused(Provider::Line, "{"), ParseError::NotJson);
}

#[test]
fn a_text_is_told_whole() {
    let event = told(event(
        "message",
        json!({"replyToken": "r1", "message": {"id": "461", "type": "text", "text": "你好\u{0}", "quotedMessageId": "460"}}),
    ));
    assert_eq!(event.account.as_deref(), Some("Ubot"));
    assert_eq!(
        (event.key.as_str(), event.at, event.from.as_deref()),
        ("01H8", at(), Some("U1"))
    );
    let expected = InboundMessage {
        message_id: "461".into(),
        text: Some("你好\u{fffd}".into()),
        reply_to: Some("460".into()),
        reply_token: Some("r1".into()),
        ..InboundMessage::default()
    };
    assert_eq!(event.what, What::Message(expected));
}

#[test]
fn every_kind_of_message_shows_what_is_attached() {
    use AttachmentKind::{Audio, File, Image, Location, Other, Sticker, Video};
    let held = || Some(MediaSource::ProviderId("9".into()));
    let far = |url: &str| Some(MediaSource::Url(url.into()));
    for (message, kind, source, label) in [
        (
            json!({"type": "image", "contentProvider": {"type": "line"}}),
            Image,
            held(),
            None,
        ),
        (
            json!({"type": "image", "contentProvider": {"type": "external", "originalContentUrl": "https://x.tw/a.jpg"}}),
            Image,
            far("https://x.tw/a.jpg"),
            None,
        ),
        (
            json!({"type": "video", "duration": 6, "contentProvider": {"type": "line"}}),
            Video,
            held(),
            None,
        ),
        (
            json!({"type": "audio", "duration": 6, "contentProvider": {"type": "line"}}),
            Audio,
            held(),
            None,
        ),
        (
            json!({"type": "file", "fileName": "a.pdf", "fileSize": 3}),
            File,
            held(),
            Some("a.pdf"),
        ),
        (
            json!({"type": "location", "title": "店", "address": "台北"}),
            Location,
            None,
            Some("店"),
        ),
        (
            json!({"type": "location", "latitude": 25.0, "longitude": 121.5}),
            Location,
            None,
            Some("25.00000, 121.50000"),
        ),
        (
            json!({"type": "sticker", "packageId": "1", "stickerId": "2"}),
            Sticker,
            None,
            Some("2"),
        ),
        (json!({"type": "hologram"}), Other, None, Some("hologram")),
    ] {
        let mut message = message;
        message["id"] = "9".into();
        let expected = Attachment {
            kind,
            source,
            label: label.map(Into::into),
        };
        assert_eq!(said(message).attachments, [expected]);
    }
}

#[test]
fn follows_unsends_edits_and_postbacks_have_their_words() {
    assert_eq!(
        told(event("follow", json!({"follow": {"isUnblocked": true}}))).what,
        What::Followed
    );
    assert_eq!(told(event("unfollow", json!({}))).what, What::Unfollowed);
    let message_id = "461".to_owned();
    assert_eq!(
        told(event("unsend", json!({"unsend": {"messageId": "461"}}))).what,
        What::Unsent {
            message_id: message_id.clone()
        }
    );
    assert_eq!(
        told(event(
            "messageEdited",
            json!({"message": {"id": "461", "type": "text", "text": "new"}})
        ))
        .what,
        What::Edited {
            message_id,
            text: "new".into()
        }
    );
    let pressed = json!({"replyToken": "r", "postback": {"data": "a=1", "params": {"date": "2026-12-24"}}});
    let expected = Postback {
        data: "a=1&date=2026-12-24".into(),
        reply_token: Some("r".into()),
        ..Postback::default()
    };
    assert_eq!(told(event("postback", pressed)).what, What::Postback(expected));
}

#[test]
fn a_delivery_by_phone_number_carries_our_mark_and_names_nobody() {
    let mut told_mark = event("delivery", json!({"delivery": {"data": mark().to_string()}}));
    told_mark.as_object_mut().unwrap().remove("source");
    let told_mark = told(told_mark);
    let What::Receipt(receipt) = told_mark.what else {
        panic!("{told_mark:?}");
    };
    assert_eq!(receipt.state, ReceiptState::Delivered);
    let of = ReceiptOf::Message {
        provider_id: None,
        mark: Some(mark()),
    };
    assert_eq!((receipt.of, told_mark.from), (of, None));
    assert_eq!(
        unknown(&told(event("delivery", json!({"delivery": {"data": "ab12"}})))),
        "delivery"
    );
}

#[test]
fn the_rest_is_kept_by_its_name() {
    for kind in [
        "join",
        "leave",
        "memberJoined",
        "memberLeft",
        "videoPlayComplete",
        "beacon",
        "accountLink",
        "membership",
        "module",
        "activated",
        "deactivated",
        "botSuspended",
        "botResumed",
        "tomorrow",
    ] {
        assert_eq!(unknown(&told(event(kind, json!({})))), kind);
    }
    assert_eq!(unknown(&told(json!({}))), "untyped");
    assert_eq!(unknown(&told(json!(7))), "untyped");
    assert_eq!(
        unknown(&told(event("message", json!({"message": {"type": "text"}})))),
        "message"
    );
}

#[test]
fn a_group_is_no_private_chat() {
    let source = json!({"source": {"type": "group", "groupId": "C1", "userId": "U1"}, "message": {"id": "1", "type": "text", "text": "x"}});
    let told = told(event("message", source));
    assert_eq!((unknown(&told), told.from.as_deref()), ("group.message", None));
}

#[test]
fn standby_gives_no_reply_token() {
    let message = json!({"mode": "standby", "replyToken": "r", "message": {"id": "1", "type": "text", "text": "x"}});
    let What::Message(message) = told(event("message", message)).what else {
        panic!();
    };
    assert_eq!(message.reply_token, None);
}

#[test]
fn an_event_told_again_has_its_key_even_without_an_id() {
    let mut first = event("follow", json!({}));
    assert_eq!(told(first.clone()).key, "01H8");
    first.as_object_mut().unwrap().remove("webhookEventId");
    let mut again = first.clone();
    again["deliveryContext"]["isRedelivery"] = true.into();
    assert_eq!(told(first.clone()).key, told(again.clone()).key);
    again["source"]["userId"] = "U2".into();
    assert_ne!(told(first).key, told(again).key);
}
