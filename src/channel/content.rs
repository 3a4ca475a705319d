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

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use unicode_segmentation::UnicodeSegmentation;

use super::{
    gsm7, link,
    merge::{Fallbacks, Field, Pattern},
};

/// The most grapheme clusters in a text inside the GSM-7 alphabet.
pub const TEXT_LIMIT_GSM7: usize = 150;
/// The most grapheme clusters in any other text.
pub const TEXT_LIMIT: usize = 65;
const LABEL_LIMIT: usize = 20;
const TITLE_LIMIT: usize = 65;
const SUBJECT_LIMIT: usize = 150;
const NAME_FALLBACK_LIMIT: usize = 20;
/// More fields than this, each filled with a long name, would not fit a push notification.
const FIELDS_LIMIT: usize = 10;
/// A grapheme cluster may hold any number of characters; this many bytes hold 65 of any ordinary ones.
const TEXT_BYTES: usize = 1_200;
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
        let mut form = Form::default();
        form.only(object, "content", &KEYS);
        let fallbacks = form.fallbacks(object);
        let text = form.pattern(object, "text", &fallbacks);
        form.text(text.as_ref(), &fallbacks);
        let subject = form.short_pattern(object, "subject", SUBJECT_LIMIT, &fallbacks);
        let title = form.short_pattern(object, "title", TITLE_LIMIT, &fallbacks);
        let button = form.button(object);
        let image_url = form.link(object, "image_url", "image_url");
        match text {
            Some(text) if form.problems.is_empty() => {
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
            _ => Err(InvalidContent(form.problems)),
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
        let title = self
            .title
            .as_ref()
            .map_or(TITLE_LIMIT, |title| title.raw().len());
        let button = self.button.as_ref().map_or(0, |button| button.url.len());
        let image = self.image_url.as_ref().map_or(0, String::len);
        let together = self.text.raw().len() + title + button + image;
        if together <= TOGETHER_BYTES {
            return Ok(());
        }
        let problem = format!(
            "and the links are {together} bytes together: a push notification carries {TOGETHER_BYTES}, shorten a link"
        );
        Err(InvalidContent(vec![ContentProblem {
            field: "text",
            problem,
        }]))
    }
}

const KEYS: [&str; 6] = [
    "text",
    "button",
    "image_url",
    "fallbacks",
    "subject",
    "title",
];

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

/// Reads fields and gathers what is wrong with them.
#[derive(Default)]
struct Form {
    problems: Vec<ContentProblem>,
}

impl Form {
    fn wrong(&mut self, field: &'static str, problem: impl Into<String>) {
        let problem = problem.into();
        self.problems.push(ContentProblem { field, problem });
    }

    fn only(&mut self, object: &Map<String, Value>, field: &'static str, known: &[&str]) {
        for key in object
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .take(5)
        {
            let key: String = key.chars().take(40).collect();
            let known = known.join(", ");
            self.wrong(
                field,
                format!("has the unknown field `{key}`: known are {known}"),
            );
        }
    }

