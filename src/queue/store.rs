//! The queue in Redis as three operations: claim, renew, settle. Everything else is built from them.
//!
//! Each is one script, so each happens wholly or not at all, and each may be sent again when its answer was lost: a
//! second claim uses new tags, and a second settlement finds its tag gone and is ignored.

use redis::{Cmd, RedisError, Value};

use super::{
    connection::{RedisConn, Script},
    keys::{self, KindKeys},
    slots::Free,
};

/// The most members (jobs in a list, a set or a hash) one script call touches.
pub(crate) const STEP: usize = 500;
/// How long the last word of a running job is kept when neither it nor another job says anything more: longer than any
/// handler may run.
const DOING_KEPT_MS: u64 = 3_600_000;

/// One kind as the store sees it: a name, its keys, its lease.
#[derive(Debug, Clone)]
pub(crate) struct StoredKind {
    pub(crate) name: String,
    pub(crate) keys: KindKeys,
    pub(crate) lease_ms: u64,
}

/// What a claim looks for beside fresh jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Nothing.
    None = 0,
    /// Jobs that have become due.
    Due = 1,
    /// Those, and jobs whose lease has run out.
    DueAndAbandoned = 2,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    /// Redis' clock, in milliseconds.
    pub(crate) now_ms: u64,
    /// Whether due jobs are left to promote.
    pub(crate) more_due: bool,
    /// The entries of each kind, in the order of their tags.
    pub(crate) entries: Vec<Vec<Vec<u8>>>,
    /// How many of each kind's entries were taken over from a worker whose lease had run out.
    pub(crate) taken_over: Vec<u64>,
}

/// What Redis said to a settlement and a claim that travelled together.
#[derive(Debug)]
pub(crate) struct Answers {
    /// How many settlements came too late to count.
    pub(crate) settled: Result<u64, RedisError>,
    pub(crate) claimed: Result<Claimed, RedisError>,
}

/// What is to become of a claimed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Forget it.
    Done,
    /// Back to the head of the list, as if it had not been claimed.
    Head { header: Option<String> },
    /// To the tail: its next turn.
    Tail { header: String },
    /// Again in so many milliseconds.
    After { delay_ms: u64, header: String },
    /// Again at this time, in milliseconds since 1970.
    At { due_ms: u64, header: String },
    /// Into the dead set under this reference.
    Dead { reference: String, record: Vec<u8> },
}

/// A settlement: a claim's kind and tag, and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settlement {
    pub(crate) kind: usize,
    pub(crate) number: u64,
    pub(crate) verb: Verb,
}

/// The scripts and keys of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) redis: RedisConn,
    pub(crate) kinds: Vec<StoredKind>,
    pub(crate) dead: String,
    doing: String,
    claim_keys: Vec<String>,
    /// What this process' tags begin with; new at every boot.
    tag_prefix: String,
    claim: Script,
    renew: Script,
    settle: Script,
    /// What the names of held `unique` keys begin with.
    held: String,
}

impl Store {
    pub(crate) fn new(redis: RedisConn, prefix: &str, worker_id: &str, kinds: Vec<StoredKind>) -> Self {
        let mut claim_keys: Vec<String> = kinds
            .iter()
            .flat_map(|kind| {
                let KindKeys { ready, due, lease, run } = kind.keys.clone();
                [ready, due, lease, run]
            })
            .collect();
        claim_keys.extend([keys::dead(prefix), keys::doing(prefix)]);
        Self {
            redis,
            kinds,
            dead: keys::dead(prefix),
            doing: keys::doing(prefix),
            claim_keys,
            tag_prefix: format!("{worker_id}:"),
            claim: Script::new(include_str!("claim.lua")),
            renew: Script::new(include_str!("renew.lua")),
            settle: Script::new(include_str!("settle.lua")),
            held: keys::held(prefix),
        }
    }

    pub(crate) fn tag(&self, number: u64) -> String {
        format!("{}{number}", self.tag_prefix)
    }

    /// Claims at most as many jobs as are free, none of a kind that `rests`, under the tags `first_number`,
    /// `first_number` + 1, …, and settles `batch` on the same way: the two are scripts of their own, each with an answer of
    /// its own. A claimed job holds its `unique` key no longer.
    ///
    /// The error is that of the connection: nothing is known of either then.
    pub(crate) async fn settle_and_claim(
        &self,
        batch: &[Settlement],
        first_number: u64,
        free: &Free,
        rests: impl Fn(usize) -> bool,
        sweep: Sweep,
    ) -> Result<Answers, RedisError> {
        let claim = (&self.claim, self.claim_call(first_number, free, rests, sweep));
        if batch.is_empty() {
            let reply = self.redis.script(claim.0, &claim.1).await?;
            return Ok(Answers {
                settled: Ok(0),
                claimed: parse_claim(reply),
            });
        }
        let mut replies = self
            .redis
            .scripts(&[(&self.settle, self.settle_call(batch)), claim])
            .await?
            .into_iter();
        let mut next = || replies.next().unwrap_or_else(|| Err(unexpected()));
        Ok(Answers {
            settled: next().and_then(parse_stale),
            claimed: next().and_then(parse_claim),
        })
    }

