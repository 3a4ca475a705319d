//! `broadcast-send`: look at this broadcast (or at one of its senders' lanes) and do what is still to do.
//!
//! It carries ids only. Whether there is anything to plan or to send is read from Postgres by the worker, so a job that
//! comes twice, late, or for a broadcast that has long ended does no harm.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BroadcastId, Policy, SenderId};

/// The payload of a `broadcast-send` job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BroadcastSend {
    /// The broadcast to plan or to send.
    pub broadcast_id: BroadcastId,
    /// The sender whose lane is to be worked on. Without it the broadcast as a whole is looked at: planning, opening
    /// its lanes, completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<SenderId>,
}

impl BroadcastSend {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        // A lane's errors are handled inside the delivery; what reaches the queue is a database that stays away. Twenty
        // full-jitter steps of at most ten minutes outlast an hour of that, and reconcile rings again after it.
        max_attempts: 20,
        lease_secs: 15,
        reserved_slots: 4,
        priority: 50,
        // A turn is a time budget of a few seconds; a turn of planning is one chunk.
        timeout_secs: 300,
        max_crashes: None,
    };
}
