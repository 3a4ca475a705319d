//! What FCM's answers are taken for, and how often a token is fetched.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod login;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

use super::*;
use crate::channel::{
    Credentials, Sender,
    fixture::{self, Reply, Server},
    http,
};

const PARTS: &[u8] = br#""notification":{"title":"t","body":"b"}"#;
const TOKEN: &str = r#"{"access_token":"ya29.first","expires_in":3599,"token_type":"Bearer"}"#;
const SENT: &str = r#"{"name":"projects/carillon-demo/messages/0:150"}"#;

struct Client {
    fcm: Fcm,
    sender: Sender,
}

impl Client {
    fn new(url: &str) -> Self {
        let mut config = fixture::config();
        url.clone_into(&mut config.app.base_url);
        config.app.timeout_secs = 1;
        let fcm = Fcm::new(http::client(&config.http).unwrap(), &config.app).unwrap();
        Self {
            fcm,
            sender: fixture::app_sender(&format!("{url}/token")),
        }
    }

    async fn send(&self, to: &str) -> SendOutcome {
        let Credentials::App(project) = self.sender.credentials() else {
            unreachable!()
        };
        self.fcm.send(self.sender.id, project, to, PARTS).await
    }
}

fn is_token_request(request: &str) -> bool {
    request.starts_with("POST /token ")
}

/// A server whose token endpoint agrees and whose FCM gives `reply`.
async fn answering(reply: Reply) -> Server {
    Server::start(move |_, request| {
        if is_token_request(request) {
            Reply::json("200 OK", "", TOKEN)
        } else {
            reply.clone()
        }
    })
    .await
}

async fn send_gets(reply: Reply) -> SendOutcome {
    let server = answering(reply).await;
    Client::new(&server.url).send("device").await
}

fn refused(class: ErrorClass, code: &str) -> SendOutcome {
    Refusal::new(class, code).into()
}

fn error(status: &str, code: Option<&str>, message: &str) -> String {
    let details =
        code.map(|code| json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}));
    let details: Vec<Value> = details.into_iter().collect();
    json!({"error": {"code": 0, "status": status, "message": message, "details": details}}).to_string()
}

#[tokio::test]
async fn a_push_is_signed_in_with_a_jwt_and_sent_with_the_token() {
    let server = answering(Reply::json("200 OK", "", SENT)).await;
    let client = Client::new(&server.url);
    let sent = SendOutcome::accepted(Some("projects/carillon-demo/messages/0:150"));
    assert_eq!(client.send("dev:ice-1").await, sent);
    assert_eq!(client.send("dev:ice-2").await, sent);
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|request| is_token_request(request)).count(), 1);

    let (_, form) = requests[0].split_once("\r\n\r\n").unwrap();
    let jwt = form
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap();
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let Credentials::App(project) = client.sender.credentials() else {
        unreachable!()
    };
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, project.private_key.public_key());
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let decode = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
    assert_eq!(
        decode(head),
        json!({"alg": "RS256", "typ": "JWT", "kid": "test-only-key-opens-nothing-outside-the-sandbox"})
    );
    let claims = decode(claims);
    assert_eq!(claims["iss"], "test-only@carillon-demo.iam.gserviceaccount.com");
    assert_eq!(claims["aud"], json!(format!("{}/token", server.url)));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600);

    let (head, body) = requests[1].split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /v1/projects/carillon-demo/messages:send HTTP/1.1"),
        "{head}"
    );
    assert!(head.contains("authorization: Bearer ya29.first"));
    let body: Value = serde_json::from_str(body).unwrap();
    let message = json!({"token": "dev:ice-1", "notification": {"title": "t", "body": "b"}});
    assert_eq!(body, json!({"message": message}));
}

