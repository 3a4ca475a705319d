//! Rendered messages read back as what the merchant wrote, whatever that was.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    meta_tests::{messenger_json, whatsapp_json},
    *,
};
use crate::channel::fixture;

pub(super) fn template(content: &Value, sender: &Sender, shop_url: Option<&str>) -> Template {
    let content = Content::parse(content).unwrap();
    let letterhead = Letterhead {
        broadcast: BroadcastId(Uuid::from_u128(0xb)),
        shop: ShopId(Uuid::from_u128(0xc)),
        shop_name: "小美的店 \"A\"",
        shop_url,
        sms_sender_name: "EasyStore",
        sender,
    };
    Template::compile(&content, &letterhead)
}

pub(super) fn recipient(first_name: Option<&str>) -> Recipient<'_> {
    Recipient {
        first_name,
        last_name: None,
        customer: CustomerId(7),
        key: Uuid::from_u128(0xd),
        unsubscribe_url: "https://u.example/u/TOKEN?a=1&b=2",
    }
}

fn line_json(content: &Value, name: Option<&str>) -> Value {
    let sender = fixture::line_sender();
    let rendered = template(content, &sender, None).render(&recipient(name));
    let text = format!("{{{}}}", std::str::from_utf8(rendered.body()).unwrap());
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["customAggregationUnits"], json!(["bc_b"]));
    body["messages"].clone()
}

fn app_json(content: &Value, name: Option<&str>) -> Value {
    let sender = fixture::app_sender("https://x.example/token");
    let rendered = template(content, &sender, None).render(&recipient(name));
    let text = format!("{{{}}}", std::str::from_utf8(rendered.body()).unwrap());
    serde_json::from_str(&text).unwrap()
}

fn mail(content: &Value, recipient: &Recipient<'_>) -> String {
    let sender = fixture::email_sender(25);
    let rendered = template(content, &sender, Some("https://shop.example")).render(recipient);
    String::from_utf8(rendered.body().to_vec()).unwrap()
}

fn mail_parts(mail: &str) -> (String, Vec<String>) {
    let (head, body) = mail.split_once("\r\n\r\n").unwrap();
    let parts = body
        .split("--=_carillon")
        .filter_map(|part| part.split_once("\r\n\r\n"));
    let decoded = parts.map(|(_, text)| {
        let text = text.replace("\r\n", "");
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    });
    (head.to_owned(), decoded.collect())
}

/// Undoes folding and encoded words.
fn subject(head: &str) -> String {
    let line = head.replace("\r\n ", " ");
    let line = line.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
    if !line.contains("=?utf-8?B?") {
        return line.to_owned();
    }
    let words = line.split(' ').map(|word| {
        let text = word.strip_prefix("=?utf-8?B?").unwrap().strip_suffix("?=").unwrap();
        assert!(word.len() <= 75, "{word}");
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    });
    words.collect()
}

#[test]
fn a_text_alone_is_one_text_message() {
    let content = json!({"text": "Hi {first_name} \"a\\b\"\n{{x}}", "fallbacks": {"first_name": "you"}});
    let expected = |name: &str| json!([{"type": "text", "text": format!("Hi {name} \"a\\b\"\n{{x}}")}]);
    assert_eq!(line_json(&content, Some("小\"美")), expected("小\"美"));
    assert_eq!(line_json(&content, None), expected("you"));
    assert_eq!(line_json(&content, Some("see evil.com")), expected("you"));
}

#[test]
fn a_text_with_an_image_is_two_bubbles_in_one_request() {
    let image = "https://cdn.example/a.jpg";
    assert_eq!(
        line_json(&json!({"text": "Hi", "image_url": image}), None),
        json!([
            {"type": "image", "originalContentUrl": image, "previewImageUrl": image},
            {"type": "text", "text": "Hi"},
        ])
    );
}

#[test]
fn a_button_makes_a_flex_bubble() {
    let (image, url) = ("https://cdn.example/a.jpg", "https://shop.example/s");
    let content = json!({"text": "Hi", "image_url": image, "button": {"label": "逛\"逛", "url": url}});
    let action = json!({"type": "uri", "label": "逛\"逛", "uri": url});
    let body = json!({"type": "box", "layout": "vertical", "contents": [{"type": "text", "text": "Hi", "wrap": true}]});
    let footer = json!({
        "type": "box", "layout": "vertical",
        "contents": [{"type": "button", "style": "primary", "action": action}],
    });
    let hero = json!({
        "type": "image", "url": image, "size": "full", "aspectRatio": "20:13", "aspectMode": "cover",
        "action": {"type": "uri", "uri": url},
    });
    let mut bubble = json!({"type": "bubble", "hero": hero, "body": body, "footer": footer});
    assert_eq!(
        line_json(&content, None),
        json!([{"type": "flex", "altText": "Hi", "contents": bubble}])
    );
    bubble.as_object_mut().unwrap().remove("hero");
    let content = json!({"text": "Hi", "button": {"label": "逛\"逛", "url": url}});
    assert_eq!(
        line_json(&content, None),
        json!([{"type": "flex", "altText": "Hi", "contents": bubble}])
    );
}

