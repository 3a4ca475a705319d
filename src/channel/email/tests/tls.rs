//! TLS at once and after STARTTLS: a mail goes out under it or not at all, and the password with it.

use super::*;

const OFFER: &str = "250-fake\r\n250-8BITMIME\r\n250 STARTTLS";
const GO: &str = "220 2.0.0 go\r\n";

/// A sender with a password; `host` is this machine under one of its names.
fn client(port: u16, host: &str, tls: &str, trust: Trust) -> Client {
    let json = format!(
        r#"{{"host":"{host}","port":{port},"tls":"{tls}","username":"u","password":"p","from":"news@shop.example"}}"#
    );
    Client::of(&json, trust, |_| {})
}

fn by_starttls(server: &Smtp) -> Client {
    client(server.port, "localhost", "starttls", trust())
}

/// What a willing server does.
fn upgrades(step: &Step) -> Do {
    match (step.secure, step.verb.as_str()) {
        (false, "EHLO") => Do::Say(OFFER),
        (false, "STARTTLS") => Do::Upgrade(GO),
        _ => Do::Agree,
    }
}

/// A willing server, but for one verb in the clear.
async fn but_for(verb: &'static str, what: Do) -> Smtp {
    Smtp::start(move |step| {
        if !step.secure && step.verb == verb {
            what
        } else {
            upgrades(step)
        }
    })
    .await
}

/// The verbs a server heard in the clear, and over TLS.
fn heard(server: &Smtp) -> [Vec<String>; 2] {
    let (secure, clear): (Vec<Step>, Vec<Step>) = server.steps().into_iter().partition(|step| step.secure);
    [clear, secure].map(|steps| steps.into_iter().map(|step| step.verb).collect())
}

#[tokio::test]
async fn after_starttls_everything_goes_over_tls_and_the_connection_carries_the_next() {
    let server = Smtp::start(upgrades).await;
    let client = by_starttls(&server);
    for _ in 0..3 {
        assert_eq!(client.send("amy@customer.example").await, accepted());
    }
    let [clear, secure] = heard(&server);
    assert_eq!(clear, ["CONNECT", "EHLO", "STARTTLS"]);
    assert!(
        secure.starts_with(&["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY"].map(str::to_owned)),
        "{secure:?}"
    );
    assert_eq!((server.connections(), server.accepted().len()), (1, 3));
    assert!(
        server
            .accepted()
            .iter()
            .all(|mail| mail.contains("To: <amy@customer.example>\r\n"))
    );
}

