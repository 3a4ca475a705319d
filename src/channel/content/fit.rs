//! What a message may hold on the channels it is sent over (pure).
//!
//! Why it exists: the door takes a message that most channels carry; Messenger's and WhatsApp's own limits depend on what stands
//! beside the text. They are measured here with the fallbacks: a longer name gives way to its fallback while sending.
//!
//! It must never refuse a message for the limits of a channel that was not chosen.

use super::{Content, ContentProblem};
use crate::channel::{
    Channel,
    render::{messenger, whatsapp, words},
};

/// The most of a button's label, on Messenger and WhatsApp alike.
const LABEL_LIMIT: usize = 20;

impl Content {
    /// What a channel could not carry of the message, by field.
    #[must_use]
    pub fn problems_on(&self, channel: Channel) -> Vec<ContentProblem> {
        let (beside, limit) = match channel {
            Channel::App | Channel::Line | Channel::Sms | Channel::Email => return Vec::new(),
            Channel::Messenger => match (&self.image_url, &self.button) {
                (Some(_), _) => (" beside an image", messenger::CARD_TEXT_LIMIT),
                (None, Some(_)) => (" beside a button", messenger::BUTTON_TEXT_LIMIT),
                (None, None) => ("", messenger::TEXT_LIMIT),
            },
            Channel::Whatsapp => match (&self.image_url, &self.button) {
                (Some(_), _) => (" beside an image", whatsapp::CAPTION_LIMIT),
                (None, Some(_)) => (" beside a button", whatsapp::CAPTION_LIMIT),
                (None, None) => ("", whatsapp::TEXT_LIMIT),
            },
        };
        let mut problems = Vec::new();
        let mut too_long = |field, length: usize, limit: usize, beside: &str| {
            if length > limit {
                let problem = format!(
                    "is {length} characters long as {channel} counts, where most emoji are two: the limit{beside} is {limit}"
                );
                problems.push(ContentProblem { field, problem });
            }
        };
        too_long("text", words::measure(&self.text, self), limit, beside);
        if let Some(button) = &self.button {
            too_long("button.label", words::units(&button.label), LABEL_LIMIT, "");
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_named_with_its_channel_and_holds_only_there() {
        // Sixty-five people of seven characters each.
        let text = "👩‍👩‍👧".repeat(65);
        let image = "https://cdn.example/a.jpg";
        let content = Content::parse(&json!({"text": text, "image_url": image})).unwrap();
        let problems = content.problems_on(Channel::Messenger);
        let problem = problems.first().unwrap().to_string();
        assert!(
            problem.starts_with("text is 520 characters long as messenger counts"),
            "{problem}"
        );
        assert!(problem.ends_with("the limit beside an image is 160"), "{problem}");
        for channel in [Channel::Whatsapp, Channel::Line, Channel::App, Channel::Email] {
            assert_eq!(content.problems_on(channel), [], "{channel}");
        }
        let alone = Content::parse(&json!({ "text": text })).unwrap();
        assert_eq!(alone.problems_on(Channel::Messenger), []);
    }

    #[test]
    fn a_label_of_emoji_is_too_long_for_meta() {
        let button = json!({"label": "🎉".repeat(11), "url": "https://shop.example"});
        let content = Content::parse(&json!({"text": "Hi", "button": button})).unwrap();
        for channel in [Channel::Messenger, Channel::Whatsapp] {
            let fields: Vec<_> = content
                .problems_on(channel)
                .iter()
                .map(|problem| problem.field)
                .collect();
            assert_eq!(fields, ["button.label"]);
        }
    }

    #[test]
    fn the_longest_ordinary_message_fits_everywhere() {
        let button = json!({"label": "立即前往官方商店逛逛看看好東西吧折扣中", "url": "https://shop.example"});
        for text in ["x".repeat(150), "折".repeat(65)] {
            let content =
                Content::parse(&json!({"text": text, "button": button, "image_url": "https://cdn.example/a.jpg"}));
            let content = content.unwrap();
            for channel in Channel::ALL {
                assert_eq!(content.problems_on(channel), [], "{channel}");
            }
        }
    }
}
