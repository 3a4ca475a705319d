//! What WhatsApp's answers, and their absence, are taken for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use ::http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;

use super::*;
use crate::channel::{
    Credentials,
    fixture::{self, Reply, Server},
    http,
};

const TO: &str = "+886912345678";
const PARTS: &[u8] = br#""type":"text","text":{"body":"hi"},"biz_opaque_callback_data":"carillon.0.7""#;
const SENT: &str = r#"{"messaging_product":"whatsapp","contacts":[{"input":"+886912345678","wa_id":"886912345678"}],
    "messages":[{"id":"wamid.HBgM","message_status":"accepted"}]}"#;

async fn send(url: &str, to: &str) -> SendOutcome {
    let mut config = fixture::config();
    config.whatsapp.base_url = url.to_owned();
    config.whatsapp.timeout_secs = 1;
    let whatsapp = Whatsapp::new(http::client(&config.http).unwrap(), &config.whatsapp).unwrap();
    let sender = fixture::whatsapp_sender();
    let Credentials::Whatsapp(account) = sender.credentials() else {
        unreachable!()
    };
    whatsapp.send(account, to, PARTS).await
}

fn answer(status: u16, kind: &str, body: &[u8]) -> Answer {
    let kind = HeaderValue::from_str(kind).unwrap();
    Answer {
        status,
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
        body: Some(body.to_vec()),
    }
}

fn error(status: u16, code: u32) -> Answer {
    let body = serde_json::json!({"error": {"message": "m", "type": "OAuthException", "code": code, "fbtrace_id": "A",
        "error_data": {"messaging_product": "whatsapp", "details": "d"}}});
    answer(status, "application/json", body.to_string().as_bytes())
}

#[tokio::test]
async fn a_message_carries_token_and_body_and_returns_its_id() {
    let server = Server::start(|_, _| Reply::json("200 OK", "", SENT)).await;
    assert_eq!(send(&server.url, TO).await, SendOutcome::accepted(Some("wamid.HBgM")));
    let request = &server.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v24.0/2002/messages HTTP/1.1"), "{head}");
    assert!(head.contains("authorization: Bearer t0ken"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["to"], &body["messaging_product"]),
        (&TO.into(), &"whatsapp".into())
    );
    assert_eq!(body["biz_opaque_callback_data"], "carillon.0.7");
}

#[tokio::test]
async fn who_hides_their_number_is_not_sent_to_and_stays_in_the_book() {
    let server = Server::start(|_, _| Reply::json("200 OK", "", SENT)).await;
    for to in [
        "",
        "886912345678",
        "+88691234567x",
        "TW.13491208655302741918",
        "+1234567890123456",
    ] {
        let SendOutcome::Refused(refusal) = send(&server.url, to).await else {
            panic!("{to} was accepted")
        };
        assert_eq!(refusal.class, ErrorClass::Recipient);
        assert!(!refusal.closes_address());
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn only_metas_own_words_are_acceptance() {
    for reply in [
        Reply::json("200 OK", "", "{}"),
        Reply::json("200 OK", "", r#"{"messaging_product":"whatsapp","messages":[]}"#),
        Reply::json(
            "200 OK",
            "",
            r#"{"messaging_product":"whatsapp","messages":[{"id":"7"}]}"#,
        ),
        Reply::json("200 OK", "", r#"{"messages":[{"id":"wamid.1"}]}"#),
        Reply::json("202 Accepted", "", SENT),
        Reply::json("503 Service Unavailable", "", r#"{"error":{"code":2}}"#),
        Reply::Reset,
        Reply::Hang,
    ] {
        let asked = reply.clone();
        let server = Server::start(move |_, _| asked.clone()).await;
        let SendOutcome::Refused(refusal) = send(&server.url, TO).await else {
            panic!("{reply:?} was taken for acceptance")
        };
        assert_eq!(refusal.class, ErrorClass::Uncertain, "{reply:?}: {refusal:?}");
    }
}

#[test]
fn every_documented_refusal_has_its_class() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled, Uncertain};
    let closing = [131_026, 131_050];
    for (class, codes) in [
        (
            Credentials,
            &[
                0, 3, 10, 33, 190, 200, 299, 131_005, 131_045, 133_010, 133_006, 368, 131_031, 130_497, 131_037,
            ][..],
        ),
        (
            Throttled,
            &[4, 80_007, 130_429, 131_057, 133_016, 131_048, 2, 131_016, 133_004],
        ),
        (Quota, &[131_042]),
        (
            Recipient,
            &[131_026, 131_021, 131_050, 131_049, 130_472, 131_047, 131_056],
        ),
        (
            Content,
            &[
                100, 131_008, 131_009, 131_051, 131_052, 131_053, 132_005, 132_068, 134_011, 135_000,
            ],
        ),
        (Credentials, &[132_000, 132_001, 132_012, 132_007, 132_015, 132_016]),
        (Uncertain, &[1, 131_000]),
    ] {
        for code in codes {
            let SendOutcome::Refused(refusal) = judge(&error(400, *code)) else {
                panic!("{code} was taken for acceptance")
            };
            assert_eq!(refusal.class, class, "{code}");
            assert_eq!(refusal.closes_address(), closing.contains(code), "{code}");
            assert_eq!(refusal.code, code.to_string());
        }
    }
}

#[test]
fn a_template_that_cannot_be_right_is_refused_with_the_credentials() {
    let parse = |template: &str| {
        let json = format!(r#"{{"phone_number_id":"2002","access_token":"t","template":{template}}}"#);
        NumberAccount::parse(&json).map(|account| account.template)
    };
    let template = parse(r#"{"name":"shop_news","language":"zh_TW"}"#).unwrap().unwrap();
    assert_eq!(template.body, [TemplateBlank::Text]);
    for wrong in [
        r#"{"name":"Shop News","language":"zh_TW"}"#,
        r#"{"name":"a","language":"中文"}"#,
        r#"{"name":"a","language":"zh_TW","button_url_prefix":"http://x"}"#,
        r#"{"name":"a","language":"zh_TW","body":["price"]}"#,
        r#"{"name":"a","language":"zh_TW","colour":"red"}"#,
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_judged_and_never_wrongly_accepted(
        status in 100..600_u16,
        json: bool,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let kind = if json { "application/json" } else { "text/html" };
        let outcome = judge(&answer(status, kind, &body));
        prop_assert!(matches!(outcome, SendOutcome::Refused(_)), "{:?}", outcome);
    }

    #[test]
    fn any_error_of_any_status_is_a_refusal(status in 200..600_u16, code: u32) {
        let SendOutcome::Refused(refusal) = judge(&error(status, code)) else {
            return Err(TestCaseError::fail("accepted"))
        };
        prop_assert!(status < 500 || refusal.class == ErrorClass::Uncertain);
    }
}
