//! Merge fields (pure): `{first_name}` and its like, parsed once, filled per customer.
//!
//! Why it exists: a template is parsed at the door, so that nothing about braces can go wrong while sending; and what
//! customers typed as their names is judged here before it stands in a merchant's message.
//!
//! It must never let a customer's own text carry a link, a phone number or a control character into a message.

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// A customer's value longer than this many grapheme clusters is replaced by the fallback.
pub const VALUE_GRAPHEMES: usize = 20;
/// The same in bytes: 20 Chinese characters fit, 20 stacked emoji do not.
pub const VALUE_BYTES: usize = 80;
/// This many digits in a row, whatever separates them, are taken for a phone number.
const PHONE_DIGITS: usize = 7;

/// A field a merchant may put into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The customer's first name.
    FirstName,
    /// The customer's last name.
    LastName,
    /// The shop's address on the web; the same for every customer.
    ShopUrl,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 3] = [Self::FirstName, Self::LastName, Self::ShopUrl];

    /// The name between the braces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstName => "first_name",
            Self::LastName => "last_name",
            Self::ShopUrl => "shop_url",
        }
    }

    /// Whether its value differs from customer to customer.
    #[must_use]
    pub const fn personal(self) -> bool {
        match self {
            Self::FirstName | Self::LastName => true,
            Self::ShopUrl => false,
        }
    }
}

/// What stands in for a field without a usable value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallbacks {
    /// Instead of the first name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// Instead of the last name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    /// Instead of the shop's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shop_url: Option<String>,
}

impl Fallbacks {
    /// The fallback of one field, if one was given.
    #[must_use]
    pub fn of(&self, field: Field) -> Option<&str> {
        match field {
            Field::FirstName => self.first_name.as_deref(),
            Field::LastName => self.last_name.as_deref(),
            Field::ShopUrl => self.shop_url.as_deref(),
        }
    }
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Text as it is.
    Literal(String),
    /// A field to fill in.
    Field(Field),
}

/// A text with merge fields, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    raw: String,
    segments: Vec<Segment>,
}

impl Pattern {
    /// Parses a text: `{name}` is a field, `{{` and `}}` are braces.
    ///
    /// # Errors
    /// What is wrong and what to do, as the end of a sentence about the field.
    pub(super) fn parse(raw: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = raw;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if brace.starts_with('}') {
                return Err("holds a single `}`: write }} for a brace".into());
            } else {
                let (field, after) = parse_field(brace)?;
                if !literal.is_empty() {
                    segments.push(Segment::Literal(std::mem::take(&mut literal)));
                }
                segments.push(Segment::Field(field));
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        let raw = raw.to_owned();
        Ok(Self { raw, segments })
    }

    /// A text without fields.
    pub(super) fn literal(text: &str) -> Self {
        Self {
            raw: text.replace('{', "{{").replace('}', "}}"),
            segments: vec![Segment::Literal(text.to_owned())],
        }
    }

    /// The text as the merchant wrote it.
    pub(super) fn raw(&self) -> &str {
        &self.raw
    }

    /// Its parts, in order.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The fields it uses, in order, with repetitions.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(field) => Some(*field),
            Segment::Literal(_) => None,
        })
    }

    /// The first line of the text, as a pattern of its own.
    pub(super) fn first_line(&self) -> Self {
        let mut segments = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Field(field) => segments.push(Segment::Field(*field)),
                Segment::Literal(text) => {
                    let started = !segments.is_empty();
                    let text = if started { text.as_str() } else { text.trim_start() };
                    let line = text.split('\n').next().unwrap_or_default();
                    if !line.is_empty() {
                        segments.push(Segment::Literal(line.to_owned()));
                    }
                    if line.len() < text.len() {
                        break;
                    }
                }
            }
        }
        let raw = String::new();
        Self { raw, segments }
    }

    /// The text with every field replaced by its fallback.
    pub(super) fn with_fallbacks(&self, fallbacks: &Fallbacks) -> String {
        let parts = self.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => text.as_str(),
            Segment::Field(field) => fallbacks.of(*field).unwrap_or_default(),
        });
        parts.collect()
    }
}

/// Reads the field at the start of `text`, which begins with `{`; returns it and what follows.
fn parse_field(text: &str) -> Result<(Field, &str), String> {
    let inside = text.strip_prefix('{').unwrap_or(text);
    let known = "{first_name}, {last_name} and {shop_url}";
    let Some((name, after)) = inside.split_once('}') else {
        return Err(format!(
            "holds a `{{` that is never closed: write {{{{ for a brace, or one of {known}"
        ));
    };
    let field = Field::ALL.into_iter().find(|field| field.name() == name);
    field.map(|field| (field, after)).ok_or_else(|| {
        let name: String = name.graphemes(true).take(40).collect();
        format!("uses the unknown merge field `{{{name}}}`: known are {known}; write {{{{ for a brace")
    })
}

/// The value that stands for a customer's field: their own where it is fit to print, else the fallback.
pub(super) fn customer_value<'a>(value: Option<&'a str>, fallback: &'a str) -> &'a str {
    let value = value.map_or("", str::trim);
    if value.is_empty() || !fit_to_print(value) {
        fallback
    } else {
        value
    }
}

