//! What holds for any body: no panic, bounded and printable words, keys that do not depend on when or in which order.

use chrono::TimeDelta;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::*;
use crate::channel::webhook::{WebhookSecrets, well_formed};

fn secrets() -> WebhookSecrets {
    WebhookSecrets::parse(Provider::Email, r#"{"bounce_secret": "0123456789abcdef"}"#).unwrap()
}

fn tell(provider: Provider, body: &[u8], query: &str) -> Result<Vec<WebhookEvent>, ParseError> {
    parse(provider, body, query, received_at(), Some(&secrets()))
}

/// Names that the parsers look for, so that made-up JSON gets deep into them.
const NAMES: [&str; 40] = [
    "events",
    "type",
    "source",
    "userId",
    "message",
    "id",
    "mid",
    "text",
    "timestamp",
    "object",
    "entry",
    "messaging",
    "sender",
    "recipient",
    "changes",
    "value",
    "field",
    "messages",
    "statuses",
    "status",
    "errors",
    "code",
    "from",
    "delivery",
    "mids",
    "watermark",
    "read",
    "postback",
    "attachments",
    "payload",
    "referral",
    "customer",
    "external_id",
    "order",
    "number",
    "contentProvider",
    "webhookEventId",
    "contacts",
    "image",
    "unsend",
];
const TEXTS: [&str; 14] = [
    "page",
    "whatsapp_business_account",
    "user",
    "message",
    "text",
    "follow",
    "delivered",
    "failed",
    "\u{0}",
    "😀",
    "1795327000",
    "99999999999999999",
    "image",
    "",
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        select(TEXTS.as_slice()).prop_map(Value::from),
        ".{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((select(NAMES.as_slice()), inner), 0..8).prop_map(|fields| {
                let fields: Map<_, _> = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                Value::from(fields)
            }),
        ]
    })
}

/// Each provider's envelope around anything.
fn envelope(provider: Provider, inside: &[Value]) -> Value {
    match provider {
        Provider::Messenger => {
            json!({"object": "page", "entry": [{"id": "1", "time": AT_MS, "messaging": inside, "changes": inside}]})
        }
        Provider::Whatsapp => {
            let changes: Vec<_> = inside
                .iter()
                .map(|value| json!({"field": "messages", "value": value}))
                .collect();
            let lists = json!({"field": "messages", "value": {"messages": inside, "statuses": inside, "user_preferences": inside}});
            json!({"object": "whatsapp_business_account", "entry": [{"changes": changes}, {"changes": [lists]}]})
        }
        _ => json!({"destination": "U", "events": inside}),
    }
}

const JSON: [Provider; 4] = [Provider::Line, Provider::Messenger, Provider::Whatsapp, Provider::Store];

fn sound(events: &[WebhookEvent]) -> Result<(), TestCaseError> {
    for event in events {
        prop_assert!((1..=200).contains(&event.key.len()), "{:?}", event.key);
        prop_assert!(event.key.bytes().all(|b| b.is_ascii_graphic()), "{:?}", event.key);
        // A backslash is written as two, a NUL as one and a zero; a name of ours stands as it is, and is looked at below.
        let shown = match &event.what {
            What::Unknown(_) => String::new(),
            what => format!("{what:?}").replace("\\\\", ""),
        };
        prop_assert!(!shown.contains("\\0"), "{:?}", event.what);
        prop_assert!(
            event
                .from
                .as_ref()
                .is_none_or(|from| !from.is_empty() && from.len() <= 310)
        );
        if let What::Unknown(name) = &event.what {
            prop_assert!(
                (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()),
                "{:?}",
                name
            );
        }
    }
    Ok(())
}

