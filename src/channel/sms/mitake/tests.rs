//! What Mitake's answers mean, whatever they are.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{judge, read};
use crate::channel::{ErrorClass, SendOutcome, http::Answer};

const KEY: &str = "16a9d997-ed2b-5911-8c31-ff406c975d41";

fn answer(status: u16, kind: Option<&str>, body: &[u8]) -> Answer {
    let mut headers = ::http::HeaderMap::new();
    if let Some(kind) = kind {
        headers.insert("content-type", kind.parse().unwrap());
    }
    Answer {
        status,
        headers,
        body: Some(body.to_vec()),
    }
}

fn said(body: &str) -> SendOutcome {
    judge(&answer(200, Some("text/plain; charset=UTF-8"), body.as_bytes()), KEY)
}

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

#[test]
fn acceptance_is_a_message_id_under_our_key() {
    for body in [
        format!("[{KEY}]\r\nmsgid=#000000013\r\nstatuscode=1\r\nsmsPoint=1\r\nAccountPoint=98\r\n"),
        format!("[{KEY}]\nmsgid=#000000013\nstatuscode=0"),
        format!("\u{feff}[{KEY}]\r\n\r\n msgid = #000000013 \r\nstatuscode=4\r\nNew=thing\r\n"),
        "[1]\r\nmsgid=#000000013\r\nstatuscode=1\r\nAccountPoint=126\r\n".to_owned(),
        format!("[{KEY}]\r\nmsgid=#000000013\r\nstatuscode=1\r\nDuplicate=Y\r\n"),
    ] {
        assert_eq!(said(&body), SendOutcome::accepted(Some("#000000013")), "{body}");
    }
    let duplicate = said(&format!("[{KEY}]\r\nDuplicate=Y\r\n"));
    assert_eq!(duplicate, SendOutcome::accepted(None));
}

#[test]
fn every_code_has_its_class() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled, Uncertain};
    let classes = [
        ("56789", [Content, Recipient, Recipient, Recipient, Content].as_slice()),
        ("abrlw", &[Throttled; 5]),
        ("cdefhkmnp", &[Credentials; 9]),
        ("stuvxy", &[Quota, Content, Content, Recipient, Content, Content]),
        ("*zq", &[Uncertain; 3]),
    ];
    for (codes, expected) in classes {
        for (code, expected) in codes.chars().zip(expected) {
            for body in [
                format!("[{KEY}]\r\nstatuscode={code}\r\nError=參數錯誤\r\n"),
                format!("statuscode={code}\r\n"),
            ] {
                assert_eq!(class(&said(&body)), Some(*expected), "{body}");
            }
        }
    }
    // In whatever characters its text is.
    let big5 = b"[1]\r\nstatuscode=v\r\nError=\xb5L\xae\xc4\xaa\xba\r\n";
    assert_eq!(class(&judge(&answer(200, None, big5), KEY)), Some(Recipient));
}

#[test]
fn what_is_not_its_form_is_uncertain() {
    for body in [
        String::new(),
        "OK".into(),
        "<html><body>It works!</body></html>".into(),
        "{\"statuscode\":\"1\",\"msgid\":\"#1\"}".into(),
        "msgid=#1\r\nstatuscode=1\r\n".into(),
        "[1]\r\nstatuscode=1\r\n".into(),
        "[1]\r\nmsgid=#1\r\n".into(),
        "[1]\r\nmsgid=\r\nstatuscode=1\r\n".into(),
        "[2]\r\nmsgid=#1\r\nstatuscode=1\r\n".into(),
        "[1]\r\nDuplicate=Y\r\n".into(),
        "[16a9d997-ed2b-5911-8c31-ff406c975d42]\r\nmsgid=#1\r\nstatuscode=1\r\n".into(),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=1\r\n[{KEY}]\r\nmsgid=#2\r\nstatuscode=v\r\n"),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=1\r\nstatuscode=v\r\n"),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=11\r\n"),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=v\r\nDuplicate=Y\r\n"),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=1\r\nDuplicate=perhaps\r\n"),
        format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=1\r\nand then some\r\n"),
        format!("[{KEY}"),
    ] {
        assert_eq!(class(&said(&body)), Some(ErrorClass::Uncertain), "{body}");
    }
}

#[test]
fn what_is_not_mitakes_answer_says_nothing_of_the_message() {
    use ErrorClass::{Credentials, Throttled, Uncertain};
    let good = format!("[{KEY}]\r\nmsgid=#1\r\nstatuscode=1\r\n");
    for (status, kind, expected) in [
        (200, "application/json", Uncertain),
        (301, "text/plain", Uncertain),
        (400, "text/plain", Uncertain),
        (401, "text/plain", Credentials),
        (404, "text/plain", Credentials),
        (429, "text/plain", Throttled),
        (500, "text/plain", Uncertain),
        (503, "text/plain", Uncertain),
    ] {
        let outcome = judge(&answer(status, Some(kind), good.as_bytes()), KEY);
        assert_eq!(class(&outcome), Some(expected), "{status} {kind}");
    }
    let cut = Answer {
        body: None,
        ..answer(200, None, b"")
    };
    assert_eq!(class(&judge(&cut, KEY)), Some(Uncertain));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_acceptance(status in 100_u16..600, body: Vec<u8>) {
        prop_assert!(class(&judge(&answer(status, None, &body), KEY)).is_some());
    }

    /// Close to the form: acceptance only with one section of ours, one good code and one message id.
    #[test]
    fn pieces_of_the_form_are_acceptance_only_when_they_say_so(pieces in prop::collection::vec(prop::sample::select(vec![
        "[1]", "[16a9d997-ed2b-5911-8c31-ff406c975d41]", "[x]", "msgid=#1", "msgid=", "statuscode=1", "statuscode=v", "Duplicate=Y",
        "AccountPoint=9", "Error=x", "?", "",
    ]), 0..7)) {
        let body = pieces.join("\r\n");
        let count = |piece: &str| pieces.iter().filter(|one| one.starts_with(piece)).count();
        if class(&said(&body)).is_none() {
            prop_assert_eq!(count("["), 1);
            prop_assert_eq!(count("[x]") + count("statuscode=v") + count("?"), 0);
            prop_assert!(count("statuscode=1") == 1 && count("msgid=#1") == 1 || count("Duplicate=Y") == 1);
        }
    }

    #[test]
    fn any_bytes_are_read_or_not(body: Vec<u8>) {
        let _ = read(&body);
    }
}