fn fit_to_print(value: &str) -> bool {
    // The common case, a short plain name, needs no look at clusters: a cluster is at least one byte.
    let short = value.len() <= VALUE_GRAPHEMES
        || (value.len() <= VALUE_BYTES && value.graphemes(true).count() <= VALUE_GRAPHEMES);
    short && !value.chars().any(disturbs) && !holds_phone(value) && !holds_link(value)
}

/// Characters that change how the text around them is read: controls and direction overrides.
fn disturbs(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A digit's worth in ASCII, full width included.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || ('\u{ff10}'..='\u{ff19}').contains(&c)
}

fn holds_phone(value: &str) -> bool {
    let mut digits = 0_usize;
    for c in value.chars() {
        if is_digit(c) {
            digits += 1;
            if digits >= PHONE_DIGITS {
                return true;
            }
        } else if c.is_alphabetic() {
            digits = 0;
        }
    }
    false
}

/// A scheme, `www.`, or anything shaped like a host name (`shop.tw`): messengers turn all of them into links.
fn holds_link(value: &str) -> bool {
    let dot = |c: char| matches!(c, '.' | '\u{ff0e}' | '\u{3002}' | '\u{ff61}');
    if !value.contains(dot) && !value.contains([':', '\u{ff1a}', '/']) {
        return false;
    }
    let folded: String = value
        .chars()
        .map(|c| if dot(c) { '.' } else { c.to_ascii_lowercase() })
        .collect();
    folded.contains("://")
        || folded.contains("www.")
        || folded.contains("http:")
        || folded.contains("https:")
        || folded.split('.').zip(folded.split('.').skip(1)).any(|(host, top)| {
            let named = host.chars().next_back().is_some_and(char::is_alphanumeric);
            let letters = top.chars().take_while(char::is_ascii_alphabetic).count();
            named && letters >= 2
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn braces_are_fields_or_escapes() {
        let pattern = Pattern::parse("Hi {first_name}{last_name}, {{50%}} {shop_url}").unwrap();
        let fields: Vec<_> = pattern.fields().map(Field::name).collect();
        assert_eq!(fields, ["first_name", "last_name", "shop_url"]);
        let fallbacks = Fallbacks {
            first_name: Some("you".into()),
            last_name: None,
            shop_url: Some("https://s.tw".into()),
        };
        assert_eq!(pattern.with_fallbacks(&fallbacks), "Hi you, {50%} https://s.tw");
    }

    #[test]
    fn a_wrong_brace_is_refused_by_name() {
        for (text, reason) in [
            ("Hi {frist_name}", "`{frist_name}`"),
            ("Hi {First_Name}", "`{First_Name}`"),
            ("Hi { first_name }", "`{ first_name }`"),
            ("Hi {}", "`{}`"),
            ("Hi {first_name", "never closed"),
            ("Hi first_name}", "single `}`"),
            ("Hi {{first_name}", "single `}`"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_line_keeps_its_fields() {
        let pattern = Pattern::parse("\n {first_name} 您好\n第二行 {last_name}").unwrap();
        let line = pattern.first_line();
        assert_eq!(line.fields().collect::<Vec<_>>(), [Field::FirstName]);
        assert_eq!(line.with_fallbacks(&Fallbacks::default()), " 您好");
        let plain = Pattern::parse("\n 折扣\n二").unwrap().first_line();
        assert_eq!(plain.with_fallbacks(&Fallbacks::default()), "折扣");
    }

    #[test]
    fn a_name_is_printed_and_anything_else_is_replaced() {
        for name in ["小美", "Anne-Marie", "O'Neil", "陳", "李 2", "J.R.", "👩‍👩‍👧 媽"] {
            assert_eq!(customer_value(Some(name), "you"), name, "{name}");
        }
        for value in [
            "",
            "  ",
            "一二三四五六七八九十一二三四五六七八九十一",
            "https://x.tw",
            "HTTP://1",
            "win.com",
            "www.x",
            "看．tw",
            "line.me/ti/p/x",
            "0912-345-678",
            "０９１２３４５６７８",
            "(02) 2345-6789",
            "a\nb",
            "a\u{202e}b",
        ] {
            assert_eq!(customer_value(Some(value), "you"), "you", "{value}");
        }
        assert_eq!(customer_value(None, "you"), "you");
        assert_eq!(customer_value(Some(" 小美 "), "you"), "小美");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_a_literal_means_itself(text in any::<String>()) {
            let _ = Pattern::parse(&text);
            let literal = Pattern::literal(&text);
            let parsed = Pattern::parse(literal.raw()).unwrap();
            prop_assert_eq!(parsed.with_fallbacks(&Fallbacks::default()), text);
        }

        #[test]
        fn a_printed_value_is_short_and_harmless(value in any::<String>()) {
            let printed = customer_value(Some(&value), "");
            prop_assert!(printed.graphemes(true).count() <= VALUE_GRAPHEMES);
            prop_assert!(printed.len() <= VALUE_BYTES);
            prop_assert!(!printed.contains("://") && !printed.chars().any(char::is_control));
        }
    }
}
