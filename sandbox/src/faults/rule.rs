//! A fault rule as it is written: what goes wrong, where, for whom and how often.
//! It exists so that the vocabulary of faults stands apart from the engine that draws them.
//! It must never hold state: hits and draws belong to the engine.

use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// What goes wrong. *Accepted* means counted as received by the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Not accepted; HTTP 429 (LINE's rate text, FCM `QUOTA_EXCEEDED`), Graph 613 and 130429, SMTP 451 4.7.1, Mitake `statuscode=l`.
    /// `retry_after_secs` adds the header.
    Throttled,
    /// Not accepted; LINE's monthly-limit 429, SMTP 452 4.2.2 (mailbox full), WhatsApp 131042, Twilio 63038, Mitake `statuscode=s`. Not
    /// for FCM and Messenger.
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
    /// Not accepted; LINE 400 `Failed to send messages`, FCM 404 `UNREGISTERED`, Messenger 100/2018001,
    /// WhatsApp 131026, SMTP 550 5.1.1, Twilio 21211, Mitake `statuscode=v`.
    InvalidRecipient,
    /// Not accepted; HTTP 401, SMTP 535 5.7.8, Mitake `statuscode=e`.
    BadCredentials,
    /// Accepted; a 200 whose body stops half way and the connection closes; SMTP: half a reply line.
    Truncated,
    /// Accepted; a 200 with a body that is not JSON; SMTP: a line that is no reply.
    Garbage,
    /// No effect on the outcome; the answer comes `delay_ms` later. Other rules still apply.
    Delay,
    /// Not accepted; exactly `code` and `message` (HTTP: a status and a raw body; FCM may give an `errorCode` as
    /// `message`, Messenger and WhatsApp a Graph code such as `10/2018278`; SMTP: a reply code and its text).
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

    pub(super) fn default_point(self, channel: Channel) -> Option<&'static str> {
        match (channel, self) {
            // `None`: any of push, multicast and reply.
            (Channel::Line, _) => None,
            (Channel::Fcm | Channel::Messenger | Channel::Whatsapp | Channel::Twilio | Channel::Mitake, _) => {
                Some("send")
            }
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
    /// Each of `recipients` at most once, however often they are sent to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once_each: bool,
    /// Where: LINE `push`, `multicast`, `reply`, `validate`, `quota`, `consumption`, `info`, `verify`; FCM `send`,
    /// `token`; Messenger, WhatsApp and Twilio `send`; Mitake `send`, `query`; SMTP `connect`, `ehlo`, `auth`, `mail`, `rcpt`, `data`, `body`
    /// (the final dot). Default: LINE any of push, multicast, reply; SMTP `body`, or `rcpt` and `auth` where the kind says so; the others
    /// `send`.
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
            once_each: false,
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

    /// Hit each of these recipients once.
    #[must_use]
    pub fn once_each<I: IntoIterator<Item = S>, S: Into<String>>(self, recipients: I) -> Self {
        let mut rule = self.recipients(recipients);
        rule.once_each = true;
        rule
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

    pub(super) fn check(&self) -> Result<(), BadFault> {
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
                "webhook",
            ],
            Channel::Fcm => &["send", "token"],
            Channel::Messenger | Channel::Whatsapp | Channel::Twilio => &["send"],
            Channel::Mitake => &["send", "query"],
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
        if self.fault == FaultKind::Quota && matches!(self.channel, Channel::Fcm | Channel::Messenger) {
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
    /// FCM and Messenger have no quota that is paid for.
    #[error("`quota` does not exist on fcm and messenger; use `throttled`")]
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
