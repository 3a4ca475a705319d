//! What a customer reads of a message (pure), taken out of the very text that is sent.
//!
//! Why it exists: a preview that repeated how a message is put together would sooner or later differ from what arrives. This
//! takes the finished message apart instead, as a phone or a mail program does.
//!
//! It must never add anything that does not stand in the message.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::Value;

use super::Rendered;
use crate::channel::Button;

/// What of a message is seen. What a channel has no place for is not there.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Subject of a mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Title of a push, or of a card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The text; of a mail its plain-text part, of an approved template what fills its blanks, one a line.
    pub text: String,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// The button.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub button: Option<Button>,
    /// Where a tap leads when there is no button to tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens: Option<String>,
    /// The approved template whose words stand around the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl Rendered {
    /// What its customer reads; for previews, never for logs.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let text = String::from_utf8_lossy(self.body());
        // All but mails and text messages are the members of a JSON object.
        let json = || serde_json::from_str(&format!("{{{text}}}")).unwrap_or_default();
        match self {
            Self::Line(_) => line(&json()),
            Self::App(_) => app(&json()),
            Self::Email { .. } => mail(&text),
            Self::Messenger(_) => messenger(&json()),
            Self::Whatsapp(_) => whatsapp(&json()),
            Self::Sms { .. } => Reading {
                text: text.into_owned(),
                ..Reading::default()
            },
        }
    }
}

fn at(json: &Value, place: &str) -> Option<String> {
    json.pointer(place).and_then(Value::as_str).map(str::to_owned)
}

fn button(json: &Value, label: &str, url: &str) -> Option<Button> {
    Some(Button {
        label: at(json, label)?,
        url: at(json, url)?,
    })
}

/// Bubbles in order: an image and a text, or one with a button.
fn line(json: &Value) -> Reading {
    let mut reading = Reading::default();
    for message in json
        .pointer("/messages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        match message.get("type").and_then(Value::as_str) {
            Some("image") => reading.image_url = at(message, "/originalContentUrl"),
            Some("flex") => {
                let bubble = message.pointer("/contents").unwrap_or(&Value::Null);
                let action = "/footer/contents/0/action";
                reading.image_url = at(bubble, "/hero/url");
                reading.text = at(bubble, "/body/contents/0/text").unwrap_or_default();
                reading.button = button(bubble, &format!("{action}/label"), &format!("{action}/uri"));
            }
            _ => reading.text = at(message, "/text").unwrap_or_default(),
        }
    }
    reading
}

fn app(json: &Value) -> Reading {
    Reading {
        title: at(json, "/notification/title"),
        text: at(json, "/notification/body").unwrap_or_default(),
        image_url: at(json, "/notification/image"),
        opens: at(json, "/data/url"),
        ..Reading::default()
    }
}

fn messenger(json: &Value) -> Reading {
    let payload = json.pointer("/message/attachment/payload");
    let Some(payload) = payload else {
        return Reading {
            text: at(json, "/message/text").unwrap_or_default(),
            ..Reading::default()
        };
    };
    match payload.pointer("/elements/0") {
        Some(card) => Reading {
            title: at(card, "/title"),
            text: at(card, "/subtitle").unwrap_or_default(),
            image_url: at(card, "/image_url"),
            button: button(card, "/buttons/0/title", "/buttons/0/url"),
            ..Reading::default()
        },
        None => Reading {
            text: at(payload, "/text").unwrap_or_default(),
            button: button(payload, "/buttons/0/title", "/buttons/0/url"),
            ..Reading::default()
        },
    }
}

fn whatsapp(json: &Value) -> Reading {
    let first = |places: &[&str]| places.iter().find_map(|place| at(json, place));
    if let Some(name) = at(json, "/template/name") {
        return template(json, name);
    }
    let action = "/interactive/action/parameters";
    Reading {
        text: first(&["/text/body", "/image/caption", "/interactive/body/text"]).unwrap_or_default(),
        image_url: first(&["/image/link", "/interactive/header/image/link"]),
        button: button(json, &format!("{action}/display_text"), &format!("{action}/url")),
        ..Reading::default()
    }
}

/// Only its blanks: what stands around them is kept by Meta.
fn template(json: &Value, name: String) -> Reading {
    let mut reading = Reading {
        template: Some(name),
        ..Reading::default()
    };
    let components = json.pointer("/template/components").and_then(Value::as_array);
    for component in components.into_iter().flatten() {
        let blanks = component.get("parameters").and_then(Value::as_array);
        let texts: Vec<String> = blanks
            .into_iter()
            .flatten()
            .filter_map(|blank| at(blank, "/text"))
            .collect();
        match component.get("type").and_then(Value::as_str) {
            Some("header") => reading.image_url = at(component, "/parameters/0/image/link"),
            Some("body") => reading.text = texts.join("\n"),
            _ => reading.opens = texts.into_iter().next(),
        }
    }
    reading
}

fn mail(mail: &str) -> Reading {
    let html = part(mail, "html");
    let link = html.find(" style=\"display:inline-block").and_then(|end| {
        let (before, after) = html.split_at_checked(end)?;
        let (_, href) = before.rsplit_once("<a href=\"")?;
        Some(Button {
            label: unescape(between(after, ">", "</a>")?),
            url: unescape(href.strip_suffix('"')?),
        })
    });
    Reading {
        subject: between(mail, "\r\nSubject: ", "\r\nMIME-Version: ").map(words),
        text: part(mail, "plain"),
        image_url: between(&html, "<img src=\"", "\"").map(unescape),
        button: link,
        ..Reading::default()
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(inside, _)| inside)
}