#[tokio::test]
async fn with_tls_at_once_everything_goes_over_it() {
    let server = Smtp::start_secure(|_| Do::Agree).await;
    let sender = client(server.port, "localhost", "implicit", trust());
    assert_eq!(sender.send("amy@customer.example").await, accepted());
    let [clear, secure] = heard(&server);
    assert!(clear.is_empty(), "{clear:?}");
    assert_eq!(secure, ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY"]);
}

/// What a server offers in the clear counts for nothing under TLS: somebody in between could have said it.
#[tokio::test]
async fn offers_made_in_the_clear_are_forgotten() {
    let server = Smtp::start(|step| match (step.secure, step.verb.as_str()) {
        (false, "EHLO") => Do::Say("250-fake\r\n250-SMTPUTF8\r\n250-AUTH PLAIN\r\n250 starttls"),
        (true, "EHLO") => Do::Say("250-fake\r\n250 8BITMIME"),
        _ => upgrades(step),
    })
    .await;
    let outcome = by_starttls(&server).send("amy@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Credentials, "auth_unsupported"));
    assert_eq!(heard(&server)[1], ["EHLO"]);
}

#[tokio::test]
async fn without_an_upgrade_nothing_is_sent_and_the_reason_is_told() {
    use ErrorClass::{Credentials, Unreachable};
    // What the last of these would be if it stood in the stream: a login that the relay never agreed to.
    let injected = "220 go\r\n250-fake\r\n250 AUTH PLAIN\r\n235 2.7.0 welcome\r\n";
    for (verb, what, class, code) in [
        ("CONNECT", Do::Say("554 5.3.2 no"), Unreachable, "hello 554 5.3.2"),
        (
            "CONNECT",
            Do::Say("220 fake\r\n250 extra"),
            Unreachable,
            "hello_injected",
        ),
        (
            "CONNECT",
            Do::Endless("220-for ever\r\n"),
            Unreachable,
            "hello_protocol",
        ),
        ("CONNECT", Do::Endless("220 for ever"), Unreachable, "hello_protocol"),
        ("CONNECT", Do::Hang, Unreachable, "hello_timeout"),
        (
            "EHLO",
            Do::Say("250-fake\r\n250 8BITMIME"),
            Credentials,
            "starttls_unsupported",
        ),
        ("EHLO", Do::Say("250 STARTTLS"), Credentials, "starttls_unsupported"),
        ("EHLO", Do::Say("502 5.5.1 what"), Unreachable, "hello 502 5.5.1"),
        ("EHLO", Do::Close, Unreachable, "hello_lost"),
        (
            "STARTTLS",
            Do::Say("454 4.7.0 not now"),
            Unreachable,
            "starttls 454 4.7.0",
        ),
        ("STARTTLS", Do::Say("502 5.5.1 what"), Credentials, "starttls 502 5.5.1"),
        ("STARTTLS", Do::Say("554 5.3.0 no"), Unreachable, "starttls 554 5.3.0"),
        ("STARTTLS", Do::Say("250 ok"), Unreachable, "starttls_protocol"),
        ("STARTTLS", Do::Upgrade(injected), Unreachable, "starttls_injected"),
        ("STARTTLS", Do::Upgrade("220 go\r\n2"), Unreachable, "starttls_injected"),
        (
            "STARTTLS",
            Do::Endless("220-for ever\r\n"),
            Unreachable,
            "starttls_protocol",
        ),
        ("STARTTLS", Do::Hang, Unreachable, "starttls_timeout"),
        ("STARTTLS", Do::Close, Unreachable, "starttls_lost"),
        // A server that goes on in the clear.
        ("STARTTLS", Do::Say("220 go"), Unreachable, "connect_lost"),
    ] {
        let server = but_for(verb, what).await;
        let outcome = by_starttls(&server).send("amy@customer.example").await;
        assert_eq!(outcome, refused(class, code), "{verb} {what:?}");
        let [clear, secure] = heard(&server);
        // Behind them only the handshake, which one of these servers takes for lines.
        let known = ["CONNECT", "EHLO", "STARTTLS"];
        assert!(clear.iter().zip(known).all(|(verb, known)| verb == known), "{clear:?}");
        assert!(secure.is_empty() && server.accepted().is_empty(), "{verb} {what:?}");
    }
}

#[tokio::test]
async fn a_relay_with_a_strangers_certificate_hears_neither_password_nor_mail() {
    let web = || Trust::of_the_web().unwrap();
    for (host, believed) in [("127.0.0.1", trust()), ("localhost", web())] {
        for tls in ["starttls", "implicit"] {
            let server = match tls {
                "starttls" => Smtp::start(upgrades).await,
                _ => Smtp::start_secure(|_| Do::Agree).await,
            };
            let sender = client(server.port, host, tls, believed.clone());
            let outcome = sender.send("amy@customer.example").await;
            assert_eq!(
                outcome,
                refused(ErrorClass::Unreachable, "connect_certificate"),
                "{host} {tls}"
            );
            assert!(heard(&server)[1].is_empty(), "{host} {tls}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_end_over_tls_is_cut_off() {
    let server = Smtp::start(|step| match (step.secure, step.verb.as_str()) {
        (true, "MAIL") => Do::Endless("250-for ever\r\n"),
        _ => upgrades(step),
    })
    .await;
    let outcome = by_starttls(&server).send("amy@customer.example").await;
    assert_eq!(outcome, refused(ErrorClass::Unreachable, "mail_lost"));
}
