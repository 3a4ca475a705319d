//! What Twilio's answers mean, and what leaves for both providers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use carillon_jobs::{BroadcastId, CustomerId, SenderId};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{SmsAccount, account::is_sid, codes, twilio};
use crate::channel::{
    Channel, ChannelConfig, Channels, DeliveryMark, ErrorClass, Rendered, SendOutcome, Sender, SenderError,
    fixture::{self, Reply, Server},
    http::Answer,
};

const SID: &str = "AC0123456789abcdef0123456789abcdef";

fn twilio_json() -> Value {
    json!({"provider": "twilio", "account_sid": SID, "auth_token": "t0ken", "from": "+15005550006"})
}

fn mitake_json() -> Value {
    json!({"provider": "mitake", "username": "shop", "password": "pa55&", "callback_token": "0123456789abcdef"})
}

fn sender(json: &Value) -> Result<Sender, SenderError> {
    Sender::parse(SenderId::new(), Channel::Sms, &json.to_string())
}

fn without(mut json: Value, field: &str) -> Value {
    json.as_object_mut().unwrap().remove(field);
    json
}

fn with(mut json: Value, field: &str, value: &str) -> Value {
    json.as_object_mut().unwrap().insert(field.into(), value.into());
    json
}

#[test]
fn credentials_of_both_providers_are_read_and_wrong_ones_named() {
    let key = with(twilio_json(), "api_key", "SK0123456789abcdef0123456789abcdef");
    let service = "MG0123456789abcdef0123456789abcdef";
    for json in [
        twilio_json(),
        with(without(twilio_json(), "from"), "messaging_service_sid", service),
        with(key.clone(), "api_secret", "s"),
        mitake_json(),
        with(mitake_json(), "base_url", "https://smsb2c.mitake.com.tw/b2c/mtk/"),
    ] {
        let sender = sender(&json).unwrap();
        assert_eq!(sender.channel(), Channel::Sms);
        let mitake = json["provider"] == "mitake";
        assert_eq!(sender.key_memory().is_some(), mitake, "only Mitake knows our keys");
    }
    for (json, named) in [
        (without(twilio_json(), "provider"), "provider"),
        (with(twilio_json(), "provider", "every8d"), "provider"),
        (with(twilio_json(), "account_sid", "AC1"), "account_sid"),
        (with(twilio_json(), "auth_token", " "), "auth_token"),
        (without(twilio_json(), "from"), "from"),
        (with(twilio_json(), "from", "0912345678901"), "from"),
        (with(twilio_json(), "messaging_service_sid", service), "from"),
        (key, "api_key"),
        (with(mitake_json(), "username", " "), "username"),
        (without(mitake_json(), "password"), "password"),
        (with(mitake_json(), "callback_token", "short"), "callback_token"),
        (with(mitake_json(), "base_url", "http://smsb2c.example/"), "base_url"),
    ] {
        let error = sender(&json).unwrap_err().to_string();
        assert!(error.contains(named), "{json}: {error}");
        assert!(!error.contains("t0ken") && !error.contains("pa55"), "{error}");
    }
}

fn message(text: &str) -> Rendered {
    message_to(text, 1, 7)
}

/// A message of this broadcast to this customer.
fn message_to(text: &str, broadcast: u128, customer: i64) -> Rendered {
    let mark = DeliveryMark {
        broadcast: BroadcastId(Uuid::from_u128(broadcast)),
        customer: CustomerId(customer),
    };
    Rendered::Sms {
        text: text.to_owned().into(),
        mark,
    }
}

fn config(url: &str) -> ChannelConfig {
    let mut config = fixture::config();
    config.sms.twilio_base_url = url.to_owned();
    config.sms.mitake_base_url = format!("{url}/b2c/mtk/");
    config
}

fn channels(url: &str) -> Channels {
    Channels::new(&config(url))
        .unwrap()
        .reached_at("https://carillon.example/")
}

