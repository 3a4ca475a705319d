//! Google's token endpoint: only a well signed, timely assertion gets a token, and the token ends when it should.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use carillon_sandbox::{Channel, FCM_PROJECT, Running};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

use crate::client::{Answer, answer, http, start};

type Change = Box<dyn FnOnce(&mut Value, &mut Value)>;

/// The assertion a correct sender makes, with `change` applied to header and claims before signing.
fn assertion(running: &Running, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let key: Value = serde_json::from_str(&running.fcm_key_json()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut header = json!({"alg": "RS256", "typ": "JWT", "kid": key["private_key_id"]});
    let mut claims = json!({
        "iss": key["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": key["token_uri"],
        "iat": now,
        "exp": now + 3600,
    });
    change(&mut header, &mut claims);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let pem: String = key["private_key"]
        .as_str()
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with('-'))
        .collect();
    let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(pem).unwrap()).unwrap();
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
        .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn ask(running: &Running, assertion: &str) -> Answer {
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let form = [("grant_type", grant), ("assertion", assertion)];
    answer(http().post(format!("{}/token", running.http_url())).form(&form))
        .await
        .unwrap()
}

async fn send(running: &Running, token: &str) -> u16 {
    let url = format!("{}/v1/projects/{FCM_PROJECT}/messages:send", running.http_url());
    let body = json!({"message": {"token": "device"}});
    answer(http().post(url).bearer_auth(token).json(&body))
        .await
        .unwrap()
        .status
}

#[tokio::test]
async fn a_signed_assertion_gets_a_token_that_sends_until_it_expires() {
    let running = start().await;
    running.handle().set_fcm_token_lifetime_secs(120);
    let granted = ask(&running, &assertion(&running, |_, _| {})).await;
    assert_eq!(granted.status, 200, "{}", granted.body);
    assert_eq!(
        (&granted.body["expires_in"], &granted.body["token_type"]),
        (&json!(120), &json!("Bearer"))
    );
    let token = granted.body["access_token"].as_str().unwrap();
    assert_eq!(send(&running, token).await, 200);
    running.handle().advance_clock(Duration::from_secs(121));
    assert_eq!(send(&running, token).await, 401);
}

#[tokio::test]
async fn revoking_tokens_leaves_the_account_and_revoking_the_account_ends_both() {
    let running = start().await;
    let granted = ask(&running, &assertion(&running, |_, _| {})).await;
    let token = granted.body["access_token"].as_str().unwrap().to_owned();
    running.handle().revoke_fcm_access_tokens();
    assert_eq!(send(&running, &token).await, 401);
    assert_eq!(ask(&running, &assertion(&running, |_, _| {})).await.status, 200);
    let email = "test-only@carillon-demo.iam.gserviceaccount.com";
    assert!(running.handle().revoke(Channel::Fcm, email));
    assert_eq!(ask(&running, &assertion(&running, |_, _| {})).await.status, 400);
}

#[tokio::test]
async fn assertions_google_refuses_are_refused() {
    let running = start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let cases: Vec<(&str, Change)> = vec![
        ("alg", Box::new(|header, _| header["alg"] = json!("HS256"))),
        ("kid", Box::new(|header, _| header["kid"] = json!("other"))),
        ("iss", Box::new(|_, claims| claims["iss"] = json!("nobody@example.com"))),
        (
            "aud",
            Box::new(|_, claims| claims["aud"] = json!("https://example.com/token")),
        ),
        ("scope", Box::new(|_, claims| claims["scope"] = json!("email"))),
        ("too long", Box::new(move |_, claims| claims["exp"] = json!(now + 3700))),
        (
            "expired",
            Box::new(move |_, claims| {
                claims["iat"] = json!(now - 7200);
                claims["exp"] = json!(now - 3600);
            }),
        ),
        (
            "not yet",
            Box::new(move |_, claims| {
                claims["iat"] = json!(now + 600);
                claims["exp"] = json!(now + 1200);
            }),
        ),
        (
            "no exp",
            Box::new(|_, claims| {
                claims.as_object_mut().unwrap().remove("exp");
            }),
        ),
    ];
    for (name, change) in cases {
        let refused = ask(&running, &assertion(&running, change)).await;
        assert_eq!(refused.status, 400, "{name}");
        assert!(refused.body["error"].is_string() && refused.body["error_description"].is_string());
    }
}

#[tokio::test]
async fn a_changed_claim_breaks_the_signature() {
    let running = start().await;
    let good = assertion(&running, |_, _| {});
    let other = assertion(&running, |_, claims| claims["iat"] = json!(1));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let refused = ask(&running, &format!("{signed}.{signature}")).await;
    assert_eq!(refused.body["error_description"], "Invalid JWT Signature.");
    assert_eq!(ask(&running, "not-a-jwt").await.status, 400);
    let url = format!("{}/token", running.http_url());
    let wrong = answer(http().post(url).form(&[("grant_type", "password")]))
        .await
        .unwrap();
    assert_eq!(wrong.body["error"], "unsupported_grant_type");
}
