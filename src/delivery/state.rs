//! The states of a delivery and the moves between them (pure).
//!
//! ```text
//! queued → sending → accepted → delivered → read
//!     │        ├───→ failed        (a receipt may also move accepted, delivered and read to failed: its last word)
//!     │        └───→ unknown ────→ accepted, delivered, read, failed   (by proof from the provider)
//!     └→ skipped, cancelled, expired
//! ```
//! `queued` and `sending` are facts about the slice; everything else is a row of `delivery_result`. Postgres holds the
//! same table in `delivery_may_move`; a test compares them.

use serde::{Deserialize, Serialize};

/// Where one message to one customer on one channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "delivery_state", rename_all = "snake_case")]
pub enum DeliveryState {
    /// Planned, not begun.
    Queued,
    /// Begun: the intent is committed, the outcome is not.
    Sending,
    /// The provider has it. Charged.
    Accepted,
    /// The provider says it arrived.
    Delivered,
    /// The customer opened it.
    Read,
    /// The provider refused it, at once or later.
    Failed,
    /// Not begun: the customer may no longer be sent to.
    Skipped,
    /// Not begun: the broadcast was cancelled.
    Cancelled,
    /// Not begun: the broadcast's deadline passed.
    Expired,
    /// The provider may or may not have it. Not charged.
    Unknown,
}

impl DeliveryState {
    /// Every state, in the order of the type in Postgres.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Sending,
        Self::Accepted,
        Self::Delivered,
        Self::Read,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
        Self::Expired,
        Self::Unknown,
    ];

    /// The name in SQL, JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing more is sent for this delivery. Receipts may still change it.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Sending)
    }

    /// Whether a message in this state may carry a charge.
    #[must_use]
    pub const fn may_be_charged(self) -> bool {
        matches!(self, Self::Accepted | Self::Delivered | Self::Read)
    }

    /// Whether a stored result may be changed from this state to `to`. Staying is no move.
    #[must_use]
    pub const fn may_move(self, to: Self) -> bool {
        match self {
            Self::Accepted => matches!(to, Self::Delivered | Self::Read | Self::Failed),
            Self::Delivered => matches!(to, Self::Read | Self::Failed),
            Self::Read => matches!(to, Self::Failed),
            Self::Unknown => matches!(to, Self::Accepted | Self::Delivered | Self::Read | Self::Failed),
            Self::Queued | Self::Sending | Self::Failed | Self::Skipped | Self::Cancelled | Self::Expired => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::DeliveryState;

    fn any_state() -> impl Strategy<Value = DeliveryState> {
        prop::sample::select(&DeliveryState::ALL[..])
    }

    proptest! {
        /// Whatever receipts arrive in whatever order, a stored result never becomes unsent or unknown again, and it
        /// comes to rest.
        #[test]
        fn results_only_move_forward(start in any_state(), wanted in prop::collection::vec(any_state(), 0..40)) {
            let mut state = start;
            let mut moves = 0;
            for to in wanted {
                if state.may_move(to) {
                    prop_assert!(state.has_ended());
                    prop_assert!(to.has_ended());
                    prop_assert_ne!(to, DeliveryState::Unknown);
                    prop_assert_ne!(to, state);
                    state = to;
                    moves += 1;
                }
            }
            prop_assert!(moves <= 4);
        }

        /// What was decided before anything was sent stays decided.
        #[test]
        fn an_unsent_end_is_final(to in any_state()) {
            for state in [DeliveryState::Skipped, DeliveryState::Cancelled, DeliveryState::Expired] {
                prop_assert!(!state.may_move(to));
                prop_assert!(!state.may_be_charged());
            }
        }
    }
}
