//! The claim script with several kinds, on a real Redis: shares, priority, bounds, fencing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use redis::AsyncCommands as _;
use uuid::Uuid;

use super::{
    QueueConfig, RedisConn,
    keys::{self, KindKeys},
    slots::{Free, Slots},
    store::{Claimed, Settlement, Store, StoredKind, Sweep, Verb},
};

struct Bench {
    prefix: String,
    redis: RedisConn,
    raw: redis::aio::MultiplexedConnection,
}

impl Bench {
    async fn new() -> Self {
        let url = std::env::var("CARILLON_TEST_REDIS_URL")
            .expect("CARILLON_TEST_REDIS_URL is not set; `bin/test` starts the services and sets it");
        Self {
            prefix: format!("{{test-{}}}", Uuid::new_v4().simple()),
            redis: RedisConn::connect(&url, &QueueConfig::default()).unwrap(),
            raw: redis::Client::open(url)
                .unwrap()
                .get_multiplexed_async_connection()
                .await
                .unwrap(),
        }
    }

    fn store(&self, worker: &str, lease_ms: u64) -> Store {
        self.store_of(&["first", "second"], worker, lease_ms)
    }

    fn store_of(&self, kinds: &[&str], worker: &str, lease_ms: u64) -> Store {
        let kinds = kinds.iter().map(|name| StoredKind {
            name: (*name).to_owned(),
            keys: KindKeys::new(&self.prefix, name),
            lease_ms,
        });
        Store::new(self.redis.clone(), &self.prefix, worker, kinds.collect())
    }

    async fn push(&self, kind: &str, count: usize) {
        let texts: Vec<String> = (0..count).map(|n| format!("{kind} {n}")).collect();
        let key = KindKeys::new(&self.prefix, kind).ready;
        let _: i64 = self.raw.clone().rpush(key, texts).await.unwrap();
    }
}

fn free(own: [u32; 2], shared: u32) -> Free {
    Free {
        own: own.to_vec(),
        shared,
    }
}

async fn claim(store: &Store, first: u64, free: &Free, sweep: Sweep) -> Claimed {
    claim_unless(store, first, free, |_| false, sweep).await
}

async fn claim_unless(store: &Store, first: u64, free: &Free, rests: impl Fn(usize) -> bool, sweep: Sweep) -> Claimed {
    let answers = store.settle_and_claim(&[], first, free, rests, sweep).await.unwrap();
    answers.claimed.unwrap()
}

#[tokio::test]
async fn shared_slots_go_by_priority_and_own_slots_to_their_kind() {
    let bench = Bench::new().await;
    bench.push("first", 10).await;
    bench.push("second", 10).await;
    let store = bench.store("w1", 60_000);
    let claimed = claim(&store, 1, &free([1, 2], 3), Sweep::DueAndAbandoned).await;
    let counts: Vec<usize> = claimed.entries.iter().map(Vec::len).collect();
    assert_eq!(counts, [4, 2]);
    assert_eq!(claimed.entries[0][0], b"first 0");
    assert_eq!(claimed.entries[1][1], b"second 1");
    // Nobody waits in the first kind: the second may have all that is shared.
    let _: i64 = bench
        .raw
        .clone()
        .del(KindKeys::new(&bench.prefix, "first").ready)
        .await
        .unwrap();
    let claimed = claim(&store, 7, &free([1, 0], 3), Sweep::None).await;
    let counts: Vec<usize> = claimed.entries.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 3]);
}

#[tokio::test]
async fn one_call_promotes_a_bounded_number_of_due_jobs() {
    let bench = Bench::new().await;
    let keys = KindKeys::new(&bench.prefix, "first");
    let due: Vec<(f64, String)> = (0..2_000).map(|n| (1.0, format!("job {n}"))).collect();
    let _: i64 = bench.raw.clone().zadd_multiple(&keys.due, &due).await.unwrap();
    let store = bench.store("w1", 60_000);
    let mut calls = 0;
    loop {
        calls += 1;
        let before: i64 = bench.raw.clone().zcard(&keys.due).await.unwrap();
        let claimed = claim(&store, calls, &free([0, 0], 0), Sweep::Due).await;
        let after: i64 = bench.raw.clone().zcard(&keys.due).await.unwrap();
        assert!(before - after <= 500, "{} in one call", before - after);
        if !claimed.more_due {
            break;
        }
    }
    let ready: i64 = bench.raw.clone().llen(&keys.ready).await.unwrap();
    assert_eq!(ready, 2_000);
}