fn sorted(events: &[WebhookEvent]) -> Vec<String> {
    let mut keys: Vec<_> = events.iter().map(|event| event.key.clone()).collect();
    keys.sort_unstable();
    keys
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(body: Vec<u8>, query in "\\PC{0,80}") {
        for provider in Provider::ALL {
            if let Ok(events) = tell(provider, &body, &query) {
                sound(&events)?;
            }
            let _ = well_formed(provider, &body);
        }
    }

    #[test]
    fn any_json_is_an_answer(body in json_value()) {
        let body = body.to_string();
        for provider in Provider::ALL {
            if let Ok(events) = tell(provider, body.as_bytes(), &body) {
                sound(&events)?;
            }
        }
    }

    #[test]
    fn any_form_is_an_answer(fields in vec((select(vec!["MessageSid", "MessageStatus", "Body", "From", "To", "ErrorCode", "NumMedia",
        "OptOutType", "msgid", "StatusFlag", "donetime", "dstaddr", "mark"]), "\\PC{0,40}|received|failed|[0-9]{5,14}"), 0..10)) {
        let form: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        for provider in [Provider::Twilio, Provider::Mitake] {
            for (body, query) in [(form.as_str(), ""), ("", form.as_str())] {
                if let Ok(events) = tell(provider, body.as_bytes(), query) {
                    sound(&events)?;
                    prop_assert!(!events.is_empty());
                }
            }
        }
    }

    #[test]
    fn every_event_is_told_whatever_it_holds(inside in vec(json_value(), 0..6), shift in 0_i64..1_000_000) {
        for provider in JSON {
            let body = envelope(provider, &inside).to_string();
            let first = tell(provider, body.as_bytes(), "").unwrap();
            sound(&first)?;
            prop_assert!(first.len() >= inside.len(), "{} of {}", first.len(), inside.len());
            // Told again, later: the same keys.
            let later = received_at() + TimeDelta::seconds(shift);
            let again = parse(provider, body.as_bytes(), "", later, None).unwrap();
            prop_assert_eq!(sorted(&first), sorted(&again));
        }
    }

    #[test]
    fn keys_stay_when_the_order_changes(inside in vec(json_value(), 0..6)) {
        let mut turned = inside.clone();
        turned.reverse();
        for provider in JSON {
            let one = tell(provider, envelope(provider, &inside).to_string().as_bytes(), "").unwrap();
            let other = tell(provider, envelope(provider, &turned).to_string().as_bytes(), "").unwrap();
            prop_assert_eq!(sorted(&one), sorted(&other), "{}", provider);
        }
    }

    #[test]
    fn any_mail_is_an_answer(
        lines in vec(select(vec!["Content-Type: multipart/report; report-type=delivery-status; boundary=b", "Content-Type: message/rfc822",
            "Content-Type: message/delivery-status", "Content-Transfer-Encoding: base64", "--b", "--b--", "", "", "Action: failed", "Status: 5.1.1",
            "To: a@b.tw", "Date: Sun, 99 Nov 99999 13:00:00 +0800", " folded", "=?utf-8?B?////?="]), 0..40),
        end in "\\PC{0,40}"
    ) {
        let mail = format!("{}\r\n{end}", lines.join("\r\n"));
        if let Ok(events) = tell(Provider::Email, mail.as_bytes(), "") {
            sound(&events)?;
        }
    }
}

#[test]
fn half_a_character_costs_nobody_elses_event() {
    let body = br#"{"events":[{"type":"message","webhookEventId":"1","source":{"type":"user","userId":"U"},
        "message":{"id":"1","type":"text","text":"a\ud83db\udc00\\ud83d\ud83d\ude00"}},{"type":"follow","webhookEventId":"2"}]}"#;
    let told = tell(Provider::Line, body, "").unwrap();
    let What::Message(message) = &told[0].what else {
        panic!("{told:?}");
    };
    assert_eq!(message.text.as_deref(), Some("a\u{fffd}b\u{fffd}\\ud83d😀"));
    assert_eq!(keys(&told), ["1", "2"]);
    let raw = b"{\"events\":[{\"type\":\"a\xffb\"}]}";
    assert_eq!(unknown(&only(tell(Provider::Line, raw, "").unwrap())), "ab");
}

#[test]
fn nesting_and_numbers_of_events_have_an_end() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
        for provider in JSON {
            assert_eq!(refused(provider, &deep), ParseError::TooDeep);
            assert_eq!(well_formed(provider, deep.as_bytes()), Err(ParseError::TooDeep));
        }
    }
    let brackets_in_a_text = json!({"events": [{"type": "[".repeat(500)}]}).to_string();
    assert_eq!(well_formed(Provider::Line, brackets_in_a_text.as_bytes()), Ok(()));
    let many = format!("{{\"events\":[{}0]}}", "0,".repeat(20_000));
    assert_eq!(refused(Provider::Line, &many), ParseError::TooMany);
    let mail = "Content-Type: message/rfc822\n\n".repeat(50_000);
    let _ = tell(Provider::Email, mail.as_bytes(), "");
    let parts = "Content-Type: multipart/mixed; boundary=b\n\n--b\n".repeat(20_000);
    let _ = tell(Provider::Email, parts.as_bytes(), "");
}

#[test]
fn a_clock_that_is_wrong_is_not_believed_for_ever() {
    let event =
        |at: i64| json!({"events": [{"type": "follow", "timestamp": at, "source": {"type": "user", "userId": "U"}}]});
    for at in [0, -5, i64::MAX, i64::MIN, 4_000_000_000_000, 900_000_000_000] {
        assert_eq!(only(events(Provider::Line, &event(at))).at, received_at(), "{at}");
    }
    let soon = received_at().timestamp_millis() + 60_000;
    assert_eq!(only(events(Provider::Line, &event(soon))).at.timestamp_millis(), soon);
}

#[test]
fn long_words_are_cut_or_hashed_and_never_lost() {
    let long = "字".repeat(20_000);
    let body = json!({"events": [{
        "type": "message", "webhookEventId": long, "source": {"type": "user", "userId": "U"},
        "message": {"id": long, "type": "text", "text": long},
    }]});
    let told = only(events(Provider::Line, &body));
    assert!(told.key.starts_with("sha256.") && told.key.len() == 71, "{}", told.key);
    let What::Message(message) = told.what else {
        panic!();
    };
    assert_eq!(message.text.unwrap().chars().count(), 32_768 / 3);
    assert!(message.message_id.starts_with("sha256."));
}
