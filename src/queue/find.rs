//! Where a job lies in the queue: looked for by its id, or by the broadcast it is about. Reads only.
//!
//! A list has no index, so this reads the queue from its head in steps; a person waits for it, no program does.

use carillon_jobs::{BroadcastId, Envelope, Job, Kind, SenderId};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    Queue, QueueError, backlog,
    entry::{self, History},
    keys::{self, KindKeys},
};

/// Entries read in one step: nearly always a few hundred bytes each, but a hostile one may be megabytes.
const STEP: usize = 50;
/// Entries looked at in one list or set before it is given up.
const MOST: usize = 500_000;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The job with this id.
    Job(String),
    /// Every job about this broadcast.
    Broadcast(BroadcastId),
}

/// Where a job lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "in")]
pub enum Place {
    /// In the ready list.
    Ready {
        /// From 1, the next to be claimed.
        place: usize,
    },
    /// Delayed, snoozed or waiting for its next try.
    Scheduled {
        /// Until then, by Redis' clock.
        at: Option<DateTime<Utc>>,
    },
    /// Claimed.
    Running {
        /// By the worker with this id, new at each of its starts.
        worker: String,
        /// Its lease lasts until then, by Redis' clock.
        lease_until: Option<DateTime<Utc>>,
    },
    /// Dead, and on its way to Postgres.
    Dying,
}

/// A job that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundJob {
    /// Its kind.
    #[serde(serialize_with = "name")]
    pub kind: Kind,
    /// Its id, if it has one or was given one.
    pub id: Option<String>,
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// What it is about.
    pub broadcast_id: Option<BroadcastId>,
    /// The lane it is about.
    pub sender_id: Option<SenderId>,
    /// Attempts that failed.
    pub attempts: u32,
    /// Workers whose lease on it ran out, in a row.
    pub crashes: u32,
    /// Times it asked to be woken later.
    pub snoozes: u32,
    /// The worker that let the lease run out last.
    pub lost_by: Option<String>,
}

/// What a search brought.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The jobs, in the order they will run as far as that is known.
    pub jobs: Vec<FoundJob>,
    /// Redis' clock at the search.
    pub now: Option<DateTime<Utc>>,
    /// False: the queue was too long to be read to its end.
    pub complete: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde calls")]
fn name<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

impl Queue {
    /// Looks for jobs everywhere in the queue.
    ///
    /// # Errors
    /// [`QueueError::Redis`].
    pub async fn find(&self, wanted: &Wanted) -> Result<Search, QueueError> {
        let needle = Needle::new(wanted);
        let mut search = Search {
            now: moment(self.now_ms().await?),
            complete: true,
            ..Search::default()
        };
        for kind in Kind::ALL {
            let keys = KindKeys::new(&self.prefix, kind.name());
            self.find_running(*kind, &keys, &needle, &mut search).await?;
            self.find_ready(*kind, &keys, &needle, &mut search).await?;
            self.find_scheduled(*kind, &keys, &needle, &mut search).await?;
        }
        self.find_dying(&needle, &mut search).await?;
        Ok(search)
    }

    async fn find_ready(
        &self,
        kind: Kind,
        keys: &KindKeys,
        needle: &Needle<'_>,
        search: &mut Search,
    ) -> Result<(), QueueError> {
        for from in (0..MOST).step_by(STEP) {
            let mut command = redis::cmd("LRANGE");
            command.arg(&keys.ready).arg(from).arg(from + STEP - 1);
            let entries: Vec<Vec<u8>> = backlog::read(Some(self.redis.send(&command).await?))?;
            for (index, entry) in entries.iter().enumerate() {
                let place = Place::Ready {
                    place: from + index + 1,
                };
                search.jobs.extend(needle.read(kind, "", entry, place));
            }
            if entries.len() < STEP {
                return Ok(());
            }
        }
        search.complete = false;
        Ok(())
    }

    async fn find_scheduled(
        &self,
        kind: Kind,
        keys: &KindKeys,
        needle: &Needle<'_>,
        search: &mut Search,
    ) -> Result<(), QueueError> {
        for from in (0..MOST).step_by(STEP) {
            let mut command = redis::cmd("ZRANGE");
            command.arg(&keys.due).arg(from).arg(from + STEP - 1).arg("WITHSCORES");
            let entries: Vec<(Vec<u8>, f64)> = backlog::read(Some(self.redis.send(&command).await?))?;
            for (entry, due_ms) in &entries {
                let place = Place::Scheduled { at: moment_of(*due_ms) };
                search.jobs.extend(needle.read(kind, "", entry, place));
            }
            if entries.len() < STEP {
                return Ok(());
            }
        }
        search.complete = false;
        Ok(())
    }

