//! Whether Redis answers, told once when it stops and once when it is back.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::RedisError;

use super::error::describe;

#[derive(Debug)]
enum State {
    Up { since: Option<Instant> },
    Down { since: Instant },
}

/// The state of the connection as the loops have found it.
#[derive(Debug)]
pub(crate) struct Availability(Mutex<State>);

impl Availability {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::Up { since: None }))
    }

    /// Takes note of an answer or of its absence.
    pub(crate) fn note<T>(&self, result: &Result<T, RedisError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*state, result) {
            (State::Up { .. }, Err(error)) => {
                *state = State::Down { since: Instant::now() };
                tracing::warn!(
                    error = describe(error),
                    "Redis does not answer; work goes on when it does"
                );
            }
            (State::Down { since }, Ok(_)) => {
                let away_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                *state = State::Up {
                    since: Some(Instant::now()),
                };
                tracing::info!(away_ms, "Redis answers again");
            }
            (State::Up { .. }, Ok(_)) | (State::Down { .. }, Err(_)) => {}
        }
    }

    /// Whether Redis has been back for less than `grace`.
    ///
    /// While it was away nobody could renew, so every lease looks abandoned; the living get this long to say that they
    /// live before anybody's work is taken from them and counted as a crash.
    pub(crate) fn is_fresh(&self, grace: Duration) -> bool {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Up { since: Some(since) } => since.elapsed() < grace,
            State::Up { since: None } => false,
            State::Down { .. } => true,
        }
    }
}
