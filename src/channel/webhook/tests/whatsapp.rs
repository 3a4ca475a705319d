//! WhatsApp: every kind of message, receipt and change of Meta's reference.

use serde_json::{Value, json};

use super::*;
use crate::channel::{
    ErrorClass,
    webhook::{
        Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, ReceiptState,
        Referral,
    },
};

fn all(field: &str, value: Value) -> Vec<WebhookEvent> {
    let mut value = value;
    value["metadata"] = json!({"display_phone_number": "886", "phone_number_id": "12345"});
    let change = json!({"field": field, "value": value});
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "waba", "changes": [change]}]});
    events(Provider::Whatsapp, &body)
}

fn told(message: Value) -> WebhookEvent {
    let mut message = message;
    let defaults = [
        ("from", json!("886912345678")),
        ("id", json!("wamid.1")),
        ("timestamp", json!("1795327000")),
    ];
    for (name, value) in defaults {
        if message.get(name).is_none() {
            message[name] = value;
        }
    }
    let contacts = json!([{"profile": {"name": "Amy"}, "wa_id": "886912345678"}]);
    only(all("messages", json!({"contacts": contacts, "messages": [message]})))
}

fn status(status: Value) -> Vec<WebhookEvent> {
    let mut status = status;
    for (name, value) in [
        ("id", "wamid.9"),
        ("recipient_id", "886912345678"),
        ("timestamp", "1795327000"),
    ] {
        status[name] = value.into();
    }
    all("messages", json!({"statuses": [status]}))
}

#[test]
fn a_text_is_told_whole() {
    let event = told(json!({
        "type": "text", "text": {"body": "hi"}, "context": {"id": "wamid.0", "from": "1"},
        "referral": {"source_url": "https://fb.me/x", "source_id": "77", "headline": "Sale", "ctwa_clid": "c"},
    }));
    assert_eq!(
        (event.key.as_str(), event.from.as_deref()),
        ("message:wamid.1", Some("+886912345678"))
    );
    assert_eq!(
        (event.account.as_deref(), event.at.timestamp()),
        (Some("12345"), 1_795_327_000)
    );
    let expected = InboundMessage {
        message_id: "wamid.1".into(),
        text: Some("hi".into()),
        reply_to: Some("wamid.0".into()),
        referral: Some(Referral {
            ad_id: Some("77".into()),
            title: Some("Sale".into()),
            url: Some("https://fb.me/x".into()),
            reference: Some("c".into()),
        }),
        profile_name: Some("Amy".into()),
        ..InboundMessage::default()
    };
    assert_eq!(event.what, What::Message(expected));
}

#[test]
fn every_kind_of_message_shows_what_is_attached() {
    use AttachmentKind::{Audio, File, Image, Location, Other, Sticker, Video};
    let held = || Some(MediaSource::ProviderId("m1".into()));
    for (kind, part, attached, source, label, text) in [
        (
            "image",
            json!({"id": "m1", "caption": "look"}),
            Image,
            held(),
            None,
            Some("look"),
        ),
        ("video", json!({"id": "m1"}), Video, held(), None, None),
        ("audio", json!({"id": "m1", "voice": true}), Audio, held(), None, None),
        (
            "document",
            json!({"id": "m1", "filename": "a.pdf"}),
            File,
            held(),
            Some("a.pdf"),
            None,
        ),
        ("sticker", json!({"id": "m1"}), Sticker, None, Some("m1"), None),
        (
            "location",
            json!({"latitude": 1.5, "longitude": 2, "name": "Shop"}),
            Location,
            None,
            Some("Shop"),
            None,
        ),
        (
            "contacts",
            json!([{"name": {"formatted_name": "Bob"}}]),
            Other,
            None,
            Some("Bob"),
            None,
        ),
        (
            "order",
            json!({"text": "these", "product_items": []}),
            Other,
            None,
            Some("order"),
            Some("these"),
        ),
        ("unsupported", json!({}), Other, None, Some("unsupported"), None),
        ("hologram", json!({"id": "m1"}), Other, None, Some("hologram"), None),
    ] {
        let What::Message(message) = told(json!({"type": kind, kind: part})).what else {
            panic!("{kind}");
        };
        let label = label.map(Into::into);
        assert_eq!(
            message.attachments,
            [Attachment {
                kind: attached,
                source,
                label
            }],
            "{kind}"
        );
        assert_eq!(message.text.as_deref(), text, "{kind}");
    }
}