#[tokio::test]
async fn a_settlement_under_a_lost_tag_changes_nothing() {
    let bench = Bench::new().await;
    bench.push("first", 1).await;
    let (late, quick) = (bench.store("w1", 50), bench.store("w2", 60_000));
    claim(&late, 1, &free([1, 0], 0), Sweep::None).await;
    let word = Some("plan a\nchunk".to_owned());
    let lost = late.renew(&late.kinds[0], &[(1, word)]).await.unwrap();
    assert!(lost.is_empty());
    let taken = loop {
        let claimed = claim(&quick, 1, &free([1, 0], 0), Sweep::DueAndAbandoned).await;
        if !claimed.entries[0].is_empty() {
            break claimed.entries[0][0].clone();
        }
    };
    let (history, text) = super::entry::split(&taken, "w2:1", 0);
    assert_eq!(
        (history.crashes, history.reference.as_str(), text),
        (1, "w1:1", b"first 0".as_slice())
    );
    assert_eq!(history.lost_tag.as_deref(), Some("w1:1@plan_a_chunk"));
    let settlement = |verb| Settlement {
        kind: 0,
        number: 1,
        verb,
    };
    let verbs = [
        Verb::Head { header: None },
        Verb::Tail { header: "-".to_owned() },
        Verb::After {
            delay_ms: 1,
            header: "-".to_owned(),
        },
        Verb::Dead {
            reference: "r".to_owned(),
            record: Vec::new(),
        },
        Verb::Done,
    ];
    let stale = late.settle(&verbs.map(settlement)).await.unwrap();
    assert_eq!(stale, 4, "all that is told of is stale, and a stale Done is silent");
    assert_eq!(
        late.renew(&late.kinds[0], &[(1, Some("think".to_owned()))])
            .await
            .unwrap(),
        [1]
    );
    assert!(quick.renew(&quick.kinds[0], &[(1, None)]).await.unwrap().is_empty());
    let keys: Vec<String> = bench.raw.clone().keys(format!("{}:*", bench.prefix)).await.unwrap();
    assert_eq!(
        keys.len(),
        2,
        "only the lease and the run of the one who has it: {keys:?}"
    );
    assert_eq!(quick.settle(&[settlement(Verb::Done)]).await.unwrap(), 0);
    let keys: Vec<String> = bench.raw.clone().keys(format!("{}:*", bench.prefix)).await.unwrap();
    assert!(keys.is_empty());
}

#[tokio::test]
async fn a_kind_that_rests_is_not_claimed_and_loses_nothing() {
    let bench = Bench::new().await;
    bench.push("first", 3).await;
    bench.push("second", 3).await;
    let store = bench.store("w1", 60_000);
    let rests = |kind| kind == 0;
    let claimed = claim_unless(&store, 1, &free([2, 2], 2), rests, Sweep::DueAndAbandoned).await;
    let counts: Vec<usize> = claimed.entries.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 3]);
    let claimed = claim(&store, 9, &free([2, 2], 2), Sweep::None).await;
    assert_eq!(claimed.entries[0].len(), 3);
}

