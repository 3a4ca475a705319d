//! What the frontends of a run know: facts that Postgres has confirmed to them, and what they are about to ask for. At the
//! end the rows are held against it, so that something confirmed and then forgotten is noticed.
//! It must never be filled from the rows it judges.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// A kind of fact; each is about a row, named by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// This broadcast has been started.
    Begun,
    /// This shop has been opened.
    Opened,
    /// This top-up order has been placed.
    Ordered,
    /// This order is about to be reported as paid, or has been.
    MayBePaid,
    /// This order has been reported as paid, and that was answered.
    Paid,
    /// This period of a schedule has come due, as `schedule period`.
    CameDue,
}

/// All facts of a run.
#[derive(Debug, Default)]
pub struct Notes(Mutex<BTreeSet<(Fact, String)>>);

impl Notes {
    /// Notes a fact.
    pub fn add(&self, fact: Fact, of: &impl ToString) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert((fact, of.to_string()));
    }

    /// Whom it is noted of.
    pub fn all(&self, fact: Fact) -> BTreeSet<String> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = notes.iter().filter(|(kind, _)| *kind == fact);
        of_kind.map(|(_, of)| of.clone()).collect()
    }
}
