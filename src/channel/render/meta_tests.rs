//! Messenger's and WhatsApp's messages read back as what the merchant wrote.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::{
    tests::{recipient, template},
    *,
};
use crate::channel::fixture;

pub(super) fn messenger_json(content: &Value, name: Option<&str>) -> Value {
    let sender = fixture::messenger_sender();
    let rendered = template(content, &sender, None).render(&recipient(name));
    let text = format!("{{{}}}", std::str::from_utf8(rendered.body()).unwrap());
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["messaging_type"], "UPDATE");
    assert_eq!(
        body["message"]["metadata"],
        "carillon.0000000000000000000000000000000b.7"
    );
    body["message"].clone()
}

pub(super) fn whatsapp_json(content: &Value, name: Option<&str>, credentials: &Value) -> Value {
    let sender = Sender::parse(
        carillon_jobs::SenderId::new(),
        Channel::Whatsapp,
        &credentials.to_string(),
    )
    .unwrap();
    let rendered = template(content, &sender, None).render(&recipient(name));
    let text = format!("{{{}}}", std::str::from_utf8(rendered.body()).unwrap());
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        body["biz_opaque_callback_data"],
        "carillon.0000000000000000000000000000000b.7"
    );
    body
}

const IMAGE: &str = "https://cdn.example/a.jpg";
const URL: &str = "https://shop.example/s";

#[test]
fn messenger_sends_a_text_or_a_button_or_a_card() {
    let button = json!({"label": "逛\"逛", "url": URL});
    let sent = json!([{"type": "web_url", "url": URL, "title": "逛\"逛"}]);
    let text = messenger_json(
        &json!({"text": "Hi {first_name}\n\"", "fallbacks": {"first_name": "you"}}),
        Some("小美"),
    );
    assert_eq!(text["text"], "Hi 小美\n\"");
    assert!(text.get("attachment").is_none());
    let with_button = messenger_json(&json!({"text": "Hi", "button": button}), None);
    assert_eq!(
        with_button["attachment"],
        json!({"type": "template", "payload": {"template_type": "button", "text": "Hi", "buttons": sent}})
    );
    let card = messenger_json(
        &json!({"text": "週年慶\n全館八折", "image_url": IMAGE, "button": button}),
        None,
    );
    let action = json!({"type": "web_url", "url": URL});
    let mut element = json!({"title": "週年慶", "subtitle": "全館八折", "image_url": IMAGE, "default_action": action, "buttons": sent});
    assert_eq!(
        card["attachment"],
        json!({"type": "template", "payload": {"template_type": "generic", "elements": [element]}})
    );
    let picture = messenger_json(&json!({"text": "週年慶", "image_url": IMAGE}), None);
    element = json!({"title": "週年慶", "image_url": IMAGE});
    assert_eq!(picture["attachment"]["payload"]["elements"], json!([element]));
}

#[test]
fn a_name_that_makes_a_card_too_long_gives_way_to_its_fallback() {
    let text = format!("{{first_name}}{{first_name}}{}", "x".repeat(140));
    let content = json!({"text": text, "fallbacks": {"first_name": "you"}, "image_url": IMAGE});
    let title = |name| messenger_json(&content, Some(name))["attachment"]["payload"]["elements"][0]["title"].clone();
    assert!(title("小美").as_str().unwrap().starts_with("小美小美x"));
    assert!(title("Wolfeschlegelstein").as_str().unwrap().starts_with("youyoux"));
}

#[test]
fn whatsapp_sends_a_text_an_image_or_a_button() {
    let plain = json!({"phone_number_id": "2002", "access_token": "t"});
    let button = json!({"label": "逛逛", "url": URL});
    let text = whatsapp_json(
        &json!({"text": "Hi {first_name}", "fallbacks": {"first_name": "you"}}),
        Some("小美"),
        &plain,
    );
    assert_eq!(
        (&text["type"], &text["text"]["body"]),
        (&"text".into(), &"Hi 小美".into())
    );
    let image = whatsapp_json(&json!({"text": "Hi", "image_url": IMAGE}), None, &plain);
    assert_eq!(image["image"], json!({"link": IMAGE, "caption": "Hi"}));
    let both = whatsapp_json(
        &json!({"text": "Hi", "image_url": IMAGE, "button": button}),
        None,
        &plain,
    );
    let mut interactive = json!({
        "type": "cta_url", "header": {"type": "image", "image": {"link": IMAGE}}, "body": {"text": "Hi"},
        "action": {"name": "cta_url", "parameters": {"display_text": "逛逛", "url": URL}},
    });
    assert_eq!(both["interactive"], interactive);
    interactive.as_object_mut().unwrap().remove("header");
    let linked = whatsapp_json(&json!({"text": "Hi", "button": button}), None, &plain);
    assert_eq!(linked["interactive"], interactive);
}

#[test]
fn a_template_gets_its_blanks_filled_or_stays_away() {
    let sender = json!({"phone_number_id": "2002", "access_token": "t", "template": {
        "name": "shop_news", "language": "zh_TW", "header_image": true, "body": ["first_name", "text", "shop_name"],
        "button_url_prefix": "https://shop.example/",
    }});
    let button = json!({"label": "逛逛", "url": URL});
    let full = json!({"text": "一\n二", "fallbacks": {}, "image_url": IMAGE, "button": button});
    let filled = whatsapp_json(&full, Some("小美"), &sender);
    let words = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(
        filled["template"],
        json!({"name": "shop_news", "language": {"code": "zh_TW"}, "components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"link": IMAGE}}]},
            {"type": "body", "parameters": [words("小美"), words("一 二"), words("小美的店 \"A\"")]},
            {"type": "button", "sub_type": "url", "index": "0", "parameters": [words("s")]},
        ]})
    );
    // Nothing to put into one of the blanks: Meta would refuse it, so it goes as a free message.
    let bare = whatsapp_json(&json!({"text": "一"}), None, &sender);
    assert_eq!(bare["type"], "text");
}
