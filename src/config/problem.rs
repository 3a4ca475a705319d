//! What is wrong with a configuration, said so that the reader can put it right without opening a manual.
//!
//! A problem never carries the value of a secret key.

use std::{fmt, ops::RangeInclusive};

use super::document::Origin;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted, or the name of a file or variable that could not be read.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// Every mistake of a configuration, found in one go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(
            f,
            "the configuration has {count} mistake{}:",
            if count == 1 { "" } else { "s" }
        )?;
        for Problem { key, origin, what, fix } in &self.0 {
            writeln!(f, "  {key} ({origin}): {what}")?;
            writeln!(f, "      {fix}")?;
        }
        write!(
            f,
            "Every key and its default: config/default.toml. Nothing was started."
        )
    }
}

/// Takes the mistakes of one section; the section's name is added to its keys.
pub struct Report<'a> {
    pub(super) section: &'a str,
    pub(super) origin_of: &'a dyn Fn(&str) -> Origin,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("section", &self.section)
            .finish_non_exhaustive()
    }
}

impl Report<'_> {
    /// Reports a key of this section (dotted below the section). `what` and `fix` must not hold a secret.
    pub fn wrong(&mut self, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        let key = format!("{}.{key}", self.section);
        let origin = (self.origin_of)(&key);
        self.problems.push(Problem {
            key,
            origin,
            what: what.into(),
            fix: fix.into(),
        });
    }

    /// Reports sentences that begin with the key, `section.key is 0: use 1 to 5`.
    pub fn sentences(&mut self, problems: Vec<String>) {
        for problem in problems {
            let (key, what) = problem.split_once(' ').unwrap_or((&problem, "cannot work"));
            let key = key
                .strip_prefix(self.section)
                .and_then(|key| key.strip_prefix('.'))
                .unwrap_or(key);
            let (what, fix) = what.split_once(": ").unwrap_or((what, "change it"));
            self.wrong(key, what, fix);
        }
    }

    /// Reports a number outside of its range.
    pub fn range<T: PartialOrd + fmt::Display + Copy>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.wrong(
                key,
                format!("{value} is out of range"),
                format!("choose a number from {low} to {high}"),
            );
        }
    }

    /// Reports a text that must be one of a few words.
    pub fn one_of(&mut self, key: &str, value: &str, words: &[&str]) {
        if !words.contains(&value) {
            self.wrong(
                key,
                format!("\"{value}\" is not known"),
                format!("choose one of: {}", words.join(", ")),
            );
        }
    }

    /// Reports a text that is empty though it is needed. `fix` says where to set it.
    pub fn required(&mut self, key: &str, value: &str, fix: &str) {
        if value.trim().is_empty() {
            self.wrong(key, "is empty", fix);
        }
    }

    /// Reports a text that is not an address of one of these schemes. The text itself is not shown: it may hold a password.
    pub fn url(&mut self, key: &str, value: &str, schemes: &[&str]) {
        let fits = url::Url::parse(value).is_ok_and(|url| schemes.contains(&url.scheme()));
        if !fits {
            let shapes: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://…")).collect();
            self.wrong(
                key,
                "is not an address of the right shape",
                format!("write it as {}", shapes.join(" or ")),
            );
        }
    }
}
