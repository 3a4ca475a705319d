//! The claim script with several kinds, on a real Redis: shares, priority, bounds, fencing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use redis::AsyncCommands as _;
use uuid::Uuid;

use super::{
    QueueConfig, RedisConn,
    keys::KindKeys,
    slots::Free,
    store::{Settlement, Store, StoredKind, Sweep, Verb},
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

#[tokio::test]
async fn shared_slots_go_by_priority_and_own_slots_to_their_kind() {
    let bench = Bench::new().await;
    bench.push("first", 10).await;
    bench.push("second", 10).await;
    let store = bench.store("w1", 60_000);
    let claimed = store.claim(1, &free([1, 2], 3), Sweep::DueAndAbandoned).await.unwrap();
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
    let claimed = store.claim(7, &free([1, 0], 3), Sweep::None).await.unwrap();
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
        let claimed = store.claim(calls, &free([0, 0], 0), Sweep::Due).await.unwrap();
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
    let (late, quick) = (bench.store("w1", 1), bench.store("w2", 60_000));
    late.claim(1, &free([1, 0], 0), Sweep::None).await.unwrap();
    let taken = loop {
        let claimed = quick.claim(1, &free([1, 0], 0), Sweep::DueAndAbandoned).await.unwrap();
        if !claimed.entries[0].is_empty() {
            break claimed.entries[0][0].clone();
        }
    };
    let (history, text) = super::entry::split(&taken, "w2:1", 0);
    assert_eq!(
        (history.crashes, history.reference.as_str(), text),
        (1, "w1:1", b"first 0".as_slice())
    );
    assert_eq!(history.lost_tag.as_deref(), Some("w1:1"));
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
    assert_eq!(late.renew(&late.kinds[0], &[1]).await.unwrap(), [1]);
    assert!(quick.renew(&quick.kinds[0], &[1]).await.unwrap().is_empty());
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

/// A rolling deploy: the old release knows one kind, the new one two.
#[tokio::test]
async fn a_kind_only_the_newer_release_knows_waits_for_it() {
    let bench = Bench::new().await;
    bench.push("first", 2).await;
    bench.push("second", 3).await;
    let old = bench.store_of(&["first"], "old", 60_000);
    let newer = bench.store("new", 60_000);
    let only = Free {
        own: vec![10],
        shared: 10,
    };
    let claimed = old.claim(1, &only, Sweep::DueAndAbandoned).await.unwrap();
    assert_eq!(claimed.entries.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    let claimed = newer
        .claim(1, &free([10, 10], 0), Sweep::DueAndAbandoned)
        .await
        .unwrap();
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
        let ready: i64 = bench
            .raw
            .clone()
            .llen(KindKeys::new(&bench.prefix, kind).ready)
            .await
            .unwrap();
        assert_eq!(ready, count, "{kind}");
    }
}
