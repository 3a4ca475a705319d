//! The configuration as a person may see it: secrets hidden, every value with its origin.

use toml::Value;

use super::document::Origin;

/// One key as `carillon config check` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The dotted key.
    pub key: String,
    /// The value as TOML, or what may be shown of it.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Effective {
    pub(super) fn new(key: &str, value: &Value, origin: Origin) -> Self {
        Self {
            key: key.to_owned(),
            value: shown(key, value),
            origin,
        }
    }
}

/// Whether a key's value may never be printed: told by its name, so that a new key is hidden without anybody thinking of it.
pub(super) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let whole = [
        "keys",
        "key",
        "url",
        "secret",
        "password",
        "token",
        "credentials",
        "headers",
    ];
    let endings = ["_secret", "_password", "_token", "_credentials", "_keys", "_key"];
    whole.contains(&name) || endings.iter().any(|ending| name.ends_with(ending))
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::Array(list) if list.is_empty() => "[]".to_owned(),
        Value::String(text) if key.ends_with("url") => address(text),
        _ if is_secret(key) => "(set, hidden)".to_owned(),
        value => value.to_string(),
    }
}

/// An address without user, password and query, any of which may be a secret.
fn address(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return "(set, hidden)".to_owned();
    };
    let had_secret = url.password().is_some() || url.query().is_some();
    // These fail only for addresses that cannot have either.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    let note = if had_secret { " (the rest hidden)" } else { "" };
    format!("\"{url}\"{note}")
}