    /// Bounded by the slots of all workers, so it is read whole.
    async fn find_running(
        &self,
        kind: Kind,
        keys: &KindKeys,
        needle: &Needle<'_>,
        search: &mut Search,
    ) -> Result<(), QueueError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(&keys.run);
        let running: Vec<(String, Vec<u8>)> = backlog::read(Some(self.redis.send(&command).await?))?;
        for (tag, entry) in running {
            let place = Place::Running {
                worker: worker_of(&tag),
                lease_until: None,
            };
            let Some(mut job) = needle.read(kind, &tag, &entry, place) else {
                continue;
            };
            let mut command = redis::cmd("ZSCORE");
            command.arg(&keys.lease).arg(&tag);
            let end_ms: Option<f64> = backlog::read(Some(self.redis.send(&command).await?))?;
            if let Place::Running { lease_until, .. } = &mut job.place {
                *lease_until = end_ms.and_then(moment_of);
            }
            search.jobs.push(job);
        }
        Ok(())
    }

    /// Normally empty: workers carry dead jobs over at once. Records hold the producer's text behind a line of JSON.
    async fn find_dying(&self, needle: &Needle<'_>, search: &mut Search) -> Result<(), QueueError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(keys::dead(&self.prefix));
        let dying: Vec<(String, Vec<u8>)> = backlog::read(Some(self.redis.send(&command).await?))?;
        for (reference, record) in dying {
            let Some(record) = super::dead::Record::from_bytes(&record) else {
                continue;
            };
            let Ok(kind) = record.kind.parse::<Kind>() else {
                continue;
            };
            if let Some(mut job) = needle.read(kind, &reference, &record.raw, Place::Dying) {
                (job.attempts, job.crashes, job.snoozes) = (record.attempts, record.crashes, record.snoozes);
                search.jobs.push(job);
            }
        }
        Ok(())
    }
}

/// What is looked for, and a text every entry that matches contains.
struct Needle<'a> {
    wanted: &'a Wanted,
    text: Vec<u8>,
}

impl<'a> Needle<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let text = match wanted {
            Wanted::Job(id) => id.to_ascii_lowercase().into_bytes(),
            Wanted::Broadcast(id) => id.to_string().into_bytes(),
        };
        Self { wanted, text }
    }

    /// The job in an entry that was claimed under `tag`, if it is one that is looked for.
    fn read(&self, kind: Kind, tag: &str, entry: &[u8], place: Place) -> Option<FoundJob> {
        // A cheap look first: parsing a queue of hundreds of thousands would take a minute.
        let near = contains(entry, &self.text) || contains(tag.as_bytes(), &self.text);
        if !near {
            return None;
        }
        let (history, text) = entry::split(entry, tag, 0);
        let envelope = Envelope::parse(kind, text).ok();
        let given = (!history.reference.is_empty()).then(|| history.reference.clone());
        let id = envelope.as_ref().and_then(|envelope| envelope.id.clone()).or(given);
        let (broadcast_id, sender_id) = match envelope.map(|envelope| envelope.job) {
            Some(Job::BroadcastSend(args)) => (Some(args.broadcast_id), args.sender_id),
            Some(
                Job::MonthlyTokenRefill(_)
                | Job::Audit(_)
                | Job::TopUpSettlement(_)
                | Job::WebhookIngest(_)
                | Job::MediaFetch(_),
            )
            | None => (None, None),
        };
        let wanted = match self.wanted {
            Wanted::Job(wanted) => id.as_ref() == Some(wanted),
            Wanted::Broadcast(wanted) => broadcast_id == Some(*wanted),
        };
        wanted.then(|| found(kind, id, place, (broadcast_id, sender_id), &history))
    }
}

fn found(
    kind: Kind,
    id: Option<String>,
    place: Place,
    (broadcast_id, sender_id): (Option<BroadcastId>, Option<SenderId>),
    history: &History,
) -> FoundJob {
    FoundJob {
        kind,
        id,
        place,
        broadcast_id,
        sender_id,
        attempts: history.attempts,
        crashes: history.crashes,
        snoozes: history.snoozes,
        lost_by: history.lost_tag.as_deref().map(worker_of),
    }
}

/// Whatever the case of its letters: other languages write UUIDs in capitals.
fn contains(text: &[u8], lower: &[u8]) -> bool {
    lower.is_empty()
        || text
            .windows(lower.len())
            .any(|window| window.eq_ignore_ascii_case(lower))
}

/// A tag is a worker's id, a colon and a number.
fn worker_of(tag: &str) -> String {
    tag.split(':').next().unwrap_or(tag).to_owned()
}

fn moment(ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)
}

#[allow(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
fn moment_of(ms: f64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms as i64)
}
