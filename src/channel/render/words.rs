//! A text that has to fit (pure): with the customer's own names where that fits a provider's limit, else with the fallbacks.
//!
//! Why it exists: what a merchant wrote is measured at the door, with fallbacks; how long customers' names are is only known
//! while sending, and a message that one long name makes too long must still arrive.
//!
//! It must never cut a text.

use super::form::{Escape, Form, Values};
use crate::channel::{
    Content,
    merge::{Field, Pattern},
};

/// A text and the most of it that its place takes.
pub(super) struct Words {
    form: Form,
    limit: usize,
    first_name: String,
    last_name: String,
}

/// UTF-16 code units: the strictest way Meta may be counting its characters.
pub(in crate::channel) fn units(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.encode_utf16().count()
    }
}

impl Words {
    /// The text of a broadcast, at most `limit` units. The shop's address stands in it only if that fits.
    pub(super) fn new(content: &Content, shop_url: &str, limit: usize) -> Self {
        let fallback = |field| content.fallbacks.of(field).unwrap_or_default();
        let form = |url: &str| {
            let mut form = Form::new(Escape::Plain);
            form.pattern(&content.text, url);
            form
        };
        let mut words = Self {
            form: form(shop_url),
            limit,
            first_name: fallback(Field::FirstName).to_owned(),
            last_name: fallback(Field::LastName).to_owned(),
        };
        if units(&words.impersonal()) > limit {
            words.form = form(fallback(Field::ShopUrl));
        }
        words
    }

    /// One customer's text.
    pub(super) fn fill(&self, values: &Values<'_>) -> String {
        let text = self.form.fill(values);
        // No text has more units than bytes.
        if text.len() <= self.limit || units(&text) <= self.limit {
            text
        } else {
            self.impersonal()
        }
    }

    fn impersonal(&self) -> String {
        self.form.fill(&Values {
            first_name: &self.first_name,
            last_name: &self.last_name,
            key: "",
            unsubscribe_url: "",
        })
    }
}

/// How long a text is without anybody's names, as Meta counts.
pub(in crate::channel) fn measure(text: &Pattern, content: &Content) -> usize {
    units(&text.with_fallbacks(&content.fallbacks))
}

/// Appends a text as it stands inside a JSON string.
pub(super) fn push_json(out: &mut String, text: &str) {
    Escape::Json.write(out, text);
}
