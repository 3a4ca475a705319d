//! The envelope: the one JSON text a producer pushes, parsed at the door and trusted afterwards.
//!
//! The kind is not in the text; it is the name of the queue. Every field but `args` is optional. A field that nobody
//! knows is an error and not ignored: `sender` for `sender_id` must be heard about, not obeyed as "every sender".

use chrono::{DateTime, TimeDelta, Utc};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ContractError, Job, Kind, TraceParent,
    limits::{MAX_ATTEMPTS, MAX_DEPTH, MAX_ID_CHARS, MAX_RUN_AHEAD_DAYS, MAX_TEXT_BYTES, MAX_UNIQUE_CHARS, depth},
    object::Object,
    wire::{self, TIME_PATTERN, Trace},
};

/// A job with what its producer said about running it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The producer's id of the job, for logs and for finding it again. A job without one is given one by the worker.
    pub id: Option<String>,
    /// What is to be done.
    pub job: Job,
    /// Not before this time.
    pub run_at: Option<DateTime<Utc>>,
    /// Attempts before the job is dead, in place of its kind's.
    pub max_attempts: Option<u32>,
    /// While a job with this key waits, another one with it is not queued. Held until the job is claimed, not until it
    /// is done: what rings while it runs is news.
    pub unique: Option<String>,
    /// The W3C trace context of the producer; the parent of the job's span.
    pub traceparent: Option<TraceParent>,
    /// The text had something under `traceparent` that is no trace context. It is dropped, as that standard asks, and
    /// worth a line in the log.
    pub traceparent_unreadable: bool,
}

// Generic over the payload, so that serde and the schema describe each kind as a whole.
/// The text of one job, pushed as it is at the tail of the list `ready:<kind>`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wire<A> {
    /// The producer's own id of the job, 1 to 128 visible ASCII characters. Used in logs, lists and for replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]{1,128}$"))]
    id: Option<String>,
    /// The payload: ids only, never customer data.
    #[schemars(with = "A")]
    args: Object<A>,
    /// Run not before this time (RFC 3339 with an offset), at most 366 days ahead.
    #[serde(default, deserialize_with = "wire::run_at", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime<Utc>>", extend("pattern" = TIME_PATTERN))]
    run_at: Option<DateTime<Utc>>,
    /// Attempts before the job is dead, in place of the kind's own number.
    #[serde(
        default,
        deserialize_with = "wire::max_attempts",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<u32>", range(min = 1, max = 100))]
    max_attempts: Option<u32>,
    /// While a job with this key waits, another one with it is not queued. 1 to 200 characters, no control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[^\u0000-\u001f\u007f]+$"))]
    unique: Option<String>,
    /// The W3C trace context of the producer: the job's span becomes its child. Anything that is not one is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value", extend("examples" = [TRACE_EXAMPLE]))]
    traceparent: Option<Trace>,
}

const TRACE_EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

impl Envelope {
    /// An envelope around `job` with nothing said about running it.
    #[must_use]
    pub fn new(job: impl Into<Job>) -> Self {
        Self {
            id: None,
            job: job.into(),
            run_at: None,
            max_attempts: None,
            unique: None,
            traceparent: None,
            traceparent_unreadable: false,
        }
    }

