//! Walks a JSON body and collects every property that is wrong, with its path (`messages[0].text`).
//! It exists so that LINE's and FCM's checks read as a list of rules and share one way to say where an error is.
//! It must never stop at the first error, and it builds no path while nothing is wrong.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use url::Url;

use crate::json::Json;

/// One wrong property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) property: String,
    pub(crate) message: Cow<'static, str>,
}

/// Where a value stands: a chain of borrowed steps, turned into text only when something is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Place<'p> {
    Root,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    pub(crate) fn text(&self) -> String {
        match self {
            Place::Root => String::new(),
            Place::Member(Place::Root, name) => (*name).to_owned(),
            Place::Member(parent, name) => format!("{}.{name}", parent.text()),
            Place::Item(parent, index) => format!("{}[{index}]", parent.text()),
        }
    }
}

/// What was found wrong so far.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) wrong: Vec<Wrong>,
}

impl Findings {
    pub(crate) fn add(&mut self, place: Place<'_>, message: impl Into<Cow<'static, str>>) {
        self.wrong.push(Wrong {
            property: place.text(),
            message: message.into(),
        });
    }
}

/// An object being checked: its members, its place and the shared findings.
pub(crate) struct Fields<'j, 'p> {
    members: &'j [(Cow<'j, str>, Json<'j>)],
    pub(crate) place: Place<'p>,
}

impl<'j, 'p> Fields<'j, 'p> {
    /// The members of `value`, or a finding when it is no object or has a member outside `allowed`.
    pub(crate) fn open(value: &'j Json<'j>, place: Place<'p>, allowed: &[&str], found: &mut Findings) -> Option<Self> {
        let Json::Object(members) = value else {
            found.add(place, "must be an object");
            return None;
        };
        for (name, _) in members {
            if !allowed.contains(&name.as_ref()) {
                found.add(Place::Member(&place, name), "Unknown property");
            }
        }
        Some(Self { members, place })
    }

    /// The named member, `null` counting as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'j Json<'j>> {
        self.members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
            .filter(|value| **value != Json::Null)
    }

    pub(crate) fn wrong(&self, name: &str, message: impl Into<Cow<'static, str>>, found: &mut Findings) {
        found.add(Place::Member(&self.place, name), message);
    }

    /// The named member, with a finding when it is missing.
    pub(crate) fn required(&self, name: &str, found: &mut Findings) -> Option<&'j Json<'j>> {
        let value = self.get(name);
        if value.is_none() {
            self.wrong(name, "May not be empty", found);
        }
        value
    }

    /// A text member that must be there, not empty and within `limit`.
    pub(crate) fn text(&self, name: &str, limit: Limit, found: &mut Findings) -> Option<&'j str> {
        self.required(name, found)?;
        self.optional_text(name, limit, found)
    }

    /// A text member that may be absent; when present it must be text, not empty and within `limit`.
    pub(crate) fn optional_text(&self, name: &str, limit: Limit, found: &mut Findings) -> Option<&'j str> {
        match self.get(name)? {
            Json::Text(text) if text.is_empty() => {
                self.wrong(name, "May not be empty", found);
                None
            }
            Json::Text(text) => {
                if let Some(message) = limit.broken_by(text) {
                    self.wrong(name, message, found);
                }
                Some(text)
            }
            _ => {
                self.wrong(name, "must be a string", found);
                None
            }
        }
    }

    /// An optional member that must be `true` or `false`.
    pub(crate) fn optional_bool(&self, name: &str, found: &mut Findings) -> bool {
        match self.get(name) {
            None => false,
            Some(Json::Bool(value)) => *value,
            Some(_) => {
                self.wrong(name, "must be a boolean", found);
                false
            }
        }
    }

    /// An optional member with a closed set of texts.
    pub(crate) fn optional_choice(&self, name: &str, allowed: &[&str], found: &mut Findings) {
        match self.get(name) {
            None => {}
            Some(Json::Text(text)) if allowed.contains(&text.as_ref()) => {}
            Some(_) => self.wrong(name, format!("must be one of the following values: {allowed:?}"), found),
        }
    }

    /// A list member that must be there with a length inside `range`.
    pub(crate) fn list(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
        found: &mut Findings,
    ) -> Option<&'j [Json<'j>]> {
        match self.required(name, found)? {
            Json::List(items) if range.contains(&items.len()) => Some(items),
            Json::List(_) => {
                self.wrong(
                    name,
                    format!("Size must be between {} and {}", range.start(), range.end()),
                    found,
                );
                None
            }
            _ => {
                self.wrong(name, "must be an array", found);
                None
            }
        }
    }

    /// A text member that must be an `https` URL of at most `limit` characters.
    pub(crate) fn https_url(&self, name: &str, limit: usize, found: &mut Findings) {
        if let Some(text) = self.text(name, Limit::Utf16(limit), found)
            && !is_url(text, &["https"])
        {
            self.wrong(name, "invalid uri", found);
        }
    }

    /// As [`Fields::https_url`], for a member that may be absent.
    pub(crate) fn optional_https_url(&self, name: &str, limit: usize, found: &mut Findings) {
        if self.get(name).is_some() {
            self.https_url(name, limit, found);
        }
    }
}

/// How the length of a text is counted, and how long it may be.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// UTF-16 code units.
    Utf16(usize),
    /// Grapheme clusters.
    Graphemes(usize),
}

impl Limit {
    fn broken_by(self, text: &str) -> Option<String> {
        let (limit, long) = match self {
            // A text never has more units or clusters than bytes, so most are settled without counting.
            Limit::Utf16(limit) => (limit, text.len() > limit && text.encode_utf16().count() > limit),
            Limit::Graphemes(limit) => (limit, text.len() > limit && text.graphemes(true).count() > limit),
        };
        long.then(|| format!("Length must be between 0 and {limit}"))
    }
}

/// True when `text` is an absolute URL of one of `schemes`, already percent-encoded.
pub(crate) fn is_url(text: &str, schemes: &[&str]) -> bool {
    let encoded = text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`'));
    encoded
        && Url::parse(text)
            .is_ok_and(|url| schemes.contains(&url.scheme()) && (url.has_host() || url.scheme() == "tel"))
}
