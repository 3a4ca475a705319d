//! The states of a broadcast and the moves between them (pure).
//!
//! Why it exists: the one table a reader needs to know what may happen to a broadcast. The database enforces the same
//! table (`broadcast_may_move`); a test compares the two pair by pair.
//!
//! It must never allow a move the database refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a broadcast is. Stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum BroadcastState {
    /// Being written.
    Draft,
    /// Waits for its time.
    Scheduled,
    /// Waits for planning.
    Queued,
    /// Its deliveries are being written; nothing is held and nothing can leave.
    Planning,
    /// Its tokens are held and its lanes are open.
    Sending,
    /// Sending has ended; receipts may still arrive.
    Completed,
    /// A person holds it; it goes on where it was.
    Paused,
    /// Waits for an operator to clear its text.
    ComplianceReview,
    /// A person ended it.
    Cancelled,
    /// It could not be planned; the reason says why. Nothing left.
    Failed,
}

impl BroadcastState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Draft,
        Self::Scheduled,
        Self::Queued,
        Self::Planning,
        Self::Sending,
        Self::Completed,
        Self::Paused,
        Self::ComplianceReview,
        Self::Cancelled,
        Self::Failed,
    ];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Sending => "sending",
            Self::Completed => "completed",
            Self::Paused => "paused",
            Self::ComplianceReview => "compliance_review",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// The states this one may turn into.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Draft => &[Self::Scheduled, Self::Queued, Self::Cancelled],
            Self::Scheduled => &[Self::Queued, Self::Paused, Self::Cancelled, Self::Draft],
            Self::Queued => &[
                Self::Planning,
                Self::ComplianceReview,
                Self::Paused,
                Self::Cancelled,
                Self::Failed,
            ],
            Self::ComplianceReview => &[Self::Queued, Self::Cancelled, Self::Failed],
            Self::Planning => &[
                Self::Sending,
                Self::Completed,
                Self::Paused,
                Self::Cancelled,
                Self::Failed,
            ],
            Self::Sending => &[Self::Completed, Self::Paused, Self::Cancelled],
            Self::Paused => &[
                Self::Scheduled,
                Self::Queued,
                Self::Planning,
                Self::Sending,
                Self::Completed,
                Self::Cancelled,
            ],
            Self::Completed | Self::Cancelled | Self::Failed => &[],
        }
    }

    /// Whether this state may turn into that one.
    #[must_use]
    pub fn may_move(self, to: Self) -> bool {
        self.next().contains(&to)
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.next().is_empty()
    }
}

impl fmt::Display for BroadcastState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::BroadcastState;

    #[test]
    fn only_the_three_ends_are_final() {
        let ends = BroadcastState::ALL.into_iter().filter(|state| state.is_final());
        assert_eq!(
            ends.collect::<Vec<_>>(),
            [
                BroadcastState::Completed,
                BroadcastState::Cancelled,
                BroadcastState::Failed
            ]
        );
    }

    #[test]
    fn no_state_moves_to_itself() {
        assert!(BroadcastState::ALL.into_iter().all(|state| !state.may_move(state)));
    }

    #[test]
    fn json_and_sql_use_one_name() {
        for state in BroadcastState::ALL {
            assert_eq!(
                serde_json::to_string(&state).unwrap_or_default(),
                format!("\"{state}\"")
            );
        }
    }
}
