//! The envelope sender of one mail: it names the delivery, and only we can have made it (pure).
//!
//! Why it exists: a bounce goes to the envelope sender and may carry nothing else that can be believed. Anybody can write a mail
//! that looks like a bounce, so the delivery's mark stands there with a keyed hash: `bounce+MARK-TAG@shop.example`.
//!
//! Letters and digits in small letters only: mail servers on the way change the case. It must never believe a mark whose hash
//! does not fit, and never make a local part longer than the 64 bytes that every server takes.

use carillon_jobs::{BroadcastId, CustomerId};
use ring::hmac;
use uuid::Uuid;

use super::DeliveryMark;

/// What stands between the mailbox and the mark; mail servers call it the recipient delimiter.
const DELIMITER: char = '+';
/// Bytes of a local part that every server takes (RFC 5321).
const LOCAL_PART_BYTES: usize = 64;
const TAG_BYTES: usize = 8;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Makes and reads return paths of one sender.
#[derive(Clone)]
pub struct ReturnPathKey(hmac::Key);

impl std::fmt::Debug for ReturnPathKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReturnPathKey")
    }
}

impl ReturnPathKey {
    /// The key of a sender, from its `bounce_secret`.
    #[must_use]
    pub fn new(bounce_secret: &str) -> Self {
        // Another key than the one that signs the webhook itself, from the same secret.
        let secret = hmac::Key::new(hmac::HMAC_SHA256, bounce_secret.as_bytes());
        let derived = hmac::sign(&secret, b"carillon return path");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The return path of a delivery, in the mailbox `base` (`bounce@shop.example`). `None` where that has so long a name that
    /// the mark finds no room beside it (10 bytes always fit): send from `base` itself then.
    #[must_use]
    pub fn address(&self, mark: DeliveryMark, base: &str) -> Option<String> {
        let (mailbox, domain) = base.rsplit_once('@')?;
        let marked = format!("{}.{}", base36(mark.broadcast.0.as_u128()), customer(mark));
        let local = format!("{mailbox}{DELIMITER}{marked}.{}", self.tag(mark));
        (!mailbox.is_empty() && local.len() <= LOCAL_PART_BYTES).then(|| format!("{local}@{domain}"))
    }

    /// The delivery an address names, if we made it.
    #[must_use]
    pub fn read(&self, address: &str) -> Option<DeliveryMark> {
        let address = address.trim().trim_start_matches('<').trim_end_matches('>');
        let local = address.rsplit_once('@')?.0.to_ascii_lowercase();
        let mut parts = local.rsplit_once(DELIMITER)?.1.split('.');
        let (broadcast, customer, tag) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let mark = DeliveryMark {
            broadcast: BroadcastId(Uuid::from_u128(from_base36(broadcast)?)),
            customer: CustomerId(from_base36(customer)?.try_into().ok()?),
        };
        // Two tags through the key once more, so that the time says nothing about where they differ.
        let ours = hmac::sign(&self.0, self.tag(mark).as_bytes());
        hmac::verify(&self.0, tag.as_bytes(), ours.as_ref()).ok().map(|()| mark)
    }

    fn tag(&self, mark: DeliveryMark) -> String {
        let whole = hmac::sign(&self.0, mark.to_string().as_bytes());
        let first = whole.as_ref().first_chunk::<TAG_BYTES>();
        base36(first.map_or(0, |bytes| u64::from_be_bytes(*bytes)).into())
    }
}

/// Customer ids are counted up from 1; one below nothing never fits the hash when it is read.
fn customer(mark: DeliveryMark) -> String {
    base36(u64::try_from(mark.customer.0).unwrap_or_default().into())
}

fn base36(mut number: u128) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = usize::try_from(number % 36).unwrap_or_default();
        digits.push(DIGITS.get(digit).copied().map_or('0', char::from));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

fn from_base36(digits: &str) -> Option<u128> {
    if digits.is_empty() || digits.starts_with('+') {
        return None;
    }
    u128::from_str_radix(digits, 36).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn mark(broadcast: u128, customer: i64) -> DeliveryMark {
        DeliveryMark {
            broadcast: BroadcastId(Uuid::from_u128(broadcast)),
            customer: CustomerId(customer),
        }
    }

    proptest! {
        #[test]
        fn a_return_path_reads_back_its_delivery_whatever_the_case(broadcast: u128, customer in 0..=i64::MAX) {
            let key = ReturnPathKey::new("0123456789abcdef");
            let address = key.address(mark(broadcast, customer), "bounces@shop.example").unwrap();
            prop_assert!(address.rsplit_once('@').unwrap().0.len() <= 64);
            prop_assert_eq!(key.read(&address), Some(mark(broadcast, customer)));
            prop_assert_eq!(key.read(&format!("<{}>", address.to_uppercase())), Some(mark(broadcast, customer)));
            prop_assert_eq!(ReturnPathKey::new("another secret!!").read(&address), None);
        }

        #[test]
        fn whoever_changes_a_mark_is_not_believed(broadcast: u128, customer in 1..=i64::MAX, other in 1..=i64::MAX) {
            prop_assume!(customer != other);
            let key = ReturnPathKey::new("0123456789abcdef");
            let address = key.address(mark(broadcast, customer), "b@s.tw").unwrap();
            let forged = address.replace(
                &format!(".{}.", super::customer(mark(0, customer))),
                &format!(".{}.", super::customer(mark(0, other))),
            );
            prop_assert_eq!(key.read(&forged), None);
        }

        #[test]
        fn any_other_text_names_no_delivery(text in "\\PC{0,120}") {
            prop_assert_eq!(ReturnPathKey::new("0123456789abcdef").read(&text), None);
        }
    }

    #[test]
    fn a_return_path_is_pinned_because_it_comes_back_days_later() {
        let key = ReturnPathKey::new("0123456789abcdef");
        let address = key.address(mark(1, 7), "b@shop.example").unwrap();
        assert_eq!(address, "b+1.7.23pkrd6696rm8@shop.example");
        assert_eq!(
            key.address(mark(u128::MAX, i64::MAX), "a-long-mailbox@shop.example"),
            None
        );
        assert_eq!(key.address(mark(1, 7), "@shop.example"), None);
    }
}
