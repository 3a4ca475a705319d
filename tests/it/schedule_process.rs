//! Schedules with the program itself: several schedulers, one killed, Redis away, a real worker, and the operator's commands.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use carillon::{app::ProcessKind, scheduler};

use crate::{
    cli::{keys, run, run_with},
    redis_server::{Memory, RedisServer},
    schedule::{hourly, list_text},
    wait::{eventually, until},
    world::World,
};

/// A file of schedules that goes away with the test.
struct ListFile(PathBuf);

impl ListFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("carillon-schedule-{}.toml", Uuid::new_v4().simple()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }
}

impl Drop for ListFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A world with these schedules, and their file.
async fn scheduled(redis: Option<&str>, schedules: &[(&str, &str, &str)]) -> (World, ListFile) {
    let file = ListFile::new(&list_text(schedules));
    let path = file.path();
    let settings = [
        ("SCHEDULER__SCHEDULE_FILE", path.as_str()),
        ("SCHEDULER__LEASE_SECS", "5"),
        ("SCHEDULER__BELL_STALE_SECS", "600"),
    ];
    let world = match redis {
        Some(redis) => World::on_redis(redis, &settings).await,
        None => World::new(&settings).await,
    };
    (world, file)
}

/// The last look was so many hours ago.
async fn looked(world: &World, hours: i32) {
    world
        .run(&format!(
            "insert into schedule select name, now() - interval '10 days', now() - interval '{hours} hours' from unnest(array['a', 'b', 'c']) as name
             on conflict (name) do update set looked_until = excluded.looked_until"
        ))
        .await;
}

