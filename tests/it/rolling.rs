//! A rolling deploy: processes of two releases beside each other on one queue.

use redis::{AsyncCommands as _, aio::MultiplexedConnection};

use crate::{wait::until, world::World};

/// A kind that a release to come brings along; nothing here knows it.
const NEWER: &str = "receipt-chase";

/// All that lies under the newer kind's keys, as it lies there.
async fn newer(redis: &MultiplexedConnection, prefix: &str) -> String {
    let key = |name: &str| format!("{prefix}:{name}:{NEWER}");
    let mut redis = redis.clone();
    let ready: Vec<String> = redis.lrange(key("ready"), 0, -1).await.unwrap();
    let due: Vec<(String, f64)> = redis.zrange_withscores(key("due"), 0, -1).await.unwrap();
    let lease: Vec<(String, f64)> = redis.zrange_withscores(key("lease"), 0, -1).await.unwrap();
    let run: std::collections::BTreeMap<String, String> = redis.hgetall(key("run")).await.unwrap();
    format!("{ready:?} {due:?} {lease:?} {run:?}")
}

/// The old worker must neither run what it does not know, nor take it over from a newer worker that died, nor call it dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_only_newer_workers_know_waits_for_them() {
    let world = World::new(&[]).await;
    let draft = world.draft("priority_single", &["line"], "嗨").await;
    let prefix = format!("{{{}}}", world.env["CARILLON__REDIS__KEY_PREFIX"]);
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let redis = client.get_multiplexed_async_connection().await.unwrap();
    let key = |name: &str, kind: &str| format!("{prefix}:{name}:{kind}");
    let text = r#"{"args":{"message_id":7},"a_field":"of a later release"}"#;
    let mut conn = redis.clone();
    let _: i64 = conn.rpush(key("ready", NEWER), vec![text; 5]).await.unwrap();
    // Due long ago; and claimed by a newer worker that died.
    let _: i64 = conn.zadd(key("due", NEWER), text, 1).await.unwrap();
    let _: i64 = conn.hset(key("run", NEWER), "w0:1", text).await.unwrap();
    let _: i64 = conn.zadd(key("lease", NEWER), "w0:1", 1).await.unwrap();
    let before = newer(&redis, &prefix).await;

    let mut old = world.process("worker");
    let _scheduler = world.process("scheduler");
    let known = format!(r#"{{"args":{{"broadcast_id":"{draft}"}}}}"#);
    for _ in 0..20 {
        let _: i64 = conn.rpush(key("ready", "broadcast-send"), &known).await.unwrap();
        let _: i64 = conn.publish(format!("{prefix}:wake"), NEWER).await.unwrap();
        until("the old worker runs what it knows", async || {
            let mut conn = redis.clone();
            let ready: i64 = conn.llen(key("ready", "broadcast-send")).await.unwrap();
            let running: i64 = conn.hlen(key("run", "broadcast-send")).await.unwrap();
            ready == 0 && running == 0
        })
        .await;
    }
    assert_eq!(old.stop().await, 0);
    assert_eq!(newer(&redis, &prefix).await, before);
    assert_eq!(world.one::<i64>("select count(*) from dead_job").await, 0);
    let log = old.log();
    assert!(
        !log.contains("WARN") && !log.contains("ERROR") && !log.contains(NEWER),
        "{log}"
    );
}
