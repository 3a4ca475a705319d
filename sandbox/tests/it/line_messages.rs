//! LINE message objects: what is accepted, what is refused, at which length.

use serde_json::{Value, json};

use crate::client::{line, start, user};

fn flex(footer_action: &Value) -> Value {
    json!({"type": "flex", "altText": "Sale", "contents": {
        "type": "bubble",
        "hero": {"type": "image", "url": "https://example.com/a.png", "size": "full",
            "aspectRatio": "20:13", "aspectMode": "cover"},
        "body": {"type": "box", "layout": "vertical", "contents": [
            {"type": "text", "text": "Half price", "wrap": true}]},
        "footer": {"type": "box", "layout": "vertical", "contents": [
            {"type": "button", "style": "primary", "action": footer_action}]},
    }})
}

fn buttons(text_chars: usize, with_title: bool) -> Value {
    let mut template = json!({"type": "buttons", "text": "字".repeat(text_chars), "actions": [
        {"type": "uri", "label": "Shop", "uri": "https://example.com/a"}]});
    if with_title {
        template["title"] = json!("Title");
    }
    json!({"type": "template", "altText": "alt", "template": template})
}

fn image(url: &str) -> Value {
    json!({"type": "image", "originalContentUrl": url, "previewImageUrl": "https://example.com/p.png"})
}

#[tokio::test]
async fn messages_line_takes_are_taken() {
    let running = start().await;
    let shop = json!({"type": "uri", "label": "Shop", "uri": "https://example.com/?a=%E4%BD%A0"});
    let cases = [
        json!([{"type": "text", "text": "a".repeat(5000)}]),
        json!([{"type": "text", "text": "字".repeat(5000)}]),
        json!([{"type": "text", "text": "a"}, image("https://example.com/a.png")]),
        json!([buttons(160, false)]),
        json!([buttons(60, true)]),
        json!([flex(&shop)]),
        json!([{"type": "flex", "altText": "x", "contents": {"type": "carousel",
            "contents": [flex(&shop)["contents"], flex(&shop)["contents"]]}}]),
    ];
    for messages in cases {
        for call in ["push", "validate/push"] {
            let mut body = json!({"messages": messages});
            if call == "push" {
                body["to"] = json!(user(1));
            }
            let sent = line(&running, call, &body).await;
            assert_eq!(sent.status, 200, "{call}: {}", sent.body);
        }
    }
}

#[tokio::test]
async fn messages_line_refuses_are_refused() {
    let running = start().await;
    let cases = [
        (json!([{"type": "text", "text": "a".repeat(5001)}]), "messages[0].text"),
        // An emoji outside the BMP is two UTF-16 units.
        (json!([{"type": "text", "text": "😀".repeat(2501)}]), "messages[0].text"),
        (json!([{"type": "text", "text": 5}]), "messages[0].text"),
        (json!([{"type": "sticker"}]), "messages[0].type"),
        (json!([{"text": "a"}]), "messages[0].type"),
        (json!(["a"]), "messages[0].type"),
        (json!(vec![json!({"type": "text", "text": "a"}); 6]), "messages"),
        (
            json!([image("http://example.com/a.png")]),
            "messages[0].originalContentUrl",
        ),
        (
            json!([image("https://example.com/你.png")]),
            "messages[0].originalContentUrl",
        ),
        (
            json!([image(&format!("https://example.com/{}", "a".repeat(2000)))]),
            "messages[0].originalContentUrl",
        ),
        (json!([buttons(161, false)]), "messages[0].template.text"),
        (json!([buttons(61, true)]), "messages[0].template.text"),
        (
            json!([flex(&json!({"type": "uri", "uri": "https://example.com"}))]),
            "messages[0].contents.footer.contents[0].action.label",
        ),
        (
            json!([flex(&json!({"type": "uri", "label": "a", "uri": "javascript:x"}))]),
            "messages[0].contents.footer.contents[0].action.uri",
        ),
        (
            json!([{"type": "flex", "contents": {"type": "bubble"}}]),
            "messages[0].altText",
        ),
        (
            json!([{"type": "flex", "altText": "a", "contents": {"type": "bubble", "bodi": {}}}]),
            "messages[0].contents.bodi",
        ),
        (
            json!([{"type": "flex", "altText": "a", "contents": {"type": "bubble", "body": {
            "type": "box", "layout": "vertical", "contents": [{"type": "text", "text": "a".repeat(31_000)}]}}}]),
            "messages[0].contents",
        ),
    ];
    for (messages, property) in cases {
        for call in ["push", "validate/push"] {
            let mut body = json!({"messages": messages});
            if call == "push" {
                body["to"] = json!(user(1));
            }
            let refused = line(&running, call, &body).await;
            assert_eq!(refused.status, 400, "{property}");
            let named = refused.body["details"].as_array().unwrap().iter();
            let named: Vec<&str> = named.map(|d| d["property"].as_str().unwrap()).collect();
            assert!(named.contains(&property), "{property} not in {named:?}");
        }
    }
}