fn fields(request: &str) -> Vec<(String, String)> {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const MARK: &str = "mark=carillon.00000000000000000000000000000001.7";

/// Accepts every message under the key it came with.
fn mitake_accepts(request: &str) -> Reply {
    let sent = fields(request);
    let (_, key) = sent.iter().find(|(name, _)| name == "clientid").unwrap();
    let body = format!("[{key}]\r\nmsgid=#1\r\nstatuscode=1\r\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n",
        body.len()
    );
    Reply::Raw(format!("{head}Connection: close\r\n\r\n{body}").into_bytes())
}

#[tokio::test]
async fn mitake_gets_the_form_it_wants() {
    let server = Server::start(|_, request| mitake_accepts(request)).await;
    let sender = sender(&mitake_json()).unwrap();
    let text = message("EasyStore a\nb 折+&");
    let outcome = channels(&server.url)
        .send(&sender, "+886912345678", &text, Uuid::from_u128(0xd))
        .await;
    assert_eq!(outcome, SendOutcome::accepted(Some("#1")));
    let request = server.requests().remove(0);
    assert!(
        request.starts_with("POST /b2c/mtk/SmSend?CharsetURL=UTF-8 HTTP/1.1"),
        "{request}"
    );
    let id = sender.id;
    let callback = format!("https://carillon.example/webhooks/mitake/{id}?token=0123456789abcdef&{MARK}");
    let expected = [
        ("username", "shop"),
        ("password", "pa55&"),
        ("smsPointFlag", "1"),
        ("response", &callback),
        ("dstaddr", "0912345678"),
        ("clientid", "00000000-0000-0000-0000-00000000000d"),
        ("smbody", "EasyStore a\u{6}b 折+&"),
    ];
    assert_eq!(fields(&request), owned(&expected));
}

/// And without an address of ours nobody is told to call it.
#[tokio::test]
async fn nothing_of_one_message_to_mitake_stands_in_the_next() {
    let server = Server::start(|_, request| mitake_accepts(request)).await;
    let unreached = Channels::new(&config(&server.url)).unwrap();
    for (channels, told) in [(channels(&server.url), true), (unreached, false)] {
        let sender = sender(&mitake_json()).unwrap();
        let below = format!("https://carillon.example/webhooks/mitake/{}", sender.id);
        for (to, local, text, sms, broadcast, customer) in [
            ("+886 987-654-321", "0987654321", "一", "一", 0xa1, 11),
            ("+886912345678", "0912345678", "二\r\n", "二\u{6}", 0xb2, 22),
            ("0955-555-555", "0955555555", "三", "三", 0xb2, 33),
        ] {
            let key = Uuid::new_v4();
            let letter = message_to(text, broadcast, customer);
            let outcome = channels.send(&sender, to, &letter, key).await;
            assert_eq!(outcome, SendOutcome::accepted(Some("#1")));
            let mark = format!("carillon.{broadcast:032x}.{customer}");
            let callback = format!("{below}?token=0123456789abcdef&mark={mark}");
            let key = key.to_string();
            let mut expected = vec![("username", "shop"), ("password", "pa55&"), ("smsPointFlag", "1")];
            expected.extend(told.then_some(("response", callback.as_str())));
            expected.extend([("dstaddr", local), ("clientid", key.as_str()), ("smbody", sms)]);
            assert_eq!(fields(server.requests().last().unwrap()), owned(&expected));
        }
    }
}

#[tokio::test]
async fn twilio_gets_the_form_it_wants() {
    let sid = format!("SM{:032x}", 5);
    let body = json!({"sid": sid, "status": "queued", "error_code": null}).to_string();
    let server = Server::start(move |_, _| Reply::json("201 Created", "", &body)).await;
    let sender = sender(&twilio_json()).unwrap();
    let text = message("EasyStore 折\nb");
    let outcome = channels(&server.url)
        .send(&sender, "0912-345-678", &text, Uuid::nil())
        .await;
    assert_eq!(outcome, SendOutcome::accepted(Some(&sid)));
    let request = server.requests().remove(0);
    let path = format!("POST /2010-04-01/Accounts/{SID}/Messages.json HTTP/1.1");
    assert!(request.starts_with(&path), "{request}");
    let callback = format!("https://carillon.example/webhooks/twilio/{}?{MARK}", sender.id);
    let expected = [
        ("To", "+886912345678"),
        ("From", "+15005550006"),
        ("Body", "EasyStore 折\nb"),
        ("ValidityPeriod", "14400"),
        ("StatusCallback", &callback),
    ];
    assert_eq!(fields(&request), owned(&expected));
}

#[tokio::test]
async fn a_number_that_cannot_be_one_never_leaves() {
    let server = Server::start(|_, _| Reply::Reset).await;
    let channels = channels(&server.url);
    for (json, to) in [
        (twilio_json(), "hello"),
        (mitake_json(), "+85212345678"),
        (mitake_json(), "+886223456789"),
    ] {
        let outcome = channels
            .send(&sender(&json).unwrap(), to, &message("a"), Uuid::nil())
            .await;
        assert_eq!(class(&outcome), Some(ErrorClass::Recipient), "{to}");
    }
    assert!(server.requests().is_empty());
}

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

fn answer(status: u16, kind: &str, body: &str) -> Answer {
    let mut headers = ::http::HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    Answer {
        status,
        headers,
        body: Some(body.as_bytes().to_vec()),
    }
}

#[test]
fn twilios_codes_have_their_classes() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled, Uncertain};
    for (status, code, expected) in [
        (400, 21_602, Content),
        (400, 21_617, Content),
        (400, 21_408, Content),
        (400, 99_999, Content),
        (400, 21_212, Credentials),
        (400, 21_606, Credentials),
        (400, 21_211, Recipient),
        (400, 21_614, Recipient),
        (400, 21_612, Recipient),
        (400, 21_610, Recipient),
        (401, 20_003, Credentials),
        (403, 20_403, Credentials),
        (404, 20_404, Credentials),
        (429, 20_429, Throttled),
        (429, 63_038, Quota),
        (400, 21_611, Throttled),
        (500, 20_500, Uncertain),
        (503, 20_503, Uncertain),
        (408, 20_408, Uncertain),
        (302, 0, Uncertain),
    ] {
        let body = json!({"code": code, "message": "m", "more_info": "u", "status": status}).to_string();
        let outcome = twilio::judge(&answer(status, "application/json", &body));
        assert_eq!(class(&outcome), Some(expected), "{status} {code}");
    }
    let closed = |code: u32| codes::closes(&format!("twilio {code}"));
    assert!([21_211, 21_610, 21_614].into_iter().all(closed));
    assert!(![21_612, 30_003, 30_004].into_iter().any(closed));
    assert!(codes::says_stop("twilio 21610"));
}

