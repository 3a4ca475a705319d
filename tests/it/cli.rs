//! The operator's commands, run as the real program: a wrong call says what is wrong and changes nothing, a good one does
//! what it says, in words and in JSON.

use std::{collections::BTreeMap, fmt::Write as _, process::Stdio};

use carillon_jobs::BroadcastId;
use carillon_sandbox::{Channel, LINE_TOKEN, Latency};
use redis::AsyncCommands as _;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};
use uuid::Uuid;

use crate::{
    fixture_db::{TestDb, empty_database, service},
    redis_server::{Memory, RedisServer},
    wait::eventually,
    world::World,
};

/// What one run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) async fn run_with(env: &BTreeMap<String, String>, args: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CARILLON_") || matches!(name.as_str(), "DATABASE_URL" | "REDIS_URL" | "PORT") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read its input closes it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) async fn run(world: &World, args: &[&str]) -> Ran {
    run_with(&world.env, args, "").await
}

/// Everything the world's key space holds.
pub(crate) async fn keys(world: &World) -> Vec<String> {
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    redis
        .keys(format!("{{{}}}:*", world.env["CARILLON__REDIS__KEY_PREFIX"]))
        .await
        .unwrap()
}

/// A fingerprint of every row a command could have changed.
async fn rows(world: &World) -> String {
    world
        .one(
            "select concat((select json_agg(d order by id) from dead_job d), (select json_agg(s order by id) from sender s),
                (select json_agg(b order by id) from broadcast b), (select count(*) from shop), (select count(*) from customer))",
        )
        .await
}

async fn dead_job(world: &World, error: &str, reason: &str, raw: &str, age: &str) -> i64 {
    world
        .one(&format!(
            "insert into dead_job (reference, kind, job_id, reason, error, attempts, crashes, snoozes, raw, raw_length,
                                   raw_sha256, first_at, died_at)
             values (gen_random_uuid()::text, 'broadcast-send', 'job-1', '{reason}', '{error}', 2, 1, 3, '{raw}'::text::bytea,
                     length('{raw}'), sha256('{raw}'), now() - interval '{age}', now() - interval '{age}')
             returning id"
        ))
        .await
}

