//! Faults on demand: rules that make the sandbox misbehave like a real provider on a bad day.
//! It exists so that a test or a benchmark can ask for one exact failure, or for a repeatable mix of many.
//! It must never touch a request when no rule is set (one atomic read), and never mask a strictness error: rules are
//! asked only after a request was found valid.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::mix::{Draws, mix};

/// What goes wrong. *Accepted* means counted as received by the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Not accepted; HTTP 429 (LINE's rate text, FCM `QUOTA_EXCEEDED`), SMTP 451 4.7.1. `retry_after_secs` adds the header.
    Throttled,
    /// Not accepted; LINE's monthly-limit 429, SMTP 452 4.2.2 (mailbox full). Not for FCM.
    Quota,
    /// Not accepted; HTTP 500, SMTP 451 4.3.0.
    ServerError,
    /// Accepted, but answered as [`FaultKind::ServerError`].
    ServerErrorAfter,
    /// Not accepted; HTTP 503 (FCM `UNAVAILABLE`), SMTP 421 and the connection closed. `retry_after_secs` adds the header.
    Unavailable,
    /// Not accepted; the connection is reset without an answer.
    ResetBefore,
    /// Accepted; the connection is reset without an answer.
    ResetAfter,
    /// Not accepted; no answer ever comes, the connection stays open.
    Hang,
    /// Accepted; no answer ever comes, the connection stays open.
    HangAfter,
    /// Not accepted; LINE 400 `Failed to send messages`, FCM 404 `UNREGISTERED`, SMTP 550 5.1.1.
    InvalidRecipient,
    /// Not accepted; HTTP 401, SMTP 535 5.7.8.
    BadCredentials,
    /// Accepted; a 200 whose body stops half way and the connection closes; SMTP: half a reply line.
    Truncated,
    /// Accepted; a 200 with a body that is not JSON; SMTP: a line that is no reply.
    Garbage,
    /// No effect on the outcome; the answer comes `delay_ms` later. Other rules still apply.
    Delay,
    /// Not accepted; exactly `code` and `message` (HTTP: a status and a raw body; FCM may give an `errorCode` as
    /// `message`; SMTP: a reply code and its text).
    Reply,
    /// Accepted, but answered as [`FaultKind::Reply`].
    ReplyAfter,
}

impl FaultKind {
    /// True when the message counts as received although the caller may never learn it.
    pub(crate) fn accepts(self) -> bool {
        match self {
            FaultKind::ServerErrorAfter
            | FaultKind::ResetAfter
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay
            | FaultKind::ReplyAfter => true,
            FaultKind::Throttled
            | FaultKind::Quota
            | FaultKind::ServerError
            | FaultKind::Unavailable
            | FaultKind::ResetBefore
            | FaultKind::Hang
            | FaultKind::InvalidRecipient
            | FaultKind::BadCredentials
            | FaultKind::Reply => false,
        }
    }

    fn default_point(self, channel: Channel) -> Option<&'static str> {
        match (channel, self) {
            // `None`: any of push, multicast and reply.
            (Channel::Line, _) => None,
            (Channel::Fcm, _) => Some("send"),
            (Channel::Smtp, FaultKind::InvalidRecipient) => Some("rcpt"),
            (Channel::Smtp, FaultKind::BadCredentials) => Some("auth"),
            (Channel::Smtp, _) => Some("body"),
        }
    }
}