#[tokio::test]
async fn a_claim_lets_go_of_the_unique_keys_of_its_jobs_and_of_no_others() {
    let bench = Bench::new().await;
    let mut raw = bench.raw.clone();
    let held = |unique: &str| keys::held_by(&bench.prefix, "first", unique);
    let text = |id: &str, unique: &str| format!(r#"{{"id": "{id}", "args": {{}}, "unique": "{unique}"}}"#);
    // Held by itself; by itself and back with a header; by the job that came after it; by one of another kind.
    for (unique, holder) in [("fresh", "a"), ("back", "b"), ("next", "another"), ("字 \n", "d")] {
        let _: () = raw.set(held(unique), holder).await.unwrap();
    }
    let other_kind = keys::held_by(&bench.prefix, "second", "fresh");
    let _: () = raw.set(&other_kind, "a").await.unwrap();
    // Whatever lies under the key, and whatever the text holds, no claim may break off: its jobs have left their list.
    let _: () = raw.rpush(held("list"), "e").await.unwrap();
    let entries = [
        text("a", "fresh"),
        format!("\u{1}1 0 0 5 w0:1 -\n{}", text("b", "back")),
        text("c", "next"),
        r#"{"unique": "\u5b57 \n", "id": "d"}"#.to_owned(),
        text("e", "list"),
        r#"{"unique": "no id"}"#.to_owned(),
        r#"{"unique": ["fresh"], "id": {"unique": 1}}"#.to_owned(),
        r#"["unique"]"#.to_owned(),
        r#""unique""#.to_owned(),
        r#"{"unique": "cut o"#.to_owned(),
        format!("\u{1}{}", text("f", "no line break")),
        format!("{}\"unique\"", "[".repeat(60_000)),
    ];
    let ready = KindKeys::new(&bench.prefix, "first").ready;
    let _: i64 = raw.rpush(&ready, &entries).await.unwrap();
    let store = bench.store("w1", 60_000);
    let claimed = claim(&store, 1, &free([20, 0], 0), Sweep::None).await;
    assert_eq!(claimed.entries[0].len(), entries.len());
    let mut left: Vec<String> = raw.keys(format!("{}:unique:*", bench.prefix)).await.unwrap();
    left.sort();
    assert_eq!(left, [held("list"), held("next"), other_kind]);
}

#[tokio::test]
async fn many_leases_lie_in_a_tree_and_hold_nothing_but_jobs() {
    let bench = Bench::new().await;
    let mut raw = bench.raw.clone();
    let store = bench.store("w1", 60_000);
    let lease = KindKeys::new(&bench.prefix, "first").lease;
    // Whatever the number of jobs that wait: more may come while they run.
    for waiting in [1, 60, 2_000] {
        bench.push("first", waiting).await;
        let claimed = claim(&store, 1, &free([50, 0], 450), Sweep::None).await;
        let taken = claimed.entries[0].len() as u64;
        let encoding: String = redis::cmd("OBJECT")
            .arg("ENCODING")
            .arg(&lease)
            .query_async(&mut raw)
            .await
            .unwrap();
        assert_eq!(encoding, "skiplist");
        let leases: Vec<String> = raw.zrange(&lease, 0, -1).await.unwrap();
        assert_eq!(leases.len() as u64, taken);
        assert!(leases.iter().all(|tag| tag.starts_with("w1:")), "{leases:?}");
        let done = (1..=taken).map(|number| Settlement {
            kind: 0,
            number,
            verb: Verb::Done,
        });
        assert_eq!(store.settle(&done.collect::<Vec<_>>()).await.unwrap(), 0);
        assert!(!raw.exists::<_, bool>(&lease).await.unwrap(), "it ends with its jobs");
    }
}

#[tokio::test]
async fn one_settlement_may_be_about_several_kinds() {
    let bench = Bench::new().await;
    bench.push("first", 2).await;
    bench.push("second", 2).await;
    let store = bench.store("w1", 60_000);
    claim(&store, 1, &free([2, 2], 0), Sweep::None).await;
    let say = |kind, number, verb| Settlement { kind, number, verb };
    let back = || Verb::Head { header: None };
    let batch = [
        say(1, 4, back()),
        say(0, 1, Verb::Done),
        say(1, 3, Verb::Done),
        say(0, 2, back()),
    ];
    assert_eq!(store.settle(&batch).await.unwrap(), 0);
    let claimed = claim(&store, 5, &free([2, 2], 0), Sweep::None).await;
    assert_eq!(claimed.entries, [[b"first 1".to_vec()], [b"second 1".to_vec()]]);
}

/// One worker's slots over three kinds, in order of priority, as the claim loop uses them.
struct Worker {
    store: Store,
    slots: Slots,
    number: u64,
}

impl Worker {
    const KINDS: [&'static str; 3] = ["settlement", "webhook", "broadcast"];

    fn new(bench: &Bench, concurrency: u32) -> Self {
        Self {
            store: bench.store_of(&Self::KINDS, "w1", 60_000),
            slots: Slots::new(concurrency, &[2, 16, 4]),
            number: 1,
        }
    }

    /// Claims what there is room for, and says how many of each kind that were.
    async fn claim(&mut self) -> [usize; 3] {
        let free = self.slots.free();
        let claimed = claim(&self.store, self.number, &free, Sweep::None).await;
        self.number += 10_000;
        let mut counts = [0; 3];
        for (kind, entries) in claimed.entries.iter().enumerate() {
            counts[kind] = entries.len();
            self.slots.take(kind, u32::try_from(entries.len()).unwrap());
        }
        counts
    }

    fn end(&self, kind: usize, jobs: usize) {
        (0..jobs).for_each(|_| self.slots.give(kind));
    }
}

#[tokio::test]
async fn broadcasts_in_every_slot_they_may_have_keep_no_settlement_and_no_webhook_waiting() {
    for concurrency in [8, 20, 50] {
        let bench = Bench::new().await;
        let mut worker = Worker::new(&bench, concurrency);
        bench.push("broadcast", 5_000).await;
        let [_, _, broadcasts] = worker.claim().await;
        assert!(
            broadcasts > 0 && worker.claim().await == [0, 0, 0],
            "no slot is left for broadcasts"
        );
        // Their turns go on; none ends. Whatever else comes is claimed at once all the same.
        bench.push("settlement", 1).await;
        bench.push("webhook", 1).await;
        assert_eq!(worker.claim().await, [1, 1, 0], "{concurrency} slots");
    }
}

#[tokio::test]
async fn a_flood_of_webhooks_starves_neither_broadcasts_nor_settlements() {
    for concurrency in [8, 20, 50] {
        let bench = Bench::new().await;
        let mut worker = Worker::new(&bench, concurrency);
        bench.push("webhook", 20_000).await;
        bench.push("broadcast", 100).await;
        let [_, mut flood, mut sent] = worker.claim().await;
        assert!(sent > 0, "{concurrency} slots: broadcasts have their own");
        // Every webhook ends and another takes its place; each broadcast that ends is followed by one of its own.
        for _ in 0..20 {
            worker.end(1, flood);
            worker.end(2, 1);
            let claimed = worker.claim().await;
            assert_eq!(claimed[2], 1, "{concurrency} slots");
            (flood, sent) = (claimed[1], sent + claimed[2]);
            assert!(flood > 0);
        }
        assert!(sent > 20);
        bench.push("settlement", 1).await;
        assert_eq!(
            worker.claim().await[0],
            1,
            "{concurrency} slots: settlements have their own"
        );
    }
}

#[test]
fn every_kind_keeps_slots_of_its_own() {
    let wanted: Vec<u32> = carillon_jobs::Kind::ALL
        .iter()
        .map(|kind| kind.policy().reserved_slots)
        .collect();
    let slots = Slots::new(QueueConfig::default().concurrency, &wanted);
    assert!(slots.free().own.iter().all(|own| *own > 0), "{wanted:?}");
}
/// A rolling deploy: the old release knows one kind, the new one two.
#[tokio::test]
async fn a_kind_only_the_newer_release_knows_waits_for_it() {
    let mut bench = Bench::new().await;
    bench.push("first", 2).await;
    bench.push("second", 3).await;
    let old = bench.store_of(&["first"], "old", 60_000);
    let newer = bench.store("new", 60_000);
    let only = Free {
        own: vec![10],
        shared: 10,
    };
    let claimed = claim(&old, 1, &only, Sweep::DueAndAbandoned).await;
    assert_eq!(claimed.entries.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    let claimed = claim(&newer, 1, &free([10, 10], 0), Sweep::DueAndAbandoned).await;
    assert_eq!(claimed.entries.iter().map(Vec::len).collect::<Vec<_>>(), [0, 3]);
    // What each says afterwards concerns its own kinds only, whatever their number in the other's list.
    let back = |kind, number| Settlement {
        kind,
        number,
        verb: Verb::Head { header: None },
    };
    assert_eq!(old.settle(&[back(0, 1), back(0, 2), back(0, 3)]).await.unwrap(), 1);
    assert_eq!(newer.settle(&[back(1, 1), back(1, 2), back(1, 3)]).await.unwrap(), 0);
    for (kind, count) in [("first", 2), ("second", 3)] {
        let ready = bench.raw.llen::<_, i64>(KindKeys::new(&bench.prefix, kind).ready).await;
        assert_eq!(ready.unwrap(), count, "{kind}");
    }
}
