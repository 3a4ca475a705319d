//! The whole life of jobs, scripts and tickets together on a real Redis, against a plain model: whatever mixture of
//! failures, snoozes, turns, handing back, crashes and late words a job meets, its counts are those of the model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_jobs::{BroadcastId, BroadcastSend, Envelope, Job, Kind};
use proptest::prelude::*;
use redis::AsyncCommands as _;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    DeadReason, JobError, Outcome, Queue, QueueConfig, RedisConn,
    backend::Work,
    claimer::Claimer,
    dead::Record,
    engine::Engine,
    keys::{self, KindKeys},
    ticket::{Failure, Ticket},
};

const MAX_ATTEMPTS: u32 = 3;
const MAX_CRASHES: u32 = 3;

/// What becomes of one run of a job.
#[derive(Debug, Clone, Copy)]
enum Act {
    Done,
    Fail,
    Panic,
    Reject,
    Snooze,
    Again,
    GiveBack,
    /// Its worker dies.
    Crash,
    /// Its lease runs out, and the worker speaks when somebody else has the job.
    Late(Late),
    /// It is still running when the others' next round comes.
    Linger,
}

#[derive(Debug, Clone, Copy)]
enum Late {
    Done,
    Fail,
    Again,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => Just(Act::Done),
        4 => Just(Act::Fail),
        2 => Just(Act::Panic),
        1 => Just(Act::Reject),
        3 => Just(Act::Snooze),
        1 => Just(Act::Again),
        3 => Just(Act::GiveBack),
        3 => Just(Act::Crash),
        1 => Just(Act::Late(Late::Done)),
        1 => Just(Act::Late(Late::Fail)),
        1 => Just(Act::Late(Late::Again)),
        2 => Just(Act::Linger),
    ]
}

/// One job as the rules say it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    attempts: u32,
    crashes: u32,
    snoozes: u32,
    failed_runs: u32,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Dead(DeadReason),
}

impl Model {
    /// What a run does to it.
    fn apply(&mut self, act: Act) {
        match act {
            Act::Done => self.end = Some(End::Done),
            Act::Fail | Act::Panic => {
                self.failed_runs += 1;
                self.attempts += 1;
                if self.attempts == MAX_ATTEMPTS {
                    self.end = Some(End::Dead(DeadReason::Exhausted));
                }
            }
            Act::Reject => self.end = Some(End::Dead(DeadReason::Rejected)),
            Act::Snooze => {
                self.snoozes += 1;
                self.crashes = 0;
            }
            Act::Again => (self.attempts, self.crashes, self.failed_runs) = (0, 0, 0),
            Act::GiveBack | Act::Linger => {}
            Act::Crash | Act::Late(_) => self.crashes += 1,
        }
    }

    /// Looked at before each run: one that crashed too often never runs again.
    fn claimed(&mut self) {
        if self.end.is_none() && self.crashes == MAX_CRASHES {
            self.end = Some(End::Dead(DeadReason::Poison));
        }
    }
}

/// A worker without its loops: the test takes their steps itself.
struct Bed {
    engine: Arc<Engine>,
    claimer: Claimer,
    claimed: mpsc::UnboundedReceiver<Work>,
    raw: redis::aio::MultiplexedConnection,
    queue: Queue,
    keys: KindKeys,
}

impl Bed {
    async fn new() -> Self {
        let url = std::env::var("CARILLON_TEST_REDIS_URL")
            .expect("CARILLON_TEST_REDIS_URL is not set; `bin/test` starts the services and sets it");
        let config = QueueConfig {
            key_prefix: format!("{{test-{}}}", Uuid::new_v4().simple()),
            // Slots of crashed runs are never given back.
            concurrency: 400,
            poll_ms: 10,
            sweep_ms: 1,
            retry_first_ms: 1,
            max_crashes: MAX_CRASHES,
            ..QueueConfig::default()
        };
        let redis = RedisConn::connect(&url, &config).unwrap();
        let engine = Engine::new(config.clone(), redis.clone(), "w1", CancellationToken::new());
        let (send, claimed) = mpsc::unbounded_channel();
        Self {
            claimer: Claimer::new(Arc::clone(&engine), send),
            engine,
            claimed,
            raw: redis::Client::open(url)
                .unwrap()
                .get_multiplexed_async_connection()
                .await
                .unwrap(),
            queue: Queue::new(redis, &config),
            keys: KindKeys::new(&config.key_prefix, Kind::BroadcastSend.name()),
        }
    }

    /// As if the time had come for everything in this set: of `tag`, or of all.
    async fn make_due(&mut self, set: &str, tag: Option<String>) {
        let members: Vec<Vec<u8>> = match tag {
            Some(tag) => vec![tag.into_bytes()],
            None => self.raw.zrange(set, 0, -1).await.unwrap(),
        };
        for member in members {
            let mut command = redis::cmd("ZADD");
            command.arg(set).arg("XX").arg(1).arg(member);
            let _: i64 = command.query_async(&mut self.raw).await.unwrap();
        }
    }

