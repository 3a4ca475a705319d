//! The limits of a message, and the words it is refused with.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;
use unicode_segmentation::UnicodeSegmentation;

use super::*;

fn refusal(value: &Value) -> String {
    Content::parse(value).unwrap_err().to_string()
}

#[test]
fn a_full_message_is_accepted_and_reads_back_from_its_stored_form() {
    let value = json!({
        "text": "{first_name} 您好，全館 {{5 折}} {shop_url}",
        "button": {"label": "逛逛", "url": "https://shop.example/sale?x=%E6%8A%98"},
        "image_url": "https://cdn.example/a.jpg",
        "fallbacks": {"first_name": "朋友", "shop_url": "https://shop.example"},
        "subject": "{first_name}，週年慶",
        "title": "週年慶",
    });
    let content = Content::parse(&value).unwrap();
    assert_eq!(serde_json::to_value(&content).unwrap(), value);
    assert!(content.personalised());
    assert_eq!(content.button().unwrap().label, "逛逛");
}

#[test]
fn only_fields_that_differ_between_customers_make_a_text_personal() {
    let shop = json!({"text": "Hi {shop_url}", "fallbacks": {"shop_url": "https://s.example"}});
    assert!(!Content::parse(&shop).unwrap().personalised());
    let escaped = json!({"text": "Hi {{first_name}}"});
    assert!(!Content::parse(&escaped).unwrap().personalised());
}

#[test]
fn the_limit_is_150_inside_gsm7_and_65_outside_and_the_culprit_is_named() {
    assert!(Content::parse(&json!({"text": "a".repeat(150)})).is_ok());
    let long = refusal(&json!({"text": "a".repeat(151)}));
    assert!(
        long.starts_with("text is 151 characters long: the limit is 150"),
        "{long}"
    );
    assert!(Content::parse(&json!({"text": "折".repeat(65)})).is_ok());
    let long = refusal(&json!({"text": format!("{}é折", "a".repeat(70))}));
    assert!(
        long.contains("is 72 characters long: the limit is 65 because of `折`"),
        "{long}"
    );
}

#[test]
fn a_character_is_what_a_reader_counts_as_one() {
    assert!(Content::parse(&json!({"text": "👨‍👩‍👧".repeat(65)})).is_ok());
    assert!(Content::parse(&json!({"text": "👨‍👩‍👧".repeat(66)})).is_err());
    assert!(Content::parse(&json!({"text": "e\u{301}".repeat(65)})).is_ok());
    assert!(Content::parse(&json!({"text": "a\r\n".repeat(75)})).is_ok());
    let stacked = refusal(&json!({"text": format!("e{}", "\u{301}".repeat(5_000))}));
    assert!(stacked.contains("bytes long"), "{stacked}");
}

#[test]
fn the_length_is_that_of_the_text_with_its_fallbacks() {
    let text = format!("{{first_name}}{}", "a".repeat(147));
    let fits = json!({"text": text, "fallbacks": {"first_name": "you"}});
    assert!(Content::parse(&fits).is_ok());
    let forces = json!({"text": text, "fallbacks": {"first_name": "您"}});
    assert!(refusal(&forces).contains("the limit is 65 because of `您`"));
}

#[test]
fn every_fault_of_the_text_is_named() {
    for (value, expected) in [
        (json!("hello"), "content must be a JSON object"),
        (json!({}), "text is missing"),
        (json!({"text": 3}), "text must be a string"),
        (json!({"text": " \n "}), "text is empty"),
        (
            json!({"text": "{first_name}", "fallbacks": {"first_name": ""}}),
            "text is empty for a customer",
        ),
        (json!({"text": "a\u{0}b"}), "text holds the control character U+0000"),
        (
            json!({"text": "Hi {name}"}),
            "text uses the unknown merge field `{name}`",
        ),
        (
            json!({"text": "Hi {first_name}"}),
            "`fallbacks.first_name` must say what stands in",
        ),
        (
            json!({"text": "{last_name}".repeat(11), "fallbacks": {"last_name": "x"}}),
            "text uses 11 merge fields",
        ),
    ] {
        let error = refusal(&value);
        assert!(error.contains(expected), "{value}\n{error}");
    }
}

#[test]
fn every_fault_of_the_other_parts_is_named_by_field() {
    for (value, expected) in [
        (
            json!({"text": "a", "colour": "red"}),
            "content has the unknown field `colour`",
        ),
        (
            json!({"text": "a", "fallbacks": {"name": "x"}}),
            "fallbacks has the unknown field `name`",
        ),
        (
            json!({"text": "a", "fallbacks": {"first_name": "字".repeat(21)}}),
            "fallbacks.first_name is 21 characters",
        ),
        (
            json!({"text": "a", "fallbacks": {"shop_url": "shop"}}),
            "fallbacks.shop_url is not a link",
        ),
        (json!({"text": "a", "button": "x"}), "button must be a JSON object"),
        (
            json!({"text": "a", "button": {"url": "https://s.tw/"}}),
            "button.label is missing",
        ),
        (json!({"text": "a", "button": {"label": "x"}}), "button.url is missing"),
        (
            json!({"text": "a", "button": {"label": " ", "url": "https://s.tw/"}}),
            "button.label must be one line",
        ),
        (
            json!({"text": "a", "button": {"label": "字".repeat(21), "url": "https://s.tw/"}}),
            "button.label is 21 characters long: the limit is 20",
        ),
        (
            json!({"text": "a", "button": {"label": "x", "url": "http://s.tw"}}),
            "button.url must start with https://",
        ),
        (
            json!({"text": "a", "button": {"label": "x", "url": "https://s.tw/折"}}),
            "button.url holds the character",
        ),
        (
            json!({"text": "a", "image_url": "http://s.tw/a.jpg"}),
            "image_url must start with https://",
        ),
        (
            json!({"text": "a", "subject": "a\r\nBcc: x@y.tw"}),
            "subject must be one line",
        ),
        (json!({"text": "a", "title": "  "}), "title is empty"),
    ] {
        let error = refusal(&value);
        assert!(error.contains(expected), "{value}\n{error}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let error = refusal(&json!({"text": "{x}", "image_url": "ftp://a", "button": {}}));
    for field in ["text ", "image_url ", "button.label ", "button.url "] {
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn ten_megabytes_of_text_are_refused_like_any_other_length() {
    let error = refusal(&json!({"text": "x".repeat(10_000_000)}));
    assert!(error.len() < 200, "{}", error.len());
}

#[test]
fn what_is_accepted_fits_a_push_notification() {
    let link = |length: usize| format!("https://s.example/{}", "a".repeat(length - 18));
    let value = json!({
        "text": "👨‍👩‍👧".repeat(65),
        "image_url": link(1_000),
        "button": {"label": "x", "url": link(1_000)},
    });
    assert!(refusal(&value).contains("a push notification carries 3000"));
}

proptest! {
    #[test]
    fn no_string_makes_parsing_panic_and_what_parses_is_within_the_limit(text in ".{0,200}", title in any::<String>()) {
        let value = json!({"text": text, "title": title, "button": {"label": title, "url": text}});
        let _ = Content::parse(&value);
        if let Ok(content) = Content::parse(&json!({"text": text})) {
            let length = content.text.with_fallbacks(&Fallbacks::default()).graphemes(true).count();
            prop_assert!(length <= TEXT_LIMIT_GSM7);
            let stored = serde_json::to_value(&content).unwrap();
            prop_assert_eq!(Content::parse(&stored).unwrap(), content);
        }
    }
}
