//! The states of a top-up order and the moves between them (pure).
//!
//! Why it exists: the one table a reader needs to know what may happen to an order. The database enforces the same table
//! (`top_up_may_move`); a test compares the two pair by pair.
//!
//! It must never allow a move the database refuses, and never one from unpaid to settled.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where an order is. Stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TopUpState {
    /// Waits for its payment.
    Requested,
    /// Paid; its tokens come at the time the charge has earned.
    Charged,
    /// Its tokens were credited.
    Settled,
    /// Not paid. A payment that arrives all the same still brings the tokens: reports may come in any order.
    Failed,
    /// Given back.
    Refunded,
}

/// Not a state's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a top-up order is requested, charged, settled, failed or refunded")]
pub struct NoTopUpState;

impl TopUpState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Requested,
        Self::Charged,
        Self::Settled,
        Self::Failed,
        Self::Refunded,
    ];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Charged => "charged",
            Self::Settled => "settled",
            Self::Failed => "failed",
            Self::Refunded => "refunded",
        }
    }

    /// The states this one may turn into.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Requested => &[Self::Charged, Self::Failed],
            Self::Failed => &[Self::Charged],
            Self::Charged => &[Self::Settled, Self::Refunded],
            Self::Settled => &[Self::Refunded],
            Self::Refunded => &[],
        }
    }

    /// Whether this state may turn into that one.
    #[must_use]
    pub fn may_move(self, to: Self) -> bool {
        self.next().contains(&to)
    }
}

impl fmt::Display for TopUpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TopUpState {
    type Err = NoTopUpState;

    fn from_str(name: &str) -> Result<Self, NoTopUpState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or(NoTopUpState)
    }
}

#[cfg(test)]
mod tests {
    use super::{NoTopUpState, TopUpState};

    #[test]
    fn only_who_has_paid_is_settled_and_a_refund_is_the_end() {
        let before = TopUpState::ALL
            .into_iter()
            .filter(|from| from.may_move(TopUpState::Settled));
        assert_eq!(before.collect::<Vec<_>>(), [TopUpState::Charged]);
        let ends = TopUpState::ALL.into_iter().filter(|state| state.next().is_empty());
        assert_eq!(ends.collect::<Vec<_>>(), [TopUpState::Refunded]);
        assert!(TopUpState::ALL.into_iter().all(|state| !state.may_move(state)));
    }

    #[test]
    fn json_and_sql_use_one_name() {
        for state in TopUpState::ALL {
            assert_eq!(
                serde_json::to_string(&state).unwrap_or_default(),
                format!("\"{state}\"")
            );
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("paid".parse::<TopUpState>(), Err(NoTopUpState));
    }
}
