//! What is believed: the providers' published vectors, and everything that must not be.

use axum::http::{HeaderMap, HeaderValue};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use ring::hmac;

use super::*;
use crate::channel::webhook::{Rejected, WebhookSecrets, challenge, verify};

const URL: &str = "https://mycompany.com/myapp.php";

fn credentials(provider: Provider) -> &'static str {
    match provider {
        Provider::Line => {
            r#"{"channel_id": "1", "channel_secret": "new", "previous_channel_secret": "old", "access_token": "t"}"#
        }
        Provider::Messenger => {
            r#"{"page_id": "1", "app_secret": "new", "previous_app_secret": "old", "verify_token": "tok"}"#
        }
        Provider::Whatsapp => {
            r#"{"phone_number_id": "1", "app_secret": "new", "previous_app_secret": "old", "verify_token": "tok"}"#
        }
        Provider::Twilio => {
            r#"{"provider": "twilio", "account_sid": "AC", "auth_token": "12345", "previous_auth_token": "old"}"#
        }
        Provider::Mitake => r#"{"provider": "mitake", "callback_token": "0123456789abcdef"}"#,
        Provider::Store => r#"{"secret": "0123456789abcdef", "previous_secret": "old"}"#,
        Provider::Email => r#"{"bounce_secret": "0123456789abcdef", "previous_bounce_secret": "old"}"#,
    }
}

fn secrets(provider: Provider) -> WebhookSecrets {
    WebhookSecrets::parse(provider, credentials(provider)).unwrap()
}

fn check(provider: Provider, signature: Option<&[u8]>, body: &[u8], query: &str) -> Result<(), Rejected> {
    let mut headers = HeaderMap::new();
    if let (Some(name), Some(value)) = (provider.signature_header(), signature) {
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
    }
    verify(provider, &secrets(provider), &headers, body, URL, query)
}

fn sha256(secret: &str, body: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body)
        .as_ref()
        .to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sign(provider: Provider, secret: &str, body: &[u8]) -> String {
    let tag = sha256(secret, body);
    match provider {
        Provider::Line => STANDARD.encode(tag),
        Provider::Messenger | Provider::Whatsapp => format!("sha256={}", hex(&tag)),
        _ => hex(&tag),
    }
}

const BY_HEADER: [Provider; 5] = [
    Provider::Line,
    Provider::Messenger,
    Provider::Whatsapp,
    Provider::Store,
    Provider::Email,
];

#[test]
fn both_secrets_are_believed_and_no_third() {
    let body = br#"{"events":[]}"#;
    for provider in BY_HEADER {
        let current = if matches!(provider, Provider::Store | Provider::Email) {
            "0123456789abcdef"
        } else {
            "new"
        };
        for (secret, expected) in [
            (current, Ok(())),
            ("old", Ok(())),
            ("", Err(Rejected::Mismatch)),
            ("x", Err(Rejected::Mismatch)),
        ] {
            let signature = sign(provider, secret, body);
            assert_eq!(
                check(provider, Some(signature.as_bytes()), body, ""),
                expected,
                "{provider} {secret}"
            );
            assert!(check(provider, Some(signature.as_bytes()), br#"{"events": []}"#, "").is_err());
        }
    }
    let prefixed = format!("sha256={}", sign(Provider::Store, "old", body));
    assert_eq!(check(Provider::Store, Some(prefixed.as_bytes()), body, ""), Ok(()));
}

#[test]
fn signatures_of_the_wrong_length_and_garbage_are_rejected_without_a_panic() {
    for provider in BY_HEADER.into_iter().chain([Provider::Twilio]) {
        assert_eq!(check(provider, None, b"{}", ""), Err(Rejected::Unsigned), "{provider}");
        let long = "a".repeat(10_000);
        let tag = sign(provider, "new", b"{}");
        for garbage in [
            &b""[..],
            b"sha256=",
            b"sha256=deadbeef",
            b"sha256=deadbee",
            b"deadbeef",
            b"sha1=deadbeef",
            b"====",
            b"AAAA",
            b"\xff\xfe",
            b"sha256=\xe5",
            long.as_bytes(),
            &tag.as_bytes()[..tag.len() - 2],
            "00".repeat(32).as_bytes(),
        ] {
            assert!(
                check(provider, Some(garbage), b"{}", "").is_err(),
                "{provider} {garbage:?}"
            );
        }
    }
}

#[test]
fn a_second_signature_beside_the_first_is_rejected() {
    let mut headers = HeaderMap::new();
    for secret in ["x", "new"] {
        headers.append(
            "x-line-signature",
            HeaderValue::from_str(&sign(Provider::Line, secret, b"{}")).unwrap(),
        );
    }
    let verdict = verify(Provider::Line, &secrets(Provider::Line), &headers, b"{}", URL, "");
    assert_eq!(verdict, Err(Rejected::Malformed));
}

#[test]
fn secrets_of_another_provider_prove_nothing() {
    for provider in Provider::ALL {
        for other in Provider::ALL.into_iter().filter(|other| *other != provider) {
            let verdict = verify(provider, &secrets(other), &HeaderMap::new(), b"", URL, "");
            assert_eq!(verdict, Err(Rejected::OtherProvider));
        }
    }
}

/// The vector of Twilio's own libraries.
const TWILIO_FORM: &[u8] =
    b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309";
const TWILIO_SIGNATURE: &[u8] = b"RSOYDt4T1cUTdK1PDd93/VVr8B8=";

#[test]
fn twilios_published_form_is_believed_with_and_without_the_port() {
    let at = |url: &str, query: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("X-Twilio-Signature", HeaderValue::from_bytes(TWILIO_SIGNATURE).unwrap());
        verify(
            Provider::Twilio,
            &secrets(Provider::Twilio),
            &headers,
            TWILIO_FORM,
            url,
            query,
        )
    };
    assert_eq!(at(URL, "foo=1&bar=2"), Ok(()));
    assert_eq!(at("https://mycompany.com:443/myapp.php", "foo=1&bar=2"), Ok(()));
    for (url, query) in [
        (URL, "foo=1&bar=3"),
        (URL, ""),
        ("http://mycompany.com/myapp.php", "foo=1&bar=2"),
        ("https://other.com/myapp.php", "foo=1&bar=2"),
        ("", ""),
    ] {
        assert_eq!(at(url, query), Err(Rejected::Mismatch), "{url} {query}");
    }
}

#[test]
fn twilios_published_json_is_believed_by_the_hash_in_the_query() {
    let body = br#"{"property": "value", "boolean": true}"#;
    let query = "foo=1&bar=2&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
    let signature = Some(&b"a9nBmqA0ju/hNViExpshrM61xv4="[..]);
    assert_eq!(check(Provider::Twilio, signature, body, query), Ok(()));
    assert_eq!(
        check(Provider::Twilio, signature, b"{}", query),
        Err(Rejected::Mismatch)
    );
}

#[test]
fn repeated_fields_are_signed_sorted_and_once() {
    let signed = |text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
        STANDARD.encode(hmac::sign(&key, text.as_bytes()))
    };
    let signature = signed(&format!("{URL}aoneBtwoa"));
    // Capital letters come before small ones.
    let signature_sorted = signed(&format!("{URL}Btwoaonethree"));
    let form = b"a=three&B=two&a=one&a=three";
    assert_eq!(
        check(Provider::Twilio, Some(signature.as_bytes()), form, ""),
        Err(Rejected::Mismatch)
    );
    assert_eq!(
        check(Provider::Twilio, Some(signature_sorted.as_bytes()), form, ""),
        Ok(())
    );
}

