//! SMTP: sequence, syntax, limits, authentication, counting.

use carillon_sandbox::{Channel, ReceivedQuery, SMTP_PASSWORD, SMTP_USER, Sandbox, SandboxConfig};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::client::{HEADERS, Mail, start};

#[tokio::test]
async fn a_mail_is_accepted_and_counted_for_each_recipient() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    assert!(
        mail.say("MAIL FROM:<shop@example.com> SIZE=100 BODY=8BITMIME")
            .await
            .starts_with("250 ")
    );
    assert!(mail.say("RCPT TO:<a@example.com>").await.starts_with("250 "));
    assert!(mail.say("rcpt to:<b@example.com>").await.starts_with("250 "));
    assert!(mail.say("DATA").await.starts_with("354 "));
    let reply = mail.say(&format!("{HEADERS}\r\nhello\r\n..dot\r\n.")).await;
    assert!(reply.starts_with("250 2.0.0"));
    assert!(mail.say("QUIT").await.starts_with("221 "));
    assert!(mail.is_over().await);
    let got = running.handle().received(Channel::Smtp, &ReceivedQuery::default());
    assert_eq!(
        got.iter().map(|m| m.recipient.as_str()).collect::<Vec<_>>(),
        ["a@example.com", "b@example.com"]
    );
    assert_eq!(
        (got[0].marker.as_str(), got[0].text.as_str()),
        ("b-1", "你好 there\nhello\r\n.dot")
    );
    let summary = running.handle().channel_summary(Channel::Smtp);
    assert_eq!((summary.requests, summary.accepted, summary.connections), (1, 1, 1));
}

#[tokio::test]
async fn lettre_can_send_and_its_text_is_decoded() {
    let running = start().await;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
        .port(running.smtp_addr.port())
        .credentials(Credentials::new(SMTP_USER.to_owned(), SMTP_PASSWORD.to_owned()))
        .build();
    let message = Message::builder()
        .from("Shop <shop@example.com>".parse().unwrap())
        .to("a@example.com".parse().unwrap())
        .message_id(Some("<1@example.com>".to_owned()))
        .subject("週年慶 全館八折")
        .body("第一行\n第二行：折扣碼 ABC，立即選購".to_owned())
        .unwrap();
    assert!(transport.send(message).await.unwrap().is_positive());
    let got = running.handle().received_by(Channel::Smtp, "a@example.com");
    assert!(got[0].text.starts_with("週年慶 全館八折\n第一行"), "{}", got[0].text);
    assert!(got[0].text.ends_with("立即選購"));
}

#[tokio::test]
async fn commands_out_of_order_are_refused() {
    let running = start().await;
    let mut mail = Mail::connect(&running).await;
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("503 "));
    assert!(mail.say("AUTH PLAIN AGEAYg==").await.starts_with("503 "));
    let hello = mail.say("EHLO test.invalid").await;
    for extension in ["SIZE 10485760", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN"] {
        assert!(hello.contains(extension), "{hello}");
    }
    assert!(!hello.contains("PIPELINING") && !hello.contains("STARTTLS"));
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("530 "));
    assert!(
        mail.say("AUTH PLAIN AHNhbmRib3gAc2FuZGJveC1zbXRwLXBhc3N3b3Jk")
            .await
            .starts_with("235 ")
    );
    assert!(
        mail.say("AUTH PLAIN AHNhbmRib3gAc2FuZGJveC1zbXRwLXBhc3N3b3Jk")
            .await
            .starts_with("503 ")
    );
    assert!(mail.say("RCPT TO:<a@example.com>").await.starts_with("503 "));
    assert!(mail.say("DATA").await.starts_with("503 "));
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("250 "));
    assert!(mail.say("MAIL FROM:<a@example.com>").await.starts_with("503 "));
    assert!(mail.say("DATA").await.starts_with("503 "));
    assert!(mail.say("RSET").await.starts_with("250 "));
    assert!(mail.say("RCPT TO:<a@example.com>").await.starts_with("503 "));
    assert!(mail.say("NOOP").await.starts_with("250 "));
    assert!(mail.say("XYZZY").await.starts_with("500 "));
}

