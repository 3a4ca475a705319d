//! Twilio and Mitake: what they take, what they refuse, and what they say.

use std::time::Duration;

use carillon_sandbox::{
    Channel, Fault, FaultKind, MITAKE_PASSWORD, MITAKE_USER, Running, TWILIO_AUTH_TOKEN, TWILIO_FROM, TWILIO_SID,
};
use serde_json::Value;

use crate::client::{http, start};

type Fields<'a> = Vec<(&'a str, &'a str)>;

async fn mitake(running: &Running, fields: &Fields<'_>) -> Result<(u16, String), reqwest::Error> {
    let url = format!("{}/b2c/mtk/SmSend?CharsetURL=UTF-8", running.http_url());
    let response = http().post(url).form(fields).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

fn letter<'a>(changes: &[(&'a str, &'a str)]) -> Fields<'a> {
    let mut fields: Fields<'a> = vec![
        ("username", MITAKE_USER),
        ("password", MITAKE_PASSWORD),
        ("dstaddr", "0912345678"),
        ("smbody", "EasyStore 折\u{6}二"),
        ("clientid", "key-1"),
    ];
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    fields
}

#[tokio::test]
async fn a_clientid_is_sent_once_in_twelve_hours() {
    let running = start().await;
    let (status, first) = mitake(&running, &letter(&[])).await.unwrap();
    assert_eq!(status, 200);
    assert!(
        first.starts_with("[key-1]\r\nmsgid=#") && first.contains("statuscode=1"),
        "{first}"
    );
    assert!(!first.contains("Duplicate"));
    let (_, again) = mitake(&running, &letter(&[])).await.unwrap();
    assert!(
        again.contains("Duplicate=Y") && again.lines().nth(1) == first.lines().nth(1),
        "{again}"
    );
    let (_, other) = mitake(&running, &letter(&[("smbody", "another")])).await.unwrap();
    assert!(other.contains("statuscode=y"), "{other}");
    let handle = running.handle();
    let got = handle.received_by(Channel::Mitake, "0912345678");
    assert_eq!(
        got.iter().map(|m| m.text.as_str()).collect::<Vec<_>>(),
        ["EasyStore 折\n二"]
    );
    handle.advance_clock(Duration::from_mins(12 * 60 - 1));
    assert!(mitake(&running, &letter(&[])).await.unwrap().1.contains("Duplicate=Y"));
    handle.advance_clock(Duration::from_mins(2));
    assert!(!mitake(&running, &letter(&[])).await.unwrap().1.contains("Duplicate=Y"));
    assert_eq!(handle.channel_summary(Channel::Mitake).messages, 2);
}

#[tokio::test]
async fn mitake_refuses_what_mitake_refuses() {
    let running = start().await;
    let long = "長".repeat(671);
    for (change, code) in [
        (("password", "wrong"), "e"),
        (("username", "stranger"), "e"),
        (("dstaddr", "912345678"), "v"),
        (("dstaddr", "+886912345678"), "v"),
        (("dstaddr", "0223456789"), "v"),
        (("smbody", ""), "u"),
        (("smbody", "a\nb"), "y"),
        (("smbody", long.as_str()), "x"),
        (("unknown", "1"), "y"),
        (("vldtime", "tomorrow"), "y"),
        (("response", "https://carillon.example:8080/x"), "y"),
        (("response", "carillon"), "y"),
    ] {
        let (status, text) = mitake(&running, &letter(&[change])).await.unwrap();
        assert_eq!(status, 200);
        assert!(
            text.contains(&format!("statuscode={code}\r\n")) && text.contains("Error="),
            "{change:?}: {text}"
        );
    }
    assert_eq!(running.handle().channel_summary(Channel::Mitake).messages, 0);
}