async fn count(world: &World, condition: &str) -> i64 {
    world
        .one(&format!("select count(*) from schedule_period where {condition}"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_at_once_ring_each_period_once() {
    let every = hourly();
    let three = [
        ("a", every.as_str(), "all"),
        ("b", every.as_str(), "all"),
        ("c", every.as_str(), "latest"),
    ];
    let (world, _file) = scheduled(None, &three).await;
    looked(&world, 72).await;
    let apps: Vec<_> = (0..3).map(|_| world.app(ProcessKind::Scheduler)).collect();
    let stops: Vec<_> = apps.iter().map(|app| app.stop.clone()).collect();
    let queue = apps[0].queue().unwrap();
    let loops: Vec<_> = apps.into_iter().map(|app| tokio::spawn(scheduler::run(app))).collect();
    until("all are rung", async || {
        count(&world, "state = 'rung'").await == 72 * 2 + 1
    })
    .await;
    // A look is every two seconds; the next ones find nothing to do.
    let looked: DateTime<Utc> = world.one("select max(looked_until) from schedule").await;
    eventually("they have looked again", 20, async || {
        world
            .one::<bool>(&format!(
                "select min(looked_until) > '{looked}'::timestamptz from schedule"
            ))
            .await
    })
    .await;
    assert_eq!(count(&world, "rings = 1").await, 145);
    assert_eq!(count(&world, "state = 'skipped' and schedule = 'c'").await, 71);
    assert_eq!(count(&world, "true").await, 72 * 3);
    assert_eq!(queue.depths().await.unwrap().remove(0).ready, 145);
    let leaders: i64 = world
        .one("select count(*) from scheduler_lease where lease_until > now()")
        .await;
    assert_eq!(leaders, 1);
    stops.iter().for_each(tokio_util::sync::CancellationToken::cancel);
    for one in loops {
        one.await.unwrap().unwrap();
    }
    let leaders: i64 = world
        .one("select count(*) from scheduler_lease where lease_until > now()")
        .await;
    assert_eq!(leaders, 0, "who ends lets the next one lead");
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_that_come_due_while_redis_is_away_are_rung_by_the_next_leader_when_it_is_back() {
    let mut redis = RedisServer::start(Memory::Lost).await;
    let (world, _file) = scheduled(
        Some(&redis.url()),
        &[("a", hourly().as_str(), "all"), ("b", hourly().as_str(), "latest")],
    )
    .await;
    let mut first = world.process("scheduler");
    first.says("This scheduler looks at the schedules").await;
    redis.kill();
    looked(&world, 3).await;
    until("the rows are written without Redis", async || {
        count(&world, "state = 'due'").await == 4
    })
    .await;
    first.says("Cannot look for due work").await;
    let second = world.process("scheduler");
    first.kill();
    redis.restart().await;
    second.says("This scheduler looks at the schedules").await;
    until("all are rung", async || {
        count(&world, "state = 'rung' and rings = 1").await == 4
    })
    .await;
    assert_eq!(count(&world, "state = 'skipped'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_the_schedulers_leave_no_period_out() {
    let (world, _file) = scheduled(
        None,
        &[("a", hourly().as_str(), "all"), ("b", hourly().as_str(), "all")],
    )
    .await;
    looked(&world, 480).await;
    for _ in 0..4 {
        let before = count(&world, "rings > 0").await;
        let mut one = world.process("scheduler");
        let mut other = world.process("scheduler");
        // Killed while it rings, as soon as anything moves.
        eventually("one rings", 30, async || count(&world, "rings > 0").await > before).await;
        one.kill();
        other.kill();
    }
    let _last = world.process("scheduler");
    eventually("all are rung", 60, async || {
        count(&world, "state = 'rung'").await == 960
    })
    .await;
    assert_eq!(count(&world, "true").await, 960);
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let ready = queue.depths().await.unwrap().remove(0).ready;
    assert_eq!(ready, 960, "a bell that was taken is not rung twice while it waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_worker_ends_the_work_of_a_period() {
    let file = ListFile::new("");
    let path = file.path();
    let world = World::new(&[("SCHEDULER__SCHEDULE_FILE", path.as_str())]).await;
    let draft = world.draft("priority_single", &["line"], "哈囉").await;
    let text = list_text(&[("a", hourly().as_str(), "latest")])
        .replace("0197a1b2-0000-7000-8000-000000000000", &draft.to_string());
    std::fs::write(&file.0, text).unwrap();
    looked(&world, 3).await;
    let working = world.work();
    until("done", async || {
        count(&world, "schedule = 'a' and state = 'done' and rings = 1").await == 1
    })
    .await;
    working.stop().await;
    assert_eq!(
        keys(&world)
            .await
            .iter()
            .filter(|key| key.contains(":run:") || key.contains(":ready:"))
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_ring_is_refused_before_anything_starts() {
    let file = ListFile::new(&list_text(&[("a", hourly().as_str(), "all")]).replace("broadcast-send", "monthly-sums"));
    let (world, _file) = scheduled(None, &[]).await;
    let mut env = world.env.clone();
    env.insert("CARILLON__SCHEDULER__SCHEDULE_FILE".to_owned(), file.path());
    for process in ["scheduler", "worker", "web", "migrate"] {
        let refused = run_with(&env, &[process], "").await;
        assert_eq!(refused.code, 2, "{process}: {refused:?}");
        for says in [
            "scheduler.schedule_file",
            "schedule a: kind",
            "monthly-sums",
            "broadcast-send",
        ] {
            assert!(refused.err.contains(says), "{says}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_comes_next_what_was_missed_and_rings_for_one() {
    let (world, _file) = scheduled(
        None,
        &[("a", hourly().as_str(), "latest"), ("b", "\"month\"\nday = 31", "all")],
    )
    .await;
    looked(&world, 3).await;
    // Nothing has been looked at yet, and nothing is by looking.
    let preview = run(&world, &["schedule", "preview", "--json", "--count", "3"])
        .await
        .json();
    let becomes: Vec<&str> = preview[0]["missed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["becomes"].as_str().unwrap())
        .collect();
    assert_eq!(becomes, ["skipped", "skipped", "rung"]);
    assert_eq!(preview[1]["next"].as_array().unwrap().len(), 3);
    assert_eq!(count(&world, "true").await, 0);
    let words = run(&world, &["schedule", "preview", "a"]).await.out;
    for says in [
        "Asia/Taipei, rings broadcast-send",
        "missed, will be skipped",
        "missed, will be rung",
        "+08:00",
    ] {
        assert!(words.contains(says), "{says}: {words}");
    }
    let leap = run(
        &world,
        &[
            "schedule",
            "preview",
            "b",
            "--at",
            "2028-02-01T00:00:00+08:00",
            "--count",
            "2",
        ],
    )
    .await
    .out;
    assert!(
        leap.contains("2028-02  2028-02-29 00:00 +08:00") && leap.contains("2028-03  2028-03-31 00:00 +08:00"),
        "{leap}"
    );

    refused_in_words(&world).await;

    let missed = preview[0]["missed"][0]["period"].as_str().unwrap().to_owned();
    let rang = run(&world, &["schedule", "run", "a", &missed, "--by", "anna", "--json"])
        .await
        .json();
    assert_eq!(
        (rang["period"].as_str(), rang["rung"].as_bool()),
        (Some(missed.as_str()), Some(true))
    );
    let again = run(&world, &["schedule", "run", "a", &missed]).await;
    assert!(
        again.code == 2 && again.err.contains("has not ended") && again.err.contains("--again"),
        "{again:?}"
    );
    assert_eq!(run(&world, &["schedule", "run", "a", &missed, "--again"]).await.code, 0);

    let preview = run(&world, &["schedule", "preview", "a", "--json"]).await.json();
    assert_eq!(
        preview[0]["missed"].as_array().unwrap().len(),
        2,
        "what was rung by hand is not missed"
    );

    let listed = run(&world, &["schedule", "list", "--json"]).await.json();
    assert_eq!(
        (&listed["leader"], listed["schedules"][0]["open"].as_i64()),
        (&Value::Null, Some(1))
    );
    assert_eq!(listed["open"][0]["period"].as_str(), Some(missed.as_str()));
    let words = run(&world, &["schedule", "list"]).await.out;
    for says in [
        "hour, minute ",
        "month, day 31, 00:00",
        "broadcast-send",
        "latest",
        "not ended yet",
        "no scheduler looks",
    ] {
        assert!(words.contains(says), "{says}: {words}");
    }
    let explained = run(&world, &["jobs", "explain", &format!("schedule/a/{missed}")]).await;
    assert!(explained.out.contains("ready list"), "{explained:?}");

    let scheduler = world.process("scheduler");
    scheduler.says("This scheduler looks at the schedules").await;
    eventually("its leader is shown", 20, async || {
        run(&world, &["schedule", "list", "--json"]).await.json()["leader"]["term"] == 1
    })
    .await;
}

/// Each is one screen, says what stands against it, and changes nothing.
async fn refused_in_words(world: &World) {
    let calls: [(&[&str], &str); 6] = [
        (&["run", "nightly", "2026-11"], "there are: a, b"),
        (&["run", "a", "2026-11"], "2026-11-22T05"),
        (&["run", "b", "2026-13"], "as 2026-11"),
        (&["run", "b", "2999-01"], "--force"),
        (&["run", "b", "2020-01"], "before this schedule was first seen"),
        (&["preview", "nightly"], "there is no schedule"),
    ];
    for (call, says) in calls {
        let call = [&["schedule"], call].concat();
        let refused = run(world, &call).await;
        assert_eq!(refused.code, 2, "{call:?}: {refused:?}");
        assert!(
            refused.err.contains(says) && refused.err.lines().count() < 10,
            "{call:?}: {refused:?}"
        );
    }
    assert_eq!(count(world, "true").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_what_an_operator_asks_for_is_rung_later() {
    let mut redis = RedisServer::start(Memory::Lost).await;
    let (world, _file) = scheduled(Some(&redis.url()), &[("a", hourly().as_str(), "all")]).await;
    looked(&world, 0).await;
    redis.kill();
    let period: String = world
        .one("select to_char(now() at time zone 'Asia/Taipei' - interval '1 hour', 'YYYY-MM-DD\"T\"HH24')")
        .await;
    let asked = run(&world, &["schedule", "run", "a", &period]).await;
    assert!(
        asked.code == 0 && asked.err.contains("the scheduler rings for it"),
        "{asked:?}"
    );
    assert_eq!(count(&world, "state = 'due'").await, 1);
    redis.restart().await;
    let mut scheduler = world.process("scheduler");
    until("it is rung", async || count(&world, "state = 'rung'").await >= 1).await;
    assert_eq!(scheduler.stop().await, 0);
}
