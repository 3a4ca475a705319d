//! Faults on demand: rules that make the sandbox misbehave like a real provider on a bad day.
//! It exists so that a test or a benchmark can ask for one exact failure, or for a repeatable mix of many.
//! It must never touch a request when no rule is set (one atomic read), and never mask a strictness error: rules are
//! asked only after a request was found valid.

mod rule;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::channel::Channel;
use crate::mix::{Draws, mix};

pub use crate::faults::rule::{BadFault, Fault, FaultKind, FaultStatus};

/// What the rules decided for one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hit {
    pub(crate) kind: Option<FaultKind>,
    pub(crate) delay: Duration,
    pub(crate) retry_after_secs: Option<u64>,
    pub(crate) code: u16,
    pub(crate) message: Option<Arc<str>>,
}

impl Hit {
    /// The fault, when it stops the message from being accepted.
    pub(crate) fn before(&self) -> Option<FaultKind> {
        self.kind.filter(|kind| !kind.accepts())
    }
}

struct Rule {
    id: u64,
    fault: Fault,
    recipients: Option<HashSet<String>>,
    met: Mutex<HashSet<String>>,
    message: Option<Arc<str>>,
    draws: Draws,
    left: AtomicU64,
    hits: AtomicU64,
}

impl Rule {
    fn applies(&self, point: &str) -> bool {
        match self
            .fault
            .at
            .as_deref()
            .or(self.fault.fault.default_point(self.fault.channel))
        {
            Some(at) => at == point,
            None => matches!(point, "push" | "multicast" | "reply"),
        }
    }

    /// Whether it is set for one of those a request is for.
    fn is_for<'s>(&'s self, one_of: impl Fn(&'s HashSet<String>) -> Option<&'s String>) -> bool {
        let Some(set) = &self.recipients else {
            return true;
        };
        let Some(recipient) = one_of(set) else {
            return false;
        };
        !self.fault.once_each || {
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            met.insert(recipient.clone())
        }
    }

    /// Takes one hit from the rule, if chance and count allow.
    fn strike(&self) -> bool {
        if self.fault.probability < 1.0 && self.draws.unit() >= self.fault.probability {
            return false;
        }
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
        if taken {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

/// All rules.
pub(crate) struct Faults {
    seed: u64,
    any: AtomicBool,
    next_id: AtomicU64,
    rules: RwLock<Arc<Vec<Arc<Rule>>>>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            any: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            rules: RwLock::default(),
        }
    }

    pub(crate) fn set(&self, fault: Fault) -> Result<u64, BadFault> {
        fault.check()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let rule = Arc::new(Rule {
            id,
            recipients: fault.recipients.as_ref().map(|all| all.iter().cloned().collect()),
            met: Mutex::default(),
            message: fault.message.as_deref().map(Arc::from),
            draws: Draws::new(mix(self.seed).wrapping_add(id)),
            left: AtomicU64::new(fault.count.unwrap_or(u64::MAX)),
            hits: AtomicU64::new(0),
            fault,
        });
        self.change(|rules| rules.push(rule));
        Ok(id)
    }

    pub(crate) fn clear(&self, id: Option<u64>) {
        self.change(|rules| rules.retain(|rule| id.is_some_and(|id| id != rule.id)));
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Rule>>)) {
        let mut guard = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut rules = guard.as_ref().clone();
        edit(&mut rules);
        self.any.store(!rules.is_empty(), Ordering::Release);
        *guard = Arc::new(rules);
    }

    fn current(&self) -> Arc<Vec<Arc<Rule>>> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn list(&self) -> Vec<FaultStatus> {
        let status = |rule: &Arc<Rule>| FaultStatus {
            id: rule.id,
            rule: rule.fault.clone(),
            hits: rule.hits.load(Ordering::Relaxed),
        };
        self.current().iter().map(status).collect()
    }

    /// Asks the rules about one valid request. `one_of` finds one of its recipients in a set.
    pub(crate) fn ask(
        &self,
        channel: Channel,
        point: &str,
        one_of: impl Fn(&HashSet<String>) -> Option<&String>,
    ) -> Hit {
        let mut hit = Hit::default();
        if !self.any.load(Ordering::Acquire) {
            return hit;
        }
        for rule in self.current().iter() {
            let matches = rule.fault.channel == channel && rule.applies(point) && rule.is_for(&one_of) && rule.strike();
            if !matches {
                continue;
            }
            hit.delay += Duration::from_millis(rule.fault.delay_ms.unwrap_or(0));
            if rule.fault.fault == FaultKind::Delay {
                continue;
            }
            hit.kind = Some(rule.fault.fault);
            hit.retry_after_secs = rule.fault.retry_after_secs;
            hit.code = rule.fault.code.unwrap_or(0);
            hit.message.clone_from(&rule.message);
            return hit;
        }
        hit
    }
}
