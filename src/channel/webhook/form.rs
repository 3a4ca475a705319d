//! Fields of a form or a query (pure).
//!
//! Why it exists: two providers speak in forms, and both hand our mark back in a query of our own making.

use std::{borrow::Cow, collections::BTreeMap};

use url::form_urlencoded;

use crate::channel::DeliveryMark;

/// Far beyond what any provider sends; the rest of a longer one is not read.
const FIELDS: usize = 500;

/// The fields of a form, the first of each name.
pub(super) struct Form<'a>(BTreeMap<Cow<'a, str>, Cow<'a, str>>);

impl<'a> Form<'a> {
    pub(super) fn read(pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Self {
        let mut fields = BTreeMap::new();
        for (name, value) in pairs.take(FIELDS) {
            fields.entry(name).or_insert(value);
        }
        Self(fields)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }
}

/// The mark in the query of the address that we gave the provider: `mark=`.
pub(super) fn mark(query: &str) -> Option<DeliveryMark> {
    let (_, mark) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "mark")?;
    mark.parse().ok()
}
