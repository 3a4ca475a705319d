//! The traps of SMTP: every one of them once, against a server that springs it.

#![allow(clippy::unwrap_used)]

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use proptest::prelude::*;

use super::{
    fake::{Do, Smtp, Step},
    *,
};
use crate::channel::{Sender, fixture};

const MAIL: &[u8] = b"From: <news@shop.example>\r\nSubject: hi\r\n\r\nhello\r\n";

/// An adapter with short deadlines, and a sender that talks to `port`.
struct Client {
    email: Email,
    sender: Sender,
}

impl Client {
    fn new(port: u16) -> Self {
        Self::with(port, |_| {}, "")
    }

    fn with(port: u16, change: impl FnOnce(&mut EmailConfig), login: &str) -> Self {
        let mut config = fixture::config().email;
        config.max_connections = 4;
        change(&mut config);
        let deadlines = Deadlines {
            connect: Duration::from_secs(5),
            command: Duration::from_millis(300),
            body: Duration::from_millis(300),
        };
        let json = format!(
            r#"{{"host":"127.0.0.1","port":{port},"tls":"none","from":"news@shop.example"{login}}}"#
        );
        let id = SenderId::new();
        let sender = Sender::parse(id, crate::channel::Channel::Email, &json).unwrap();
        Self {
            email: Email::with_deadlines(config, deadlines),
            sender,
        }
    }

    async fn send(&self, to: &str) -> SendOutcome {
        let crate::channel::Credentials::Email(account) = self.sender.credentials() else {
            unreachable!()
        };
        self.email.send(self.sender.id, account, to, MAIL).await
    }
}

fn accepted() -> SendOutcome {
    SendOutcome::accepted(Some("Q1"))
}

fn refused(class: ErrorClass, code: &str) -> SendOutcome {
    Refusal::new(class, code).into()
}

fn class(outcome: &SendOutcome) -> Option<ErrorClass> {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

/// A server that does `what` at the first `verb` of its first connection.
async fn once(verb: &'static str, what: Do) -> Smtp {
    let done = AtomicBool::new(false);
    Smtp::start(move |step: &Step| {
        if step.verb == verb && !done.swap(true, Ordering::SeqCst) {
            what
        } else {
            Do::Agree
        }
    })
    .await
}

#[tokio::test]
async fn a_mail_goes_out_whole_and_its_connection_carries_the_next() {
    let server = Smtp::start(|_| Do::Agree).await;
    let client = Client::new(server.port);
    for _ in 0..3 {
        assert_eq!(client.send("amy@customer.example").await, accepted());
    }
    assert_eq!(server.connections(), 1);
    let mails = server.accepted();
    assert_eq!(mails.len(), 3);
    for mail in mails {
        let lines: Vec<_> = mail.split("\r\n").collect();
        assert!(
            lines.iter().any(|line| line.starts_with("Date: ")),
            "{mail}"
        );
        assert!(
            lines.contains(&"To: <amy@customer.example>") && lines.contains(&"hello"),
            "{mail}"
        );
    }
}

#[tokio::test]
async fn fifty_sends_at_once_use_no_more_connections_than_configured() {
    let server = Smtp::start(|_| Do::Agree).await;
    let client = Client::new(server.port);
    let outcomes = join_all((0..50).map(|_| client.send("amy@customer.example"))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == accepted()));
    assert!(
        server.connections() <= 4,
        "{} connections",
        server.connections()
    );
    assert!(server.most_open() <= 4);
    assert_eq!(server.accepted().len(), 50);
}

#[tokio::test]
async fn refused_recipients_do_not_cost_the_connection() {
    let server = Smtp::start(|step| match step.line.as_str() {
        "RCPT TO:<gone@customer.example>" => Do::Say("550 5.1.1 <gone@customer.example> unknown"),
        _ => Do::Agree,
    })
    .await;
    let client = Client::new(server.port);
    for _ in 0..10 {
        let gone = refused(ErrorClass::Recipient, "rcpt 550 5.1.1");
        assert_eq!(client.send("gone@customer.example").await, gone);
    }
    assert_eq!(client.send("amy@customer.example").await, accepted());
    assert_eq!(server.connections(), 1);
    assert_eq!(server.count("RSET"), 10);
}

