//! What a handler is given and what it says when it ends.

use std::time::Duration;

use carillon_jobs::TraceParent;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::Lease;

/// How a turn of a job ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The job is finished and forgotten.
    Done,
    /// There is more to do: to the tail of the ready list. Not an attempt; its counts start anew.
    Again,
    /// Nothing to do before this time. Not an attempt.
    Snooze {
        /// When to run next.
        until: DateTime<Utc>,
    },
    /// Nothing to do for this long. Not an attempt. Counted by Redis' clock: a process whose own is wrong would otherwise
    /// come back at once, again and again, or hours later.
    SnoozeFor {
        /// How long to wait.
        wait: std::time::Duration,
    },
    /// Back to the head of the list, as if it had not been claimed: the process is stopping.
    GiveBack,
}

/// How an attempt failed. The text is kept with the job and shown to people: no personal data, no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Try again, until the attempts are exhausted.
    #[error("{error}")]
    Retry {
        /// What failed.
        error: String,
        /// The least time to wait, if somebody (a provider's Retry-After) named one.
        after: Option<Duration>,
    },
    /// No attempt can succeed.
    #[error("{error}")]
    Dead {
        /// Why.
        error: String,
    },
}

impl JobError {
    /// An error worth another attempt.
    pub fn retry(error: impl Into<String>) -> Self {
        Self::Retry {
            error: error.into(),
            after: None,
        }
    }

    /// An error no attempt can mend.
    pub fn dead(error: impl Into<String>) -> Self {
        Self::Dead { error: error.into() }
    }
}

/// What a handler knows about the job it runs.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// The producer's id of the job, or the one it was given.
    pub id: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The hold on the job; looked at before every side effect.
    pub lease: Lease,
    /// Cancelled when the process is shutting down: finish the current slice and return.
    pub stop: CancellationToken,
    /// The producer's W3C trace context.
    pub traceparent: Option<TraceParent>,
}
