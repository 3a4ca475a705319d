//! What providers told: each event once, with whether a webhook that says it was answered with 200. At the end the rows are
//! held against it.
//! It must never be filled from the rows it judges, nor count an event as taken before the answer was there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use crate::provider::Provider;

/// The delivery that a report is about.
pub(super) type Delivery = (Uuid, Provider, i64);

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Somebody wrote, or was answered by the shop.
    Message {
        who: String,
        thread: &'static str,
        order: String,
        message_id: String,
        is_inbound: bool,
    },
    /// A message was taken back.
    Unsent { message_id: String },
    /// Somebody follows the account from then on, or left.
    Standing { who: String, follows: bool, at_ms: i64 },
    /// What became of a message; `state` is `failed`, `read`, `delivered`, `accepted`, or nothing for what moves no delivery.
    Report { of: Delivery, state: Option<&'static str> },
}

impl What {
    /// What the product calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Message { is_inbound: true, .. } => "message",
            Self::Message { is_inbound: false, .. } => "echo",
            Self::Unsent { .. } => "unsent",
            Self::Standing { follows: true, .. } => "followed",
            Self::Standing { follows: false, .. } => "unfollowed",
            Self::Report { state: Some(_), .. } => "receipt",
            Self::Report { state: None, .. } => "unknown",
        }
    }
}

/// One event of one sender; its key is the provider's.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) sender: Uuid,
    pub(super) key: String,
    pub(super) what: What,
}

/// What is known of one event.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) what: What,
    /// When a webhook that says it was first answered with 200, in the run's time.
    pub(super) accepted_ms: Option<u64>,
}

/// What is known of the requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Requests made.
    pub(super) posted: u64,
    /// Of these answered with 200.
    pub(super) accepted: u64,
    /// Events beyond the first time they were taken.
    pub(super) duplicates: u64,
    /// Wrong signatures that were noticed.
    pub(super) turned_away: u64,
    /// Answers no provider may get.
    pub(super) wrong: Vec<String>,
}

/// Everything that was told.
#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    events: BTreeMap<(Uuid, String), Told>,
    counts: Counts,
    /// Deliveries of which a failure was told, or is about to be.
    may_have_failed: BTreeSet<Delivery>,
    last_moment_ms: i64,
    /// Messages whose reports are decided on, by the order in which their provider took them.
    seen: BTreeSet<(Provider, u32)>,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, in milliseconds since 1970, and later than any moment before: of two things a person does one is the later.
    pub(super) fn moment(&self) -> i64 {
        let mut pages = self.pages();
        pages.last_moment_ms = chrono::Utc::now().timestamp_millis().max(pages.last_moment_ms + 1);
        pages.last_moment_ms
    }

    /// Whether nobody has decided yet what is reported of this message.
    pub(super) fn is_new(&self, provider: Provider, serial: u32) -> bool {
        self.pages().seen.insert((provider, serial))
    }

    /// These are about to be told.
    pub(super) fn will_tell(&self, events: &[Event]) {
        let mut pages = self.pages();
        for event in events {
            if let What::Report {
                of,
                state: Some("failed"),
            } = event.what
            {
                pages.may_have_failed.insert(of);
            }
            pages
                .events
                .entry((event.sender, event.key.clone()))
                .or_insert_with(|| Told {
                    what: event.what.clone(),
                    accepted_ms: None,
                });
        }
    }

    /// A request is made.
    pub(super) fn posted(&self) {
        self.pages().counts.posted += 1;
    }

    /// A webhook with these was answered with 200.
    pub(super) fn accepted(&self, events: &[Event], now_ms: u64) {
        let mut pages = self.pages();
        pages.counts.accepted += 1;
        for event in events {
            let told = pages.events.get_mut(&(event.sender, event.key.clone())).unwrap();
            let again = told.accepted_ms.is_some();
            told.accepted_ms.get_or_insert(now_ms);
            pages.counts.duplicates += u64::from(again);
        }
    }

    /// A wrong signature was noticed.
    pub(super) fn turned_away(&self) {
        self.pages().counts.turned_away += 1;
    }

    /// Something was answered as it must not be.
    pub(super) fn wrong(&self, what: String) {
        self.pages().counts.wrong.push(what);
    }

    /// Whether the provider said, or may have said, that this message did not arrive after all.
    pub fn may_have_failed(&self, broadcast: Uuid, provider: Provider, customer: i64) -> bool {
        self.pages().may_have_failed.contains(&(broadcast, provider, customer))
    }

    /// Every event, by sender and key.
    pub(super) fn events(&self) -> BTreeMap<(Uuid, String), Told> {
        self.pages().events.clone()
    }

    /// What is known of the requests.
    pub(super) fn counts(&self) -> Counts {
        self.pages().counts.clone()
    }
}
