//! What Messenger's answers, and their absence, are taken for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;

use super::*;
use crate::channel::{
    Credentials,
    fixture::{self, Reply, Server},
    http,
};

const PSID: &str = "7000000000000001";
const PARTS: &[u8] = br#""messaging_type":"UPDATE","message":{"text":"hi","metadata":"carillon.0.7"}"#;
const SENT: &str = r#"{"recipient_id":"7000000000000001","message_id":"m_AG5Hz2U"}"#;

async fn send(url: &str, to: &str) -> SendOutcome {
    let mut config = fixture::config();
    config.messenger.base_url = url.to_owned();
    config.messenger.timeout_secs = 1;
    let messenger = Messenger::new(http::client(&config.http).unwrap(), &config.messenger).unwrap();
    let sender = fixture::messenger_sender();
    let Credentials::Messenger(account) = sender.credentials() else {
        unreachable!()
    };
    messenger.send(account, to, PARTS).await
}

async fn send_gets(reply: Reply) -> SendOutcome {
    let server = Server::start(move |_, _| reply.clone()).await;
    send(&server.url, PSID).await
}

fn answer(status: u16, kind: &str, body: &[u8]) -> Answer {
    let kind = HeaderValue::from_str(kind).unwrap();
    Answer {
        status,
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
        body: Some(body.to_vec()),
    }
}

fn error(status: u16, code: u32, subcode: u32) -> Answer {
    let body = serde_json::json!({"error": {
        "message": "m", "type": "OAuthException", "code": code, "error_subcode": subcode, "fbtrace_id": "A",
    }});
    answer(status, "application/json; charset=UTF-8", body.to_string().as_bytes())
}

