//! An approved template, as a sender is set up with one (pure).
//!
//! Why it exists: outside a customer's window WhatsApp takes nothing else. What a template says was approved by Meta and stands
//! there; a broadcast only fills its blanks, so which blanks there are is part of the sender's set-up.
//!
//! It must never leave a blank empty: Meta refuses the message for it.

use serde::Deserialize;

/// The most blanks of a body.
const BLANKS: usize = 10;

/// A template and what its blanks are filled with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageTemplate {
    /// Its name: small letters, digits and underscores.
    pub name: String,
    /// Its language, such as `zh_TW`.
    pub language: String,
    /// Whether its header is an image: the broadcast's, without which nothing can be sent.
    #[serde(default)]
    pub header_image: bool,
    /// What the blanks of its body are, in order.
    #[serde(default = "the_text")]
    pub body: Vec<TemplateBlank>,
    /// Where its button leads, as far as that is part of the template; the rest of the broadcast's link is filled in.
    #[serde(default)]
    pub button_url_prefix: Option<String>,
}

/// What a blank of a template's body is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateBlank {
    /// The broadcast's text, on one line.
    Text,
    /// The customer's first name.
    FirstName,
    /// The customer's last name.
    LastName,
    /// The shop's name.
    ShopName,
}

fn the_text() -> Vec<TemplateBlank> {
    vec![TemplateBlank::Text]
}

impl MessageTemplate {
    /// What cannot be right about it, as the end of a sentence.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let plain = |c: char| c.is_ascii_alphabetic() || c == '_';
        let encoded = |prefix: &String| prefix.starts_with("https://") && prefix.chars().all(|c| c.is_ascii_graphic());
        if self.name.is_empty() || self.name.len() > 512 || !self.name.chars().all(small) {
            return Some("has a `name` that is none: small letters, digits and underscores");
        }
        if !(2..=7).contains(&self.language.len()) || !self.language.chars().all(plain) {
            return Some("has a `language` that is none: write for example zh_TW");
        }
        if self.body.len() > BLANKS {
            return Some("has more than 10 blanks in its `body`");
        }
        if self.button_url_prefix.as_ref().is_some_and(|prefix| !encoded(prefix)) {
            return Some("has a `button_url_prefix` that is no link: it begins with https://");
        }
        None
    }
}
