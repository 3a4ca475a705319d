//! SMTP faults at every stage, and what they count.

use std::time::Duration;

use carillon_sandbox::{Channel, Fault, FaultKind, RateCap, Running};

use crate::client::{HEADERS, Mail, soon, start};

fn set(running: &Running, fault: Fault) {
    running.handle().set_fault(fault.times(1)).unwrap();
}

fn reply(at: &str, code: u16) -> Fault {
    Fault::new(Channel::Smtp, FaultKind::Reply)
        .at(at)
        .with_reply(code, "5.0.0 as you wished")
}

#[tokio::test]
async fn any_stage_can_refuse_with_any_code() {
    let running = start().await;
    set(&running, reply("connect", 554));
    let mut mail = Mail::silent(&running).await;
    assert_eq!(mail.hear().await, "554 5.0.0 as you wished");
    let mut mail = Mail::connect(&running).await;
    set(&running, reply("ehlo", 502));
    assert!(mail.say("EHLO test.invalid").await.starts_with("502 "));
    mail.say("EHLO test.invalid").await;
    set(&running, reply("auth", 454));
    let login = "AUTH PLAIN AHNhbmRib3gAc2FuZGJveC1zbXRwLXBhc3N3b3Jk";
    assert!(mail.say(login).await.starts_with("454 "));
    assert!(mail.say(login).await.starts_with("235 "));
    set(&running, reply("mail", 451));
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("451 "));
    mail.say("MAIL FROM:<a@example.com>").await;
    set(&running, reply("rcpt", 550));
    assert!(mail.say("RCPT TO:<a@example.com>").await.starts_with("550 "));
    mail.say("RCPT TO:<a@example.com>").await;
    set(&running, reply("data", 451));
    assert!(mail.say("DATA").await.starts_with("451 "));
    assert!(mail.say("DATA").await.starts_with("354 "));
    set(&running, reply("body", 554));
    assert!(mail.say(&format!("{HEADERS}\r\nx\r\n.")).await.starts_with("554 "));
    assert!(mail.mail("a@example.com", "x").await.starts_with("250 "));
    let summary = running.handle().channel_summary(Channel::Smtp);
    assert_eq!((summary.messages, summary.faults[&FaultKind::Reply]), (1, 7));
}

#[tokio::test]
async fn the_final_dot_can_be_cut_with_and_without_counting() {
    let running = start().await;
    for (kind, expected) in [
        (FaultKind::ResetBefore, 0),
        (FaultKind::ResetAfter, 1),
        (FaultKind::Truncated, 2),
    ] {
        let mut mail = Mail::ready(&running).await;
        set(&running, Fault::new(Channel::Smtp, kind));
        let heard = soon(mail.mail("a@example.com", "x")).await;
        assert!(heard.is_empty() || heard == "25", "{heard}");
        assert!(mail.is_over().await);
        assert_eq!(running.handle().channel_summary(Channel::Smtp).messages, expected);
    }
}

#[tokio::test]
async fn the_final_dot_can_hang_with_and_without_counting() {
    let running = start().await;
    for (kind, expected) in [(FaultKind::Hang, 0), (FaultKind::HangAfter, 1)] {
        let mut mail = Mail::ready(&running).await;
        set(&running, Fault::new(Channel::Smtp, kind));
        let waited = tokio::time::timeout(Duration::from_millis(200), mail.mail("a@example.com", "x")).await;
        assert!(waited.is_err());
        assert_eq!(running.handle().channel_summary(Channel::Smtp).messages, expected);
    }
}

#[tokio::test]
async fn an_unknown_recipient_is_refused_at_rcpt_only_for_that_address() {
    let running = start().await;
    let fault = Fault::new(Channel::Smtp, FaultKind::InvalidRecipient).recipients(["gone@example.com"]);
    running.handle().set_fault(fault).unwrap();
    let mut mail = Mail::ready(&running).await;
    mail.say("MAIL FROM:<a@example.com>").await;
    assert!(mail.say("RCPT TO:<gone@example.com>").await.starts_with("550 5.1.1"));
    assert!(mail.say("DATA").await.starts_with("503 "));
    mail.say("RSET").await;
    assert!(mail.mail("here@example.com", "x").await.starts_with("250 "));
}

#[tokio::test]
async fn unavailable_closes_the_connection_and_bad_credentials_refuse_a_good_login() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    set(&running, Fault::new(Channel::Smtp, FaultKind::Unavailable));
    assert!(mail.mail("a@example.com", "x").await.starts_with("421 "));
    assert!(mail.is_over().await);
    set(&running, Fault::new(Channel::Smtp, FaultKind::BadCredentials));
    let mut mail = Mail::connect(&running).await;
    mail.say("EHLO test.invalid").await;
    assert!(
        mail.say("AUTH PLAIN AHNhbmRib3gAc2FuZGJveC1zbXRwLXBhc3N3b3Jk")
            .await
            .starts_with("535 ")
    );
    assert_eq!(running.handle().channel_summary(Channel::Smtp).messages, 0);
}

#[tokio::test]
async fn a_delayed_refusal_reaches_a_client_that_talked_on_in_order() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    set(&running, reply("body", 554).delay_ms(100));
    for line in ["MAIL FROM:<a@example.com>", "RCPT TO:<a@example.com>", "DATA"] {
        mail.say(line).await;
    }
    // The client gives up waiting and starts its next mail on the same connection.
    mail.send(format!("{HEADERS}\r\nx\r\n.\r\nNOOP\r\n").as_bytes()).await;
    assert!(mail.hear().await.starts_with("554 "));
    assert!(mail.hear().await.starts_with("250 "));
}

#[tokio::test]
async fn the_rate_cap_defers_mails_above_it() {
    let running = start().await;
    let cap = RateCap {
        per_second: 1,
        burst: None,
    };
    running.handle().set_rate_cap(Channel::Smtp, Some(cap));
    let mut mail = Mail::ready(&running).await;
    assert!(mail.mail("a@example.com", "x").await.starts_with("250 "));
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("451 4.7.1"));
    running.handle().advance_clock(Duration::from_secs(1));
    assert!(mail.mail("a@example.com", "y").await.starts_with("250 "));
}
