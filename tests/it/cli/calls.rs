//! Wrong calls, wrong settings, and what is not there: each says what to do and changes nothing.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;
use uuid::Uuid;

use super::{NOBODY, dead_job, keys, payload, rows, run, run_with};
use crate::{
    fixture_db::{TestDb, empty_database, service},
    redis_server::{Memory, RedisServer},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)] // A table, a line a call.
async fn a_wrong_call_says_what_is_wrong_and_changes_nothing() {
    let world = World::new(&[]).await;
    let retried = dead_job(&world, "gone", "rejected", "{}", "1 h").await.to_string();
    world.run("update dead_job set replayed_at = now()").await;
    let before = rows(&world).await;
    let whole = format!(r#"{{"args":{}}}"#, payload());
    let (good, long) = (payload(), "x".repeat(201));
    let calls: Vec<(Vec<&str>, &str)> = vec![
        (vec![], "Usage: carillon"),
        (vec!["wrok"], "'wrok'"),
        (vec!["web", "--prot", "1"], "'--prot'"),
        (vec!["migrate", "now"], "'now'"),
        (vec!["enqueue"], "<KIND>"),
        (vec!["enqueue", "broadcast-send"], "JSON"),
        (
            vec!["enqueue", "broadcast"],
            "kinds are broadcast-send, monthly-token-refill",
        ),
        (vec!["enqueue", "broadcast-send", "{"], "the payload is not JSON"),
        (vec!["enqueue", "broadcast-send", ""], "it is empty"),
        (vec!["enqueue", "broadcast-send", "-"], "it is empty"),
        (
            vec!["enqueue", "broadcast-send", "@/no/such/file"],
            "/no/such/file cannot be read",
        ),
        (vec!["enqueue", "broadcast-send", "[]"], "args"),
        (vec!["enqueue", "broadcast-send", "{}"], "`broadcast_id`"),
        (
            vec!["enqueue", "broadcast-send", r#"{"broadcast_id":7}"#],
            "args.broadcast_id",
        ),
        (
            vec![
                "enqueue",
                "broadcast-send",
                r#"{"broadcast_id":"x","broadcast_id":"x"}"#,
            ],
            "args",
        ),
        (
            vec!["enqueue", "broadcast-send", &whole],
            "only what stands under `args`",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--run-at", "tomorrow"],
            "with its offset",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--run-at", "2126-01-01T00:00:00Z"],
            "run_at: must be at most 366 days",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--max-attempts", "0"],
            "max_attempts: must be 1 to 100",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--max-attempts", "many"],
            "'many'",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--unique", &long],
            "unique: must be",
        ),
        (
            vec!["enqueue", "broadcast-send", &good, "--id", "two words"],
            "id: must be",
        ),
        (vec!["enqueue", "--list", "broadcast-send"], "cannot be used with"),
        (vec!["jobs"], "Commands:"),
        (
            vec!["jobs", "dead", "--kind", "x"],
            "kinds are broadcast-send, monthly-token-refill",
        ),
        (
            vec!["jobs", "dead", "--reason", "x"],
            "reasons are malformed, exhausted, poison, rejected",
        ),
        (vec!["jobs", "dead", "--since", "yesterday"], "90s, 30m, 12h or 7d"),
        (vec!["jobs", "dead", "--limit", "0"], "1..=10000"),
        (vec!["jobs", "show"], "<ID>"),
        (vec!["jobs", "explain"], "<ID>"),
        (vec!["jobs", "explain", NOBODY], "nothing is known of"),
        (vec!["jobs", "explain", "999"], "nothing is known of 999"),
        (vec!["jobs", "show", "x"], "'x'"),
        (vec!["jobs", "show", "999"], "there is no dead job 999"),
        (vec!["jobs", "retry"], "say which dead jobs to retry"),
        (vec!["jobs", "delete"], "say which dead jobs to delete"),
        (vec!["jobs", "delete", "--dry-run"], "say which dead jobs to delete"),
        (vec!["jobs", "retry", "999"], "there is no dead job 999"),
        (vec!["jobs", "delete", "999"], "there is no dead job 999"),
        (vec!["jobs", "retry", &retried], "add --retried"),
        (vec!["jobs", "retry", &retried, "--all"], "exclude each other"),
        (
            vec!["jobs", "delete", "--all", "--kind", "broadcast-send"],
            "exclude each other",
        ),
        (vec!["pause"], "Commands:"),
        (vec!["pause", "everything"], "--reason"),
        (vec!["pause", "kind"], "<KIND>"),
        (
            vec!["pause", "kind", "x", "--reason", "y"],
            "kinds are broadcast-send, monthly-token-refill",
        ),
        (vec!["pause", "shop", "x", "--reason", "y"], "'x'"),
        (vec!["pause", "shop", NOBODY, "--reason", "y"], "there is no shop"),
        (vec!["pause", "sender", NOBODY, "--reason", "y"], "there is no sender"),
        (vec!["pause", "sender", NOBODY, "--reason", " "], "--reason is empty"),
        (
            vec!["pause", "everything", "--reason", "y", "--by", " "],
            "--by is empty",
        ),
        (vec!["resume"], "Commands:"),
        (
            vec!["resume", "kind", "x"],
            "kinds are broadcast-send, monthly-token-refill",
        ),
        (vec!["resume", "shop", NOBODY], "there is no shop"),
        (vec!["resume", "sender", NOBODY], "there is no sender"),
        (vec!["paused", "x"], "'x'"),
        (vec!["sender"], "Commands:"),
        (vec!["sender", "list", "line"], "'line'"),
        (vec!["sender", "list", NOBODY], "there is no sender"),
        (vec!["sender", "list", "--channel", "fax"], "fax"),
        (vec!["sender", "limits", NOBODY], "there is no sender"),
        (vec!["audit", "--shop", "x"], "'x'"),
        (vec!["audit", "--shop", NOBODY], "there is no shop"),
        (vec!["broadcast"], "Commands:"),
        (vec!["broadcast", "send", "x"], "'x'"),
        (vec!["broadcast", "send", NOBODY], NOBODY),
        (vec!["broadcast", "show", NOBODY], NOBODY),
        (vec!["broadcast", "watch", NOBODY], NOBODY),
        (vec!["broadcast", "pause", NOBODY], NOBODY),
        (vec!["broadcast", "pause"], "<ID>"),
        (vec!["broadcast", "pause", NOBODY, "--all"], "cannot be used with"),
        (vec!["broadcast", "resume", NOBODY], NOBODY),
        (vec!["broadcast", "cancel", NOBODY], NOBODY),
        (vec!["broadcast", "create"], "shop"),
        (vec!["broadcast", "create", "--shop", NOBODY, "--text", "Hello"], "shop"),
        (vec!["broadcast", "estimate", "--mode", "both"], "both"),
        (vec!["broadcast", "test", NOBODY, "--channel", "line"], "--to"),
        (vec!["seed", "--customers", "0"], "1..=10000000"),
        (vec!["config"], "Commands:"),
        (vec!["config", "new-key", "--name", "Ü"], "small letters and digits"),
    ];
    let mut wrong = String::new();
    for (args, says) in &calls {
        let ran = run(&world, args).await;
        let clear = ran.code == 2 && ran.out.is_empty() && ran.err.contains(says) && ran.err.lines().count() <= 30;
        if !clear {
            let _ = writeln!(wrong, "{args:?} should say {says:?}: {ran:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(rows(&world).await, before);
    assert_eq!(keys(&world).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_stops_every_command_with_everything_that_is_wrong() {
    let env = BTreeMap::from([("CARILLON__QUEUE__CONCURRENCY".to_owned(), "0".to_owned())]);
    let good = payload();
    for args in [
        &["web"][..],
        &["worker"],
        &["scheduler"],
        &["migrate"],
        &["enqueue", "broadcast-send", &good],
        &["jobs", "list"],
        &["sender", "list"],
        &["audit"],
        &["broadcast", "show", NOBODY],
        &["config", "check"],
    ] {
        let ran = run_with(&env, args, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?} {ran:?}");
        for key in ["database.url", "redis.url", "secret.keys", "queue.concurrency"] {
            assert!(ran.err.contains(key), "{args:?} {key} {ran:?}");
        }
    }
    // What needs no configuration works without.
    assert_eq!(
        run_with(&env, &["enqueue", "--list", "--json"], "").await.json()[0]["kind"],
        "broadcast-send"
    );
}

fn env_of(db: &TestDb, redis: &str) -> BTreeMap<String, String> {
    [
        ("DATABASE_URL", db.url.as_str()),
        ("REDIS_URL", redis),
        ("CARILLON__REDIS__KEY_PREFIX", &format!("t{}", Uuid::new_v4().simple())),
        (
            "CARILLON__SECRET__KEYS",
            "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
        ("CARILLON__WEB__PORT", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmigrated_database_is_refused_with_the_remedy() {
    let db = empty_database().await;
    let env = env_of(&db, &service("CARILLON_TEST_REDIS_URL"));
    for args in [
        &["web"][..],
        &["worker"],
        &["scheduler"],
        &["jobs", "dead"],
        &["jobs", "retry", "--all"],
        &["sender", "list"],
        &["audit"],
        &["broadcast", "show", NOBODY],
        &["seed"],
    ] {
        let ran = run_with(&env, args, "").await;
        assert_eq!(ran.code, 2, "{args:?} {ran:?}");
        assert!(ran.err.contains("run `carillon migrate` first"), "{args:?} {ran:?}");
    }
    assert_eq!(run_with(&env, &["migrate", "--check"], "").await.code, 1);
    assert_eq!(run_with(&env, &["migrate"], "").await.code, 0);
    assert_eq!(run_with(&env, &["audit", "--json"], "").await.json()["clean"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_evict_is_refused_at_start_with_the_remedy() {
    let server = RedisServer::start(Memory::Lost).await;
    let world = World::on_redis(&server.url(), &[]).await;
    let mut redis = server.connect().await;
    let mut evict = redis::cmd("CONFIG");
    evict.arg(&["SET", "maxmemory-policy", "allkeys-lru"]);
    evict.exec_async(&mut redis).await.unwrap();
    for process in ["web", "worker", "scheduler"] {
        let ran = run(&world, &[process]).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        let last = ran.err.lines().last().unwrap();
        assert!(
            last.starts_with("error: Redis has maxmemory-policy allkeys-lru"),
            "{ran:?}"
        );
        assert!(last.contains("set it to noeviction"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_a_failure_and_not_a_wrong_call() {
    let mut world = World::new(&[]).await;
    world
        .env
        .insert("REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned());
    let ran = run(&world, &["enqueue", "broadcast-send", &payload()]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("Redis"), "{ran:?}");
    assert_eq!(
        run(&world, &["sender", "list"]).await.code,
        0,
        "what needs no Redis works without"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_tells_by_its_exit_code() {
    let world = World::new(&[]).await;
    let clean = run(&world, &["audit"]).await;
    assert_eq!(clean.code, 0, "{clean:?}");
    assert!(clean.out.contains("Everything agrees"), "{clean:?}");
    assert_eq!(
        run(&world, &["audit", "--json", "--shop", &world.shop.to_string()])
            .await
            .json()["clean"],
        true
    );
    world
        .run("alter table token_account disable trigger all; update token_account set extra = extra + 1")
        .await;
    let drift = run(&world, &["audit", "--json"]).await;
    assert_eq!(drift.code, 1, "{drift:?}");
    let told: Value = serde_json::from_str(&drift.out).unwrap();
    assert_eq!(told["clean"], false);
    assert!(drift.err.contains("drift"), "{drift:?}");
}