#[test]
fn mitakes_token_stands_in_the_query() {
    for (query, expected) in [
        ("token=0123456789abcdef&msgid=1", Ok(())),
        ("msgid=1&token=0123456789abcde", Err(Rejected::Mismatch)),
        ("token=", Err(Rejected::Mismatch)),
        ("token=x&token=0123456789abcdef", Err(Rejected::Mismatch)),
        ("msgid=1", Err(Rejected::Unsigned)),
        ("", Err(Rejected::Unsigned)),
    ] {
        assert_eq!(check(Provider::Mitake, None, b"", query), expected, "{query}");
    }
}

#[test]
fn metas_challenge_is_answered_to_who_knows_the_token() {
    let ask = |provider, query: &str| challenge(&secrets(provider), query);
    for provider in [Provider::Messenger, Provider::Whatsapp] {
        let good = "hub.mode=subscribe&hub.verify_token=tok&hub.challenge=1158201444";
        assert_eq!(ask(provider, good).as_deref(), Ok("1158201444"));
        for bad in [
            "",
            "hub.mode=subscribe&hub.challenge=1",
            "hub.mode=unsubscribe&hub.verify_token=tok&hub.challenge=1",
            "hub.mode=subscribe&hub.verify_token=nope&hub.challenge=1",
            "hub.mode=subscribe&hub.verify_token=&hub.challenge=1",
            "hub.mode=subscribe&hub.verify_token=tok",
            "hub.mode=subscribe&hub.verify_token=tok&hub.challenge=%3Cscript%3E",
        ] {
            assert!(ask(provider, bad).is_err(), "{bad}");
        }
    }
    assert_eq!(ask(Provider::Line, "hub.mode=subscribe"), Err(Rejected::OtherProvider));
}

proptest! {
    #[test]
    fn no_request_is_believed_by_chance(
        signature in prop::collection::vec(0x20_u8..=0xff, 0..100), body: Vec<u8>, url in "\\PC{0,60}", query in "\\PC{0,60}"
    ) {
        prop_assume!(HeaderValue::from_bytes(&signature).is_ok());
        for provider in Provider::ALL {
            let mut headers = HeaderMap::new();
            if let Some(name) = provider.signature_header() {
                headers.insert(name, HeaderValue::from_bytes(&signature).unwrap());
            }
            prop_assert!(verify(provider, &secrets(provider), &headers, &body, &url, &query).is_err());
            prop_assert!(challenge(&secrets(provider), &query).is_err());
        }
    }
}
