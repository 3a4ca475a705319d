//! What is queued by hand, and dead jobs: read, retried and deleted exactly as asked.

use serde_json::Value;
use uuid::Uuid;

use super::{dead_job, keys, payload, rows, run, run_with};
use crate::world::World;

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
