//! What is wrong with a broadcast (pure).
//!
//! Why it exists: the command line, the API and a row written by a frontend's SQL are all refused in the same words,
//! each with an id that never changes, the field and what to do.
//!
//! It must never quote a customer's data.

use std::fmt;

use crate::channel::InvalidContent;

/// One reason why a broadcast cannot be made or planned.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// A stable name for programs, such as `price_missing`.
    pub id: &'static str,
    /// The field, such as `channels[1]` or `content.button.url`.
    pub field: String,
    /// What is wrong and what to do; reads on from the field's name.
    pub problem: String,
}

impl Problem {
    /// One problem of one field.
    pub fn new(id: &'static str, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            id,
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.id, self.field, self.problem)
    }
}

/// Everything wrong with a broadcast at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` when there is none.
    ///
    /// # Errors
    /// All of them.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Adds everything wrong with a message, each under `content.`.
    pub fn add_content(&mut self, invalid: &InvalidContent) {
        self.0.extend(invalid.0.iter().map(|one| {
            let field = match one.field {
                "content" => "content".to_owned(),
                inner => format!("content.{inner}"),
            };
            Problem::new("content_invalid", field, one.problem.clone())
        }));
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}
