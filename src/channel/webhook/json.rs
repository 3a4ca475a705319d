//! Reads fields out of foreign JSON (pure).
//!
//! Why it exists: providers add, drop and retype fields without notice. What is read here is optional, bounded and
//! fit for Postgres; a field that is not as expected is as good as absent, and costs one event at most, never the body.

use chrono::{DateTime, TimeDelta, Utc};
use ring::digest;
use serde_json::Value;

use super::{ParseError, WebhookEvent, What};

/// The longest text of a message that is kept, in bytes; LINE's longest is 5,000 characters.
const TEXT_BYTES: usize = 32_768;
/// The longest label or title that is kept, in bytes.
const LABEL_BYTES: usize = 400;
/// The longest address of a file that is followed, in bytes.
const LINK_BYTES: usize = 4_096;
/// The longest id that is kept as it is, in bytes: what a row of a delivery holds too.
const ID_BYTES: usize = 200;
/// The longest address of a customer, in bytes: WhatsApp's newest ids have up to 256 characters.
const ADDRESS_BYTES: usize = 300;
/// How deep a body may be nested; `serde_json` gives up at 128.
const DEPTH: usize = 100;
/// The most events of one body; the largest provider stops at 1,000.
pub(super) const EVENTS: usize = 20_000;

/// The body as JSON. Half characters and bytes that are no UTF-8, which a customer's text may hold, are replaced rather than
/// refused: they would cost everybody else's events.
pub(super) fn body(bytes: &[u8]) -> Result<Value, ParseError> {
    well_formed(bytes)?;
    serde_json::from_slice(bytes).or_else(|_| {
        let text = String::from_utf8_lossy(bytes);
        serde_json::from_str(&whole_characters(&text)).map_err(|_| ParseError::NotJson)
    })
}

/// Whether it is JSON that [`body`] can read, as far as that can be said without building it.
pub(super) fn well_formed(bytes: &[u8]) -> Result<(), ParseError> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > DEPTH {
                    return Err(ParseError::TooDeep);
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
        .map(drop)
        .map_err(|_| ParseError::NotJson)
}

/// JSON in which every `\ud83d` without its other half is the replacement character.
fn whole_characters(json: &str) -> String {
    let half = |text: &str| -> Option<u16> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut whole = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        whole.push_str(before);
        let length = match half(escape) {
            Some(0xd800..=0xdbff) => match escape.get(6..).and_then(half) {
                Some(0xdc00..=0xdfff) => 12,
                _ => 0,
            },
            Some(0xdc00..=0xdfff) => 0,
            Some(_) => 6,
            None => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        let (taken, after) = if length == 0 {
            ("\\ufffd", escape.get(6..))
        } else {
            (escape.get(..length).unwrap_or(escape), escape.get(length..))
        };
        whole.push_str(taken);
        rest = after.unwrap_or_default();
    }
    whole.push_str(rest);
    whole
}

/// The elements of a list; none where there is no list.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text that people read: NUL, which Postgres cannot hold, is replaced, and what is too long is cut.
pub(super) fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).and_then(clean)
}

/// The same for a text at hand; `None` for an empty one.
pub(super) fn clean(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| cut(text, TEXT_BYTES).replace('\0', "\u{fffd}"))
}

/// A short text that people read.
pub(super) fn label(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).and_then(short)
}

/// The same for a text at hand; `None` for an empty one.
pub(super) fn short(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| cut(text, LABEL_BYTES).replace('\0', "\u{fffd}"))
}

/// What a place is called, for people: its name, else its address, else where it is.
pub(super) fn place(location: &Value, title: &str) -> Option<String> {
    let named = label(location, title).or_else(|| label(location, "address"));
    named.or_else(|| {
        let number = |name| location.get(name).and_then(Value::as_f64);
        Some(format!("{:.5}, {:.5}", number("latitude")?, number("longitude")?))
    })
}

/// A web address, whole or not at all.
pub(super) fn link(value: &Value, name: &str) -> Option<String> {
    plain_link(value.get(name)?.as_str()?)
}