#[tokio::test]
async fn a_message_carries_token_proof_and_body_and_returns_its_id() {
    let server = Server::start(|_, _| Reply::json("200 OK", "", SENT)).await;
    assert_eq!(send(&server.url, PSID).await, SendOutcome::accepted(Some("m_AG5Hz2U")));
    let request = &server.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    // printf %s t0ken | openssl dgst -sha256 -hmac s3cret
    let proof = "d0f8abfce5e9c8e5c0b6446d31e29359768d9916db08c6a94ca7b481a4eeac2c";
    assert!(
        head.starts_with(&format!("POST /v25.0/1001/messages?appsecret_proof={proof} ")),
        "{head}"
    );
    assert!(head.contains("authorization: Bearer t0ken"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["recipient"], serde_json::json!({"id": PSID}));
    assert_eq!(body["message"]["metadata"], "carillon.0.7");
}

#[tokio::test]
async fn an_address_that_is_no_person_never_leaves() {
    let server = Server::start(|_, _| Reply::json("200 OK", "", SENT)).await;
    for to in ["", "7\"}", "U1", "https://x", "７", &"7".repeat(33)] {
        let expected = Refusal::new(ErrorClass::Recipient, "malformed_address");
        assert_eq!(send(&server.url, to).await, expected.into(), "{to}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn only_metas_own_words_are_acceptance() {
    for reply in [
        Reply::json("200 OK", "", "{}"),
        Reply::json("200 OK", "", r#"{"message_id":""}"#),
        Reply::json("200 OK", "", r#"{"message_id":7}"#),
        Reply::json("200 OK", "", r#"{"recipient_id":"8","message_id":"m_1"}"#),
        Reply::json("200 OK", "", r#"{"error":{"code":190}}"#),
        Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".to_vec()),
        Reply::json("201 Created", "", SENT),
        Reply::json("302 Found", "Location: /elsewhere\r\n", ""),
        Reply::json("500 Internal Server Error", "", r#"{"error":{"code":190}}"#),
        Reply::json("503 Service Unavailable", "", ""),
        Reply::Reset,
        Reply::Hang,
    ] {
        let outcome = send_gets(reply.clone()).await;
        let SendOutcome::Refused(refusal) = outcome else {
            panic!("{reply:?} was taken for acceptance")
        };
        assert_eq!(refusal.class, ErrorClass::Uncertain, "{reply:?}: {refusal:?}");
    }
}

#[test]
fn every_documented_refusal_has_its_class() {
    use ErrorClass::{Content, Credentials, Recipient, Throttled, Uncertain};
    for (code, subcode, class, closes) in [
        (1, 0, Uncertain, false),
        (1, 99, Uncertain, false),
        (1, 1_357_046, Uncertain, false),
        (2, 0, Uncertain, false),
        (1_200, 0, Uncertain, false),
        (2, 2_018_344, Credentials, false),
        (4, 0, Throttled, false),
        (4, 2_018_022, Throttled, false),
        (17, 0, Throttled, false),
        (32, 0, Throttled, false),
        (613, 0, Throttled, false),
        (341, 0, Throttled, false),
        (80_006, 0, Throttled, false),
        (4, 2_018_354, Recipient, false),
        (9, 2_018_352, Recipient, false),
        (10, 2_018_278, Recipient, false),
        (10, 2_534_022, Recipient, false),
        (10, 2_018_065, Recipient, false),
        (10, 2_018_108, Recipient, false),
        (10, 1_893_063, Credentials, false),
        (10, 0, Credentials, false),
        (100, 2_018_001, Recipient, true),
        (551, 1_545_041, Recipient, true),
        (551, 0, Recipient, true),
        (100, 2_018_034, Content, false),
        (100, 2_018_109, Content, false),
        (100, 0, Content, false),
        (100, 33, Credentials, false),
        (190, 463, Credentials, false),
        (200, 2_018_028, Credentials, false),
        (230, 0, Credentials, false),
        (368, 0, Credentials, false),
        (77_777, 0, Content, false),
    ] {
        let SendOutcome::Refused(refusal) = judge(PSID, &error(400, code, subcode)) else {
            panic!("{code}/{subcode} was taken for acceptance")
        };
        assert_eq!(
            (refusal.class, refusal.closes_address()),
            (class, closes),
            "{code}/{subcode}"
        );
        let name = if subcode == 0 {
            code.to_string()
        } else {
            format!("{code}/{subcode}")
        };
        assert_eq!(refusal.code, name);
    }
}

#[test]
fn a_proof_that_does_not_fit_is_a_matter_of_credentials() {
    let body = r#"{"error":{"code":100,"message":"Invalid appsecret_proof provided in the API argument"}}"#;
    let outcome = judge(PSID, &answer(400, "application/json", body.as_bytes()));
    assert_eq!(outcome, Refusal::new(ErrorClass::Credentials, "100").into());
}

#[test]
fn a_rate_limit_waits_as_long_as_meta_says() {
    let mut limited = error(400, 80_006, 0);
    let usage = r#"{"1":[{"type":"messenger","estimated_time_to_regain_access":2}]}"#;
    limited
        .headers
        .insert("x-business-use-case-usage", HeaderValue::from_static(usage));
    let expected = Refusal::new(ErrorClass::Throttled, "80006").after(Some(Duration::from_mins(2)));
    assert_eq!(judge(PSID, &limited), expected.into());
}

proptest! {
    #[test]
    fn whatever_comes_is_judged_and_never_wrongly_accepted(
        status in 100..600_u16,
        json: bool,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let kind = if json { "application/json" } else { "text/html" };
        let outcome = judge(PSID, &answer(status, kind, &body));
        prop_assert!(matches!(outcome, SendOutcome::Refused(_)), "{:?}", outcome);
    }

    #[test]
    fn any_error_of_any_status_is_a_refusal(status in 200..600_u16, code: u32, subcode: u32) {
        let outcome = judge(PSID, &error(status, code, subcode));
        let SendOutcome::Refused(refusal) = outcome else { return Err(TestCaseError::fail("accepted")) };
        // What may have been sent is never said to be known.
        prop_assert!(status < 500 || refusal.class == ErrorClass::Uncertain);
    }
}
