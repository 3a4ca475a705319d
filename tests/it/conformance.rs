//! What holds of every adapter: a good send is accepted and marked, every fault has its class, no bad provider gets a
//! panic, an `accepted` or a secret out of us.

use std::net::SocketAddr;

use carillon::channel::{ErrorClass, SendOutcome};
use carillon_sandbox::{Channel as Provider, Fault, FaultKind, ReceivedQuery, Running, Sandbox, SandboxConfig};
use futures::future::join_all;
use serde_json::json;

use crate::{
    conform_cases::{BAD, Class, http, whole},
    conform_provider::{BadProvider, Play},
    conform_scene::{ADAPTERS, Adapter, BODY_WORD, NAME, Station, is_marked},
    wait::until,
};

fn class(outcome: &SendOutcome) -> Class {
    match outcome {
        SendOutcome::Accepted { .. } => None,
        SendOutcome::Refused(refusal) => Some(refusal.class),
    }
}

async fn sandbox() -> Running {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Sandbox::start(SandboxConfig::default()).await.unwrap()
}

#[tokio::test]
async fn a_good_send_is_accepted_and_arrives_once_with_our_mark() {
    for adapter in ADAPTERS {
        let sandbox = sandbox().await;
        let station = Station::in_sandbox(adapter, &sandbox);
        let name = adapter.name;
        let outcome = station.send().await;
        let SendOutcome::Accepted { provider_id } = &outcome else {
            panic!("{name}: {outcome:?}");
        };
        // A mail server may name its queue's id or not.
        let named = provider_id.as_ref().is_some_and(|id| !id.is_empty());
        assert!(named || adapter.provider == Provider::Smtp, "{name}: an id");
        let got = sandbox.handle().received(adapter.provider, &ReceivedQuery::default());
        assert_eq!(got.len(), 1, "{name}");
        assert_eq!(got[0].recipient, adapter.known_as, "{name}");
        assert!(is_marked(adapter.provider, &got[0]), "{name}: {:?}", got[0]);
        assert!(got[0].text.contains(NAME) && got[0].text.contains(BODY_WORD), "{name}");
        // A provider that knows our keys takes a repeat for what it is.
        let again = station.send().await;
        assert_eq!(class(&again), None, "{name}: {again:?}");
        let count = sandbox.handle().channel_summary(adapter.provider).messages;
        assert_eq!(count, if adapter.keyed { 1 } else { 2 }, "{name}");
    }
}

/// Every kind of fault, and whether the message is there all the same.
const FAULTS: [(FaultKind, bool); 15] = [
    (FaultKind::Throttled, false),
    (FaultKind::Quota, false),
    (FaultKind::ServerError, false),
    (FaultKind::ServerErrorAfter, true),
    (FaultKind::Unavailable, false),
    (FaultKind::ResetBefore, false),
    (FaultKind::ResetAfter, true),
    (FaultKind::Hang, false),
    (FaultKind::HangAfter, true),
    (FaultKind::InvalidRecipient, false),
    (FaultKind::BadCredentials, false),
    (FaultKind::Truncated, true),
    (FaultKind::Garbage, true),
    (FaultKind::Reply, false),
    (FaultKind::ReplyAfter, true),
];

/// What a fault has to be called. A mail server's number is its word: what it defers or refuses it has not taken.
fn class_of(provider: Provider, kind: FaultKind) -> ErrorClass {
    use ErrorClass::{Content, Credentials, Quota, Recipient, Throttled, Uncertain};
    match (kind, provider) {
        // Of the others only FCM promises, with one word, that it took nothing.
        (FaultKind::Throttled, _)
        | (
            FaultKind::Quota | FaultKind::ServerError | FaultKind::ServerErrorAfter | FaultKind::Unavailable,
            Provider::Smtp,
        )
        | (FaultKind::Unavailable, Provider::Fcm) => Throttled,
        (FaultKind::Quota, _) => Quota,
        (FaultKind::InvalidRecipient, _) => Recipient,
        (FaultKind::BadCredentials, _) => Credentials,
        (FaultKind::Reply | FaultKind::ReplyAfter, Provider::Smtp) => Content,
        _ => Uncertain,
    }
}

