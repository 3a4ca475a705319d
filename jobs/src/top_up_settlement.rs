//! `top-up-settlement`: credit the top-up orders whose time has come, or look at this one.
//!
//! It carries an id at most. Which orders are paid and due is read from Postgres by the worker, so a job that comes twice,
//! late or early credits nothing twice and nothing too soon.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Policy, TopUpId};

/// The payload of a `top-up-settlement` job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpSettlement {
    /// One order. Without it every order that is due is credited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<TopUpId>,
}

impl TopUpSettlement {
    /// How these jobs are run.
    pub const POLICY: Policy = Policy {
        // A database that is away is no attempt, and an order that cannot be credited is put off by itself.
        max_attempts: 10,
        lease_secs: 15,
        // Paid tokens must not wait behind a night's broadcasts; one job credits hundreds of orders a second.
        reserved_slots: 1,
        priority: 30,
        timeout_secs: 120,
        max_crashes: None,
    };
}
