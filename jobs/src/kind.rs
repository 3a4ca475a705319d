//! The registry of kinds: every `match` here is exhaustive, so the compiler names each place a new kind must fill.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::{
    Audit, BroadcastSend, ContractError, Envelope, MediaFetch, MonthlyTokenRefill, TopUpSettlement, WebhookIngest,
    envelope,
};

/// A kind of job. The name of its queue is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Plan and send a broadcast: [`BroadcastSend`].
    BroadcastSend,
    /// Grant a period's tokens: [`MonthlyTokenRefill`].
    MonthlyTokenRefill,
    /// Prove the books and keep what was found: [`Audit`].
    Audit,
    /// Credit top-up orders that are paid and due: [`TopUpSettlement`].
    TopUpSettlement,
    /// Turn a stored webhook into what it says happened: [`WebhookIngest`].
    WebhookIngest,
    /// Fetch what customers attached: [`MediaFetch`].
    MediaFetch,
}

/// One unit of work: a kind with its parsed payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Plan and send a broadcast.
    BroadcastSend(BroadcastSend),
    /// Grant a period's tokens.
    MonthlyTokenRefill(MonthlyTokenRefill),
    /// Prove the books.
    Audit(Audit),
    /// Credit top-up orders that are paid and due.
    TopUpSettlement(TopUpSettlement),
    /// Turn a stored webhook into what it says happened.
    WebhookIngest(WebhookIngest),
    /// Fetch what customers attached.
    MediaFetch(MediaFetch),
}

/// How the jobs of one kind are run. A job may lower or raise only its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Attempts before a job is dead, unless the job says otherwise. Crashes and snoozes are not attempts.
    pub max_attempts: u32,
    /// For how long a claimed job is a worker's own without renewal, in seconds.
    pub lease_secs: u32,
    /// Slots of each worker process that no other kind may take.
    pub reserved_slots: u32,
    /// Whose jobs are claimed first where slots are shared; lower is earlier.
    pub priority: u8,
    /// How long one attempt may run before it is aborted and counted as failed, in seconds.
    pub timeout_secs: u32,
    /// Workers that may die in a row while running one before it counts as poison, where that is not the fleet's own number
    /// (`queue.max_crashes`): for kinds that count for themselves what takes workers down.
    pub max_crashes: Option<u32>,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::BroadcastSend,
        Self::MonthlyTokenRefill,
        Self::Audit,
        Self::TopUpSettlement,
        Self::WebhookIngest,
        Self::MediaFetch,
    ];

    /// The name of the kind, which is the name of its queue: `broadcast-send`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BroadcastSend => "broadcast-send",
            Self::MonthlyTokenRefill => "monthly-token-refill",
            Self::Audit => "audit",
            Self::TopUpSettlement => "top-up-settlement",
            Self::WebhookIngest => "webhook-ingest",
            Self::MediaFetch => "media-fetch",
        }
    }

    /// How its jobs are run.
    #[must_use]
    pub const fn policy(self) -> Policy {
        match self {
            Self::BroadcastSend => BroadcastSend::POLICY,
            Self::MonthlyTokenRefill => MonthlyTokenRefill::POLICY,
            Self::Audit => Audit::POLICY,
            Self::TopUpSettlement => TopUpSettlement::POLICY,
            Self::WebhookIngest => WebhookIngest::POLICY,
            Self::MediaFetch => MediaFetch::POLICY,
        }
    }

    /// The JSON Schema (draft 2020-12) of a job text of this kind.
    #[must_use]
    pub fn schema(self) -> schemars::Schema {
        match self {
            Self::BroadcastSend => envelope::schema::<BroadcastSend>(self),
            Self::MonthlyTokenRefill => envelope::schema::<MonthlyTokenRefill>(self),
            Self::Audit => envelope::schema::<Audit>(self),
            Self::TopUpSettlement => envelope::schema::<TopUpSettlement>(self),
            Self::WebhookIngest => envelope::schema::<WebhookIngest>(self),
            Self::MediaFetch => envelope::schema::<MediaFetch>(self),
        }
    }

    /// Parses a job text of this kind; see [`Envelope::parse`].
    pub(crate) fn parse(self, text: &[u8]) -> Result<Envelope, ContractError> {
        match self {
            Self::BroadcastSend => envelope::parse(text, Job::BroadcastSend),
            Self::MonthlyTokenRefill => envelope::parse(text, Job::MonthlyTokenRefill),
            Self::Audit => envelope::parse(text, Job::Audit),
            Self::TopUpSettlement => envelope::parse(text, Job::TopUpSettlement),
            Self::WebhookIngest => envelope::parse(text, Job::WebhookIngest),
            Self::MediaFetch => envelope::parse(text, Job::MediaFetch),
        }
    }
}

impl Job {
    /// The kind of this job.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::BroadcastSend(_) => Kind::BroadcastSend,
            Self::MonthlyTokenRefill(_) => Kind::MonthlyTokenRefill,
            Self::Audit(_) => Kind::Audit,
            Self::TopUpSettlement(_) => Kind::TopUpSettlement,
            Self::WebhookIngest(_) => Kind::WebhookIngest,
            Self::MediaFetch(_) => Kind::MediaFetch,
        }
    }
}

/// The payload alone: what stands under `args`.
impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::BroadcastSend(args) => args.serialize(serializer),
            Self::MonthlyTokenRefill(args) => args.serialize(serializer),
            Self::Audit(args) => args.serialize(serializer),
            Self::TopUpSettlement(args) => args.serialize(serializer),
            Self::WebhookIngest(args) => args.serialize(serializer),
            Self::MediaFetch(args) => args.serialize(serializer),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = ContractError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| ContractError::UnknownKind {
                name: name.chars().take(64).collect(),
                known: Self::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "),
            })
    }
}

impl From<BroadcastSend> for Job {
    fn from(args: BroadcastSend) -> Self {
        Self::BroadcastSend(args)
    }
}

impl From<MonthlyTokenRefill> for Job {
    fn from(args: MonthlyTokenRefill) -> Self {
        Self::MonthlyTokenRefill(args)
    }
}

impl From<Audit> for Job {
    fn from(args: Audit) -> Self {
        Self::Audit(args)
    }
}

impl From<TopUpSettlement> for Job {
    fn from(args: TopUpSettlement) -> Self {
        Self::TopUpSettlement(args)
    }
}

impl From<MediaFetch> for Job {
    fn from(args: MediaFetch) -> Self {
        Self::MediaFetch(args)
    }
}

impl From<WebhookIngest> for Job {
    fn from(args: WebhookIngest) -> Self {
        Self::WebhookIngest(args)
    }
}

impl From<&Job> for Job {
    fn from(job: &Job) -> Self {
        job.clone()
    }
}
