//! How many parts a text message is sent in (pure).
//!
//! Why it exists: carriers count, and charge for, parts: 160 characters of the GSM-7 alphabet or 70 others in one message, 153 or 67
//! in each part of a longer one. One character outside the alphabet makes all of them count as 16 bits.
//!
//! It must never cut a character in two: an extension character (two units of GSM-7) and a surrogate pair (two of UTF-16) that do not
//! fit whole into a part go into the next one, and leave a unit empty.

use serde::Serialize;

use super::gsm7;

/// How a text is written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alphabet {
    /// Seven bits a character, fourteen for extension characters.
    Gsm7,
    /// UTF-16.
    Ucs2,
}

/// What a text takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segments {
    /// How it is written.
    pub alphabet: Alphabet,
    /// Units of that alphabet, without those left empty at the end of a part.
    pub units: usize,
    /// Parts; none for an empty text.
    pub parts: usize,
    /// Units that the last part still takes.
    pub left: usize,
}

impl Segments {
    /// Counts.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if gsm7::first_outside(text).is_none() {
            let width = |c| if gsm7::is_extension(c) { 2 } else { 1 };
            Self::count(Alphabet::Gsm7, text.chars().map(width), 160, 153)
        } else {
            Self::count(Alphabet::Ucs2, text.chars().map(char::len_utf16), 70, 67)
        }
    }

    fn count(alphabet: Alphabet, widths: impl Iterator<Item = usize> + Clone, alone: usize, part: usize) -> Self {
        let units = widths.clone().sum();
        if units <= alone {
            let parts = usize::from(units > 0);
            let left = alone - units;
            return Self {
                alphabet,
                units,
                parts,
                left,
            };
        }
        let (mut parts, mut used) = (1, 0);
        for width in widths {
            if used + width > part {
                parts += 1;
                used = 0;
            }
            used += width;
        }
        Self {
            alphabet,
            units,
            parts,
            left: part.saturating_sub(used),
        }
    }
}

#[cfg(test)]
mod tests;
