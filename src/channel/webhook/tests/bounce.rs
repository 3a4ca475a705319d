//! Delivery reports and complaints as mail servers write them.

use super::*;
use crate::channel::{
    ErrorClass,
    webhook::{Receipt, ReceiptOf, ReceiptState, WebhookSecrets},
};

const SECRET: &str = r#"{"bounce_secret": "0123456789abcdef", "previous_bounce_secret": "before-0123456789"}"#;

fn secrets() -> WebhookSecrets {
    WebhookSecrets::parse(Provider::Email, SECRET).unwrap()
}

/// A report in the form Postfix writes it.
fn report(to: &str, fields: &str) -> String {
    format!(
        "Date: Sun, 22 Nov 2026 13:00:00 +0800 (CST)\r\nFrom: MAILER-DAEMON@mx.example\r\nSubject: Undelivered Mail\r\n\
         To: {to}\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\
         \tboundary=\"B/mx.example\"\r\n\r\nThis is a MIME-encapsulated message.\r\n\r\n--B/mx.example\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\r\nI'm sorry.\r\n\r\n--B/mx.example\r\n\
         Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.example\r\nArrival-Date: Sun, 22 Nov 2026 12:59:00 +0800 (CST)\r\n\r\n{fields}\r\n\
         --B/mx.example\r\nContent-Type: message/rfc822\r\n\r\nSubject: Sale\r\nMessage-ID: <x@shop.example>\r\n\r\nHi\r\n\
         \r\n--B/mx.example--\r\n"
    )
}

fn return_path() -> String {
    secrets().return_paths()[0]
        .address(mark(), "bounce@shop.example")
        .unwrap()
}

fn told(mail: &str, query: &str) -> Vec<WebhookEvent> {
    parse(Provider::Email, mail.as_bytes(), query, received_at(), Some(&secrets())).unwrap()
}

fn state(fields: &str) -> ReceiptState {
    let event = only(told(&report(&return_path(), fields), ""));
    let What::Receipt(Receipt { of, state }) = event.what else {
        panic!("{event:?}");
    };
    assert_eq!(
        of,
        ReceiptOf::Message {
            provider_id: None,
            mark: Some(mark())
        }
    );
    assert_eq!(
        (event.from, event.at.to_rfc3339().as_str()),
        (None, "2026-11-22T05:00:00+00:00")
    );
    state
}

#[test]
fn a_failure_has_the_class_of_its_status() {
    use ErrorClass::{Content, Credentials, Recipient, Throttled};
    for (status, said, class, code, closes_address) in [
        ("5.1.1", "550 5.1.1 unknown", Recipient, "report 5.1.1", true),
        ("5.1.2", "", Recipient, "report 5.1.2", true),
        ("5.1.10", "", Recipient, "report 5.1.10", true),
        ("5.1.8", "", Credentials, "report 5.1.8", false),
        ("5.2.1", "", Recipient, "report 5.2.1", true),
        ("5.2.2", "", Recipient, "report 5.2.2", false),
        ("4.2.2", "", Recipient, "report 4.2.2", false),
        ("4.4.7", "", Recipient, "report 4.4.7", false),
        ("4.1.2", "", Recipient, "report 4.1.2", false),
        ("5.3.4", "", Content, "report 5.3.4", false),
        ("5.6.0", "", Content, "report 5.6.0", false),
        ("5.3.0", "", Throttled, "report 5.3.0", false),
        ("5.7.1", "550 5.7.1 policy", Credentials, "report 5.7.1", false),
        ("5.0.0", "550 5.1.1 no such user", Recipient, "report 5.1.1", true),
        (
            "5.0.0",
            "550-5.7.26 unauthenticated",
            Credentials,
            "report 5.7.26",
            false,
        ),
        ("5.0.0", "550 User unknown", Recipient, "report 5.0.0", true),
        ("5.0.0", "554 refused", Recipient, "report 5.0.0", false),
        ("nonsense", "", Recipient, "report", false),
    ] {
        let fields = format!(
            "Final-Recipient: rfc822; amy@far.example\r\nAction: failed\r\nStatus: {status}\r\nDiagnostic-Code: smtp;\r\n {said}\r\n"
        );
        let code = code.to_owned();
        assert_eq!(
            state(&fields),
            ReceiptState::Failed {
                class,
                code,
                closes_address
            },
            "{status} {said}"
        );
    }
}

#[test]
fn a_delay_is_no_bounce() {
    let fields = |action| format!("Final-Recipient: rfc822; a@b.example\r\nAction: {action}\r\nStatus: 4.4.1\r\n");
    assert_eq!(state(&fields("delivered")), ReceiptState::Delivered);
    assert_eq!(state(&fields("relayed")), ReceiptState::Sent);
    let event = only(told(&report(&return_path(), &fields("delayed")), ""));
    assert_eq!(unknown(&event), "delivery-status.delayed");
}

#[test]
fn only_what_came_to_an_address_of_ours_is_believed() {
    let fields = "Final-Recipient: rfc822; amy@far.example\r\nAction: failed\r\nStatus: 5.1.1\r\n";
    let forged = "bounce+7.16.0000000000000@shop.example";
    for to in [
        "bounce@shop.example",
        forged,
        "carillon.00000000000000000000000000000007.42@shop.example",
    ] {
        assert_eq!(
            unknown(&only(told(&report(to, fields), ""))),
            "delivery-status.unproven"
        );
    }
    // Without the sender's secrets nothing can be shown.
    let mail = report(&return_path(), fields);
    let blind = parse(Provider::Email, mail.as_bytes(), "", received_at(), None).unwrap();
    assert_eq!(unknown(&only(blind)), "delivery-status.unproven");
    // By the mail server's word, and by the secret before.
    let query: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("to", &return_path())
        .finish();
    assert!(matches!(
        only(told(&report("x@y.example", fields), &query)).what,
        What::Receipt(_)
    ));
    let before = secrets().return_paths()[1]
        .address(mark(), "bounce@shop.example")
        .unwrap();
    assert!(matches!(
        only(told(&report(&before, fields), "")).what,
        What::Receipt(_)
    ));
}

#[test]
fn a_complaint_names_the_mail() {
    let mail = format!(
        "From: fbl@far.example\nTo: fbl@shop.example\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\nContent-Type: text/plain\n\nspam\n\
         --b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: Far/1\nVersion: 1\n\
         Original-Mail-From: <{}>\n--b\nContent-Type: message/rfc822\n\nSubject: Sale\n\nHi\n--b--\n",
        return_path()
    );
    assert_eq!(only(told(&mail, "")).what, What::Complained { mark: mark() });
}

#[test]
fn any_other_mail_is_kept_and_what_is_none_refused() {
    let away = "From: amy@far.example\nTo: bounce@shop.example\nSubject: Out of office\n\nBack on Monday\n";
    assert_eq!(unknown(&only(told(away, ""))), "mail");
    let empty = "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nx\n--b--\n";
    assert_eq!(unknown(&only(told(empty, ""))), "delivery-status.empty");
    for mail in ["", "\n\n"] {
        let refused = parse(Provider::Email, mail.as_bytes(), "", received_at(), None);
        assert!(matches!(refused, Err(ParseError::Shape(_))), "{mail:?}");
    }
}

#[test]
fn a_report_told_again_has_its_key() {
    let fields = "Action: failed\r\nStatus: 5.1.1\r\n";
    let first = told(&report(&return_path(), fields), "");
    let later = report(&return_path(), fields).replace("13:00:00", "14:00:00");
    assert_eq!(keys(&first), keys(&told(&later, "")));
}
