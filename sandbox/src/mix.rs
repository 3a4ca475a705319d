//! Numbers that look random and are not: every draw is a pure function of the seed and of how many draws came before.
//! It exists so that a run with the same seed meets the same faults without a lock or a shared generator on the hot path.
//! It must never be used for anything that has to be secret.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `value`.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 64-bit fingerprint that is the same in every process.
pub(crate) fn fingerprint<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The upper half of [`fingerprint`], where 32 bits are enough.
pub(crate) fn short_fingerprint<T: Hash + ?Sized>(value: &T) -> u32 {
    u32::try_from(fingerprint(value) >> 32).unwrap_or(0)
}

/// Appends `value` as 16 lowercase hexadecimal digits.
pub(crate) fn push_hex(out: &mut String, value: u64) {
    for shift in (0..16).rev() {
        let digit = u32::try_from((value >> (shift * 4)) & 0xf).unwrap_or(0);
        out.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// A repeatable sequence of draws, shared by many tasks without a lock.
pub(crate) struct Draws {
    seed: u64,
    drawn: AtomicU64,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed: mix(seed),
            drawn: AtomicU64::new(0),
        }
    }

    /// The next draw, uniform over all 64-bit values.
    pub(crate) fn bits(&self) -> u64 {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed);
        mix(self.seed ^ mix(n))
    }

    /// The next draw, uniform in `0.0..1.0`.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit a double exactly.
    pub(crate) fn unit(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
