//! What a check of a connection found, in words a merchant understands.
//!
//! Why it exists: whoever connects an account wants one list: what works, what does not, and what to do about it. Every finding
//! has a stable id for programs and a sentence in both languages for people.
//!
//! It must never show a token or a secret, and never say that something works which nobody has said.

use serde::Serialize;

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// As it should be.
    Good,
    /// Messages leave, and something is still to be done.
    Warning,
    /// Nothing will leave, or nothing will come in, before somebody acts.
    Bad,
    /// The provider gave no answer to it.
    Unknown,
}

impl FindingState {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for programs, such as `token_invalid`.
    pub id: &'static str,
    /// How it stands.
    pub state: FindingState,
    /// What it means and what to do, in traditional Chinese.
    pub zh: String,
    /// The same in English.
    pub en: String,
}

impl Finding {
    pub(super) fn new(id: &'static str, state: FindingState, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self {
            id,
            state,
            zh: zh.into(),
            en: en.into(),
        }
    }

    pub(super) fn good(id: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(id, FindingState::Good, zh, en)
    }

    pub(super) fn warning(id: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(id, FindingState::Warning, zh, en)
    }

    pub(super) fn bad(id: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(id, FindingState::Bad, zh, en)
    }

    /// The provider was asked and did not answer.
    pub(super) fn no_answer(id: &'static str, provider: &str) -> Self {
        Self::unknown(
            id,
            format!("{provider} 沒有回應，這一項還無法確認；請稍後再檢查一次。"),
            format!("{provider} did not answer, so this is not known; check again in a while."),
        )
    }

    pub(super) fn unknown(id: &'static str, zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self::new(id, FindingState::Unknown, zh, en)
    }
}

/// What Carillon knows beside the credentials, for the questions that need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected<'a> {
    /// The address at which our web side takes this sender's webhooks; none: those questions are left out.
    pub webhook_url: Option<&'a str>,
    /// Set right what can be set right by asking the provider.
    pub mend: bool,
}

/// Every answer, in the order in which somebody would mend things.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The answers.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether messages can leave and come in.
    #[must_use]
    pub fn works(&self) -> bool {
        let works = |one: &Finding| matches!(one.state, FindingState::Good | FindingState::Warning);
        !self.findings.is_empty() && self.findings.iter().all(works)
    }

    /// Whether a finding of this name is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.findings.iter().any(|one| one.id == id)
    }
}
