//! Phone numbers in a text (pure).
//!
//! Why it exists: shops want to call back whoever leaves a number.
//!
//! It must never find one inside a longer row of digits.

/// A phone number found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phone {
    /// As it was written.
    pub raw: String,
    /// In one form.
    pub normalised: String,
}

/// The phone numbers in a text, in its order.
#[must_use]
pub fn find(text: &str) -> Vec<Phone> {
    text.split(|c: char| !c.is_ascii_digit() && c != '-')
        .filter_map(|raw| {
            let normalised: String = raw.chars().filter(char::is_ascii_digit).collect();
            (normalised.len() == 10 && normalised.starts_with("09")).then(|| Phone {
                raw: raw.to_owned(),
                normalised,
            })
        })
        .collect()
}
