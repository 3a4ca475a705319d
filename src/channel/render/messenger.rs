//! Messenger messages (pure): a text, a text with a button, or a card with an image.
//!
//! Why a card: a request carries a text or an attachment, never both, so an image beside a text has to be the image of a card,
//! whose title and subtitle take 80 characters each.

use carillon_jobs::{BroadcastId, CustomerId};

use super::{
    form::Values,
    words::{Words, push_json, units},
};
use crate::channel::{Button, Content, DeliveryMark};

/// The most units of a text alone.
pub(in crate::channel) const TEXT_LIMIT: usize = 2_000;
/// The most units of a text with a button.
pub(in crate::channel) const BUTTON_TEXT_LIMIT: usize = 640;
/// The most units of a title, and of a subtitle.
const CARD_LINE_LIMIT: usize = 80;
/// The most units of a text beside an image.
pub(in crate::channel) const CARD_TEXT_LIMIT: usize = 2 * CARD_LINE_LIMIT;

/// A broadcast's message on a page.
pub(super) struct PageMessage {
    words: Words,
    frame: Frame,
    broadcast: BroadcastId,
}

/// What stands around the text, as JSON that is already written.
enum Frame {
    Text,
    Button { buttons: String },
    Card { rest: String },
}

const TEXT: &str = r#""messaging_type":"UPDATE","message":{"text":""#;
const BUTTON: &str = r#""messaging_type":"UPDATE","message":{"attachment":{"type":"template","payload":{"template_type":"button","text":""#;
const CARD: &str = r#""messaging_type":"UPDATE","message":{"attachment":{"type":"template","payload":{"template_type":"generic","elements":[{"title":""#;

impl PageMessage {
    pub(super) fn new(content: &Content, broadcast: BroadcastId, shop_url: &str) -> Self {
        let (frame, limit) = match (&content.button, &content.image_url) {
            (None, None) => (Frame::Text, TEXT_LIMIT),
            (Some(button), None) => (
                Frame::Button {
                    buttons: buttons(button),
                },
                BUTTON_TEXT_LIMIT,
            ),
            (button, Some(image)) => (
                Frame::Card {
                    rest: card(button.as_ref(), image),
                },
                CARD_TEXT_LIMIT,
            ),
        };
        Self {
            words: Words::new(content, shop_url, limit),
            frame,
            broadcast,
        }
    }

    /// The members of a request after `recipient`.
    pub(super) fn render(&self, customer: CustomerId, values: &Values<'_>) -> String {
        let text = self.words.fill(values);
        let mut out = String::with_capacity(text.len() + 512);
        match &self.frame {
            Frame::Text => {
                out.push_str(TEXT);
                push_json(&mut out, &text);
                out.push('"');
            }
            Frame::Button { buttons } => {
                out.push_str(BUTTON);
                push_json(&mut out, &text);
                out.push_str(r#"","buttons":"#);
                out.push_str(buttons);
                out.push_str("}}");
            }
            Frame::Card { rest } => {
                let (title, subtitle) = split(text.trim());
                out.push_str(CARD);
                push_json(&mut out, title);
                if !subtitle.is_empty() {
                    out.push_str(r#"","subtitle":""#);
                    push_json(&mut out, subtitle);
                }
                out.push_str(rest);
            }
        }
        let broadcast = self.broadcast;
        let mark = DeliveryMark { broadcast, customer };
        out.push_str(r#","metadata":""#);
        out.push_str(&mark.to_string());
        out.push_str(r#""}"#);
        out
    }
}

fn buttons(button: &Button) -> String {
    let mut out = r#"[{"type":"web_url","url":""#.to_owned();
    push_json(&mut out, &button.url);
    out.push_str(r#"","title":""#);
    push_json(&mut out, &button.label);
    out.push_str(r#""}]"#);
    out
}

/// Everything of a card behind its words.
fn card(button: Option<&Button>, image: &str) -> String {
    let mut out = r#"","image_url":""#.to_owned();
    push_json(&mut out, image);
    out.push('"');
    if let Some(button) = button {
        out.push_str(r#","default_action":{"type":"web_url","url":""#);
        push_json(&mut out, &button.url);
        out.push_str(r#""},"buttons":"#);
        out.push_str(&buttons(button));
    }
    out.push_str("}]}}");
    out
}

/// A card's title and subtitle: the first line and the rest where that fits, else as much as fits, broken where a sentence or a
/// word ends. A title is never empty while there is text.
fn split(text: &str) -> (&str, &str) {
    let fits = |(title, rest): &(&str, &str)| {
        !title.is_empty() && units(title) <= CARD_LINE_LIMIT && units(rest) <= CARD_LINE_LIMIT
    };
    let at = |place: usize| {
        let (title, rest) = text.split_at_checked(place).unwrap_or((text, ""));
        (title.trim_end(), rest.trim_start())
    };
    if let Some(lines) = text.find('\n').map(at).filter(fits) {
        return lines;
    }
    if units(text) <= CARD_LINE_LIMIT {
        return (text, "");
    }
    let (mut width, mut most, mut breaks) = (0, 0, Vec::new());
    for (place, cluster) in unicode_segmentation::UnicodeSegmentation::grapheme_indices(text, true) {
        width += units(cluster);
        if width > CARD_LINE_LIMIT {
            break;
        }
        most = place + cluster.len();
        if cluster.ends_with(|c: char| c.is_whitespace() || "，。！？；、,.!?;：".contains(c)) {
            breaks.push(most);
        }
    }
    let kind = breaks.into_iter().rev().map(at).find(fits);
    kind.unwrap_or_else(|| at(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_card_is_broken_where_a_line_or_a_sentence_ends() {
        assert_eq!(split("週年慶"), ("週年慶", ""));
        assert_eq!(split("週年慶\n全館 8 折"), ("週年慶", "全館 8 折"));
        let long = format!("{}，{}。{}", "一".repeat(40), "二".repeat(30), "三".repeat(50));
        let (title, rest) = split(&long);
        assert_eq!((title.chars().count(), rest.chars().count()), (72, 50));
        let words = "sale ".repeat(30);
        let (title, rest) = split(words.trim());
        assert_eq!((title.len(), rest.len()), (79, 69));
        let endless = "x".repeat(150);
        assert_eq!(split(&endless), (&endless[..80], &endless[80..]));
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_that_fits_is_lost(text in "[a-z折，\\n ]{1,120}") {
            let text = text.trim();
            let (title, rest) = split(text);
            let solid = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(solid(title) + &solid(rest), solid(text));
            prop_assert!(units(title) <= CARD_LINE_LIMIT);
            prop_assert!(text.is_empty() || !title.is_empty());
        }
    }
}
