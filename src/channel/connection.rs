//! What a look at a provider finds about an account's set-up, in words a merchant understands (the words are pure).
//!
//! Why it exists: credentials that parse may still be another account's, expired, or of a channel whose webhook points
//! elsewhere. A merchant finds that out when the account is saved, one finding a question, and not from a broadcast that
//! fails. Each provider's file asks its own questions; what an answer looks like stands here once.
//!
//! It must never send a message, change anything at the provider, or put a secret into a finding.

use serde::Serialize;

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it must be.
    Good,
    /// Works, and a merchant should know something about it.
    Advice,
    /// Cannot work until somebody changes it.
    Wrong,
    /// The provider did not answer, so nothing is known.
    Unknown,
}

impl Verdict {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Advice => "advice",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

/// The answer to one question about an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The question, as a stable name for programs: `token`, `channel_id`, `webhook`, ….
    pub what: &'static str,
    /// How it was answered.
    pub verdict: Verdict,
    /// For the merchant, in Chinese as written in Taiwan: what it is, and what to do when something is to be done.
    pub zh: String,
    /// The same in English.
    pub en: String,
}

impl Finding {
    /// As it must be.
    pub fn good(what: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(what, Verdict::Good, zh, en)
    }

    /// Works, and is worth knowing.
    pub fn advice(what: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(what, Verdict::Advice, zh, en)
    }

    /// Cannot work like this.
    pub fn wrong(what: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(what, Verdict::Wrong, zh, en)
    }

    /// The provider was asked and did not answer.
    #[must_use]
    pub fn no_answer(what: &'static str, provider: &str) -> Self {
        let zh = format!("{provider} 沒有回應，這一項還無法確認；請稍後再檢查一次。");
        let en = format!("{provider} did not answer, so this is not known; check again in a while.");
        Self::new(what, Verdict::Unknown, zh, en)
    }

    /// It could not be asked yet; the texts say what comes first.
    pub fn unasked(what: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(what, Verdict::Unknown, zh, en)
    }

    fn new(what: &'static str, verdict: Verdict, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self {
            what,
            verdict,
            zh: zh.into(),
            en: en.into(),
        }
    }

    /// Whether messages can leave as far as this question goes.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self.verdict, Verdict::Good | Verdict::Advice)
    }
}

/// What Carillon knows beside the credentials, for the questions that need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected<'a> {
    /// The address at which this process' web side takes this sender's webhooks; none: those questions are left out.
    pub webhook_url: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::{Finding, Verdict};

    #[test]
    fn only_what_is_known_to_be_right_is_ok() {
        let ok = [
            Finding::good("a", "", ""),
            Finding::advice("a", "", ""),
            Finding::wrong("a", "", ""),
            Finding::no_answer("a", "LINE"),
        ]
        .map(|finding| finding.is_ok());
        assert_eq!(ok, [true, true, false, false]);
        assert_eq!(
            serde_json::to_value(Verdict::Unknown).ok(),
            Some(Verdict::Unknown.as_str().into())
        );
    }
}
