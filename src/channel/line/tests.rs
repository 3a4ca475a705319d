//! What LINE's answers, and their absence, are taken for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use super::*;
use crate::channel::{
    Credentials, Sender,
    fixture::{self, Reply, Server},
    http,
};

const PARTS: &[u8] = br#""messages":[{"type":"text","text":"hi"}]"#;

fn user(number: u8) -> String {
    format!("U{number:032x}")
}

fn line(url: &str) -> Line {
    let mut config = fixture::config();
    config.line.base_url = url.to_owned();
    config.line.timeout_secs = 1;
    Line::new(http::client(&config.http).unwrap(), &config.line).unwrap()
}

fn account(sender: &Sender) -> &LineAccount {
    match sender.credentials() {
        Credentials::Line(account) => account,
        _ => unreachable!(),
    }
}

async fn push(url: &str) -> SendOutcome {
    let sender = fixture::line_sender();
    line(url)
        .push(account(&sender), &user(7), PARTS, Uuid::from_u128(9))
        .await
}

async fn push_gets(reply: Reply) -> SendOutcome {
    let server = Server::start(move |_, _| reply.clone()).await;
    push(&server.url).await
}

fn refused(class: ErrorClass, code: &str) -> SendOutcome {
    Refusal::new(class, code).into()
}

#[tokio::test]
async fn a_push_carries_token_key_and_body_and_returns_the_message_id() {
    let reply = Reply::json(
        "200 OK",
        "",
        r#"{"sentMessages":[{"id":"461230966842064897","quoteToken":"q"}]}"#,
    );
    let server = Server::start(move |_, _| reply.clone()).await;
    assert_eq!(
        push(&server.url).await,
        SendOutcome::accepted(Some("461230966842064897"))
    );
    let request = &server.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v2/bot/message/push HTTP/1.1"));
    assert!(head.contains("authorization: Bearer t0ken"), "{head}");
    assert!(head.contains("content-type: application/json"));
    assert!(head.contains("x-line-retry-key: 00000000-0000-0000-0000-000000000009"));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"to": user(7), "messages": [{"type": "text", "text": "hi"}]})
    );
}

#[tokio::test]
async fn a_multicast_names_everyone_once_and_is_accepted_as_a_whole() {
    let reply = Reply::json("200 OK", "x-line-request-id: req-1\r\n", "{}");
    let server = Server::start(move |_, _| reply.clone()).await;
    let sender = fixture::line_sender();
    let users: Vec<String> = (0..3).map(user).collect();
    let to: Vec<&str> = users.iter().map(String::as_str).collect();
    let outcome = line(&server.url)
        .multicast(account(&sender), &to, PARTS, Uuid::nil())
        .await;
    assert_eq!(outcome, SendOutcome::accepted(Some("req-1")));
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v2/bot/message/multicast "));
    let body: serde_json::Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["to"], serde_json::json!(users));
}

#[tokio::test]
async fn an_accepted_key_is_acceptance_and_a_bare_409_is_not() {
    let body = r#"{"message":"The retry key is already accepted","sentMessages":[{"id":"77"}]}"#;
    let accepted = Reply::json("409 Conflict", "x-line-accepted-request-id: first\r\n", body);
    assert_eq!(push_gets(accepted).await, SendOutcome::accepted(Some("77")));
    let without_messages = Reply::json("409 Conflict", "x-line-accepted-request-id: first\r\n", "{}");
    assert_eq!(push_gets(without_messages).await, SendOutcome::accepted(Some("first")));
    let bare = Reply::json("409 Conflict", "", body);
    assert_eq!(
        push_gets(bare).await,
        refused(ErrorClass::Uncertain, "409_without_accepted_id")
    );
}

