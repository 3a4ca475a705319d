//! Which delivery a message is, written into it and read back from what the provider tells us later (pure).
//!
//! Why it exists: where a provider knows no idempotency key, an echo or a receipt that carries the mark is the only proof that
//! an interrupted send arrived. A key is a hash and cannot be read back; a mark can.
//!
//! It must never hold personal data: it travels to the provider and back.

use std::{fmt, str::FromStr};

use carillon_jobs::{BroadcastId, CustomerId};
use uuid::Uuid;

/// Broadcast and customer; with the channel of the sender it came over, one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryMark {
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// The customer.
    pub customer: CustomerId,
}

impl fmt::Display for DeliveryMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "carillon.{}.{}", self.broadcast.0.simple(), self.customer.0)
    }
}

/// A text that is no mark of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a delivery mark")]
pub struct NoMark;

impl FromStr for DeliveryMark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (broadcast, customer) = text
            .strip_prefix("carillon.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or(NoMark)?;
        // Exactly what `Display` writes: a mark is compared as text elsewhere.
        let mark = Self {
            broadcast: BroadcastId(Uuid::try_parse(broadcast).map_err(|_| NoMark)?),
            customer: CustomerId(customer.parse().map_err(|_| NoMark)?),
        };
        if mark.to_string() == text {
            Ok(mark)
        } else {
            Err(NoMark)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_reads_back_what_it_prints(broadcast: u128, customer: i64) {
            let mark = DeliveryMark { broadcast: BroadcastId(Uuid::from_u128(broadcast)), customer: CustomerId(customer) };
            prop_assert_eq!(mark.to_string().parse(), Ok(mark));
        }

        #[test]
        fn any_other_text_is_no_mark(text in "\\PC{0,80}") {
            if let Ok(mark) = text.parse::<DeliveryMark>() {
                prop_assert_eq!(mark.to_string(), text);
            }
        }
    }

    #[test]
    fn a_mark_is_pinned_because_it_comes_back_weeks_later() {
        let mark = DeliveryMark {
            broadcast: BroadcastId(Uuid::from_u128(1)),
            customer: CustomerId(7),
        };
        assert_eq!(mark.to_string(), "carillon.00000000000000000000000000000001.7");
        assert_eq!(
            "carillon.00000000-0000-0000-0000-000000000001.7".parse::<DeliveryMark>(),
            Err(NoMark)
        );
    }
}