/// A rule. The first rule that matches decides; rules are asked in the order they were set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The channel it applies to.
    pub channel: Channel,
    /// What goes wrong.
    pub fault: FaultKind,
    /// Chance that a matching request is hit, `0.0..=1.0`; default 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// How many requests may be hit in all; `None` is no limit.
    #[serde(default)]
    pub count: Option<u64>,
    /// Only requests for one of these recipients (a multicast matches when any of its ids does); `None` is everyone.
    #[serde(default)]
    pub recipients: Option<Vec<String>>,
    /// Where: LINE `push`, `multicast`, `reply`, `validate`, `quota`, `consumption`, `info`, `verify`; FCM `send`,
    /// `token`; SMTP `connect`, `ehlo`, `auth`, `mail`, `rcpt`, `data`, `body` (the final dot). Default: LINE any of
    /// push, multicast, reply; FCM `send`; SMTP `body`, or `rcpt` and `auth` where the kind says so.
    #[serde(default, alias = "stage", alias = "endpoint")]
    pub at: Option<String>,
    /// Seconds for a `Retry-After` header; `None` sends none.
    #[serde(default)]
    pub retry_after_secs: Option<u64>,
    /// Milliseconds the answer is held back, for any kind.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// For `reply` and `reply_after`: the HTTP status or SMTP reply code.
    #[serde(default)]
    pub code: Option<u16>,
    /// For `reply` and `reply_after`: the body or reply text.
    #[serde(default)]
    pub message: Option<String>,
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// A rule that hits every request of `channel`; narrow it with the other methods or fields.
    pub fn new(channel: Channel, fault: FaultKind) -> Self {
        Self {
            channel,
            fault,
            probability: 1.0,
            count: None,
            recipients: None,
            at: None,
            retry_after_secs: None,
            delay_ms: None,
            code: None,
            message: None,
        }
    }

    /// Hit at most `count` requests.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Hit each matching request with this chance.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Hit only requests for one of these recipients.
    #[must_use]
    pub fn recipients<I: IntoIterator<Item = S>, S: Into<String>>(mut self, recipients: I) -> Self {
        self.recipients = Some(recipients.into_iter().map(Into::into).collect());
        self
    }

    /// Hit only this endpoint or SMTP stage.
    #[must_use]
    pub fn at(mut self, at: &str) -> Self {
        self.at = Some(at.to_owned());
        self
    }

    /// Answer with this `Retry-After`.
    #[must_use]
    pub fn retry_after_secs(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// Hold the answer back.
    #[must_use]
    pub fn delay_ms(mut self, delay_ms: u64) -> Self {
        self.delay_ms = Some(delay_ms);
        self
    }

    /// For `reply` and `reply_after`: what to answer.
    #[must_use]
    pub fn with_reply(mut self, code: u16, message: &str) -> Self {
        self.code = Some(code);
        self.message = Some(message.to_owned());
        self
    }

    fn check(&self) -> Result<(), BadFault> {
        let points: &[&str] = match self.channel {
            Channel::Line => &[
                "push",
                "multicast",
                "reply",
                "validate",
                "quota",
                "consumption",
                "info",
                "verify",
            ],
            Channel::Fcm => &["send", "token"],
            Channel::Smtp => &["connect", "ehlo", "auth", "mail", "rcpt", "data", "body"],
        };
        if let Some(at) = &self.at
            && !points.contains(&at.as_str())
        {
            return Err(BadFault::Point {
                channel: self.channel,
                known: points,
            });
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(BadFault::Probability);
        }
        if matches!(self.fault, FaultKind::Reply | FaultKind::ReplyAfter)
            && !self.code.is_some_and(|code| (200..600).contains(&code))
        {
            return Err(BadFault::Code);
        }
        if self.fault == FaultKind::Delay && self.delay_ms.is_none() {
            return Err(BadFault::Delay);
        }
        if self.fault == FaultKind::Quota && self.channel == Channel::Fcm {
            return Err(BadFault::Quota);
        }
        Ok(())
    }
}

/// Why a rule was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFault {
    /// `at` names no endpoint or stage of the channel.
    #[error("`at` for {channel} must be one of {known:?}")]
    Point {
        /// The rule's channel.
        channel: Channel,
        /// What it may be.
        known: &'static [&'static str],
    },
    /// Outside `0.0..=1.0`.
    #[error("`probability` must be between 0 and 1")]
    Probability,
    /// `reply` and `reply_after` need a code from 200 to 599.
    #[error("`reply` and `reply_after` need a `code` from 200 to 599")]
    Code,
    /// `delay` needs `delay_ms`.
    #[error("`delay` needs `delay_ms`")]
    Delay,
    /// FCM has no monthly limit.
    #[error("`quota` does not exist on fcm; use `throttled`")]
    Quota,
}

/// A rule that is set, and how often it was hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStatus {
    /// Number of the rule, for clearing it alone.
    pub id: u64,
    /// The rule as it was set.
    #[serde(flatten)]
    pub rule: Fault,
    /// Requests it hit.
    pub hits: u64,
}

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

    /// Takes one hit from the rule, if chance and count allow.
    fn strike(&self) -> bool {
        if self.fault.probability < 1.0 && self.draws.unit() >= self.fault.probability {
            return false;
        }
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
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
            recipients: fault
                .recipients
                .as_ref()
                .map(|all| all.iter().cloned().collect()),
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

    /// Asks the rules about one valid request. `concerns` says whether any of its recipients is in a set.
    pub(crate) fn ask(
        &self,
        channel: Channel,
        point: &str,
        concerns: impl Fn(&HashSet<String>) -> bool,
    ) -> Hit {
        let mut hit = Hit::default();
        if !self.any.load(Ordering::Acquire) {
            return hit;
        }
        for rule in self.current().iter() {
            let matches = rule.fault.channel == channel
                && rule.applies(point)
                && rule.recipients.as_ref().is_none_or(&concerns)
                && rule.strike();
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
