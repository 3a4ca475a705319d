//! A dead job on its way from Redis to Postgres: one line of JSON with what is known, then the kept part of its text.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{DeadReason, ticket::Claim};

/// How much of a dead job's text is kept, in bytes.
pub(crate) const KEPT_BYTES: usize = 64 * 1024;
/// How much of its last error.
const ERROR_CHARS: usize = 2_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) kind: String,
    pub(crate) job_id: Option<String>,
    pub(crate) reason: DeadReason,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) snoozes: u32,
    pub(crate) first_ms: u64,
    pub(crate) died_ms: u64,
    pub(crate) raw_length: u64,
    pub(crate) raw_sha256: Vec<u8>,
    /// Not part of the line: it may hold anything.
    #[serde(skip)]
    pub(crate) raw: Vec<u8>,
}

impl Record {
    pub(crate) fn new(kind: &str, claim: &Claim, reason: DeadReason, error: &str, died_ms: u64) -> Self {
        let text = &claim.text;
        // The attempt that used the job up is one of them.
        let last = u32::from(reason == DeadReason::Exhausted);
        Self {
            kind: kind.to_owned(),
            job_id: claim.job_id.clone(),
            reason,
            error: tidy(error),
            attempts: claim.history.attempts.saturating_add(last),
            crashes: claim.history.crashes,
            snoozes: claim.history.snoozes,
            first_ms: claim.history.first_ms,
            died_ms,
            raw_length: text.len() as u64,
            raw_sha256: digest(&SHA256, text).as_ref().to_vec(),
            raw: text.get(..KEPT_BYTES).unwrap_or(text).to_vec(),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // A record is made of numbers and strings, which always have a JSON form.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.raw);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, raw) = bytes.split_at(end);
        let mut record: Self = serde_json::from_slice(line).ok()?;
        record.raw = raw.get(1..)?.to_vec();
        Some(record)
    }
}

/// Postgres' text holds no NUL, and an error is for reading.
pub(crate) fn tidy(error: &str) -> String {
    error
        .chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .take(ERROR_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::queue::entry::History;

    #[test]
    fn a_record_survives_the_way_with_any_bytes() {
        let mut text = vec![0, b'\n', 0xff, b'"'];
        text.resize(KEPT_BYTES + 10, b'x');
        let claim = Claim {
            kind: 0,
            number: 1,
            history: History::default(),
            text,
            job_id: Some("a".to_owned()),
            now_ms: 5,
            claimed: Instant::now(),
        };
        let record = Record::new("broadcast-send", &claim, DeadReason::Exhausted, "a\0b\u{1b}", 9);
        assert_eq!(record.error, "a b ");
        assert_eq!(record.raw.len(), KEPT_BYTES);
        assert_eq!(record.raw_length, KEPT_BYTES as u64 + 10);
        assert_eq!(record.attempts, 1);
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
    }
}