    /// Everything that waits is claimed; what the last round said is settled on the way.
    async fn claim_all(&mut self) -> Vec<Work> {
        let mut all = Vec::new();
        // Settles, then claims what the settlement made ready, then finds nothing.
        loop {
            self.settle().await;
            self.make_due(&self.keys.due.clone(), None).await;
            self.claimer.turn().await;
            let before = all.len();
            while let Ok(work) = self.claimed.try_recv() {
                all.push(work);
            }
            // A turn that comes too soon after another does not look for abandoned ones.
            let waits: (i64, i64, i64) = redis::pipe()
                .llen(&self.keys.ready)
                .zcard(&self.keys.due)
                .zcount(&self.keys.lease, 0, 1)
                .query_async(&mut self.raw)
                .await
                .unwrap();
            if before == all.len() && waits == (0, 0, 0) {
                return all;
            }
        }
    }

    async fn settle(&self) {
        let taken = self.engine.outbox.take();
        self.engine.store.settle(taken.batch()).await.unwrap();
        taken.arrived();
    }
}

fn id_of(work: &Work) -> BroadcastId {
    let Job::BroadcastSend(args) = &work.job else {
        panic!("a broadcast's job")
    };
    args.broadcast_id
}

fn result(act: Act) -> Result<Outcome, Failure> {
    match act {
        Act::Done | Act::Late(Late::Done) => Ok(Outcome::Done),
        Act::Fail | Act::Late(Late::Fail) => Err(Failure::Handler(JobError::retry("no luck"))),
        Act::Panic => Err(Failure::Panicked("ouch".to_owned())),
        Act::Reject => Err(Failure::Handler(JobError::dead("never"))),
        Act::Snooze => Ok(Outcome::SnoozeFor {
            wait: Duration::from_hours(1),
        }),
        Act::Again | Act::Late(Late::Again) => Ok(Outcome::Again),
        Act::GiveBack => Ok(Outcome::GiveBack),
        Act::Crash | Act::Linger => unreachable!("says nothing"),
    }
}

async fn play(scripts: Vec<Vec<Act>>) {
    let mut bed = Bed::new().await;
    let mut models = BTreeMap::new();
    for script in scripts {
        let broadcast_id = BroadcastId::new();
        let mut envelope = Envelope::new(BroadcastSend {
            broadcast_id,
            sender_id: None,
        });
        envelope.max_attempts = Some(MAX_ATTEMPTS);
        envelope.id = Some(broadcast_id.to_string());
        bed.queue.ring(envelope).await.unwrap();
        models.insert(broadcast_id, (Model::default(), script.into_iter()));
    }
    let (mut late, mut lingering): (Vec<(Ticket, Act)>, Vec<Work>) = (Vec::new(), Vec::new());
    // Whoever came late speaks while the job is somebody else's, and its word must not count.
    for _ in 0..40 {
        let mut works = bed.claim_all().await;
        for (model, _) in models.values_mut() {
            model.claimed();
        }
        if models.values().all(|(model, _)| model.end.is_some()) && late.is_empty() {
            break;
        }
        works.append(&mut lingering);
        for (ticket, act) in late.drain(..) {
            ticket.settle(result(act));
        }
        bed.settle().await;
        for mut work in works {
            let (model, script) = models.get_mut(&id_of(&work)).unwrap();
            assert_eq!(model.end, None, "{model:?} runs again");
            assert_eq!(work.context.attempt, model.attempts + 1);
            assert_eq!(work.context.suspect.is_some(), model.crashes > 0);
            // Scripts end with as many failures as it takes.
            let act = script.next().unwrap_or(Act::Fail);
            model.apply(act);
            match act {
                Act::Linger => lingering.push(work),
                Act::Crash | Act::Late(_) => {
                    let ticket = work.ticket.take().unwrap();
                    bed.make_due(&bed.keys.lease.clone(), Some(bed.engine.store.tag(work.number)))
                        .await;
                    match act {
                        Act::Late(_) => late.push((ticket, act)),
                        // As SIGKILL: nobody is told anything.
                        _ => std::mem::forget(ticket),
                    }
                }
                said => work.ticket.take().unwrap().settle(result(said)),
            }
        }
    }
    // Who was found to be poison by the last look has died, and is not told of yet.
    bed.settle().await;
    let dead: BTreeMap<String, Vec<u8>> = bed.raw.hgetall(&bed.engine.store.dead).await.unwrap();
    let mut records: BTreeMap<String, Record> = dead
        .values()
        .map(|bytes| Record::from_bytes(bytes).unwrap())
        .map(|record| (record.job_id.clone().unwrap(), record))
        .collect();
    for (id, (model, _)) in models {
        let record = records.remove(&id.to_string());
        match model.end {
            Some(End::Done) => assert!(record.is_none()),
            Some(End::Dead(reason)) => {
                let record = record.expect("a dead job has a record");
                assert_eq!(
                    (record.reason, record.attempts, record.crashes, record.snoozes),
                    (reason, model.attempts, model.crashes, model.snoozes)
                );
                if reason == DeadReason::Exhausted {
                    assert_eq!(model.failed_runs, MAX_ATTEMPTS, "exactly as many runs failed as may");
                }
            }
            None => panic!("{model:?} has not ended"),
        }
    }
    assert!(records.is_empty(), "nobody else died");
    let left: Vec<String> = bed
        .raw
        .keys(format!("{}:*", bed.engine.config.key_prefix))
        .await
        .unwrap();
    assert!(
        left.iter().all(|key| *key == keys::dead(&bed.engine.config.key_prefix)),
        "{left:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_mixture_of_fates_leaves_the_counts_the_plain_model_says(
        scripts in proptest::collection::vec(proptest::collection::vec(act(), 0..12), 1..12),
    ) {
        Runtime::new().unwrap().block_on(play(scripts));
    }
}
