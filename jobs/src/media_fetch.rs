//! `media-fetch`: fetch what customers attached to messages, and delete what belongs to no message any more.
//!
//! It carries nothing. What is due is read from Postgres by the worker, so a job that comes twice, late or for nothing does no
//! harm.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Policy;

/// The payload of a `media-fetch` job: an empty object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaFetch {}

impl MediaFetch {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        // What cannot be fetched is put off by itself.
        max_attempts: 5,
        lease_secs: 15,
        // Providers' links live for days; but a wall of broadcasts may stand longer.
        reserved_slots: 1,
        priority: 150,
        timeout_secs: 600,
        max_crashes: None,
    };
}
