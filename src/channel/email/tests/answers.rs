//! Whatever a server says or leaves unsaid, nothing but a 2xx to the final dot is acceptance.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn only_a_2xx_to_the_final_dot_is_acceptance() {
    for reply in ["354 go", "334 what", "hello", "999 what", "250x ok"] {
        let server = once("BODY", Do::Say(reply)).await;
        let outcome = Client::new(server.port).send("amy@customer.example").await;
        assert_eq!(class(&outcome), Some(ErrorClass::Uncertain), "{reply}: {outcome:?}");
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
        ("MAIL", "553 5.1.8 not your address", ErrorClass::Credentials),
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
        assert_eq!(class(&outcome), Some(expected), "{verb} {reply}: {outcome:?}");
        assert_eq!(client.send("amy@customer.example").await, accepted(), "{verb} {reply}");
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
async fn a_server_without_login_or_tls_gets_neither_password_nor_mail() {
    let plain = |step: &Step| match step.verb.as_str() {
        "EHLO" => Do::Say("250-fake\r\n250 8BITMIME"),
        _ => Do::Agree,
    };
    let server = Smtp::start(plain).await;
    let client = Client::with(server.port, |_| {}, r#","username":"u","password":"p""#);
    let outcome = client.send("amy@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Credentials, "auth_unsupported"));

    for (tls, expected) in [
        ("starttls", refused(ErrorClass::Credentials, "starttls_unsupported")),
        ("implicit", refused(ErrorClass::Unreachable, "connect_lost")),
    ] {
        let server = Smtp::start(plain).await;
        let mut client = Client::new(server.port);
        let json = format!(
            r#"{{"host":"127.0.0.1","port":{},"tls":"{tls}","username":"u","password":"p","from":"news@shop.example"}}"#,
            server.port
        );
        client.sender = Sender::parse(SenderId::new(), crate::channel::Channel::Email, &json).unwrap();
        assert_eq!(client.send("amy@customer.example").await, expected);
        assert_eq!((server.count("AUTH"), server.count("MAIL")), (0, 0));
    }
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
        assert_eq!(outcome, refused(ErrorClass::Recipient, "malformed_address"), "{to}");
    }
    let outcome = client.send("用戶@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Recipient, "smtputf8_unsupported"));
    assert_eq!(client.send("amy@customer.example").await, accepted());
    assert_eq!((server.connections(), server.count("RCPT")), (1, 1));
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
