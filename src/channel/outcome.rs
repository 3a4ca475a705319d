//! What became of one send: accepted, or refused with a class.
//!
//! Why it exists: the consequences (give up, wait, pause the sender, leave unknown) are decided by class alone, so
//! every provider's codes are folded into seven classes, each with one consequence.
//!
//! It must never carry personal data: `code` ends up in rows, logs and pages.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Why a provider did not accept a message. All but `Uncertain` mean: known not to have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// This address cannot be reached on this channel. Give up on the address.
    Recipient,
    /// The provider refuses the message itself. Repeating it is useless.
    Content,
    /// Too fast, or the provider is busy. Not sent; wait and try again.
    Throttled,
    /// No connection was made. Not sent; try again.
    Unreachable,
    /// The provider may or may not have it.
    Uncertain,
    /// The sender's account is refused. A person must act.
    Credentials,
    /// The sender's quota is used up. A person must act, or the month must end.
    Quota,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Recipient,
        Self::Content,
        Self::Throttled,
        Self::Unreachable,
        Self::Uncertain,
        Self::Credentials,
        Self::Quota,
    ];

    /// The name used in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Content => "content",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::Uncertain => "uncertain",
            Self::Credentials => "credentials",
            Self::Quota => "quota",
        }
    }

    /// Whether the message is known not to have been sent.
    #[must_use]
    pub const fn not_sent(self) -> bool {
        !matches!(self, Self::Uncertain)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no error class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown error class")]
pub struct UnknownErrorClass;

impl FromStr for ErrorClass {
    type Err = UnknownErrorClass;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == name)
            .ok_or(UnknownErrorClass)
    }
}

/// What became of one send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The provider said it has the message.
    Accepted {
        /// Its own id of the message, where it gives one.
        provider_id: Option<String>,
    },
    /// It did not, or nobody can know.
    Refused(Refusal),
}

impl SendOutcome {
    /// Accepted, with the provider's id cut to what a row holds.
    pub(super) fn accepted(provider_id: Option<&str>) -> Self {
        let provider_id = provider_id.map(|id| printable(id, 200)).filter(|id| !id.is_empty());
        Self::Accepted { provider_id }
    }
}

impl From<Refusal> for SendOutcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A send that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What follows from it.
    pub class: ErrorClass,
    /// The provider's code, or ours; at most 64 printable ASCII characters, never personal data.
    pub code: String,
    /// How long the provider asked us to wait.
    pub retry_after: Option<Duration>,
    /// Of class `recipient`, and yet true of this message only.
    keeps_address: bool,
}

/// The longest wait a provider can impose on us; a longer one is a mistake of theirs.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);

impl Refusal {
    /// A refusal; `code` is cut to 64 printable ASCII characters.
    pub fn new(class: ErrorClass, code: impl AsRef<str>) -> Self {
        Self {
            class,
            code: printable(code.as_ref(), 64),
            retry_after: None,
            keeps_address: false,
        }
    }

    /// The same with the wait the provider asked for, at most a day.
    #[must_use]
    pub fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after.map(|wait| wait.min(RETRY_AFTER_LIMIT));
        self
    }

    /// The same, of a person who can be reached another day: outside the provider's window, or sent enough for now.
    #[must_use]
    pub const fn keeping_address(mut self) -> Self {
        self.keeps_address = true;
        self
    }

    /// Whether no broadcast should try this address again. Not so for a mail relay's transient answer (`rcpt 452 4.2.2`):
    /// a full mailbox ends this delivery, and may have room next week. Nor for FCM's `SENDER_ID_MISMATCH`: the key file of another
    /// project makes every device of the shop look like that, and closing them all could not be taken back.
    #[must_use]
    pub fn closes_address(&self) -> bool {
        let mut words = self.code.split(' ');
        // LINE's and FCM's codes begin with the number: a 400 or 404 there is final. Only mail's begin with a stage.
        let of_mail = words
            .next()
            .is_some_and(|stage| stage.starts_with(|c: char| c.is_ascii_lowercase()));
        let transient = of_mail
            && words
                .next()
                .is_some_and(|reply| reply.len() == 3 && reply.starts_with('4'));
        self.class == ErrorClass::Recipient
            && !self.keeps_address
            && !transient
            && !self.code.ends_with(" SENDER_ID_MISMATCH")
            && super::sms::codes::closes(&self.code)
    }
}

fn printable(text: &str, limit: usize) -> String {
    let fits = |b: u8| b.is_ascii_graphic() || b == b' ';
    // Nearly always, and once a message.
    if text.len() <= limit && text.bytes().all(fits) {
        return text.to_owned();
    }
    text.bytes().filter(|b| fits(*b)).take(limit).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_reads_back_what_it_prints() {
        for class in ErrorClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
    }

    #[test]
    fn only_what_is_final_about_the_recipient_closes_the_address() {
        for (class, code, closes) in [
            (ErrorClass::Recipient, "rcpt 550 5.1.1", true),
            (ErrorClass::Recipient, "rcpt 452 4.2.2", false),
            (ErrorClass::Recipient, "body 452", false),
            (ErrorClass::Recipient, "400 to", true),
            (ErrorClass::Recipient, "404 NOT_FOUND UNREGISTERED", true),
            (ErrorClass::Recipient, "403 SENDER_ID_MISMATCH", false),
            (ErrorClass::Recipient, "malformed_address", true),
            (ErrorClass::Content, "body 550 5.7.1", false),
            (ErrorClass::Throttled, "429", false),
        ] {
            assert_eq!(Refusal::new(class, code).closes_address(), closes, "{class} {code}");
        }
    }

    #[test]
    fn a_window_that_is_closed_keeps_the_address() {
        let refusal = Refusal::new(ErrorClass::Recipient, "10/2018278");
        assert!(refusal.closes_address());
        assert!(!refusal.keeping_address().closes_address());
    }

    #[test]
    fn a_code_is_short_and_printable_whatever_the_provider_says() {
        let refusal = Refusal::new(ErrorClass::Content, "x\r\n\u{1F600}".repeat(100));
        assert_eq!(refusal.code, "x".repeat(64));
        let wait = refusal.after(Some(Duration::MAX)).retry_after;
        assert_eq!(wait, Some(RETRY_AFTER_LIMIT));
    }
}
