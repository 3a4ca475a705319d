//! What a merchant should know of a previewed message (pure).
//!
//! It must never judge a name itself: whether one is printed is asked of the code that sends, by comparing messages.

use super::Person;
use crate::channel::{Alphabet, Channel, Content, Fallbacks, Field, Segments};

/// What a channel has no place for.
pub(super) fn of_channel(content: &Content, channel: Channel) -> Vec<String> {
    let (button, image) = (content.button().is_some(), content.image_url().is_some());
    let left_out = match (button, image) {
        (true, true) => Some("neither button nor image: they are left out here"),
        (true, false) => Some("no button: it is left out here"),
        (false, true) => Some("no image: it is left out here"),
        (false, false) => None,
    };
    match channel {
        Channel::Sms => left_out
            .map(|what| format!("a text message has {what}"))
            .into_iter()
            .collect(),
        Channel::App if button => {
            vec!["a push has no button: a tap anywhere opens its link".to_owned()]
        }
        Channel::App | Channel::Line | Channel::Messenger | Channel::Whatsapp | Channel::Email => Vec::new(),
    }
}

/// More than one part.
pub(super) fn of_segments(taken: Segments) -> Option<String> {
    let one = match taken.alphabet {
        Alphabet::Gsm7 => 160,
        Alphabet::Ucs2 => 70,
    };
    (taken.parts > 1).then(|| {
        format!(
            "takes {} segments and is charged as so many: one holds {one} of its characters, and it has {}",
            taken.parts, taken.units
        )
    })
}

/// Names in whose place the fallback stands. `render`: the message for a first and a last name.
pub(super) fn of_names<M: PartialEq>(
    fallbacks: &Fallbacks,
    person: &Person,
    render: impl Fn(&str, &str) -> M,
) -> Vec<String> {
    // A name that nobody's fallback is, and that any channel prints.
    const PROBE: &str = "\u{7532}\u{4e59}\u{4e19}";
    let (first, last) = (person.first_name.as_str(), person.last_name.as_str());
    let nobody = render("", "");
    let all_replaced = render(first, last) == nobody;
    let replaced = |field, name: &str, probed: M, alone: M| {
        let fallback = fallbacks.of(field).unwrap_or_default();
        let shown = probed != nobody;
        (shown && (all_replaced || alone == nobody) && name.trim() != fallback).then(|| sentence(field, name, fallback))
    };
    [
        replaced(Field::FirstName, first, render(PROBE, ""), render(first, "")),
        replaced(Field::LastName, last, render("", PROBE), render("", last)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn sentence(field: Field, name: &str, fallback: &str) -> String {
    let which = match field {
        Field::FirstName => "first name",
        Field::LastName => "last name",
        Field::ShopUrl => "shop's address",
    };
    let why = if name.trim().is_empty() {
        "is empty"
    } else {
        "cannot stand here"
    };
    if fallback.is_empty() {
        format!("the {which} {why}, and nothing stands in its place")
    } else {
        format!("the {which} {why}: `{fallback}` stands in its place")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::{
        super::{Person, Who},
        *,
    };
    use crate::channel::sms_text_to;

    fn content(text: &str) -> Content {
        Content::parse(&json!({
            "text": text, "fallbacks": {"first_name": "您", "last_name": "貴客"},
            "button": {"label": "逛逛", "url": "https://shop.example"}, "image_url": "https://shop.example/a.png",
        }))
        .unwrap()
    }

    fn noticed(text: &str, first: &str, last: &str) -> Vec<String> {
        let content = content(text);
        let person = Person {
            who: Who::Sample,
            customer: None,
            made_up: true,
            first_name: first.into(),
            last_name: last.into(),
        };
        of_names(content.fallbacks(), &person, |first, last| {
            sms_text_to(&content, "EasyStore", "https://shop.example", (first, last))
        })
    }

    #[test]
    fn preview_says_which_name_gave_way_to_its_fallback() {
        let none: [&str; 0] = [];
        assert_eq!(noticed("{first_name} 您好", "小美", ""), none);
        assert_eq!(noticed("您好", "", ""), none);
        assert_eq!(noticed("{first_name} 您好", "您", ""), none);
        assert_eq!(
            noticed("{first_name} 您好", " ", "陳"),
            ["the first name is empty: `您` stands in its place"]
        );
        assert_eq!(
            noticed("{last_name}{first_name} 您好", "shop.tw", "陳"),
            ["the first name cannot stand here: `您` stands in its place"]
        );
        // Each alone may stand there; together they make a link, and a text message then bears neither.
        assert_eq!(noticed("{first_name}.{last_name} hi", "shop", "tw").len(), 2);
        let long = "歐".repeat(21);
        assert_eq!(noticed("{first_name} 您好", &long, "").len(), 1);
    }

    #[test]
    fn preview_says_what_a_text_message_leaves_out() {
        let full = content("您好");
        assert_eq!(
            of_channel(&full, Channel::Sms),
            ["a text message has neither button nor image: they are left out here"]
        );
        assert!(of_channel(&full, Channel::Line).is_empty());
        assert_eq!(of_segments(Segments::of(&"折".repeat(70))), None);
        let two = of_segments(Segments::of(&"折".repeat(71))).unwrap();
        assert!(two.starts_with("takes 2 segments"), "{two}");
        assert_eq!(Segments::of(&"折".repeat(68)).left, 2);
        assert_eq!(Segments::of(&"折".repeat(71)).left, 63);
        assert_eq!(Segments::of("sale").left, 156);
    }
}
