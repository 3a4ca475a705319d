//! The traps of SMTP: every one of them once, against a server that springs it.

#![allow(clippy::unwrap_used)]

mod answers;
mod tls;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;

use super::{
    fake::{Do, Smtp, Step},
    fake_tls::trust,
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
        let json = format!(r#"{{"host":"127.0.0.1","port":{port},"tls":"none","from":"news@shop.example"{login}}}"#);
        Self::of(&json, trust(), change)
    }

    fn of(credentials: &str, trust: Trust, change: impl FnOnce(&mut EmailConfig)) -> Self {
        let mut config = fixture::config().email;
        config.max_connections = 4;
        change(&mut config);
        let deadlines = Deadlines {
            connect: Duration::from_secs(5),
            command: Duration::from_millis(300),
            prepare: Duration::from_millis(900),
            body: Duration::from_millis(300),
        };
        let id = SenderId::new();
        let sender = Sender::parse(id, crate::channel::Channel::Email, credentials).unwrap();
        Self {
            email: Email::with(config, deadlines, trust),
            sender,
        }
    }

    async fn send(&self, to: &str) -> SendOutcome {
        let crate::channel::Credentials::Email(account) = self.sender.credentials() else {
            unreachable!()
        };
        self.email.send(self.sender.id, account, to, MAIL, None).await
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
        assert!(lines.iter().any(|line| line.starts_with("Date: ")), "{mail}");
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
    assert!(server.connections() <= 4, "{} connections", server.connections());
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
        assert_eq!(client.send("amy@customer.example").await, accepted(), "{verb}");
        assert_eq!(server.connections(), 2, "{verb}");
    }
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
    let dropped = tokio::time::timeout(Duration::from_millis(100), client.send("a@customer.example")).await;
    assert!(dropped.is_err());
    for _ in 0..3 {
        let outcome = client.send("b@customer.example").await;
        assert_eq!(outcome, refused(ErrorClass::Content, "body 554 5.6.0"));
    }
    assert!(server.accepted().is_empty());
    assert_eq!(server.connections(), 2);
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
    server.until("QUIT", |server| server.count("QUIT") == 1).await;
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
    let client = Client::with(1, |config| config.relay = relay, r#","username":"u","password":"p""#);
    assert_eq!(client.send("amy@customer.example").await, accepted());
    assert_eq!(server.count("AUTH"), 0);
}

#[tokio::test]
async fn slow_answers_add_up_to_a_limit() {
    // Every answer comes within its own deadline, and yet the mail would take far too long.
    let server = Smtp::start(|step| match step.verb.as_str() {
        "CONNECT" => Do::Late(250, "220 slow"),
        "MAIL" | "RCPT" => Do::Late(250, "250 slow"),
        "DATA" => Do::Late(250, "354 slow"),
        _ => Do::Agree,
    })
    .await;
    let outcome = Client::new(server.port).send("amy@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Unreachable, "data_timeout"));
}

#[tokio::test]
async fn a_mail_waits_for_a_connection_only_so_long() {
    let server = Smtp::start(|step| match step.verb.as_str() {
        "CONNECT" => Do::Late(250, "220 slow"),
        "MAIL" | "RCPT" => Do::Late(250, "250 slow"),
        "BODY" => Do::Hang,
        _ => Do::Agree,
    })
    .await;
    let client = Client::with(server.port, |config| config.max_connections = 1, "");
    let outcomes = join_all((0..8).map(|_| client.send("amy@customer.example"))).await;
    let busy = refused(ErrorClass::Throttled, "connections_busy");
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == busy).count(),
        7,
        "{outcomes:?}"
    );
    assert_eq!(server.connections(), 1);
}