#[test]
fn twilio_accepts_only_in_its_own_words() {
    let sid = "SM0123456789abcdef0123456789abcdef";
    let good = json!({"sid": sid, "status": "queued", "error_code": null}).to_string();
    let outcome = twilio::judge(&answer(201, "application/json", &good));
    assert_eq!(outcome, SendOutcome::accepted(Some(sid)));
    for (status, kind, body) in [
        (201, "text/html", good.as_str()),
        (200, "application/json", "{}"),
        (201, "application/json", ""),
        (201, "application/json", r#"{"sid":"SM1","status":"queued"}"#),
        (201, "application/json", &good.replace("queued", "who knows")),
        (201, "application/json", &good.replace("null", "30001")),
        (202, "application/json", &good),
        (204, "application/json", ""),
        (301, "application/json", &good),
        (500, "application/json", &good),
    ] {
        let outcome = twilio::judge(&answer(status, kind, body));
        assert_eq!(class(&outcome), Some(ErrorClass::Uncertain), "{status} {kind} {body}");
    }
    let failed = json!({"sid": sid, "status": "failed", "error_code": 30_006}).to_string();
    let outcome = twilio::judge(&answer(201, "application/json", &failed));
    assert_eq!(class(&outcome), Some(ErrorClass::Recipient));
    // Twilio took it and gave it up: that it was too fast, or a line was down, makes nobody send it again.
    for code in [30_001, 30_008, 30_017, 30_022, 30_410] {
        for status in ["failed", "undelivered", "canceled"] {
            let failed = json!({"sid": sid, "status": status, "error_code": code}).to_string();
            let outcome = twilio::judge(&answer(201, "application/json", &failed));
            assert_eq!(class(&outcome), Some(ErrorClass::Content), "{status} {code}");
        }
    }
}

proptest! {
    #[test]
    fn twilio_never_accepts_what_it_did_not_say(status in 100_u16..600, body: Vec<u8>, json: bool) {
        let kind = if json { "application/json" } else { "text/plain" };
        let mut given = answer(status, kind, "");
        given.body = Some(body);
        if let SendOutcome::Accepted { provider_id } = twilio::judge(&given) {
            prop_assert!(matches!(status, 200 | 201) && provider_id.is_some_and(|sid| is_sid(&sid, &["SM", "MM"])));
        }
    }

    #[test]
    fn any_credentials_are_read_or_refused(text in "\\PC{0,200}") {
        let _ = SmsAccount::parse(&text);
    }
}