#[tokio::test]
async fn every_documented_refusal_has_its_class() {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled, Uncertain};
    let said = |message: &str| format!(r#"{{"message":"{message}"}}"#);
    let about = |property: &str| format!(r#"{{"message":"x","details":[{{"property":"{property}"}}]}}"#);
    let rate = said("The API rate limit has been exceeded. Try again later.");
    let monthly = said("You have reached your monthly limit.");
    let indexed = said("The property, to[3], in the request body is invalid");
    for (status, body, class, code) in [
        (400, said("Failed to send messages"), Recipient, "400"),
        (400, about("messages[0].text"), Content, "400 messages[0].text"),
        (400, indexed, Recipient, "400"),
        (400, about("to"), Recipient, "400 to"),
        (
            400,
            about("messages[0].contents.body"),
            Content,
            "400 messages[0].contents.body",
        ),
        // No path of ours: a quoted name, a quoted id.
        (400, about("Amy"), Content, "400"),
        (400, about("to[U0123456789abcdef0123456789abcdef]"), Recipient, "400"),
        (400, "<html>".into(), Uncertain, "400_not_as_promised"),
        (401, said("Authentication failed"), Credentials, "401"),
        (403, said("x"), Credentials, "403"),
        (404, said("Not found"), Credentials, "404"),
        (413, String::new(), Content, "413"),
        (415, String::new(), Content, "415"),
        (429, rate, Throttled, "429"),
        (429, monthly, Quota, "429_monthly_limit"),
        (429, "slow down".into(), Throttled, "429"),
        (500, said("x"), Uncertain, "500"),
        (502, String::new(), Uncertain, "502"),
        (302, String::new(), Uncertain, "302"),
        (204, String::new(), Uncertain, "204"),
    ] {
        let outcome = push_gets(Reply::json(&format!("{status} X"), "Location: /elsewhere\r\n", &body)).await;
        assert_eq!(outcome, refused(class, code), "{status} {body}");
    }
}

#[tokio::test]
async fn a_429_passes_on_how_long_to_wait() {
    let SendOutcome::Refused(refusal) =
        push_gets(Reply::json("429 Too Many Requests", "Retry-After: 7\r\n", "{}")).await
    else {
        unreachable!()
    };
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_200_that_is_not_the_promised_answer_is_uncertain() {
    let answer = |kind: &str, length: usize, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}");
        Reply::Raw(format!("{head}\r\n\r\n{body}").into_bytes())
    };
    let sent = r#"{"sentMessages":[{"id":"1"}]}"#;
    let big = format!(r#"{{"sentMessages":[{{"id":"1"}}],"x":"{}"}}"#, "y".repeat(10_000_000));
    for reply in [
        Reply::json("200 OK", "", ""),
        Reply::json("200 OK", "", "not json"),
        Reply::json("200 OK", "", "{}"),
        Reply::json("200 OK", "", r#"{"sentMessages":[]}"#),
        Reply::json("200 OK", "", &big),
        answer("text/html", sent.len(), sent),
        answer("application/json", 100, sent),
    ] {
        assert_eq!(
            push_gets(reply).await,
            refused(ErrorClass::Uncertain, "200_not_as_promised")
        );
    }
}

#[tokio::test]
async fn a_request_that_may_have_left_is_uncertain_and_one_that_cannot_have_is_unreachable() {
    assert_eq!(
        push_gets(Reply::Reset).await,
        refused(ErrorClass::Uncertain, "connection_lost")
    );
    assert_eq!(push_gets(Reply::Hang).await, refused(ErrorClass::Uncertain, "timeout"));
    let garbage = Reply::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec());
    assert_eq!(
        push_gets(garbage).await,
        refused(ErrorClass::Uncertain, "connection_lost")
    );
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let unreachable = refused(ErrorClass::Unreachable, "connect_failed");
    assert_eq!(push(&url).await, unreachable);
    assert_eq!(push("http://no-such-host.invalid").await, unreachable);
    // A server that does not speak TLS fails the handshake, before the request exists.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move { while plain.accept().await.is_ok() {} });
    assert_eq!(push(&url).await, unreachable);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(|_, _| Reply::json("307 Temporary Redirect", "Location: /again\r\n", "")).await;
    assert_eq!(push(&server.url).await, refused(ErrorClass::Uncertain, "307"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_address_that_is_no_user_id_never_leaves() {
    let server = Server::start(|_, _| Reply::json("200 OK", "", "{}")).await;
    let (line, sender) = (line(&server.url), fixture::line_sender());
    let malformed = refused(ErrorClass::Recipient, "malformed_address");
    let short = "U1";
    let quoted = format!("U{}\"", "0".repeat(31));
    for to in ["", "C00000000000000000000000000000001", short, &quoted] {
        assert_eq!(line.push(account(&sender), to, PARTS, Uuid::nil()).await, malformed);
        let to = [user(1), to.to_owned()];
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        assert_eq!(
            line.multicast(account(&sender), &to, PARTS, Uuid::nil()).await,
            malformed
        );
    }
    let many = vec!["U00000000000000000000000000000001"; 501];
    let size = refused(ErrorClass::Content, "multicast_size");
    assert_eq!(line.multicast(account(&sender), &many, PARTS, Uuid::nil()).await, size);
    assert_eq!(line.multicast(account(&sender), &[], PARTS, Uuid::nil()).await, size);
    assert!(server.requests().is_empty());
}