/// A body as it was before base64.
fn part(mail: &str, kind: &str) -> String {
    let encoded = between(mail, &format!("Content-Type: text/{kind};"), "\r\n--").unwrap_or_default();
    let encoded = encoded.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let bytes = STANDARD.decode(encoded.replace("\r\n", "")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace("\r\n", "\n")
}

/// A header's value as it was before it was encoded and folded.
fn words(value: &str) -> String {
    let word = |word: &str| {
        let encoded = word.strip_prefix("=?utf-8?B?")?.strip_suffix("?=")?;
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
    };
    let all: Option<String> = value.split("\r\n ").map(word).collect();
    all.unwrap_or_else(|| value.to_owned())
}

fn unescape(html: &str) -> String {
    let marks = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    // The ampersand last, or what it begins would be taken for a mark.
    marks
        .into_iter()
        .fold(html.to_owned(), |text, (mark, c)| text.replace(mark, c))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use carillon_jobs::{BroadcastId, CustomerId, ShopId};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::channel::{Content, Letterhead, Recipient, Sender, Template, fixture};

    fn read(sender: &Sender, content: &Value) -> Reading {
        let content = Content::parse(content).unwrap();
        let letterhead = Letterhead {
            broadcast: BroadcastId(Uuid::from_u128(0xb)),
            shop: ShopId(Uuid::from_u128(0xc)),
            shop_name: "小美的店",
            shop_url: Some("https://shop.example"),
            sms_sender_name: "EasyStore",
            sender,
        };
        let recipient = Recipient {
            first_name: Some("美<\"&amp;"),
            last_name: None,
            customer: CustomerId(7),
            key: Uuid::nil(),
            unsubscribe_url: "https://carillon.example/u/preview",
        };
        Template::compile(&content, &letterhead).render(&recipient).reading()
    }

    fn content(parts: &[&str]) -> Value {
        let mut content = json!({
            "text": "{first_name} 您好\n全館 {{5 折}}", "fallbacks": {"first_name": "朋友"}, "title": "特賣 {first_name}",
            "subject": "只到週日，{first_name}，這是一個長到要折成好幾行的主旨，因為每行放不下",
        });
        if parts.contains(&"button") {
            content["button"] = json!({"label": "逛逛 & 看看", "url": "https://shop.example/sale?a=1&b=2"});
        }
        if parts.contains(&"image") {
            content["image_url"] = "https://cdn.example/a.jpg?x=1&y=2".into();
        }
        content
    }

    const TEXT: &str = "美<\"&amp; 您好\n全館 {5 折}";

    #[test]
    fn preview_reads_back_every_shape_of_every_channel() {
        for parts in [&[][..], &["button"], &["image"], &["button", "image"]] {
            let content = content(parts);
            let has = |part| parts.contains(&part);
            let image = has("image").then(|| "https://cdn.example/a.jpg?x=1&y=2".to_owned());
            let url = "https://shop.example/sale?a=1&b=2".to_owned();
            let button = has("button").then(|| Button {
                label: "逛逛 & 看看".into(),
                url: url.clone(),
            });
            let plain = Reading {
                text: TEXT.into(),
                image_url: image.clone(),
                button: button.clone(),
                ..Reading::default()
            };
            assert!(read(&fixture::line_sender(), &content) == plain, "line {parts:?}");
            assert!(
                read(&fixture::whatsapp_sender(), &content) == plain,
                "whatsapp {parts:?}"
            );
            let card = Reading {
                title: Some("美<\"&amp; 您好".into()),
                text: "全館 {5 折}".into(),
                ..plain.clone()
            };
            let page = if has("image") { card } else { plain.clone() };
            assert!(
                read(&fixture::messenger_sender(), &content) == page,
                "messenger {parts:?}"
            );
            let push = Reading {
                title: Some("特賣 美<\"&amp;".into()),
                button: None,
                opens: has("button").then_some(url),
                ..plain.clone()
            };
            assert!(
                read(&fixture::app_sender("https://x.example"), &content) == push,
                "app {parts:?}"
            );
            let mail = read(&fixture::email_sender(25), &content);
            let subject = "只到週日，美<\"&amp;，這是一個長到要折成好幾行的主旨，因為每行放不下";
            assert_eq!(mail.subject.as_deref(), Some(subject));
            assert!(
                mail.text.starts_with(TEXT) && mail.text.ends_with("/u/preview\n"),
                "{}",
                mail.text
            );
            assert_eq!((mail.image_url, mail.button), (image, button), "mail {parts:?}");
        }
    }

    #[test]
    fn preview_of_an_approved_template_shows_its_blanks() {
        let credentials = json!({"phone_number_id": "2002", "access_token": "t0ken", "template": {
            "name": "sale", "language": "zh_TW", "header_image": true, "body": ["first_name", "text"],
            "button_url_prefix": "https://shop.example/"}});
        let id = carillon_jobs::SenderId::new();
        let sender = Sender::parse(id, crate::channel::Channel::Whatsapp, &credentials.to_string()).unwrap();
        let reading = read(&sender, &content(&["button", "image"]));
        assert_eq!(reading.template.as_deref(), Some("sale"));
        assert_eq!(reading.text, "美<\"&amp;\n美<\"&amp; 您好 全館 {5 折}");
        assert_eq!(reading.opens.as_deref(), Some("sale?a=1&b=2"));
        assert!(reading.image_url.is_some());
    }
}
