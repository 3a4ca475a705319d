//! The connections of one email sender: never more than configured, handed out one message at a time.
//!
//! A message that finds no free connection waits. A connection is either in a task's hands or in the list; one whose
//! task was dropped is closed by that, and so can never be handed out again.

use std::sync::{Mutex, PoisonError};

use lettre::Address;
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant, timeout_at},
};

use super::connection::{Carried, Connection, Relay, Trouble};
use crate::channel::outcome::{ErrorClass, Refusal, SendOutcome};

/// The pool of one sender.
pub(super) struct Pool {
    relay: Relay,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
    idle_limit: Duration,
    carry_limit: u32,
}

impl Pool {
    pub(super) fn new(relay: Relay, size: usize, idle_limit: Duration, carry_limit: u32) -> Self {
        Self {
            relay,
            permits: Semaphore::new(size),
            idle: Mutex::default(),
            idle_limit,
            carry_limit,
        }
    }

    /// Sends one message over an idle connection or a new one.
    pub(super) async fn send(&self, from: &Address, to: &Address, mail: &str) -> SendOutcome {
        let prepare_until = Instant::now() + self.relay.deadlines.prepare;
        let Ok(Ok(_permit)) = timeout_at(prepare_until, self.permits.acquire()).await else {
            // The semaphore is never closed, so this is the time-out: the relay is slower than what it is given.
            return Refusal::new(ErrorClass::Throttled, "connections_busy").into();
        };
        let (outcome, connection) = match self.carry(from, to, mail, prepare_until).await {
            Ok(carried) => carried,
            Err(refusal) => return refusal.into(),
        };
        if let Some(mut connection) = connection
            && connection.carried < self.carry_limit
        {
            connection.idle_since = Instant::now();
            // Before the permit goes, so that idle and busy together stay within the limit.
            self.idle().push(connection);
        }
        outcome
    }

    async fn carry(
        &self,
        from: &Address,
        to: &Address,
        mail: &str,
        prepare_until: Instant,
    ) -> Result<Carried, Refusal> {
        if let Some(connection) = self.fresh_idle() {
            match connection.carry(from, to, mail, prepare_until).await {
                Ok(carried) => return Ok(carried),
                Err(Trouble::Final(carried)) => return Ok(*carried),
                // The server closed it while it was idle; the message has not begun, so a new one may carry it.
                Err(Trouble::Stale(_)) => {}
            }
        }
        let connection = match timeout_at(prepare_until, self.relay.connect()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(Refusal::new(ErrorClass::Unreachable, "connect_timeout")),
        };
        match connection.carry(from, to, mail, prepare_until).await {
            Ok(carried) => Ok(carried),
            Err(Trouble::Final(carried)) => Ok(*carried),
            Err(Trouble::Stale(refusal)) => Err(refusal),
        }
    }

    /// The connection used last, if it has not been idle for too long: the others may then run out.
    fn fresh_idle(&self) -> Option<Connection> {
        let connection = self.idle().pop()?;
        (connection.idle_since.elapsed() < self.idle_limit).then_some(connection)
    }

    /// Takes out the connections that have been idle for too long.
    pub(super) fn expired(&self, now: Instant) -> Vec<Connection> {
        let mut idle = self.idle();
        let (expired, kept) = idle
            .drain(..)
            .partition(|connection| now.duration_since(connection.idle_since) >= self.idle_limit);
        *idle = kept;
        expired
    }

    /// Whether nothing is parked here.
    pub(super) fn is_empty(&self) -> bool {
        self.idle().is_empty()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
