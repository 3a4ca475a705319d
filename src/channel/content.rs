//! A broadcast's message as the merchant wrote it (pure).
//!
//! Why it exists: everything a provider could refuse for every customer alike is refused here once, by field name,
//! before anything is planned. What got past is trusted by type: a `Content` can be rendered for any customer.
//!
//! Stored as JSON: `{"text", "button": {"label", "url"}?, "image_url"?, "fallbacks": {"first_name"?, "last_name"?,
//! "shop_url"?}, "subject"?, "title"?}`. `subject` is the email's, by default the text's first line; `title` is the
//! app push's, by default the shop's name.
//!
//! It must never accept a message that a channel cannot carry.

mod door;
mod fit;

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use self::door::Door;
use super::merge::{Fallbacks, Field, Pattern};

/// The most grapheme clusters in a text inside the GSM-7 alphabet.
pub const TEXT_LIMIT_GSM7: usize = 150;
/// The most grapheme clusters in any other text.
pub const TEXT_LIMIT: usize = 65;
const TITLE_LIMIT: usize = 65;
const SUBJECT_LIMIT: usize = 150;
/// FCM takes 4,096 bytes in all: this, ten names of 80 bytes, and our own marks.
const TOGETHER_BYTES: usize = 3_000;

/// One thing wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentProblem {
    /// The field as a path in the JSON, such as `button.url`.
    pub field: &'static str,
    /// What is wrong and what to do; reads on from the field's name.
    pub problem: String,
}

impl fmt::Display for ContentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

/// A message that cannot be sent, with everything wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidContent(pub Vec<ContentProblem>);

impl fmt::Display for InvalidContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidContent {}

/// A link with a label; a button where the channel has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Button {
    /// At most 20 grapheme clusters.
    pub label: String,
    /// An https link.
    pub url: String,
}

/// A message that every channel can carry.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    pub(super) text: Pattern,
    pub(super) button: Option<Button>,
    pub(super) image_url: Option<String>,
    pub(super) fallbacks: Fallbacks,
    pub(super) subject: Option<Pattern>,
    pub(super) title: Option<Pattern>,
}

impl Content {
    /// Parses and checks a message.
    ///
    /// # Errors
    /// Everything wrong with it, by field.
    pub fn parse(value: &Value) -> Result<Self, InvalidContent> {
        let Some(object) = value.as_object() else {
            let field = "content";
            let problem = "must be a JSON object with at least `text`".into();
            return Err(InvalidContent(vec![ContentProblem { field, problem }]));
        };
        let mut door = Door::default();
        door.only_known(object);
        let fallbacks = door.fallbacks(object);
        let text = door.pattern(object, "text", &fallbacks);
        door.text(text.as_ref(), &fallbacks);
        let subject = door.short_pattern(object, "subject", SUBJECT_LIMIT, &fallbacks);
        let title = door.short_pattern(object, "title", TITLE_LIMIT, &fallbacks);
        let button = door.button(object);
        let image_url = door.link(object, "image_url", "image_url");
        match text {
            Some(text) if door.problems.is_empty() => {
                let content = Self {
                    text,
                    button,
                    image_url,
                    fallbacks,
                    subject,
                    title,
                };
                content.fits_a_push().map(|()| content)
            }
            _ => Err(InvalidContent(door.problems)),
        }
    }

    /// Whether the text differs from customer to customer. The shop's address does not make it differ.
    #[must_use]
    pub fn personalised(&self) -> bool {
        self.text.fields().any(Field::personal)
    }

    /// The text as the merchant wrote it, for pages; never for logs.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.raw()
    }

    /// Whether any of its texts holds a field.
    #[must_use]
    pub fn uses(&self, field: Field) -> bool {
        let patterns = [Some(&self.text), self.subject.as_ref(), self.title.as_ref()];
        patterns
            .into_iter()
            .flatten()
            .any(|one| one.fields().any(|used| used == field))
    }

    /// What stands in for fields without a usable value.
    #[must_use]
    pub fn fallbacks(&self) -> &Fallbacks {
        &self.fallbacks
    }

    /// The button, if there is one.
    #[must_use]
    pub fn button(&self) -> Option<&Button> {
        self.button.as_ref()
    }

    /// The image, if there is one.
    #[must_use]
    pub fn image_url(&self) -> Option<&str> {
        self.image_url.as_deref()
    }

    fn fits_a_push(&self) -> Result<(), InvalidContent> {
        let title = self.title.as_ref().map_or(TITLE_LIMIT, |title| title.raw().len());
        let button = self.button.as_ref().map_or(0, |button| button.url.len());
        let image = self.image_url.as_ref().map_or(0, String::len);
        let together = self.text.raw().len() + title + button + image;
        if together <= TOGETHER_BYTES {
            return Ok(());
        }
        let problem = format!(
            "and the links are {together} bytes together: a push notification carries {TOGETHER_BYTES}, shorten a link"
        );
        Err(InvalidContent(vec![ContentProblem { field: "text", problem }]))
    }
}

/// Bodies are personal once they reach a customer: only their size is shown.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes of text)", self.text.raw().len())
    }
}

/// The stored form; `parse` reads it back.
impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Stored<'a> {
            text: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            button: Option<&'a Button>,
            #[serde(skip_serializing_if = "Option::is_none")]
            image_url: Option<&'a str>,
            fallbacks: &'a Fallbacks,
            #[serde(skip_serializing_if = "Option::is_none")]
            subject: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            title: Option<&'a str>,
        }
        let stored = Stored {
            text: self.text.raw(),
            button: self.button.as_ref(),
            image_url: self.image_url.as_deref(),
            fallbacks: &self.fallbacks,
            subject: self.subject.as_ref().map(Pattern::raw),
            title: self.title.as_ref().map(Pattern::raw),
        };
        stored.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