fn payload() -> String {
    format!(r#"{{"broadcast_id":"{}"}}"#, BroadcastId::new())
}

const NOBODY: &str = "0197a1b2-0000-7000-8000-000000000000";

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
async fn enqueue_queues_what_it_says() {
    let world = World::new(&[]).await;
    let first = run(&world, &["enqueue", "broadcast-send", &payload()]).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.out.trim().parse::<Uuid>().is_ok(), "{first:?}");
    let named = run_with(
        &world.env,
        &["enqueue", "broadcast-send", "-", "--id", "mine", "--json"],
        &payload(),
    )
    .await;
    assert_eq!(named.json()["id"], "mine");
    let file = std::env::temp_dir().join(format!("carillon-args-{}", Uuid::new_v4().simple()));
    std::fs::write(&file, payload()).unwrap();
    let from_file = format!("@{}", file.display());
    let soon = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let later = run(
        &world,
        &[
            "enqueue",
            "broadcast-send",
            &from_file,
            "--run-at",
            &soon,
            "--max-attempts",
            "2",
        ],
    )
    .await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(later.code, 0, "{later:?}");
    let unique = ["enqueue", "broadcast-send", &payload(), "--unique", "a}\"b"].map(str::to_owned);
    let unique: Vec<&str> = unique.iter().map(String::as_str).collect();
    assert_eq!(run(&world, &unique).await.code, 0);
    let again = run(&world, &unique).await;
    assert_eq!((again.code, again.out.as_str()), (0, ""), "{again:?}");
    assert!(again.err.contains("already waits"), "{again:?}");

    let list = run(&world, &["jobs", "list", "--json"]).await.json();
    assert_eq!(
        (&list[0]["kind"], &list[0]["paused"]),
        (&"broadcast-send".into(), &false.into())
    );
    assert_eq!((&list[0]["ready"], &list[0]["scheduled"]), (&3.into(), &1.into()));
    assert!(
        list[0]["oldest_at"]
            .as_str()
            .is_some_and(|at| at.parse::<chrono::DateTime<chrono::Utc>>().is_ok()),
        "{list}"
    );

    let pause = ["pause", "kind", "broadcast-send", "--reason", "a look"];
    assert_eq!(run(&world, &pause).await.code, 0);
    assert_eq!(run(&world, &["jobs", "list", "--json"]).await.json()[0]["paused"], true);
    assert!(run(&world, &["jobs", "list"]).await.out.contains("paused"));
    assert_eq!(run(&world, &["resume", "kind", "broadcast-send"]).await.code, 0);
    assert_eq!(
        run(&world, &["jobs", "list", "--json"]).await.json()[0]["paused"],
        false
    );
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

fn ids_of(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_jobs_are_read_retried_and_deleted_exactly_as_asked() {
    let world = World::new(&[]).await;
    let text = format!(r#"{{"args":{}}}"#, payload());
    let old = dead_job(&world, "PostgreSQL was away", "exhausted", &text, "3 days").await;
    let new = dead_job(&world, "no such broadcast", "rejected", &text, "1 min").await;
    let odd = dead_job(&world, "not JSON", "malformed", "\u{1b}[2Jboo", "1 min").await;
    let cut = dead_job(&world, "too long", "malformed", "{", "1 min").await;
    world
        .run(&format!("update dead_job set raw_length = 100000 where id = {cut}"))
        .await;
    let ids = |value: &Value| -> Vec<i64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_i64().unwrap())
            .collect()
    };

    let dead = |filter: &'static [&str]| {
        let (world, args) = (&world, [&["jobs", "dead", "--json"], filter].concat());
        async move { run(world, &args).await.json() }
    };
    assert_eq!(ids(&dead(&[]).await), [cut, odd, new, old]);
    assert_eq!(ids(&dead(&["--since", "1h"]).await), [cut, odd, new]);
    assert_eq!(ids(&dead(&["--older-than", "1h"]).await), [old]);
    assert_eq!(ids(&dead(&["--reason", "malformed"]).await), [cut, odd]);
    assert_eq!(
        ids(&dead(&["--contains", "BROADCAST", "--kind", "broadcast-send"]).await),
        [new]
    );
    assert_eq!(ids(&dead(&["--limit", "1"]).await), [cut]);
    let table = run(&world, &["jobs", "dead", "--limit", "2"]).await;
    assert!(
        table.out.contains("2 of 4") && table.out.contains("--before"),
        "{table:?}"
    );

    let show = run(&world, &["jobs", "show", &odd.to_string()]).await;
    assert_eq!(show.code, 0, "{show:?}");
    assert!(
        show.out.contains("[2Jboo") && show.out.contains("2 failed, 1 crashed, 3 snoozed"),
        "{show:?}"
    );
    assert!(
        !show.out.contains('\u{1b}'),
        "a job's text must not command the terminal: {show:?}"
    );
    let show = run(&world, &["jobs", "show", &new.to_string(), "--json"]).await.json();
    assert_eq!((&show["raw"], &show["whole"]), (&text.as_str().into(), &true.into()));

    assert!(
        run(&world, &["jobs", "show", &cut.to_string()])
            .await
            .out
            .contains("let its producer ring again"),
        "what can be done about it is said"
    );
    let before = rows(&world).await;
    let dry = run(&world, &["jobs", "retry", "--all", "--dry-run", "--json"])
        .await
        .json();
    assert_eq!(
        (&dry["count"], ids_of(&dry["newest"])),
        (&4.into(), vec![cut, odd, new, old])
    );
    let dry = run(&world, &["jobs", "delete", "--older-than", "1d", "--dry-run"]).await;
    assert!(dry.out.contains("would delete 1 job; nothing was changed"), "{dry:?}");
    assert_eq!((rows(&world).await, keys(&world).await.len()), (before, 0));

    let one = run(&world, &["jobs", "retry", &old.to_string()]).await;
    assert_eq!((one.code, one.out.as_str()), (0, "1 job queued again\n"), "{one:?}");
    let rest = run(&world, &["jobs", "retry", "--since", "1h", "--json"]).await;
    assert_eq!(
        rest.code, 1,
        "a text that was cut cannot be retried, and that is told: {rest:?}"
    );
    let told: Value = serde_json::from_str(&rest.out).unwrap();
    assert_eq!((&told["retried"], &told["cut"]), (&2.into(), &1.into()));
    assert_eq!(run(&world, &["jobs", "list", "--json"]).await.json()[0]["ready"], 3);
    assert_eq!(ids(&dead(&[]).await), [cut]);
    assert_eq!(ids(&dead(&["--retried"]).await), [cut, odd, new, old]);
    assert_eq!(
        run(
            &world,
            &["jobs", "delete", &old.to_string(), &cut.to_string(), "--json"]
        )
        .await
        .json()["deleted"],
        2
    );
    assert_eq!(
        run(&world, &["jobs", "delete", "--all", "--retried"]).await.out,
        "2 jobs deleted\n"
    );
    assert_eq!(run(&world, &["jobs", "dead"]).await.out, "no dead jobs\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_refused_by_its_provider_goes_on_within_seconds_of_being_resumed() {
    let world = World::new(&[("DELIVERY__BELL_STALE_SECS", "60.0")]).await;
    world.customers(30, "s.channel = 'line'").await;
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let line = line.to_string();
    world.sandbox.handle().revoke(Channel::Line, LINE_TOKEN);
    let _working = world.work();
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    world.send(id).await;
    eventually("the sender is paused", 20, async || {
        world
            .one::<bool>("select state = 'paused' from sender where channel = 'line'")
            .await
    })
    .await;
    let list = run(&world, &["sender", "list", "--paused", "--json"]).await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["id"], &list[0]["channel"]),
        (&line.as_str().into(), &"line".into())
    );
    assert!(list[0]["reason"].as_str().unwrap().starts_with("credentials"), "{list}");
    assert_eq!(list[0]["waiting"], 30);
    let table = run(&world, &["sender", "list"]).await;
    assert!(
        table.out.contains("paused") && table.out.contains("好日子選物") && table.out.contains("email"),
        "{table:?}"
    );
    assert!(!table.out.contains(LINE_TOKEN), "no credentials are shown");

    let account = carillon_sandbox::default_accounts()
        .into_iter()
        .find(|account| account.channel() == Channel::Line);
    world.sandbox.handle().register(account.unwrap()).unwrap();
    let resumed = run(&world, &["resume", "sender", &line]).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    world.ended(id, 10).await;
    assert_eq!(world.count(id, "accepted").await, 30);
    let state: String = world
        .one("select concat(state, state_reason) from sender where channel = 'line'")
        .await;
    assert_eq!(state, "connected");
    assert!(
        run(&world, &["resume", "sender", &line])
            .await
            .out
            .contains("was not paused")
    );
    world
        .run("update sender set state = 'disconnected' where channel = 'line'")
        .await;
    for call in [
        &["pause", "sender", &line, "--reason", "x"][..],
        &["resume", "sender", &line],
    ] {
        let ran = run(&world, call).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("is disconnected"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_a_person_pauses_stops_at_once_and_goes_on_exactly_where_it_was() {
    let world = World::new(&[("DELIVERY__TURN_MS", "20000"), ("BROADCAST__SLICE_SIZE", "50")]).await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 100,
            jitter_ms: 0,
        },
    );
    world.customers(3_000, "s.channel = 'line'").await;
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let line = line.to_string();
    let _working = world.work();
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    world.send(id).await;
    eventually("some have it", 20, async || world.count(id, "accepted").await >= 50).await;
    assert_eq!(
        run(&world, &["pause", "sender", &line, "--reason", "a look at the account"])
            .await
            .code,
        0
    );
    eventually("its turn is over", 5, async || {
        world.one::<bool>("select coalesce(lease_until <= now(), true) and not exists (select from slice where state = 'sending') from lane").await
    })
    .await;
    let accepted = world.count(id, "accepted").await;
    assert!(accepted < 3_000, "it was over before it was paused");
    let list = run(&world, &["sender", "list", &line, "--json"]).await.json();
    assert_eq!(
        (&list[0]["reason"], &list[0]["waiting"]),
        (&"a look at the account".into(), &(3_000 - accepted).into())
    );
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 0,
            jitter_ms: 0,
        },
    );
    assert_eq!(run(&world, &["resume", "sender", &line]).await.code, 0);
    world.ended(id, 30).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (3_000, 1));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shown_as_they_are_now() {
    let world = World::new(&[]).await;
    let limits = run(&world, &["sender", "limits", "--json"]).await.json();
    let calls: Vec<(&str, &str)> = limits
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["channel"].as_str().unwrap(), row["call"].as_str().unwrap()))
        .collect();
    assert_eq!(
        calls,
        [
            ("app", "single"),
            ("line", "single"),
            ("line", "multicast"),
            ("email", "single")
        ]
    );
    assert_eq!(limits[0]["configured_per_sec"], 100_000.0);

    let app = world.app(carillon::app::ProcessKind::Command);
    let delivery = app.delivery().unwrap();
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let key = delivery.limit_key(
        carillon_jobs::SenderId(line),
        carillon::channel::Channel::Line,
        carillon::limit::Call::Single,
        Some(100_000.0),
    );
    delivery
        .limits
        .throttled(&key, Some(std::time::Duration::from_mins(5)))
        .await;
    let limits = run(&world, &["sender", "limits", &line.to_string(), "--json"])
        .await
        .json();
    assert_eq!(limits[0]["effective_per_sec"], 80_000.0);
    assert!(
        limits[0]["closed_until"].is_string() && limits[0]["last_throttled_at"].is_string(),
        "{limits}"
    );
    assert!(limits[1]["closed_until"].is_null(), "multicasts count apart: {limits}");
    let table = run(&world, &["sender", "limits", "--channel", "line"]).await;
    assert!(
        table.out.contains("80000/s") && !table.out.contains("email"),
        "{table:?}"
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