    /// A string, `None` when absent or null. CRLF becomes LF; other controls are refused, for no channel shows them.
    fn string(
        &mut self,
        object: &Map<String, Value>,
        key: &str,
        field: &'static str,
    ) -> Option<String> {
        match object.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                let text = text.replace("\r\n", "\n");
                match text.chars().find(|c| c.is_control() && *c != '\n') {
                    None => Some(text),
                    Some(c) => {
                        let code = u32::from(c);
                        self.wrong(
                            field,
                            format!("holds the control character U+{code:04X}: remove it"),
                        );
                        None
                    }
                }
            }
            Some(_) => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    fn object<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        field: &'static str,
    ) -> Option<&'a Map<String, Value>> {
        match object.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::Object(inner)) => Some(inner),
            Some(_) => {
                self.wrong(field, "must be a JSON object");
                None
            }
        }
    }

    fn fallbacks(&mut self, object: &Map<String, Value>) -> Fallbacks {
        let Some(inner) = self.object(object, "fallbacks") else {
            return Fallbacks::default();
        };
        self.only(inner, "fallbacks", &Field::ALL.map(Field::name));
        Fallbacks {
            first_name: self.name_fallback(inner, "first_name", "fallbacks.first_name"),
            last_name: self.name_fallback(inner, "last_name", "fallbacks.last_name"),
            shop_url: self.link(inner, "shop_url", "fallbacks.shop_url"),
        }
    }

    fn name_fallback(
        &mut self,
        object: &Map<String, Value>,
        key: &str,
        field: &'static str,
    ) -> Option<String> {
        let name = self.string(object, key, field)?;
        self.at_most(field, &name, NAME_FALLBACK_LIMIT);
        if name.contains('\n') {
            self.wrong(field, "must be one line");
        }
        Some(name)
    }

    fn link(
        &mut self,
        object: &Map<String, Value>,
        key: &str,
        field: &'static str,
    ) -> Option<String> {
        let link = self.string(object, key, field)?;
        if let Err(problem) = link::check(&link) {
            self.wrong(field, problem);
        }
        Some(link)
    }

    fn pattern(
        &mut self,
        object: &Map<String, Value>,
        field: &'static str,
        fallbacks: &Fallbacks,
    ) -> Option<Pattern> {
        let raw = self.string(object, field, field)?;
        let pattern = match Pattern::parse(&raw) {
            Ok(pattern) => pattern,
            Err(problem) => {
                self.wrong(field, problem);
                return None;
            }
        };
        let mut fields: Vec<Field> = pattern.fields().collect();
        if fields.len() > FIELDS_LIMIT {
            let count = fields.len();
            self.wrong(
                field,
                format!("uses {count} merge fields: the limit is {FIELDS_LIMIT}"),
            );
        }
        fields.sort_by_key(|field| field.name());
        fields.dedup();
        for missing in fields
            .into_iter()
            .filter(|field| fallbacks.of(*field).is_none())
        {
            let name = missing.name();
            self.wrong(
                field,
                format!("uses {{{name}}}, so `fallbacks.{name}` must say what stands in for a missing value"),
            );
        }
        Some(pattern)
    }

    fn short_pattern(
        &mut self,
        object: &Map<String, Value>,
        field: &'static str,
        limit: usize,
        fallbacks: &Fallbacks,
    ) -> Option<Pattern> {
        let pattern = self.pattern(object, field, fallbacks)?;
        let filled = pattern.with_fallbacks(fallbacks);
        self.at_most(field, &filled, limit);
        if pattern.raw().contains('\n') {
            self.wrong(field, "must be one line");
        }
        if filled.trim().is_empty() {
            self.wrong(field, "is empty: leave the field out or write something");
        }
        Some(pattern)
    }

    fn text(&mut self, text: Option<&Pattern>, fallbacks: &Fallbacks) {
        let Some(text) = text else {
            if self.problems.iter().all(|problem| problem.field != "text") {
                self.wrong("text", "is missing: it holds the message");
            }
            return;
        };
        let filled = text.with_fallbacks(fallbacks);
        if filled.trim().is_empty() {
            self.wrong("text", "is empty for a customer whose values are missing: write something besides merge fields");
        }
        let length = filled.graphemes(true).count();
        let bytes = text.raw().len();
        match gsm7::first_outside(&filled) {
            Some(c) if length > TEXT_LIMIT => {
                let limit = TEXT_LIMIT;
                let problem = format!(
                    "is {length} characters long: the limit is {limit} because of `{c}`, which is outside the GSM-7 \
                     alphabet ({TEXT_LIMIT_GSM7} without such characters)"
                );
                self.wrong("text", problem);
            }
            None if length > TEXT_LIMIT_GSM7 => {
                self.wrong(
                    "text",
                    format!("is {length} characters long: the limit is {TEXT_LIMIT_GSM7}"),
                );
            }
            _ if bytes > TEXT_BYTES => {
                self.wrong(
                    "text",
                    format!(
                        "is {bytes} bytes long: the limit is {TEXT_BYTES}, use plainer characters"
                    ),
                );
            }
            _ => {}
        }
    }

    fn button(&mut self, object: &Map<String, Value>) -> Option<Button> {
        let inner = self.object(object, "button")?;
        self.only(inner, "button", &["label", "url"]);
        let label = self.string(inner, "label", "button.label");
        let url = self.link(inner, "url", "button.url");
        match &label {
            Some(label) if label.trim().is_empty() || label.contains('\n') => {
                self.wrong("button.label", "must be one line with something on it");
            }
            Some(label) => self.at_most("button.label", label, LABEL_LIMIT),
            None => self.wrong(
                "button.label",
                "is missing: it is what stands on the button",
            ),
        }
        if url.is_none() {
            self.wrong("button.url", "is missing: it is where the button leads");
        }
        Some(Button {
            label: label?,
            url: url?,
        })
    }

    fn at_most(&mut self, field: &'static str, text: &str, limit: usize) {
        let length = text.graphemes(true).count();
        // A cluster of many characters is still one; the bytes keep it from growing without end.
        if length > limit || text.len() > limit * 16 {
            self.wrong(
                field,
                format!("is {length} characters long: the limit is {limit}"),
            );
        }
    }
}

#[cfg(test)]
#[path = "content_test.rs"]
mod tests;
