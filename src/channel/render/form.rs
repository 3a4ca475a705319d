//! A form: constant text with blanks, built once per broadcast, filled per message (pure).
//!
//! Why it exists: of a message's JSON all but a name is the same for everyone, so the constant stretches are escaped
//! and joined once and a message costs one allocation and a few copies.
//!
//! It must never write a value unescaped: the escape belongs to the form, not to its user.

use crate::channel::merge::{Field, Pattern, Segment};

/// How text has to be written to mean itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Inside a JSON string.
    Json,
    /// In HTML text or a quoted attribute; a line break becomes `<br>`.
    Html,
    /// As it is.
    Plain,
    /// In a mail header between `<` and `>`: printable ASCII without angle brackets.
    Header,
}

impl Escape {
    pub(super) fn write(self, out: &mut String, text: &str) {
        match self {
            Self::Plain => out.push_str(text),
            Self::Json => write_json(out, text),
            Self::Html => write_html(out, text),
            Self::Header => {
                out.extend(text.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>')));
            }
        }
    }
}

fn write_json(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\u{0}'..='\u{1f}' => {
                let code = u32::from(c);
                out.push_str("\\u00");
                out.extend([code >> 4, code & 15].iter().filter_map(|d| char::from_digit(*d, 16)));
            }
            _ => out.push(c),
        }
    }
}

fn write_html(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push_str("<br>\n"),
            _ => out.push(c),
        }
    }
}

/// What differs from message to message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blank {
    FirstName,
    LastName,
    Key,
    UnsubscribeUrl,
}

/// The values of one message.
pub(super) struct Values<'a> {
    pub(super) first_name: &'a str,
    pub(super) last_name: &'a str,
    pub(super) key: &'a str,
    pub(super) unsubscribe_url: &'a str,
}

impl Values<'_> {
    fn of(&self, blank: Blank) -> &str {
        match blank {
            Blank::FirstName => self.first_name,
            Blank::LastName => self.last_name,
            Blank::Key => self.key,
            Blank::UnsubscribeUrl => self.unsubscribe_url,
        }
    }
}

/// Constant text, then a blank, again and again; then the constant end.
#[derive(Debug, Clone)]
pub(super) struct Form {
    escape: Escape,
    blanks: Vec<(String, Blank)>,
    end: String,
    length: usize,
}

impl Form {
    pub(super) const fn new(escape: Escape) -> Self {
        Self {
            escape,
            blanks: Vec::new(),
            end: String::new(),
            length: 0,
        }
    }

    /// Adds text that is already written as it has to be.
    pub(super) fn raw(&mut self, text: &str) -> &mut Self {
        self.end.push_str(text);
        self
    }

    /// Adds text, escaped.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.escape.write(&mut self.end, text);
        self
    }

    /// Adds a value that differs from message to message.
    pub(super) fn blank(&mut self, blank: Blank) -> &mut Self {
        let before = std::mem::take(&mut self.end);
        // Room for a name or a key; a longer value costs one growth.
        self.length += before.len() + 40;
        self.blanks.push((before, blank));
        self
    }

    /// Adds a merchant's text with its fields; the shop's address is constant.
    pub(super) fn pattern(&mut self, pattern: &Pattern, shop_url: &str) -> &mut Self {
        for segment in pattern.segments() {
            match segment {
                Segment::Literal(text) => self.text(text),
                Segment::Field(Field::ShopUrl) => self.text(shop_url),
                Segment::Field(Field::FirstName) => self.blank(Blank::FirstName),
                Segment::Field(Field::LastName) => self.blank(Blank::LastName),
            };
        }
        self
    }

    /// Whether it is the same for every message.
    pub(super) fn is_constant(&self) -> bool {
        self.blanks.is_empty()
    }

    /// Its text for one message.
    pub(super) fn fill(&self, values: &Values<'_>) -> String {
        let mut out = String::with_capacity(self.length + self.end.len());
        for (before, blank) in &self.blanks {
            out.push_str(before);
            self.escape.write(&mut out, values.of(*blank));
        }
        out.push_str(&self.end);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(escape: Escape, text: &str) -> String {
        let mut out = String::new();
        escape.write(&mut out, text);
        out
    }

    #[test]
    fn html_cannot_be_broken_out_of() {
        assert_eq!(
            written(Escape::Html, "<b a='1'>\"&\n"),
            "&lt;b a=&#39;1&#39;&gt;&quot;&amp;<br>\n"
        );
    }

    #[test]
    fn a_header_value_is_one_line_of_printable_ascii() {
        assert_eq!(
            written(Escape::Header, "https://x/?a=1>\r\nBcc: y 折"),
            "https://x/?a=1Bcc:y"
        );
    }

    proptest! {
        #[test]
        fn json_reads_back_as_the_text(text in any::<String>()) {
            let json = format!("\"{}\"", written(Escape::Json, &text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).ok(), Some(text));
        }
    }
}
