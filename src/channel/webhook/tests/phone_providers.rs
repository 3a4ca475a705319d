//! Twilio and Mitake: messages and receipts in forms and queries.

use super::*;
use crate::channel::{
    ErrorClass,
    webhook::{Attachment, AttachmentKind, InboundMessage, MediaSource, Receipt, ReceiptOf, ReceiptState},
};

fn twilio(form: &str) -> Vec<WebhookEvent> {
    let query = format!("mark={}", mark());
    parse(Provider::Twilio, form.as_bytes(), &query, received_at(), None).unwrap()
}

fn mitake(query: &str) -> WebhookEvent {
    only(parse(Provider::Mitake, b"", query, received_at(), None).unwrap())
}

#[test]
fn a_text_message_comes_in() {
    let form = "MessageSid=SM1&SmsStatus=received&From=%2B886912345678&To=%2B1555&Body=hi+there%00&NumMedia=1\
                &MediaUrl0=https%3A%2F%2Fapi.twilio.com%2Fm&MediaContentType0=image%2Fjpeg";
    let event = only(twilio(form));
    assert_eq!(
        (event.key.as_str(), event.from.as_deref()),
        ("message:SM1", Some("+886912345678"))
    );
    assert_eq!(event.at, received_at());
    let expected = InboundMessage {
        message_id: "SM1".into(),
        text: Some("hi there\u{fffd}".into()),
        attachments: vec![Attachment {
            kind: AttachmentKind::Image,
            source: Some(MediaSource::Url("https://api.twilio.com/m".into())),
            label: None,
        }],
        ..InboundMessage::default()
    };
    assert_eq!(event.what, What::Message(expected));
}

#[test]
fn stop_and_nothing_else_is_a_stop() {
    for (body, expected) in [
        ("STOP", Some(false)),
        ("+stop+", Some(false)),
        ("Unsubscribe", Some(false)),
        ("START", Some(true)),
        ("stop+that", None),
        ("yes", None),
        ("Hi&OptOutType=STOP", Some(false)),
        ("STOP&OptOutType=HELP", None),
    ] {
        let events = twilio(&format!("MessageSid=SM1&SmsStatus=received&From=%2B1&Body={body}"));
        let consent = events.iter().find_map(|event| match event.what {
            What::Consent { wanted } => Some(wanted),
            _ => None,
        });
        assert_eq!(consent, expected, "{body}");
        assert!(keys(&events).contains(&"message:SM1"));
    }
}

#[test]
fn a_status_carries_id_and_mark() {
    for (status, state) in [
        ("sent", ReceiptState::Sent),
        ("delivered", ReceiptState::Delivered),
        ("read", ReceiptState::Read),
    ] {
        let event = only(twilio(&format!(
            "MessageSid=SM1&MessageStatus={status}&To=%2B8869&From=%2B1"
        )));
        let of = ReceiptOf::Message {
            provider_id: Some("SM1".into()),
            mark: Some(mark()),
        };
        assert_eq!(
            (event.key, event.from.as_deref()),
            (format!("status:SM1:{status}"), Some("+8869"))
        );
        assert_eq!(event.what, What::Receipt(Receipt { of, state }));
    }
    assert_eq!(
        unknown(&only(twilio("MessageSid=SM1&MessageStatus=queued"))),
        "status.queued"
    );
    let none = parse(Provider::Twilio, b"a=b", "", received_at(), None);
    assert!(matches!(none, Err(ParseError::Shape(_))));
}

#[test]
fn twilios_failures_have_the_class_of_their_code() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled};
    for (status, code, class, closes_address) in [
        ("undelivered", "30003", Recipient, false),
        ("undelivered", "30005", Recipient, true),
        ("undelivered", "30006", Recipient, true),
        ("failed", "21211", Recipient, true),
        ("undelivered", "30007", Content, false),
        ("undelivered", "30008", Throttled, false),
        ("failed", "30001", Throttled, false),
        ("failed", "30002", Credentials, false),
        ("failed", "30032", Credentials, false),
        ("failed", "30010", Quota, false),
        ("failed", "99999", Content, false),
        ("undelivered", "", Recipient, false),
        ("failed", "", Content, false),
    ] {
        let event = only(twilio(&format!(
            "MessageSid=SM1&MessageStatus={status}&To=%2B1&ErrorCode={code}"
        )));
        let What::Receipt(receipt) = event.what else {
            panic!("{code}");
        };
        let code = if code.is_empty() { status } else { code }.to_owned();
        assert_eq!(
            receipt.state,
            ReceiptState::Failed {
                class,
                code,
                closes_address
            }
        );
    }
    let stopped = twilio("MessageSid=SM1&MessageStatus=failed&To=%2B1&ErrorCode=21610");
    assert_eq!(keys(&stopped), ["consent:SM1", "status:SM1:failed"]);
    assert_eq!(stopped[0].what, What::Consent { wanted: false });
}

#[test]
fn mitakes_flag_is_believed_before_its_code() {
    let query = format!(
        "msgid=%23000000013&dstaddr=0912345678&dlvtime=20261122135900&donetime=20261122135959&statuscode=0\
         &statusstr=DELIVRD&StatusFlag=4&mark={}&token=x",
        mark()
    );
    let event = mitake(&query);
    assert_eq!(
        (event.key.as_str(), event.from.as_deref()),
        ("status:#000000013:4", Some("+886912345678"))
    );
    assert_eq!(event.at.to_rfc3339(), "2026-11-22T05:59:59+00:00");
    let of = ReceiptOf::Message {
        provider_id: Some("#000000013".into()),
        mark: Some(mark()),
    };
    assert_eq!(
        event.what,
        What::Receipt(Receipt {
            of,
            state: ReceiptState::Delivered
        })
    );
    let without_flag = mitake("msgid=1&statuscode=0&statusstr=DELIVRD");
    assert!(matches!(
        without_flag.what,
        What::Receipt(Receipt {
            state: ReceiptState::Delivered,
            ..
        })
    ));
    assert_eq!(unknown(&mitake("msgid=1&statuscode=0")), "status.0");
}

#[test]
fn mitakes_states_have_their_class() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled};
    let failed = |class, code: &str, closes_address| {
        Some(ReceiptState::Failed {
            class,
            code: code.to_owned(),
            closes_address,
        })
    };
    for (flag, expected) in [
        ("1", Some(ReceiptState::Sent)),
        ("5", failed(Content, "5", false)),
        ("6", failed(Recipient, "6", true)),
        ("7", failed(Recipient, "7", false)),
        ("8", failed(Recipient, "8", false)),
        ("9", failed(Content, "9", false)),
        ("v", failed(Recipient, "v", true)),
        ("k", failed(Credentials, "k", false)),
        ("l", failed(Throttled, "l", false)),
        ("*", failed(Throttled, "*", false)),
        ("s", failed(Quota, "s", false)),
        ("w", None),
    ] {
        let state = match mitake(&format!("msgid=1&StatusFlag={flag}")).what {
            What::Receipt(receipt) => Some(receipt.state),
            _ => None,
        };
        assert_eq!(state, expected, "{flag}");
    }
}