#[test]
fn only_a_line_message_without_names_is_the_same_for_all() {
    let (line, mail) = (fixture::line_sender(), fixture::email_sender(25));
    let shared = json!({"text": "Hi {shop_url}", "fallbacks": {"shop_url": "https://f.example"}});
    let personal = json!({"text": "Hi {last_name}", "fallbacks": {"last_name": ""}});
    let same = template(&shared, &line, Some("https://shop.example"))
        .same_for_all()
        .unwrap();
    assert!(
        std::str::from_utf8(same.body())
            .unwrap()
            .contains("Hi https://shop.example")
    );
    let same = template(&shared, &line, Some("javascript:alert(1)"))
        .same_for_all()
        .unwrap();
    assert!(
        std::str::from_utf8(same.body())
            .unwrap()
            .contains("Hi https://f.example")
    );
    assert!(template(&personal, &line, None).same_for_all().is_none());
    assert!(template(&shared, &mail, None).same_for_all().is_none());
}

#[test]
fn a_push_carries_the_message_and_our_marks() {
    let content = json!({
        "text": "Hi {first_name}", "fallbacks": {"first_name": "you"}, "image_url": "https://cdn.example/a.jpg",
        "button": {"label": "Go", "url": "https://shop.example/s"},
    });
    let mark = "bc-0000000000000000000000000000000b";
    assert_eq!(
        app_json(&content, Some("小美")),
        json!({
            "notification": {"title": "小美的店 \"A\"", "body": "Hi 小美", "image": "https://cdn.example/a.jpg"},
            "data": {
                "broadcast_id": "00000000-0000-0000-0000-00000000000b",
                "delivery": "00000000-0000-0000-0000-00000000000d",
                "url": "https://shop.example/s",
            },
            "android": {"priority": "HIGH", "ttl": "86400s", "collapse_key": mark, "notification": {"tag": mark}},
            "apns": {
                "headers": {"apns-priority": "10", "apns-collapse-id": mark},
                "payload": {"aps": {"mutable-content": 1}},
                "fcm_options": {"image": "https://cdn.example/a.jpg"},
            },
            "webpush": {"fcm_options": {"link": "https://shop.example/s"}},
            "fcm_options": {"analytics_label": mark},
        })
    );
    let bare = app_json(&json!({"text": "Hi", "title": "T"}), None);
    assert_eq!(bare["notification"], json!({"title": "T", "body": "Hi"}));
    assert!(bare.get("webpush").is_none());
}

#[test]
fn a_mail_has_every_header_bulk_mail_needs_and_both_bodies() {
    let content = json!({
        "text": "{first_name} 您好\n<b>第二行</b>", "fallbacks": {"first_name": "朋友"},
        "button": {"label": "逛逛", "url": "https://shop.example/s?a=1&b=2"},
    });
    let (head, parts) = mail_parts(&mail(&content, &recipient(Some("小美"))));
    let key = "00000000-0000-0000-0000-00000000000d";
    let shop = "0000000000000000000000000000000c";
    for line in [
        "From: =?utf-8?B?5bCP5bqX?= <news@shop.example>".to_owned(),
        "Reply-To: <help@shop.example>".into(),
        format!("Message-ID: <{key}@shop.example>"),
        "List-Unsubscribe: <https://u.example/u/TOKEN?a=1&b=2>,".into(),
        format!(" <mailto:news@shop.example?subject=unsubscribe-{key}>"),
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click".into(),
        format!("List-ID: <{shop}.shop.example>"),
        format!("Feedback-ID: 0000000000000000000000000000000b:{shop}:broadcast:carillon"),
        "Precedence: bulk".into(),
        "Auto-Submitted: auto-generated".into(),
        "MIME-Version: 1.0".into(),
    ] {
        assert!(head.lines().any(|have| have == line), "{line}\n{head}");
    }
    assert_eq!(subject(&head), "小美 您好");
    assert_eq!(parts.len(), 2);
    assert!(parts[0].starts_with("小美 您好\r\n<b>第二行</b>\r\n"), "{}", parts[0]);
    assert!(parts[0].contains("逛逛: https://shop.example/s?a=1&b=2"));
    assert!(parts[0].contains("https://u.example/u/TOKEN?a=1&b=2"));
    assert!(
        parts[1].contains("小美 您好<br>\r\n&lt;b&gt;第二行&lt;/b&gt;"),
        "{}",
        parts[1]
    );
    assert!(parts[1].contains("href=\"https://shop.example/s?a=1&amp;b=2\""));
    assert!(parts[1].contains("lang=\"zh-Hant-TW\""));
}

#[test]
fn a_subject_that_comes_out_blank_is_the_shops_name() {
    let content = json!({"text": "{first_name}\n折扣", "fallbacks": {"first_name": ""}});
    let (head, _) = mail_parts(&mail(&content, &recipient(None)));
    assert_eq!(subject(&head), "小美的店 \"A\"");
}