#[tokio::test]
async fn mitakes_faults_are_in_its_own_words() {
    let running = start().await;
    for (fault, status, said) in [
        (FaultKind::Throttled, 200, "statuscode=l"),
        (FaultKind::Quota, 200, "statuscode=s"),
        (FaultKind::InvalidRecipient, 200, "statuscode=v"),
        (FaultKind::BadCredentials, 200, "statuscode=e"),
        (FaultKind::ServerError, 500, "Error"),
        (FaultKind::Unavailable, 503, "Unavailable"),
        (FaultKind::Garbage, 200, "<html>"),
    ] {
        let handle = running.handle();
        handle.set_fault(Fault::new(Channel::Mitake, fault).times(1)).unwrap();
        let before = handle.channel_summary(Channel::Mitake).messages;
        let key = format!("{fault:?}");
        let (code, text) = mitake(&running, &letter(&[("clientid", &key)])).await.unwrap();
        assert_eq!(code, status, "{fault:?}");
        assert!(text.contains(said), "{fault:?}: {text}");
        let accepted = handle.channel_summary(Channel::Mitake).messages - before;
        assert_eq!(accepted, u64::from(fault == FaultKind::Garbage), "{fault:?}");
    }
}

#[tokio::test]
async fn mitakes_points_are_told_to_who_knows_the_password() {
    let running = start().await;
    let ask = async |password: &str| {
        let url = format!(
            "{}/b2c/mtk/SmQuery?username={MITAKE_USER}&password={password}",
            running.http_url()
        );
        http().get(url).send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(ask(MITAKE_PASSWORD).await, "AccountPoint=1000000000\r\n");
    assert!(ask("wrong").await.contains("statuscode=e"));
}

async fn twilio(running: &Running, token: &str, fields: &Fields<'_>) -> (u16, Value) {
    let url = format!("{}/2010-04-01/Accounts/{TWILIO_SID}/Messages.json", running.http_url());
    let request = http().post(url).basic_auth(TWILIO_SID, Some(token)).form(fields);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn twilio_takes_a_message_and_names_it() {
    let running = start().await;
    let callback = "https://carillon.example/webhooks/twilio/x?mark=carillon.0b.7";
    let fields = vec![
        ("To", "+886912345678"),
        ("From", TWILIO_FROM),
        ("Body", "EasyStore 折"),
        ("StatusCallback", callback),
        ("ValidityPeriod", "14400"),
    ];
    for _ in 0..2 {
        let (status, said) = twilio(&running, TWILIO_AUTH_TOKEN, &fields).await;
        assert_eq!(status, 201);
        let sid = said["sid"].as_str().unwrap();
        assert!(
            sid.len() == 34 && sid.starts_with("SM") && said["status"] == "queued",
            "{said}"
        );
    }
    let got = running.handle().received_by(Channel::Twilio, "+886912345678");
    assert_eq!(got.len(), 2, "it knows no keys");
    assert_eq!((got[0].text.as_str(), got[0].marker.as_str()), ("EasyStore 折", "0b"));
}

#[tokio::test]
async fn twilio_refuses_what_twilio_refuses() {
    let running = start().await;
    let long = "a".repeat(1601);
    for (change, status, code) in [
        (("To", "0912345678"), 400, 21_211),
        (("To", ""), 400, 21_604),
        (("From", "+15005550007"), 400, 21_606),
        (("From", ""), 400, 21_603),
        (("Body", ""), 400, 21_602),
        (("Body", long.as_str()), 400, 21_617),
        (("StatusCallback", "nowhere"), 400, 21_609),
        (("ValidityPeriod", "0"), 400, 30_409),
        (("Unknown", "1"), 400, 20_001),
    ] {
        let mut fields = vec![("To", "+886912345678"), ("From", TWILIO_FROM), ("Body", "a")];
        fields.retain(|(name, _)| *name != change.0);
        if !change.1.is_empty() {
            fields.push(change);
        }
        let (given, said) = twilio(&running, TWILIO_AUTH_TOKEN, &fields).await;
        assert_eq!((given, said["code"].as_u64()), (status, Some(code)), "{change:?}");
    }
    let (status, said) = twilio(&running, "wrong", &vec![("To", "+886912345678")]).await;
    assert_eq!((status, said["code"].as_u64()), (401, Some(20_003)));
    assert_eq!(running.handle().channel_summary(Channel::Twilio).messages, 0);
}