#[tokio::test]
async fn every_fault_of_the_sandbox_has_its_class() {
    let adapters = ADAPTERS.map(async |adapter| {
        let sandbox = sandbox().await;
        let handle = sandbox.handle();
        for (kind, there) in FAULTS {
            let mut fault = Fault::new(adapter.provider, kind).retry_after_secs(3);
            if matches!(kind, FaultKind::Reply | FaultKind::ReplyAfter) {
                let smtp = adapter.provider == Provider::Smtp;
                fault = fault.with_reply(if smtp { 554 } else { 500 }, "5.6.0 nonsense");
            }
            handle.reset();
            if handle.set_fault(fault).is_err() {
                // Nobody pays these two by the month.
                let without = [Provider::Fcm, Provider::Messenger].contains(&adapter.provider);
                assert!(kind == FaultKind::Quota && without, "{kind:?} on {}", adapter.name);
                continue;
            }
            let what = format!("{} {kind:?}", adapter.name);
            let station = Station::in_sandbox(adapter, &sandbox);
            let outcome = station.send().await;
            let expected = class_of(adapter.provider, kind);
            assert_eq!(class(&outcome), Some(expected), "{what}: {outcome:?}");
            let count = || handle.channel_summary(adapter.provider).messages;
            assert_eq!(count(), u64::from(there), "{what}: arrived");
            handle.clear_faults();
            let again = station.send().await;
            assert_eq!(class(&again), None, "{what}, again: {again:?}");
            let all = if adapter.keyed { 1 } else { 1 + u64::from(there) };
            assert_eq!(count(), all, "{what}: arrived after the repeat");
        }
        handle.reset();
        handle
            .set_fault(Fault::new(adapter.provider, FaultKind::Delay).delay_ms(300))
            .unwrap();
        let late = Station::in_sandbox(adapter, &sandbox).send().await;
        assert_eq!(class(&late), None, "{} late: {late:?}", adapter.name);
    });
    join_all(adapters).await;
}

