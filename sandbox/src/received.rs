//! What every recipient really got: the sandbox's answer to "was anyone sent to twice, was anyone forgotten?".
//! It exists to judge a sender, so it counts only what a provider would have accepted, in order of arrival.
//! It must never drop or merge an arrival. Texts are stored once however many people got them, and a recipient with
//! one message costs no list, so half a million recipients fit in well under 200 MB.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::mix::fingerprint;

/// Hash tables double when they are 7/8 full; with 40, half a million and a million recipients fill them well.
const SHARDS: u64 = 40;

/// What was said: the human text, the marker naming the broadcast, and (when bodies are kept) the raw message.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Content {
    /// Marker, text and body in one allocation; the two lengths say where each ends.
    joined: Box<str>,
    marker_len: u32,
    text_len: u32,
}

impl Content {
    pub(crate) fn new(marker: &str, text: &str, body: &str) -> Self {
        let mut joined = String::with_capacity(marker.len() + text.len() + body.len());
        joined.push_str(marker);
        joined.push_str(text);
        joined.push_str(body);
        Self {
            joined: joined.into_boxed_str(),
            marker_len: u32::try_from(marker.len()).unwrap_or(u32::MAX),
            text_len: u32::try_from(text.len()).unwrap_or(u32::MAX),
        }
    }

    fn parts(&self) -> (&str, &str, &str) {
        let (marker, rest) = self
            .joined
            .split_at_checked(self.marker_len as usize)
            .unwrap_or(("", ""));
        let (text, body) = rest.split_at_checked(self.text_len as usize).unwrap_or(("", ""));
        (marker, text, body)
    }

    /// What makes two messages the same message: marker and text, not the raw body (a mail's Message-ID differs).
    fn identity(&self) -> u64 {
        let (marker, text, _) = self.parts();
        fingerprint(&(marker, text))
    }
}

#[derive(Clone)]
struct Arrival {
    serial: u32,
    at_ms: u32,
    content: Arc<Content>,
}

/// One recipient's messages; almost always one, so that case holds no list.
enum Inbox {
    One(Arrival),
    Many(Vec<Arrival>),
}

impl Inbox {
    fn all(&self) -> &[Arrival] {
        match self {
            Inbox::One(arrival) => std::slice::from_ref(arrival),
            Inbox::Many(arrivals) => arrivals,
        }
    }

    fn push(&mut self, arrival: Arrival) {
        match self {
            Inbox::One(first) => *self = Inbox::Many(vec![first.clone(), arrival]),
            Inbox::Many(arrivals) => arrivals.push(arrival),
        }
    }
}

type Shard = Mutex<HashMap<Box<str>, Inbox>>;

/// Everything one channel accepted.
pub(crate) struct Received {
    recipients: Box<[Shard]>,
    contents: Box<[Mutex<HashSet<Arc<Content>>>]>,
    next_serial: AtomicU32,
}

/// A message a recipient got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedMessage {
    /// LINE user id, FCM token (or `/topics/…`), page-scoped id, WhatsApp number with its `+`, mail address, phone number as the
    /// provider was given it.
    pub recipient: String,
    /// Order of arrival on this channel, from 0.
    pub serial: u32,
    /// Real milliseconds between the sandbox's start and the arrival.
    pub at_ms: u32,
    /// The broadcast's marker: LINE `customAggregationUnits[0]`; FCM `data.broadcast_id`, else `android.collapse_key`,
    /// else `fcm_options.analytics_label`; Messenger `metadata` and WhatsApp `biz_opaque_callback_data` up to the last dot;
    /// mail `X-Broadcast-Id`, else `Feedback-ID`; empty when there is none.
    pub marker: String,
    /// Every text a person would see, one per line; mail: subject, then the decoded text part.
    pub text: String,
    /// The raw message (LINE `messages`, FCM `message`, the whole request to Graph, the mail as sent); empty unless bodies are kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// Which messages to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceivedQuery {
    /// Only this recipient.
    pub recipient: Option<String>,
    /// Only messages whose marker, text or body contains this.
    pub contains: Option<String>,
    /// Skip this many matches, in order of arrival.
    pub offset: usize,
    /// List at most this many; `None` lists all.
    pub limit: Option<usize>,
}

/// How the recipients of a channel fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) messages: u64,
    pub(crate) distinct: u64,
    pub(crate) most_to_one: u64,
    pub(crate) duplicates: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shard_of(hash: u64) -> usize {
    usize::try_from((hash >> 32) % SHARDS).unwrap_or(0)
}

