//! The door: reads the fields of a message and gathers everything wrong with them (pure).
//!
//! It must never stop at the first fault, and never quote a whole text back.

use serde_json::{Map, Value};
use unicode_segmentation::UnicodeSegmentation;

use super::{Button, ContentProblem, TEXT_LIMIT, TEXT_LIMIT_GSM7};
use crate::channel::{
    gsm7, link,
    merge::{Fallbacks, Field, Pattern},
};

const LABEL_LIMIT: usize = 20;
const NAME_FALLBACK_LIMIT: usize = 20;
/// More fields than this, each filled with a long name, would not fit a push notification.
const FIELDS_LIMIT: usize = 10;
/// A grapheme cluster may hold any number of characters; this many bytes hold 65 of any ordinary ones.
const TEXT_BYTES: usize = 1_200;
const KEYS: [&str; 6] = ["text", "button", "image_url", "fallbacks", "subject", "title"];

/// Reads fields and gathers what is wrong with them.
#[derive(Default)]
pub(super) struct Door {
    pub(super) problems: Vec<ContentProblem>,
}

impl Door {
    pub(super) fn only_known(&mut self, object: &Map<String, Value>) {
        self.only(object, "content", &KEYS);
    }

    fn wrong(&mut self, field: &'static str, problem: impl Into<String>) {
        let problem = problem.into();
        self.problems.push(ContentProblem { field, problem });
    }

    fn only(&mut self, object: &Map<String, Value>, field: &'static str, known: &[&str]) {
        for key in object.keys().filter(|key| !known.contains(&key.as_str())).take(5) {
            let key: String = key.chars().take(40).collect();
            let known = known.join(", ");
            self.wrong(field, format!("has the unknown field `{key}`: known are {known}"));
        }
    }

    /// A string, `None` when absent or null. CRLF becomes LF; other controls are refused, for no channel shows them.
    fn string(&mut self, object: &Map<String, Value>, key: &str, field: &'static str) -> Option<String> {
        match object.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                let text = text.replace("\r\n", "\n");
                match text.chars().find(|c| c.is_control() && *c != '\n') {
                    None => Some(text),
                    Some(c) => {
                        let code = u32::from(c);
                        self.wrong(field, format!("holds the control character U+{code:04X}: remove it"));
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

    fn object<'a>(&mut self, object: &'a Map<String, Value>, field: &'static str) -> Option<&'a Map<String, Value>> {
        match object.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::Object(inner)) => Some(inner),
            Some(_) => {
                self.wrong(field, "must be a JSON object");
                None
            }
        }
    }

    pub(super) fn fallbacks(&mut self, object: &Map<String, Value>) -> Fallbacks {
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

    fn name_fallback(&mut self, object: &Map<String, Value>, key: &str, field: &'static str) -> Option<String> {
        let name = self.string(object, key, field)?;
        self.at_most(field, &name, NAME_FALLBACK_LIMIT);
        if name.contains('\n') {
            self.wrong(field, "must be one line");
        }
        Some(name)
    }

    pub(super) fn link(&mut self, object: &Map<String, Value>, key: &str, field: &'static str) -> Option<String> {
        let link = self.string(object, key, field)?;
        if let Err(problem) = link::check(&link) {
            self.wrong(field, problem);
        }
        Some(link)
    }

    pub(super) fn pattern(
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
            self.wrong(field, format!("uses {count} merge fields: the limit is {FIELDS_LIMIT}"));
        }
        fields.sort_by_key(|field| field.name());
        fields.dedup();
        for missing in fields.into_iter().filter(|field| fallbacks.of(*field).is_none()) {
            let name = missing.name();
            self.wrong(
                field,
                format!("uses {{{name}}}, so `fallbacks.{name}` must say what stands in for a missing value"),
            );
        }
        Some(pattern)
    }

    pub(super) fn short_pattern(
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

    pub(super) fn text(&mut self, text: Option<&Pattern>, fallbacks: &Fallbacks) {
        let Some(text) = text else {
            if self.problems.iter().all(|problem| problem.field != "text") {
                self.wrong("text", "is missing: it holds the message");
            }
            return;
        };
        let filled = text.with_fallbacks(fallbacks);
        if filled.trim().is_empty() {
            self.wrong(
                "text",
                "is empty for a customer whose values are missing: write more than merge fields",
            );
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
                    format!("is {bytes} bytes long: the limit is {TEXT_BYTES}, use plainer characters"),
                );
            }
            _ => {}
        }
    }

    pub(super) fn button(&mut self, object: &Map<String, Value>) -> Option<Button> {
        let inner = self.object(object, "button")?;
        self.only(inner, "button", &["label", "url"]);
        let label = self.string(inner, "label", "button.label");
        let url = self.link(inner, "url", "button.url");
        match &label {
            Some(label) if label.trim().is_empty() || label.contains('\n') => {
                self.wrong("button.label", "must be one line with something on it");
            }
            Some(label) => self.at_most("button.label", label, LABEL_LIMIT),
            None => self.wrong("button.label", "is missing: it is what stands on the button"),
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
            self.wrong(field, format!("is {length} characters long: the limit is {limit}"));
        }
    }
}
