//! Idempotency keys, derived from what is sent and never random (pure).
//!
//! Why it exists: after a crash the same work must produce the same key without anything having been written down,
//! so that LINE answers "already accepted" instead of sending twice.
//!
//! It must never change: another namespace or another order of the parts would repeat every interrupted send.

use carillon_jobs::{BroadcastId, CustomerId};
use uuid::Uuid;

use super::Channel;

/// Our namespace for UUIDv5. Any fixed value of our own does; it is part of the stored contract.
const NAMESPACE: Uuid = Uuid::from_u128(0x6361_7269_6c6c_4f6e_9a1d_2c5e_0b7f_4413);

/// The key of one message of a broadcast to one customer on one channel.
#[must_use]
pub fn delivery_key(broadcast: BroadcastId, channel: Channel, customer: CustomerId) -> Uuid {
    derive(b'd', broadcast, channel, customer.0)
}

/// The key of one multicast: intent `intent_no` of slice `slice_no` of a broadcast on one channel. Another membership
/// is another intent, so one key never stands for two bodies.
#[must_use]
pub fn slice_key(broadcast: BroadcastId, channel: Channel, slice_no: i32, intent_no: i32) -> Uuid {
    derive(
        b's',
        broadcast,
        channel,
        (i64::from(slice_no) << 32) | i64::from(intent_no),
    )
}

/// The leading letter keeps customer 7 and slice 7 apart.
fn derive(subject: u8, broadcast: BroadcastId, channel: Channel, number: i64) -> Uuid {
    let mut name = Vec::with_capacity(40);
    name.push(subject);
    name.extend_from_slice(broadcast.0.as_bytes());
    name.extend_from_slice(&number.to_be_bytes());
    name.extend_from_slice(channel.as_str().as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pinned_because_a_changed_key_sends_twice() {
        let broadcast = BroadcastId(Uuid::from_u128(1));
        let key = delivery_key(broadcast, Channel::Line, CustomerId(7));
        assert_eq!(key.to_string(), "16a9d997-ed2b-5911-8c31-ff406c975d41");
        let key = slice_key(broadcast, Channel::Line, 0, 7);
        assert_eq!(key.to_string(), "22280bd3-3205-56b3-b4ca-c529038c829a");
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let one = BroadcastId(Uuid::from_u128(1));
        let two = BroadcastId(Uuid::from_u128(2));
        let keys = std::collections::HashSet::from([
            delivery_key(one, Channel::Line, CustomerId(7)),
            delivery_key(two, Channel::Line, CustomerId(7)),
            delivery_key(one, Channel::App, CustomerId(7)),
            delivery_key(one, Channel::Line, CustomerId(8)),
            slice_key(one, Channel::Line, 0, 7),
        ]);
        assert_eq!(keys.len(), 5);
    }
}