#[tokio::test]
async fn every_documented_refusal_has_its_class() {
    use ErrorClass::{Content, Credentials, Recipient, Uncertain};
    let token = "The registration token is not a valid FCM registration token";
    // HTTP status, general status, FCM's own code where it gives one.
    for (answer, message, class) in [
        ("404 NOT_FOUND UNREGISTERED", "", Recipient),
        ("404 NOT_FOUND", "", Recipient),
        ("403 PERMISSION_DENIED SENDER_ID_MISMATCH", "", Recipient),
        ("403 PERMISSION_DENIED", "", Credentials),
        ("400 INVALID_ARGUMENT INVALID_ARGUMENT", token, Recipient),
        ("400 INVALID_ARGUMENT", "Invalid JSON payload", Content),
        ("401 UNAUTHENTICATED THIRD_PARTY_AUTH_ERROR", "", Credentials),
        ("500 INTERNAL INTERNAL", "", Uncertain),
        ("503 INTERNAL", "", Uncertain),
    ] {
        let words: Vec<&str> = answer.split(' ').collect();
        let body = error(words[1], words.get(2).copied(), message);
        let outcome = send_gets(Reply::json(&format!("{} X", words[0]), "", &body)).await;
        let code = format!("{} {}", words[0], words.last().unwrap());
        assert_eq!(outcome, refused(class, &code), "{answer}");
    }
    let violation = json!({"error": {"status": "INVALID_ARGUMENT", "message": "Invalid value", "details": [
        {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.android.ttl"}]},
    ]}});
    let outcome = send_gets(Reply::json("400 Bad Request", "", &violation.to_string())).await;
    assert_eq!(outcome, refused(Content, "400 INVALID_ARGUMENT"));
    // What is no code may be anything, a token among it.
    let quoting = error("token-of-amy", None, "");
    let outcome = send_gets(Reply::json("400 Bad Request", "", &quoting)).await;
    assert_eq!(outcome, refused(Content, "400 not_a_code"));
}

#[tokio::test]
async fn a_busy_fcm_says_how_long_to_wait_or_gets_the_documented_pause() {
    for (http, status, headers, wait) in [
        ("429 Too Many", "RESOURCE_EXHAUSTED", "", 60),
        ("429 Too Many", "RESOURCE_EXHAUSTED", "Retry-After: 7\r\n", 7),
        ("503 Unavailable", "UNAVAILABLE", "", 10),
        ("503 Unavailable", "UNAVAILABLE", "Retry-After: 3\r\n", 3),
    ] {
        let outcome = send_gets(Reply::json(http, headers, &error(status, None, ""))).await;
        let SendOutcome::Refused(refusal) = outcome else {
            unreachable!()
        };
        assert_eq!(refusal.class, ErrorClass::Throttled);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(wait)), "{http} {headers}");
    }
}

#[tokio::test]
async fn what_is_not_fcms_own_answer_is_never_acceptance() {
    use ErrorClass::{Credentials, Uncertain};
    for (reply, class, code) in [
        (Reply::json("200 OK", "", ""), Uncertain, "200_not_as_promised"),
        (
            Reply::json("200 OK", "", r#"{"name":"hello"}"#),
            Uncertain,
            "200_not_as_promised",
        ),
        (
            Reply::json("200 OK", "", &"x".repeat(1_000_000)),
            Uncertain,
            "200_not_as_promised",
        ),
        (
            Reply::json("302 Found", "Location: /x\r\n", ""),
            Uncertain,
            "302 not_as_promised",
        ),
        (
            Reply::json("400 Bad Request", "", "<html>"),
            Uncertain,
            "400 not_as_promised",
        ),
        (
            Reply::json("404 Not Found", "", "<html>"),
            Credentials,
            "404 not_as_promised",
        ),
        (
            Reply::json("503 Unavailable", "", "<html>"),
            Uncertain,
            "503 not_as_promised",
        ),
        (Reply::Reset, Uncertain, "connection_lost"),
        (Reply::Hang, Uncertain, "timeout"),
    ] {
        assert_eq!(send_gets(reply).await, refused(class, code));
    }
}

#[tokio::test]
async fn a_token_that_could_break_out_of_the_json_never_leaves() {
    let server = answering(Reply::json("200 OK", "", SENT)).await;
    let client = Client::new(&server.url);
    for to in ["", "a\"b", "a\\b", "a b", "折", &"x".repeat(5_000)] {
        assert_eq!(
            client.send(to).await,
            refused(ErrorClass::Recipient, "malformed_address")
        );
    }
    assert!(server.requests().is_empty());
}
