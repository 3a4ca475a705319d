//! The form of a text message request, read strictly: what Twilio and Mitake share.
//! It exists so that a field nobody knows, or one that comes twice, is a refusal and not a guess.
//! It must never know a provider's rules: those stand in `twilio` and `mitake`.

use std::collections::BTreeMap;

use url::{Url, form_urlencoded};

/// The fields of a body, each once.
pub(crate) struct Form(BTreeMap<String, String>);

impl Form {
    /// The fields, or the name of the first that is not among `known` or comes twice.
    pub(crate) fn read(body: &[u8], known: &[&str]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            if !known.contains(&&*name) || fields.contains_key(&*name) {
                return Err(name.into_owned());
            }
            fields.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self(fields))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The address of a callback: absolute, http or https.
pub(crate) fn callback(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.host().is_some()).then_some(url)
}

/// The mark that a callback's address carries (`mark=carillon.BROADCAST.CUSTOMER`); empty when there is none.
pub(crate) fn mark(callback: Option<&Url>) -> String {
    let mark = callback.and_then(|url| url.query_pairs().find(|(name, _)| name == "mark"));
    mark.map(|(_, mark)| mark.into_owned()).unwrap_or_default()
}

/// The broadcast in a mark.
pub(crate) fn marker(mark: &str) -> &str {
    mark.split('.').nth(1).unwrap_or_default()
}