#[test]
fn buttons_lists_and_forms() {
    for (event, title, data) in [
        (
            json!({"type": "button", "button": {"text": "Yes", "payload": "Y"}}),
            "Yes",
            "Y",
        ),
        (
            json!({"type": "interactive", "interactive": {"type": "button_reply", "button_reply": {"id": "Y", "title": "Yes"}}}),
            "Yes",
            "Y",
        ),
        (
            json!({"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"id": "Y", "title": "Yes"}}}),
            "Yes",
            "Y",
        ),
    ] {
        let expected = Postback {
            message_id: Some("wamid.1".into()),
            title: Some(title.into()),
            data: data.into(),
            ..Postback::default()
        };
        assert_eq!(told(event).what, What::Postback(expected));
    }
    let form = json!({"type": "interactive", "interactive": {"type": "nfm_reply", "nfm_reply": {"body": "Sent", "response_json": "{}"}}});
    let What::Message(message) = told(form).what else {
        panic!();
    };
    assert_eq!(message.text.as_deref(), Some("Sent"));
}

#[test]
fn a_customer_who_hides_the_number_is_named_by_the_business_own_id() {
    for message in [
        json!({"from": "", "from_user_id": "TW.134", "type": "text", "text": {"body": "x"}}),
        json!({"from": "TW.134", "from_user_id": "TW.134", "type": "text", "text": {"body": "x"}}),
    ] {
        assert_eq!(told(message).from.as_deref(), Some("TW.134"));
    }
    let nobody = told(json!({"from": null, "type": "text", "text": {"body": "x"}}));
    assert_eq!(unknown(&nobody), "message.nobody");
}

#[test]
fn what_is_no_word_to_the_shop_is_kept_by_its_name() {
    for (message, name) in [
        (json!({"type": "reaction", "reaction": {"emoji": "x"}}), "reaction"),
        (
            json!({"type": "system", "system": {"body": "changed number"}}),
            "system",
        ),
        (
            json!({"type": "text", "text": {"body": "x"}, "group_id": "5"}),
            "group.text",
        ),
    ] {
        assert_eq!(unknown(&told(message)), name);
    }
    assert_eq!(
        unknown(&only(all("account_update", json!({"event": "x"})))),
        "account_update"
    );
    assert_eq!(unknown(&only(status(json!({"status": "deleted"})))), "deleted");
}

#[test]
fn receipts_carry_id_and_mark() {
    let opaque = mark().to_string();
    for (name, state) in [
        ("sent", ReceiptState::Sent),
        ("delivered", ReceiptState::Delivered),
        ("read", ReceiptState::Read),
        ("played", ReceiptState::Read),
    ] {
        let event = only(status(json!({"status": name, "biz_opaque_callback_data": opaque})));
        let of = ReceiptOf::Message {
            provider_id: Some("wamid.9".into()),
            mark: Some(mark()),
        };
        assert_eq!(event.key, format!("{name}:wamid.9"));
        assert_eq!(event.what, What::Receipt(Receipt { of, state }));
    }
}

#[test]
fn a_failure_has_the_class_of_its_code() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled};
    for (code, class, closes_address) in [
        (131_026, Recipient, true),
        (131_047, Recipient, false),
        (131_049, Recipient, false),
        (130_472, Recipient, false),
        (130_429, Throttled, false),
        (131_056, Throttled, false),
        (131_000, Throttled, false),
        (190, Credentials, false),
        (200, Credentials, false),
        (299, Credentials, false),
        (300, Content, false),
        (131_042, Quota, false),
        (132_015, Content, false),
        (999_999, Content, false),
    ] {
        let event = only(status(
            json!({"status": "failed", "errors": [{"code": code, "title": "t"}]}),
        ));
        let What::Receipt(receipt) = event.what else {
            panic!("{code}");
        };
        assert_eq!(
            receipt.state,
            ReceiptState::Failed {
                class,
                code: code.to_string(),
                closes_address
            }
        );
    }
    // They stopped marketing: the message failed, and no other may follow.
    let events = status(json!({"status": "failed", "errors": [{"code": 131_050}]}));
    assert_eq!(keys(&events), ["stopped:wamid.9", "failed:wamid.9"]);
    assert_eq!(events[0].what, What::Consent { wanted: false });
}

#[test]
fn preferences_are_a_consent() {
    for (value, wanted) in [("stop", false), ("resume", true)] {
        let preference = json!({"wa_id": "886912345678", "category": "marketing_messages", "value": value, "timestamp": 1_795_327_000});
        let event = only(all("user_preferences", json!({"user_preferences": [preference]})));
        assert_eq!(
            (event.what, event.from.as_deref()),
            (What::Consent { wanted }, Some("+886912345678"))
        );
    }
}

#[test]
fn what_the_shop_does_in_whatsapps_own_app_is_seen() {
    let echo = |rest: Value| {
        let mut echo = rest;
        for (name, value) in [
            ("from", "88622"),
            ("to", "886912345678"),
            ("id", "wamid.5"),
            ("timestamp", "1795327000"),
        ] {
            echo[name] = value.into();
        }
        only(all("smb_message_echoes", json!({"message_echoes": [echo]})))
    };
    let text = echo(json!({"type": "text", "text": {"body": "thanks"}}));
    let expected = Echo {
        message_id: "wamid.5".into(),
        text: Some("thanks".into()),
        ..Echo::default()
    };
    assert_eq!(
        (text.what, text.from.as_deref()),
        (What::Echo(expected), Some("+886912345678"))
    );
    let message_id = "wamid.4".to_owned();
    let gone = echo(json!({"type": "revoke", "revoke": {"original_message_id": "wamid.4"}}));
    assert_eq!(
        gone.what,
        What::Unsent {
            message_id: message_id.clone()
        }
    );
    let edit = json!({"original_message_id": "wamid.4", "message": {"type": "image", "image": {"caption": "new"}}});
    assert_eq!(
        echo(json!({"type": "edit", "edit": edit})).what,
        What::Edited {
            message_id,
            text: "new".into()
        }
    );
}