/// Sends to a provider that answers like this.
async fn sent_to(adapter: Adapter, sandbox: &Running, bad: &BadProvider) -> (Station, SendOutcome) {
    let station = Station::at(adapter, sandbox, &bad.url(), bad.address);
    let outcome = station.send().await;
    (station, outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bad_provider_is_believed() {
    let adapters = ADAPTERS.map(async |adapter| {
        let sandbox = sandbox().await;
        let smtp = adapter.provider == Provider::Smtp;
        for case in BAD {
            let play = match (smtp, case.smtp) {
                (true, Some(play)) => play(),
                (true, None) => continue,
                (false, _) => (case.http)(adapter),
            };
            let bad = BadProvider::start(smtp, move |_| play.clone()).await;
            let (_, outcome) = sent_to(adapter, &sandbox, &bad).await;
            let what = format!("{}: {}: {outcome:?}", adapter.name, case.name);
            assert!(case.expected.contains(&class(&outcome)), "{what}");
            assert!(bad.requests().len() <= 1, "{what}: {} requests", bad.requests().len());
        }
    });
    join_all(adapters).await;
}

/// Reading stops: else one provider fills the memory of every worker, or keeps its threads busy.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_left() {
    let adapters = ADAPTERS.map(async |adapter| {
        let sandbox = sandbox().await;
        let (_, kind, body) = (adapter.good)();
        let smtp = adapter.provider == Provider::Smtp;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n{body}");
        let endless: &[(&str, Vec<u8>)] = if smtp {
            &[
                ("250-2.0.0 Ok\r\n", format!("250-{}\r\n", "x".repeat(900)).into_bytes()),
                // Each line has the reply read anew from its first.
                ("250-2.0.0 Ok\r\n", b"250-\r\n".to_vec()),
                ("250 2.0.0 Ok, and", b" more".to_vec()),
            ]
        } else {
            &[(&head, b"\r\n".to_vec())]
        };
        for (first, again) in endless {
            let (first, again) = (first.as_bytes().to_vec(), again.repeat(20_000 / again.len()));
            let bad = BadProvider::start(smtp, move |_| Play::Endless(first.clone(), again.clone())).await;
            let (_, outcome) = sent_to(adapter, &sandbox, &bad).await;
            let name = adapter.name;
            assert_eq!(class(&outcome), Some(ErrorClass::Uncertain), "{name}: {outcome:?}");
            until("the endless answer is cut", async || bad.was_cut()).await;
        }
    });
    join_all(adapters).await;
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    for adapter in ADAPTERS {
        let sandbox = sandbox().await;
        let nobody: SocketAddr = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let station = Station::at(adapter, &sandbox, &format!("http://{nobody}"), nobody);
        let outcome = station.send().await;
        assert_eq!(
            class(&outcome),
            Some(ErrorClass::Unreachable),
            "{}: {outcome:?}",
            adapter.name
        );
    }
}

/// An answer about somebody else's message says nothing about ours.
#[tokio::test]
async fn an_answer_about_another_message_is_not_believed() {
    for (name, body) in [
        (
            "mitake",
            "[0badc0de-0000-4000-8000-000000000000]\r\nmsgid=13\r\nstatuscode=1\r\n".to_owned(),
        ),
        (
            "messenger",
            json!({"recipient_id": "9", "message_id": "m_abc"}).to_string(),
        ),
    ] {
        let adapter = *ADAPTERS.iter().find(|adapter| adapter.name == name).unwrap();
        let sandbox = sandbox().await;
        let answer = whole("200 OK", (adapter.good)().1, body.as_bytes());
        let bad = BadProvider::start(false, move |_| Play::Says(answer.clone())).await;
        let (_, outcome) = sent_to(adapter, &sandbox, &bad).await;
        assert_eq!(class(&outcome), Some(ErrorClass::Uncertain), "{name}: {outcome:?}");
    }
}

/// Providers quote what they refuse, in any field, and the whole of what they were sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_quotes_goes_nowhere() {
    let adapters = ADAPTERS.map(async |adapter| {
        let sandbox = sandbox().await;
        let smtp = adapter.provider == Provider::Smtp;
        let secrets = Station::in_sandbox(adapter, &sandbox).secrets();
        for status in [200, 201, 400, 401, 403, 404, 409, 422, 429, 500, 503] {
            for secret in &secrets {
                let secret = secret.clone();
                let bad = BadProvider::start(smtp, move |told| {
                    Play::Says(if smtp {
                        quoted_mail(status, &secret)
                    } else {
                        quoted(adapter, status, &secret, told)
                    })
                })
                .await;
                let (station, outcome) = sent_to(adapter, &sandbox, &bad).await;
                let what = format!("{} {status}: {outcome:?}", adapter.name);
                assert!(class(&outcome).is_some(), "{what}");
                // Also what no configuration holds: an access token that was issued a moment ago, a login in base64.
                let told = bad.requests().concat();
                let line = |text: &&str| text.to_ascii_lowercase().starts_with("authorization: ");
                let issued = told.lines().find(line).and_then(|line| line.split(' ').nth(2));
                station.tells_nothing(&outcome, &issued.map(str::to_owned).into_iter().collect::<Vec<_>>());
            }
        }
    });
    join_all(adapters).await;
}

fn quoted(adapter: Adapter, status: u16, secret: &str, told: &str) -> Vec<u8> {
    let (kind, body) = if adapter.provider == Provider::Mitake {
        (
            "text/plain",
            format!("[{secret}]\r\nstatuscode={secret}\r\nError={secret}\r\n"),
        )
    } else {
        let detail = json!({"message": told, "property": secret, "errorCode": secret, "fieldViolations": [secret]});
        let error = json!({"message": told, "status": secret, "type": secret, "code": 100, "details": [detail],
            "error_data": {"details": told}, "fbtrace_id": secret});
        let all = json!({"message": told, "details": [detail], "error": error, "code": 21_211, "status": secret,
            "more_info": secret, "sid": secret});
        ("application/json", all.to_string())
    };
    let headers = format!("retry-after: {}\r\nx-line-request-id: x\r\n", adapter.name);
    http(
        &format!("{status} Whatever"),
        kind,
        &headers,
        body.as_bytes(),
        body.len(),
    )
}

fn quoted_mail(status: u16, secret: &str) -> Vec<u8> {
    match status {
        200 | 201 => format!("354 <{secret}>\r\n"),
        status if status < 500 => format!("451 4.{}.1 <{secret}>\r\n", status - 400),
        503 => format!("550 {secret} refused\r\n"),
        _ => format!("550 5.1.1 <{secret}>: user unknown\r\n"),
    }
    .into_bytes()
}