    /// Parses and checks the text of a job of `kind`.
    ///
    /// # Errors
    /// A [`ContractError`] that names the field; it never repeats the value.
    pub fn parse(kind: Kind, text: &[u8]) -> Result<Self, ContractError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(ContractError::TooLarge {
                length: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        let depth = depth(text);
        if depth > MAX_DEPTH {
            return Err(ContractError::TooDeep {
                depth,
                limit: MAX_DEPTH,
            });
        }
        kind.parse(text)
    }

    /// The text to push, checked like one that came from outside, so that nobody can queue what no worker would take.
    ///
    /// # Errors
    /// A [`ContractError`] that names the field.
    pub fn to_text(&self) -> Result<String, ContractError> {
        check(self, Utc::now())?;
        let wire = Wire {
            id: self.id.clone(),
            args: Object(&self.job),
            run_at: self.run_at,
            max_attempts: self.max_attempts,
            unique: self.unique.clone(),
            traceparent: self.traceparent.map(Trace::Read),
        };
        let text = serde_json::to_string(&wire).map_err(|error| ContractError::NotJson {
            problem: error.to_string(),
        })?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(ContractError::TooLarge {
                length: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        Ok(text)
    }
}

impl<J: Into<Job>> From<J> for Envelope {
    fn from(job: J) -> Self {
        Self::new(job)
    }
}

/// Parses a text whose size and depth are known to be within the limits.
pub(crate) fn parse<A: DeserializeOwned>(text: &[u8], job: fn(A) -> Job) -> Result<Envelope, ContractError> {
    let wire: Wire<A> = match serde_json::from_slice(text) {
        Ok(Object(wire)) => wire,
        // The second pass keeps track of the path. It costs half as much again, so only texts that fail pay for it.
        Err(error) => return Err(explain::<A>(text, &error)),
    };
    let (traceparent, traceparent_unreadable) = match wire.traceparent {
        Some(Trace::Read(trace)) => (Some(trace), false),
        Some(Trace::Unreadable) => (None, true),
        None => (None, false),
    };
    let envelope = Envelope {
        id: wire.id,
        job: job(wire.args.0),
        run_at: wire.run_at,
        max_attempts: wire.max_attempts,
        unique: wire.unique,
        traceparent,
        traceparent_unreadable,
    };
    check(&envelope, Utc::now())?;
    Ok(envelope)
}

fn explain<A: DeserializeOwned>(text: &[u8], error: &serde_json::Error) -> ContractError {
    if error.is_data() {
        let mut parser = serde_json::Deserializer::from_slice(text);
        if let Err(located) = serde_path_to_error::deserialize::<_, Object<Wire<A>>>(&mut parser) {
            let field = located.path().to_string();
            return ContractError::field(field, scrub(&located.into_inner().to_string()));
        }
    }
    ContractError::NotJson {
        problem: scrub(&error.to_string()),
    }
}

/// serde quotes the offending value ("invalid type: string \"…\""), and a value may be anybody's personal data.
fn scrub(problem: &str) -> String {
    let mut kept = String::with_capacity(problem.len());
    let (mut quoted, mut escaped) = (false, false);
    for character in problem.chars() {
        if quoted {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    quoted = false;
                    kept.push_str("…\"");
                }
                _ => {}
            }
        } else {
            quoted = character == '"';
            kept.push(character);
        }
    }
    // Names of fields come in backticks and may be the producer's invention, of any length.
    kept.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn check(envelope: &Envelope, now: DateTime<Utc>) -> Result<(), ContractError> {
    if let Some(id) = &envelope.id
        && (id.is_empty() || id.len() > MAX_ID_CHARS || !id.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(ContractError::field(
            "id",
            format!("must be 1 to {MAX_ID_CHARS} visible ASCII characters"),
        ));
    }
    if let Some(unique) = &envelope.unique {
        let length = unique.chars().count();
        if length == 0 || length > MAX_UNIQUE_CHARS || unique.chars().any(|c| c.is_ascii_control()) {
            return Err(ContractError::field(
                "unique",
                format!("must be 1 to {MAX_UNIQUE_CHARS} characters without control characters"),
            ));
        }
    }
    if envelope.max_attempts.is_some_and(|n| n == 0 || n > MAX_ATTEMPTS) {
        return Err(ContractError::field(
            "max_attempts",
            format!("must be 1 to {MAX_ATTEMPTS}"),
        ));
    }
    if envelope
        .run_at
        .is_some_and(|at| at.signed_duration_since(now) > TimeDelta::days(MAX_RUN_AHEAD_DAYS))
    {
        return Err(ContractError::field(
            "run_at",
            format!("must be at most {MAX_RUN_AHEAD_DAYS} days ahead"),
        ));
    }
    Ok(())
}

/// The JSON Schema of a whole job text with this payload.
pub(crate) fn schema<A: JsonSchema>(kind: Kind) -> schemars::Schema {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Wire<A>>();
    schema.insert("title".to_owned(), kind.name().into());
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_never_repeat_a_value() {
        assert_eq!(
            scrub(r#"invalid type: string "0912 345 \"678", expected u32"#),
            r#"invalid type: string "…", expected u32"#
        );
    }
}