/// The same for a text at hand.
pub(super) fn plain_link(link: &str) -> Option<String> {
    let web = link.starts_with("https://") || link.starts_with("http://");
    (web && link.len() <= LINK_BYTES && !link.contains(|c: char| c.is_control() || c == ' ')).then(|| link.to_owned())
}

/// An id, which some send as a number.
pub(super) fn id(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => plain_id(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// An id as it is, or its hash where it is longer than a row holds or holds what no id does.
pub(super) fn plain_id(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if text.len() <= ID_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    Some(hash(text.as_bytes()))
}

/// A customer's address on a sender, whole or not at all: half of one would be another customer's.
pub(super) fn address(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => plain_address(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The same for a text at hand.
pub(super) fn plain_address(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= ADDRESS_BYTES && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
}

/// The provider's name of a type or code: 1 to 64 printable ASCII characters.
pub(super) fn name(text: &str) -> String {
    let printable = text.bytes().filter(u8::is_ascii_graphic).take(64);
    let name: String = printable.map(char::from).collect();
    if name.is_empty() { "untyped".to_owned() } else { name }
}

/// A moment in seconds or milliseconds, as a number or as digits; providers mix them. What cannot be one is `otherwise`.
pub(super) fn moment(value: &Value, name: &str, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    let number = match value.get(name) {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(digits)) => digits.parse().ok(),
        _ => None,
    };
    number.map_or(otherwise, |number| instant(number, otherwise))
}

/// Seconds or milliseconds since 1970.
pub(super) fn instant(number: i64, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    // As seconds the year 5138, as milliseconds 1973.
    let moment = if number.unsigned_abs() < 100_000_000_000 {
        DateTime::from_timestamp(number, 0)
    } else {
        DateTime::from_timestamp_millis(number)
    };
    moment.map_or(otherwise, |moment| believable(moment, otherwise))
}

/// A moment a day ahead of us or before the providers existed is a mistake of somebody's clock. Believed, it would be the
/// latest word about an address for ever.
pub(super) fn believable(moment: DateTime<Utc>, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    let too_late = otherwise
        .checked_add_signed(TimeDelta::days(1))
        .is_some_and(|end| moment > end);
    if too_late || moment.timestamp() < 946_684_800 {
        otherwise
    } else {
        moment
    }
}

/// A key of an event: what it is and of what, hashed where that is too long for a key.
pub(super) fn key(kind: &str, parts: &[&str]) -> String {
    let mut key = kind.to_owned();
    for part in parts {
        key.push(':');
        key.push_str(part);
    }
    if key.len() <= ID_BYTES && key.bytes().all(|b| b.is_ascii_graphic()) {
        key
    } else {
        format!("{}:{}", name(kind), hash(key.as_bytes()))
    }
}

/// A key from everything an event says, whatever the order of its fields: for events without an id.
pub(super) fn key_of(kind: &str, event: &Value) -> String {
    let mut bytes = Vec::new();
    canonical(event, &mut bytes);
    key(&name(kind), &[&hash(&bytes)])
}

/// The same from bytes that are no JSON.
pub(super) fn key_of_bytes(kind: &str, bytes: &[u8]) -> String {
    key(kind, &[&hash(bytes)])
}

fn canonical(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            into.push(b'{');
            for (name, value) in fields {
                into.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                into.push(b':');
                canonical(value, into);
                into.push(b',');
            }
            into.push(b'}');
        }
        Value::Array(values) => {
            into.push(b'[');
            for value in values {
                canonical(value, into);
                into.push(b',');
            }
            into.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.extend_from_slice(value.to_string().as_bytes());
        }
    }
}

/// Something nobody here knows, kept by its name.
pub(super) fn unknown(kind: &str, event: &Value, account: Option<&str>, at: DateTime<Utc>) -> WebhookEvent {
    WebhookEvent {
        account: account.map(str::to_owned),
        key: key_of("unknown", event),
        at,
        from: None,
        what: What::Unknown(name(kind)),
    }
}

fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut text = String::from("sha256.");
    for byte in digest.as_ref() {
        // Writing into a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}
