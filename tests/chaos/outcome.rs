//! What a run came to, and which promises it broke. The verdict is a pure function of the figures, so that a test can
//! show for each promise that breaking it is noticed.
//! It must never hold an address or a message's text.

use std::collections::BTreeMap;

/// How many of the things that are wrong are named; all are counted.
const NAMED: usize = 10;
/// The most one process may take to stop, in milliseconds.
const STOP_LIMIT_MS: u64 = 25_000;

/// Things that are wrong: how many, and the first of them.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Wrong {
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Vec<String>,
}

impl Wrong {
    /// One more.
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(what());
        }
    }
}

/// One provider's messages, by our books and by its own.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct ProviderCount {
    /// Deliveries planned.
    pub planned: u64,
    /// Deliveries by the state they ended in.
    pub states: BTreeMap<String, u64>,
    /// Messages the provider took.
    pub received: u64,
    /// Messages beyond the first of the same text to the same person, by the provider's own count.
    pub duplicates: u64,
    /// The most messages of one broadcast that anybody got.
    pub most_to_one: u64,
}

/// Results, or dead jobs, that have a cause, or have none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Because {
    /// The provider, or the kind of the job.
    pub of: String,
    /// What the row says.
    pub reason: String,
    /// The fault behind it; none when no fault explains it.
    pub cause: Option<String>,
}

/// Work that is done exactly once for each thing that falls due, however often it is asked for: a shop's monthly tokens, the
/// credit of an order.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Once {
    /// Things that fell due.
    pub due: u64,
    /// Of these done.
    pub done: u64,
    /// Done more than once.
    pub twice: Wrong,
    /// Due, or confirmed, and not done.
    pub missing: Wrong,
    /// Done although it was not due, or otherwise than was due.
    pub undue: Wrong,
    /// The longest from due to done, in milliseconds; of those of which both are known.
    pub slowest_ms: u64,
    /// What else is worth knowing.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Everything found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Outcome {
    /// Broadcasts by the state they ended in.
    pub broadcasts: BTreeMap<String, u64>,
    /// Provider by provider.
    pub providers: BTreeMap<&'static str, ProviderCount>,
    /// What is done exactly once, kind by kind.
    pub once: BTreeMap<&'static str, Once>,
    /// Planned or confirmed and without an end; or accepted by our books and never received.
    pub lost: Wrong,
    /// Received although our books say it was not sent, or by somebody who was not in any plan.
    pub unaccounted: Wrong,
    /// Unknown deliveries.
    #[serde(serialize_with = "listed")]
    pub unknown: BTreeMap<Because, u64>,
    /// Failed deliveries: no provider here refuses a person or a message.
    #[serde(serialize_with = "listed")]
    pub failed: BTreeMap<Because, u64>,
    /// Dead jobs.
    #[serde(serialize_with = "listed")]
    pub dead: BTreeMap<Because, u64>,
    /// Checks of the audit that do not hold, and by how much in all.
    pub drift: Wrong,
    /// Comparisons the audit made; a drift of 0 after none means nothing.
    pub audited: u64,
    /// What was not finished when patience ended.
    pub not_quiet: Vec<String>,
    /// Processes that ended although nobody asked them to.
    pub exits: Wrong,
    /// Panics in the processes' logs.
    pub panics: Wrong,
    /// Lines at ERROR in the processes' logs.
    pub errors: Wrong,
    /// How long the slowest process took to stop, in milliseconds.
    pub slowest_stop_ms: u64,
}

fn listed<S: serde::Serializer>(counts: &BTreeMap<Because, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(serde::Serialize)]
    struct One<'a> {
        #[serde(flatten)]
        because: &'a Because,
        n: u64,
    }
    serializer.collect_seq(counts.iter().map(|(because, n)| One { because, n: *n }))
}

impl Outcome {
    /// Messages the providers took.
    pub fn sent(&self) -> u64 {
        self.providers.values().map(|provider| provider.received).sum()
    }

    /// Deliveries planned.
    pub fn planned(&self) -> u64 {
        self.providers.values().map(|provider| provider.planned).sum()
    }

    /// The promises that were broken, each as a sentence; none when all held.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |holds: bool, sentence: String| {
            if !holds {
                broken.push(sentence);
            }
        };
        promise(self.sent() > 0, "nothing was sent, so nothing was shown".to_owned());
        promise(self.audited > 0, "the audit did not run".to_owned());
        promise(
            self.not_quiet.is_empty(),
            format!("{} things are not finished", self.not_quiet.len()),
        );
        promise(self.lost.count == 0, format!("{} lost", self.lost.count));
        for (name, provider) in &self.providers {
            // Where nothing at all was sent one promise is broken, not eight.
            promise(
                provider.received > 0 || self.sent() == 0,
                format!("nothing was sent on {name}, so nothing was shown of it"),
            );
            let extra = provider.duplicates;
            promise(
                extra == 0,
                format!("{extra} duplicates on {name}, by the provider's count"),
            );
            let most = provider.most_to_one;
            promise(
                most <= 1,
                format!("somebody got {most} messages of one broadcast on {name}"),
            );
        }
        promise(
            self.unaccounted.count == 0,
            format!(
                "{} messages arrived that the books do not know of",
                self.unaccounted.count
            ),
        );
        promise(!self.once.is_empty(), "nothing fell due".to_owned());
        for (name, once) in &self.once {
            promise(once.due > 0, format!("{name}: none fell due, so nothing was shown"));
            promise(once.twice.count == 0, format!("{name}: {} twice", once.twice.count));
            promise(
                once.missing.count == 0,
                format!("{name}: {} missing", once.missing.count),
            );
            promise(
                once.undue.count == 0,
                format!("{name}: {} not as was due", once.undue.count),
            );
        }
        for (what, counts) in [
            ("unknown", &self.unknown),
            ("failed", &self.failed),
            ("dead", &self.dead),
        ] {
            for (because, n) in counts.iter().filter(|(because, _)| because.cause.is_none()) {
                promise(
                    false,
                    format!("{n} {what} without a cause: {} {}", because.of, because.reason),
                );
            }
        }
        promise(
            self.drift.count == 0,
            format!("the ledger drifts: {} checks do not hold", self.drift.count),
        );
        promise(
            self.exits.count == 0,
            format!("{} processes ended by themselves", self.exits.count),
        );
        promise(self.panics.count == 0, format!("{} panics", self.panics.count));
        promise(
            self.slowest_stop_ms <= STOP_LIMIT_MS,
            format!("a process took {} ms to stop", self.slowest_stop_ms),
        );
        broken
    }
}
