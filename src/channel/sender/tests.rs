//! Credentials are read once, and no fault of theirs shows a secret.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::channel::fixture;

fn parse(channel: Channel, json: &str) -> Result<Sender, SenderError> {
    Sender::parse(SenderId::new(), channel, json)
}

#[test]
fn every_connected_channel_reads_its_credentials() {
    let line = r#"{"channel_id":"1","channel_secret":"s3cret","access_token":"t0ken"}"#;
    assert_eq!(parse(Channel::Line, line).unwrap().channel(), Channel::Line);
    assert_eq!(fixture::app_sender("https://x.example/token").channel(), Channel::App);
    assert_eq!(fixture::email_sender(25).channel(), Channel::Email);
    assert_eq!(fixture::messenger_sender().channel(), Channel::Messenger);
    assert_eq!(fixture::whatsapp_sender().channel(), Channel::Whatsapp);
}

#[test]
fn a_fault_names_the_field_and_never_the_value() {
    let line = |token: &str| format!(r#"{{"channel_id":"1","channel_secret":"hush","access_token":{token}}}"#);
    let email = |rest: &str| format!(r#"{{"host":"mail.example","port":587,{rest}}}"#);
    let app = |project: &str, token_uri: &str| {
        let ids = format!(r#""project_id":"{project}","client_email":"e","private_key_id":"k""#);
        format!(r#"{{{ids},"private_key":"hush","token_uri":"{token_uri}"}}"#)
    };
    let login = r#""username":"u","password":"hush""#;
    let half = r#""tls":"starttls","username":"u","from":"a@b.tw""#;
    let broken = r#""tls":"starttls","from":"a@b.tw\r\nBcc: c@d.tw""#;
    for (channel, json, expected) in [
        (Channel::Line, "hush".to_owned(), "not the JSON expected"),
        (
            Channel::Line,
            r#"{"channel_id":"hush"}"#.into(),
            "missing field `channel_secret`",
        ),
        (Channel::Line, line(r#"["hush"]"#), "wrong near line 1"),
        (Channel::Line, line(r#""hu\nsh""#), "`access_token` holds"),
        (Channel::Line, line(r#"" ""#), "`access_token` is empty"),
        (
            Channel::Email,
            email(&format!(r#""tls":"none",{login},"from":"a@b.tw""#)),
            "`tls` is none",
        ),
        (Channel::Email, email(half), "`password` is missing"),
        (Channel::Email, email(broken), "`from` is not a mail address"),
        (Channel::App, app("p", "https://x.tw"), "`private_key` is not"),
        (Channel::App, app("p", "http://x.tw"), "`token_uri` is not"),
        (Channel::App, app("a/b", "https://x.tw"), "`project_id` is not"),
        (
            Channel::Messenger,
            r#"{"page_id":"1/2","access_token":"hush"}"#.into(),
            "`page_id` is not",
        ),
        (
            Channel::Messenger,
            r#"{"page_id":"1","access_token":"hu\nsh"}"#.into(),
            "`access_token` holds",
        ),
        (
            Channel::Messenger,
            r#"{"page_id":"1","access_token":"hush","app_id":"x"}"#.into(),
            "`app_id` is not",
        ),
        (
            Channel::Whatsapp,
            r#"{"phone_number_id":"+886","access_token":"hush"}"#.into(),
            "`phone_number_id` is not",
        ),
        (
            Channel::Whatsapp,
            r#"{"phone_number_id":"2","access_token":" "}"#.into(),
            "`access_token` is empty",
        ),
    ] {
        let error = parse(channel, &json).unwrap_err();
        assert!(error.to_string().contains(expected), "{json}: {error}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}

#[test]
fn a_sender_shows_its_id_and_nothing_else() {
    let sender = fixture::line_sender();
    assert_eq!(format!("{sender:?}"), format!("Sender(line {})", sender.id));
    let Credentials::Line(account) = sender.credentials() else {
        unreachable!()
    };
    assert!(!format!("{:?}", account.authorization).contains("t0ken"));
}

#[test]
fn mail_addresses_that_could_break_out_of_a_command_are_refused() {
    for text in ["a@b.tw", "a.b+c@xn--fiq228c.tw", "用戶@b.tw"] {
        assert!(mail_address(text).is_some(), "{text}");
    }
    assert_eq!(mail_address("a@中文.tw").unwrap().domain(), "xn--fiq228c.tw");
    for text in [
        "",
        "a",
        "a@",
        "@b.tw",
        "a@b.tw>\r\nRCPT TO:<c@d.tw",
        "a b@c.tw",
        "\"a\r\nb\"@c.tw",
        "a@b,c@d.tw",
    ] {
        assert!(mail_address(text).is_none(), "{text}");
    }
}