#[tokio::test]
async fn logins_are_checked_by_both_mechanisms() {
    let running = start().await;
    let mut mail = Mail::connect(&running).await;
    mail.say("EHLO test.invalid").await;
    assert!(mail.say("AUTH CRAM-MD5").await.starts_with("504 "));
    assert!(mail.say("AUTH PLAIN AGEAYg==").await.starts_with("535 "));
    assert!(mail.say("AUTH PLAIN !!!").await.starts_with("501 "));
    assert_eq!(mail.say("AUTH PLAIN").await, "334");
    assert!(mail.say("*").await.starts_with("501 "));
    assert_eq!(mail.say("AUTH LOGIN").await, "334 VXNlcm5hbWU6");
    assert_eq!(mail.say("c2FuZGJveA==").await, "334 UGFzc3dvcmQ6");
    assert!(mail.say("c2FuZGJveC1zbXRwLXBhc3N3b3Jk").await.starts_with("235 "));
    running.handle().revoke(Channel::Smtp, SMTP_USER);
}

#[tokio::test]
async fn without_a_registered_login_mail_is_taken_from_anyone() {
    let config = SandboxConfig {
        accounts: Vec::new(),
        ..SandboxConfig::default()
    };
    let running = Sandbox::start(config).await.unwrap();
    let mut mail = Mail::connect(&running).await;
    assert!(!mail.say("EHLO test.invalid").await.contains("AUTH"));
    assert!(mail.mail("a@example.com", "hello").await.starts_with("250 "));
}

#[tokio::test]
async fn bad_addresses_and_parameters_are_refused() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    let wrong = [
        ("MAIL FROM: <a@example.com>", "501"),
        ("MAIL FROM:a@example.com", "501"),
        ("MAIL FROM:<a>", "501"),
        ("MAIL FROM:<a@example.com> SIZE=99999999", "552"),
        ("MAIL FROM:<a@example.com> FOO=1", "555"),
        ("MAIL FROM:<ä@example.com>", "553"),
    ];
    for (line, code) in wrong {
        assert!(mail.say(line).await.starts_with(code), "{line}");
    }
    assert!(mail.say("MAIL FROM:<>").await.starts_with("250 "));
    for address in [
        "",
        "a",
        "a@",
        "@b",
        "a b@example.com",
        "a..b@example.com",
        "a@-b.com",
        "a@b..com",
    ] {
        assert!(
            mail.say(&format!("RCPT TO:<{address}>")).await.starts_with("501 "),
            "{address}"
        );
    }
    assert!(mail.say("RCPT TO:<ä@example.com>").await.starts_with("553 "));
    for n in 0..100 {
        assert!(
            mail.say(&format!("RCPT TO:<a{n}@example.com>"))
                .await
                .starts_with("250 ")
        );
    }
    assert!(mail.say("RCPT TO:<one-more@example.com>").await.starts_with("452 "));
}

#[tokio::test]
async fn malformed_mails_are_refused_after_the_final_dot_and_count_for_nobody() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    let long = "a".repeat(999);
    for body in [
        "bare\nnewline",
        "bare\rreturn",
        "smuggled\n.\r\nx",
        long.as_str(),
        "eight bit: ä",
    ] {
        assert!(mail.mail("a@example.com", body).await.starts_with("554 "), "{body}");
    }
    for missing in ["From", "Date", "Message-ID"] {
        mail.say("MAIL FROM:<a@example.com>").await;
        mail.say("RCPT TO:<a@example.com>").await;
        mail.say("DATA").await;
        let headers = HEADERS.replace(&format!("{missing}:"), "X-Other:");
        assert!(
            mail.say(&format!("{headers}\r\nhello\r\n.")).await.starts_with("554 "),
            "{missing}"
        );
    }
    assert_eq!(running.handle().channel_summary(Channel::Smtp).messages, 0);
    assert!(mail.mail("a@example.com", &"a".repeat(998)).await.starts_with("250 "));
}

#[tokio::test]
async fn lines_have_limits_and_need_both_line_end_characters() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    assert!(mail.say(&format!("NOOP {}", "a".repeat(600))).await.starts_with("500 "));
    mail.send(b"NOOP\n").await;
    assert!(mail.hear().await.starts_with("500 "));
    assert!(mail.say("NOOP").await.starts_with("250 "));
    mail.send("a".repeat(13_000).as_bytes()).await;
    assert!(mail.hear().await.starts_with("500 "));
    assert!(mail.is_over().await);
}

#[tokio::test]
async fn a_mail_over_the_announced_size_is_refused_and_the_session_goes_on() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    let line = format!("{}\r\n", "a".repeat(900));
    let body = line.repeat(12_000);
    assert!(mail.mail("a@example.com", &body).await.starts_with("552 "));
    assert!(mail.mail("a@example.com", "small").await.starts_with("250 "));
    assert_eq!(running.handle().channel_summary(Channel::Smtp).messages, 1);
}
