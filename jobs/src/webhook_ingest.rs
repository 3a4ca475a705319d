//! `webhook-ingest`: turn a stored webhook into what it says happened.
//!
//! It carries an id at most. The webhook itself, and whether anything is left to do with it, is read from Postgres by the
//! worker, so a job that comes twice, late or early changes nothing twice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Policy, WebhookId};

/// The payload of a `webhook-ingest` job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookIngest {
    /// One webhook. Without it every webhook that waits longer than it should is worked through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<WebhookId>,
}

impl WebhookIngest {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        // A database that is away is no attempt, and what cannot be applied is put aside with its reason.
        max_attempts: 5,
        lease_secs: 15,
        // A customer who writes waits for nobody's broadcast, and a flood of webhooks leaves the others their slots.
        reserved_slots: 4,
        priority: 20,
        timeout_secs: 120,
        // The webhook's own row counts what takes workers down, and is put aside before this: a crowd of jobs in a worker that is killed
        // again and again are not to blame, and applying one twice does nothing.
        max_crashes: Some(20),
    };
}