    fn claim_call(&self, first_number: u64, free: &Free, rests: impl Fn(usize) -> bool, sweep: Sweep) -> Cmd {
        let mut call = self.claim.call(&self.claim_keys);
        call.arg(&self.tag_prefix)
            .arg(first_number)
            .arg(free.shared)
            .arg(sweep as u8)
            .arg(STEP)
            .arg(carillon_jobs::MAX_TEXT_BYTES + super::entry::MAX_HEADER_BYTES)
            .arg(&self.held);
        for (place, (kind, own)) in self.kinds.iter().zip(&free.own).enumerate() {
            let own = if rests(place) { -1 } else { i64::from(*own) };
            call.arg(&kind.name).arg(own).arg(kind.lease_ms);
        }
        call
    }

    /// Renews leases of one kind: pairs of a claim's number and what its handler is about to do, if that is news. Returns
    /// the numbers whose jobs are no longer this worker's.
    pub(crate) async fn renew(
        &self,
        kind: &StoredKind,
        held: &[(u64, Option<String>)],
    ) -> Result<Vec<u64>, RedisError> {
        let mut call = self
            .renew
            .call(&[kind.keys.lease.as_str(), kind.keys.run.as_str(), self.doing.as_str()]);
        call.arg(kind.lease_ms).arg(DOING_KEPT_MS);
        for (number, word) in held {
            call.arg(self.tag(*number)).arg(word.as_deref().unwrap_or_default());
        }
        let reply = self.redis.script(&self.renew, &call).await?;
        let positions: Vec<usize> = redis::from_redis_value(reply).map_err(RedisError::from)?;
        Ok(positions
            .into_iter()
            .filter_map(|position| held.get(position).map(|(number, _)| *number))
            .collect())
    }

    /// Settles jobs, and says how many settlements came too late to count.
    pub(crate) async fn settle(&self, batch: &[Settlement]) -> Result<u64, RedisError> {
        parse_stale(self.redis.script(&self.settle, &self.settle_call(batch)).await?)
    }

    /// Names the keys of those kinds only that the batch is about: of many kinds, few are busy at a time.
    fn settle_call(&self, batch: &[Settlement]) -> Cmd {
        let mut kinds: Vec<usize> = batch.iter().map(|settlement| settlement.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.retain(|kind| *kind < self.kinds.len());
        let keys = kinds.iter().filter_map(|kind| self.kinds.get(*kind)).flat_map(|kind| {
            let KindKeys { ready, due, lease, run } = &kind.keys;
            [ready, due, lease, run]
        });
        let keys: Vec<&String> = keys.chain([&self.dead, &self.doing]).collect();
        let mut call = self.settle.call(&keys);
        for kind in &kinds {
            let done = |settlement: &&Settlement| settlement.kind == *kind && settlement.verb == Verb::Done;
            call.arg(batch.iter().filter(done).count());
            for settlement in batch.iter().filter(done) {
                call.arg(self.tag(settlement.number));
            }
        }
        for settlement in batch {
            if let Ok(place) = kinds.binary_search(&settlement.kind) {
                self.add_verb(&mut call, place, settlement);
            }
        }
        call
    }

    fn add_verb(&self, call: &mut Cmd, place: usize, settlement: &Settlement) {
        let mut add = |verb: &str, a: &[u8], header: &[u8]| {
            call.arg(verb)
                .arg(place + 1)
                .arg(self.tag(settlement.number))
                .arg(a)
                .arg(header);
        };
        match &settlement.verb {
            Verb::Done => {}
            Verb::Head { header } => add("H", b"", header.as_deref().unwrap_or("-").as_bytes()),
            Verb::Tail { header } => add("T", b"", header.as_bytes()),
            Verb::After { delay_ms, header } => {
                add("R", delay_ms.to_string().as_bytes(), header.as_bytes());
            }
            Verb::At { due_ms, header } => {
                add("L", due_ms.to_string().as_bytes(), header.as_bytes());
            }
            Verb::Dead { reference, record } => add("D", reference.as_bytes(), record),
        }
    }
}

fn parse_stale(reply: Value) -> Result<u64, RedisError> {
    redis::from_redis_value(reply).map_err(RedisError::from)
}

fn parse_claim(reply: Value) -> Result<Claimed, RedisError> {
    read_claim(reply).ok_or_else(unexpected)
}

fn read_claim(reply: Value) -> Option<Claimed> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let mut parts = parts.into_iter();
    let (Value::Int(now_ms), Value::Int(more)) = (parts.next()?, parts.next()?) else {
        return None;
    };
    let taken_over = redis::from_redis_value(parts.next_back()?).ok()?;
    let mut entries = Vec::with_capacity(parts.len());
    for part in parts {
        let Value::Array(values) = part else {
            return None;
        };
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            let Value::BulkString(bytes) = value else {
                return None;
            };
            texts.push(bytes);
        }
        entries.push(texts);
    }
    Some(Claimed {
        now_ms: u64::try_from(now_ms).ok()?,
        more_due: more != 0,
        entries,
        taken_over,
    })
}

fn unexpected() -> RedisError {
    (
        redis::ErrorKind::UnexpectedReturnType,
        "a queue script answered in an unknown form",
    )
        .into()
}