#[tokio::test]
async fn every_command_has_a_deadline_and_a_late_connection_is_never_used_again() {
    for (verb, code, expected) in [
        ("CONNECT", "hello_timeout", ErrorClass::Unreachable),
        ("EHLO", "hello_timeout", ErrorClass::Unreachable),
        ("AUTH", "auth_timeout", ErrorClass::Unreachable),
        ("MAIL", "mail_timeout", ErrorClass::Unreachable),
        ("RCPT", "rcpt_timeout", ErrorClass::Unreachable),
        ("DATA", "data_timeout", ErrorClass::Unreachable),
        ("BODY", "body_timeout", ErrorClass::Uncertain),
    ] {
        let server = once(verb, Do::Hang).await;
        let login = r#","username":"u","password":"p""#;
        let client = Client::with(server.port, |_| {}, login);
        assert_eq!(
            client.send("amy@customer.example").await,
            refused(expected, code),
            "{verb}"
        );
        assert_eq!(
            client.send("amy@customer.example").await,
            accepted(),
            "{verb}"
        );
        assert_eq!(server.connections(), 2, "{verb}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_uncertain_only_after_the_body() {
    for (verb, code, expected) in [
        ("CONNECT", "hello_lost", ErrorClass::Unreachable),
        ("EHLO", "hello_lost", ErrorClass::Unreachable),
        ("MAIL", "mail_lost", ErrorClass::Unreachable),
        ("RCPT", "rcpt_lost", ErrorClass::Unreachable),
        ("DATA", "data_lost", ErrorClass::Unreachable),
        ("BODY", "body_lost", ErrorClass::Uncertain),
    ] {
        let server = once(verb, Do::Close).await;
        let outcome = Client::new(server.port).send("amy@customer.example").await;
        assert_eq!(outcome, refused(expected, code), "{verb}");
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let outcome = Client::new(port).send("amy@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Unreachable, "connect_failed"));
}

#[tokio::test]
async fn a_dropped_send_leaves_no_stale_reply_for_the_next_mail() {
    // The hazard: the first send is given up while MAIL is unanswered. Were its connection used again, the second
    // mail would read every reply one step late and take `354 go on` for the answer to its body.
    let server = Smtp::start(|step| match (step.connection, step.verb.as_str()) {
        (0, "MAIL") => Do::Late(200, "250 2.1.0 late"),
        (_, "BODY") => Do::Say("554 5.6.0 refused"),
        _ => Do::Agree,
    })
    .await;
    let client = Client::new(server.port);
    let dropped = tokio::time::timeout(
        Duration::from_millis(100),
        client.send("a@customer.example"),
    )
    .await;
    assert!(dropped.is_err());
    for _ in 0..3 {
        let outcome = client.send("b@customer.example").await;
        assert_eq!(outcome, refused(ErrorClass::Content, "body 554 5.6.0"));
    }
    assert!(server.accepted().is_empty());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn only_a_2xx_to_the_final_dot_is_acceptance() {
    for reply in ["354 go", "334 what", "hello", "999 what", "250x ok"] {
        let server = once("BODY", Do::Say(reply)).await;
        let outcome = Client::new(server.port).send("amy@customer.example").await;
        assert_eq!(
            class(&outcome),
            Some(ErrorClass::Uncertain),
            "{reply}: {outcome:?}"
        );
    }
    let server = once("BODY", Do::Say("250-fine\r\n250 ok")).await;
    let outcome = Client::new(server.port).send("amy@customer.example").await;
    assert_eq!(outcome, SendOutcome::accepted(None));
}

#[tokio::test]
async fn a_server_that_answers_twice_cannot_make_a_refused_mail_look_sent() {
    for verb in ["CONNECT", "MAIL", "RCPT", "DATA"] {
        let server = Smtp::start(move |step| match step.verb.as_str() {
            "BODY" => Do::Say("554 refused"),
            seen if seen == verb => match verb {
                "CONNECT" => Do::Say("220 fake\r\n250 extra"),
                "DATA" => Do::Say("354 go\r\n354 go"),
                _ => Do::Say("250 ok\r\n250 extra"),
            },
            _ => Do::Agree,
        })
        .await;
        let client = Client::new(server.port);
        for _ in 0..3 {
            let outcome = client.send("amy@customer.example").await;
            assert!(class(&outcome).is_some(), "{verb}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn every_refusal_has_the_class_of_its_stage() {
    for (verb, reply, expected) in [
        ("CONNECT", "554 no service", ErrorClass::Unreachable),
        ("AUTH", "535 5.7.8 wrong", ErrorClass::Credentials),
        (
            "MAIL",
            "553 5.1.8 not your address",
            ErrorClass::Credentials,
        ),
        ("MAIL", "451 4.3.2 later", ErrorClass::Throttled),
        ("RCPT", "550 5.1.1 unknown", ErrorClass::Recipient),
        ("RCPT", "450 4.7.1 later", ErrorClass::Throttled),
        ("DATA", "451 later", ErrorClass::Throttled),
        ("DATA", "250 but not 354", ErrorClass::Unreachable),
        ("BODY", "552 5.3.4 too big", ErrorClass::Content),
        ("BODY", "451 4.7.1 later", ErrorClass::Throttled),
    ] {
        let server = once(verb, Do::Say(reply)).await;
        let login = r#","username":"u","password":"p""#;
        let client = Client::with(server.port, |_| {}, login);
        let outcome = client.send("amy@customer.example").await;
        assert_eq!(
            class(&outcome),
            Some(expected),
            "{verb} {reply}: {outcome:?}"
        );
        assert_eq!(
            client.send("amy@customer.example").await,
            accepted(),
            "{verb} {reply}"
        );
    }
}

#[tokio::test]
async fn a_connection_the_server_gave_up_while_idle_is_replaced_and_the_mail_sent_once() {
    for what in [Do::Close, Do::Say("421 4.4.2 idle for too long")] {
        let mails = AtomicUsize::new(0);
        let server = Smtp::start(move |step| {
            let second = step.verb == "MAIL" && mails.fetch_add(1, Ordering::SeqCst) == 1;
            if second { what } else { Do::Agree }
        })
        .await;
        let client = Client::new(server.port);
        for _ in 0..2 {
            assert_eq!(client.send("amy@customer.example").await, accepted());
        }
        assert_eq!((server.connections(), server.accepted().len()), (2, 2));
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_a_goodbye() {
    let server = Smtp::start(|_| Do::Agree).await;
    let client = Client::with(server.port, |config| config.idle_secs = 1, "");
    assert_eq!(client.send("amy@customer.example").await, accepted());
    server
        .until("QUIT", |server| server.count("QUIT") == 1)
        .await;
    assert_eq!(client.send("amy@customer.example").await, accepted());
}

#[tokio::test]
async fn a_connection_is_replaced_after_its_share_of_messages() {
    let server = Smtp::start(|_| Do::Agree).await;
    let client = Client::with(server.port, |config| config.messages_per_connection = 2, "");
    for _ in 0..6 {
        assert_eq!(client.send("amy@customer.example").await, accepted());
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_server_without_login_or_tls_gets_neither_password_nor_mail() {
    let plain = |step: &Step| match step.verb.as_str() {
        "EHLO" => Do::Say("250-fake\r\n250 8BITMIME"),
        _ => Do::Agree,
    };
    let server = Smtp::start(plain).await;
    let client = Client::with(server.port, |_| {}, r#","username":"u","password":"p""#);
    let outcome = client.send("amy@customer.example").await;
    assert_eq!(
        outcome,
        refused(ErrorClass::Credentials, "auth_unsupported")
    );

    let server = Smtp::start(plain).await;
    let mut client = Client::new(server.port);
    let json = format!(
        r#"{{"host":"127.0.0.1","port":{},"tls":"starttls","username":"u","password":"p","from":"news@shop.example"}}"#,
        server.port
    );
    client.sender = Sender::parse(SenderId::new(), crate::channel::Channel::Email, &json).unwrap();
    let outcome = client.send("amy@customer.example").await;
    assert_eq!(
        outcome,
        refused(ErrorClass::Credentials, "starttls_unsupported")
    );
    assert_eq!((server.count("AUTH"), server.count("MAIL")), (0, 0));
}

#[tokio::test]
async fn an_address_that_is_none_never_reaches_the_server() {
    let server = Smtp::start(|_| Do::Agree).await;
    let client = Client::new(server.port);
    for to in [
        "",
        "amy",
        "a@b.tw>\r\nRCPT TO:<c@d.tw",
        "a@b.tw, c@d.tw",
        "a@b.tw\r\nBcc: c@d.tw",
    ] {
        let outcome = client.send(to).await;
        assert_eq!(
            outcome,
            refused(ErrorClass::Recipient, "malformed_address"),
            "{to}"
        );
    }
    let outcome = client.send("用戶@customer.example").await;
    assert_eq!(
        outcome,
        refused(ErrorClass::Recipient, "smtputf8_unsupported")
    );
    assert_eq!(client.send("amy@customer.example").await, accepted());
    assert_eq!((server.connections(), server.count("RCPT")), (1, 1));
}

#[tokio::test]
async fn a_changed_password_is_used_at_once() {
    let server = Smtp::start(|step| match step.line.as_str() {
        // base64 of \0u\0old
        "AUTH PLAIN AHUAb2xk" => Do::Say("535 5.7.8 wrong"),
        _ => Do::Agree,
    })
    .await;
    let mut client = Client::with(server.port, |_| {}, r#","username":"u","password":"old""#);
    let outcome = client.send("amy@customer.example").await;
    assert_eq!(class(&outcome), Some(ErrorClass::Credentials));
    let renewed = Client::with(server.port, |_| {}, r#","username":"u","password":"new""#);
    client.sender.id = renewed.sender.id;
    client.sender = renewed.sender;
    assert_eq!(client.send("amy@customer.example").await, accepted());
}

#[tokio::test]
async fn the_relay_override_takes_every_mail() {
    let server = Smtp::start(|_| Do::Agree).await;
    let relay = format!("127.0.0.1:{}", server.port);
    let client = Client::with(
        1,
        |config| config.relay = relay,
        r#","username":"u","password":"p""#,
    );
    assert_eq!(client.send("amy@customer.example").await, accepted());
    assert_eq!(server.count("AUTH"), 0);
}

#[test]
fn a_server_can_say_anything_without_a_panic_or_a_false_acceptance() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let verbs = proptest::sample::select(vec!["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
    let strategy = (verbs, "[0-9]{0,3}[ -]?[ -~]{0,12}");
    let result = runner.run(&strategy, |(verb, reply)| {
        let reply: &'static str = Box::leak(reply.into_boxed_str());
        runtime.block_on(async {
            let server = Smtp::start(move |step| match step.verb.as_str() {
                "BODY" => Do::Say("554 refused"),
                seen if seen == verb => Do::Say(reply),
                _ => Do::Agree,
            })
            .await;
            let outcome = Client::new(server.port).send("amy@customer.example").await;
            prop_assert!(class(&outcome).is_some(), "{verb} {reply}: {outcome:?}");
            Ok(())
        })
    });
    result.unwrap();
}