impl Received {
    pub(crate) fn new() -> Self {
        Self {
            recipients: (0..SHARDS).map(|_| Mutex::default()).collect(),
            contents: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next_serial: AtomicU32::new(0),
        }
    }

    /// The stored copy of `content`.
    fn intern(&self, content: Content) -> Arc<Content> {
        let Some(shard) = self.contents.get(shard_of(fingerprint(&content))) else {
            return Arc::new(content);
        };
        let mut known = locked(shard);
        if let Some(same) = known.get(&content) {
            return Arc::clone(same);
        }
        let content = Arc::new(content);
        known.insert(Arc::clone(&content));
        content
    }

    /// Counts one message to each of `recipients`, in their order.
    pub(crate) fn record<'r>(&self, at_ms: u32, content: Content, recipients: impl Iterator<Item = &'r str>) {
        let content = self.intern(content);
        for recipient in recipients {
            let Some(shard) = self.recipients.get(shard_of(fingerprint(recipient))) else {
                continue;
            };
            let mut shard = locked(shard);
            let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
            let arrival = Arrival {
                serial,
                at_ms,
                content: Arc::clone(&content),
            };
            if let Some(inbox) = shard.get_mut(recipient) {
                inbox.push(arrival);
            } else {
                shard.insert(recipient.into(), Inbox::One(arrival));
            }
        }
    }

    /// Matching messages in order of arrival, and how many matched in all.
    pub(crate) fn find(&self, query: &ReceivedQuery) -> (usize, Vec<ReceivedMessage>) {
        let mut found = Vec::new();
        let wanted = |content: &Content| {
            query.contains.as_deref().is_none_or(|part| {
                let (marker, text, body) = content.parts();
                marker.contains(part) || text.contains(part) || body.contains(part)
            })
        };
        self.each(query.recipient.as_deref(), |recipient, inbox| {
            for arrival in inbox.all().iter().filter(|arrival| wanted(&arrival.content)) {
                found.push((Box::<str>::from(recipient), arrival.clone()));
            }
        });
        found.sort_unstable_by_key(|(_, arrival)| arrival.serial);
        let matched = found.len();
        let messages = found
            .into_iter()
            .skip(query.offset)
            .take(query.limit.unwrap_or(usize::MAX));
        (
            matched,
            messages
                .map(|(recipient, arrival)| shown(recipient.into_string(), &arrival))
                .collect(),
        )
    }

    /// How many matching messages each recipient got, by recipient.
    pub(crate) fn counts(&self, contains: Option<&str>) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        self.each(None, |recipient, inbox| {
            let matching = |arrival: &&Arrival| contains.is_none_or(|part| arrival.content.joined.contains(part));
            let count = inbox.all().iter().filter(matching).count() as u64;
            if count > 0 {
                counts.insert(recipient.to_owned(), count);
            }
        });
        counts
    }

    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        self.each(None, |_, inbox| {
            let all = inbox.all();
            census.distinct += 1;
            census.messages += all.len() as u64;
            census.most_to_one = census.most_to_one.max(all.len() as u64);
            if all.len() > 1 {
                let identities: HashSet<u64> = all.iter().map(|arrival| arrival.content.identity()).collect();
                census.duplicates += (all.len() - identities.len()) as u64;
            }
        });
        census
    }

    pub(crate) fn clear(&self) {
        for shard in &self.recipients {
            *locked(shard) = HashMap::new();
        }
        for shard in &self.contents {
            *locked(shard) = HashSet::new();
        }
        self.next_serial.store(0, Ordering::Relaxed);
    }

    /// Visits one recipient, or all.
    fn each(&self, only: Option<&str>, mut visit: impl FnMut(&str, &Inbox)) {
        if let Some(recipient) = only {
            if let Some(shard) = self.recipients.get(shard_of(fingerprint(recipient)))
                && let Some(inbox) = locked(shard).get(recipient)
            {
                visit(recipient, inbox);
            }
            return;
        }
        for shard in &self.recipients {
            for (recipient, inbox) in locked(shard).iter() {
                visit(recipient, inbox);
            }
        }
    }
}

fn shown(recipient: String, arrival: &Arrival) -> ReceivedMessage {
    let (marker, text, body) = arrival.content.parts();
    ReceivedMessage {
        recipient,
        serial: arrival.serial,
        at_ms: arrival.at_ms,
        marker: marker.to_owned(),
        text: text.to_owned(),
        body: body.to_owned(),
    }
}