#[test]
fn what_is_rendered_does_not_show_in_debug_text() {
    let sender = fixture::line_sender();
    let rendered = template(&json!({"text": "s3cret"}), &sender, None).render(&recipient(None));
    assert!(!format!("{rendered:?}").contains("s3cret"));
}

/// A message anyone could write, that the door lets in.
fn any_content() -> impl Strategy<Value = Value> {
    let text = "[a-zA-Z0-9\"\\\\<>&'\n折扣😀\u{301}\u{202e} ]{1,40}";
    (
        text,
        proptest::option::of("[^\n\r{}]{1,20}"),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_filter_map("refused at the door", |(text, subject, image, button)| {
            let text = format!("{text}{{first_name}}!");
            let mut value = json!({"text": text, "fallbacks": {"first_name": ""}});
            if let Some(subject) = subject {
                value["subject"] = json!(subject);
                value["title"] = json!(subject);
            }
            if image {
                value["image_url"] = json!("https://cdn.example/a.jpg?x='1'");
            }
            if button {
                value["button"] = json!({"label": "<\"'&\\>", "url": "https://s.example/?q='&x=1"});
            }
            Content::parse(&value).ok().map(|_| value)
        })
}

#[test]
fn a_mail_names_its_delivery_where_bounces_come_back_to_us() {
    let sender =
        |json: Value| Sender::parse(carillon_jobs::SenderId::new(), Channel::Email, &json.to_string()).unwrap();
    let account = json!({"host": "127.0.0.1", "port": 25, "tls": "none", "from": "news@shop.example",
        "return_path": "bounce@shop.example", "bounce_secret": "0123456789abcdef"});
    let path = |sender: &Sender| match template(&json!({"text": "hi"}), sender, None).render(&recipient(None)) {
        Rendered::Email { return_path, .. } => return_path,
        _ => unreachable!(),
    };
    let made = path(&sender(account.clone())).unwrap();
    assert!(made.starts_with("bounce+") && made.ends_with("@shop.example"), "{made}");
    let read = crate::channel::ReturnPathKey::new("0123456789abcdef")
        .read(&made)
        .unwrap();
    assert_eq!((read.broadcast.0, read.customer.0), (Uuid::from_u128(0xb), 7));
    for missing in ["return_path", "bounce_secret"] {
        let mut account = account.clone();
        account.as_object_mut().unwrap().remove(missing);
        assert_eq!(path(&sender(account)), None, "without {missing}");
    }
}

proptest! {
    #[test]
    fn json_is_always_valid_and_holds_the_text(content in any_content(), name in any::<String>()) {
        let printed = customer_value(Some(&name), "");
        let expected = content["text"].as_str().unwrap().replace("{first_name}", printed);
        let line = line_json(&content, Some(&name));
        let messages = line.as_array().unwrap();
        let last = messages.last().unwrap();
        let text = last.get("text").unwrap_or(&last["altText"]);
        prop_assert_eq!(text.as_str(), Some(expected.as_str()));
        let app = app_json(&content, Some(&name));
        prop_assert_eq!(app["notification"]["body"].as_str(), Some(expected.as_str()));
        let page = messenger_json(&content, Some(&name));
        if let Some(text) = page.get("text").or(page["attachment"]["payload"].get("text")) {
            prop_assert_eq!(text.as_str(), Some(expected.as_str()));
        }
        let number = whatsapp_json(&content, Some(&name), &json!({"phone_number_id": "2002", "access_token": "t"}));
        let text = match number["type"].as_str().unwrap() {
            "text" => &number["text"]["body"],
            "image" => &number["image"]["caption"],
            _ => &number["interactive"]["body"]["text"],
        };
        prop_assert_eq!(text.as_str(), Some(expected.as_str()));
    }

    #[test]
    fn no_value_opens_a_header_or_ends_the_mail(
        content in any_content(),
        name in any::<String>(),
        url in any::<String>(),
    ) {
        let recipient = Recipient {
            first_name: Some(&name), last_name: Some(&name), customer: CustomerId(7), key: Uuid::nil(), unsubscribe_url: &url,
        };
        let mail = mail(&content, &recipient);
        let (head, parts) = mail_parts(&mail);
        let names: Vec<_> = head
            .split("\r\n")
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split_once(": ").unwrap().0)
            .collect();
        prop_assert_eq!(names, [
            "From", "Reply-To", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post", "List-ID", "Feedback-ID",
            "Precedence", "Auto-Submitted", "Subject", "MIME-Version", "Content-Type",
        ]);
        prop_assert!(mail.is_ascii());
        prop_assert!(!mail.replace("\r\n", "").contains(['\r', '\n']), "a bare line break");
        prop_assert!(!mail.contains("\r\n."), "a line that SMTP would take for the end");
        let printed = customer_value(Some(&name), "");
        let text = content["text"].as_str().unwrap().replace("{first_name}", printed).replace('\n', "\r\n");
        prop_assert!(parts[0].starts_with(&text));
    }
}
