//! How the fields of a job text are written, as strictly as the JSON Schema says: what one of the two takes the other takes.
//!
//! The libraries alone are freer than the schema in one place and narrower in another: chrono takes a blank for the `T` of
//! a time, and serde takes no `3.0` for a 3, which is how some languages write whole numbers.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::{TraceParent, limits::MAX_ATTEMPTS};

/// A time as RFC 3339 writes it; the digits' meaning is checked by chrono.
pub(crate) const TIME_PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$";

pub(crate) fn run_at<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let separated = text.as_bytes().get(10).is_some_and(|byte| matches!(byte, b'T' | b't'));
    DateTime::parse_from_rfc3339(&text)
        .ok()
        .filter(|_| separated)
        .map(|at| Some(at.to_utc()))
        .ok_or_else(|| de::Error::custom("must be a time with its offset, as in 2026-12-01T09:00:00+08:00"))
}

pub(crate) fn max_attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_option(Attempts)
}

struct Attempts;

impl<'de> Visitor<'de> for Attempts {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 1 to {MAX_ATTEMPTS}")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        u32::try_from(number)
            .ok()
            .filter(|number| (1..=MAX_ATTEMPTS).contains(number))
            .map(Some)
            .ok_or_else(|| de::Error::custom(format!("must be 1 to {MAX_ATTEMPTS}")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        // A negative one becomes 0, which is refused like it.
        self.visit_u64(u64::try_from(number).unwrap_or(0))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        let whole = (1..=MAX_ATTEMPTS).find(|whole| f64::from(*whole).to_bits() == number.to_bits());
        self.visit_u64(whole.map_or(0, u64::from))
    }
}

/// What stands under `traceparent`. Anything may: a wrong one is no reason to refuse work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// A trace context.
    Read(TraceParent),
    /// Something else.
    Unreadable,
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(trace) => serializer.collect_str(trace),
            Self::Unreadable => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Trace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let read = value.as_str().and_then(|text| text.parse().ok());
        Ok(read.map_or(Self::Unreadable, Self::Read))
    }
}
