//! What nobody can run ends as a row with its raw form, and people can bring it back.

use std::time::Duration;

use carillon::queue::{
    DeadReason, JobError, Outcome,
    dead::{self, DeadFilter},
};
use redis::AsyncCommands as _;

use crate::{
    fixture::{Fixture, Runs, job, text},
    wait::until,
};

/// Texts that break the contract, each in its own way.
fn bad_texts() -> Vec<Vec<u8>> {
    let long_but_legal = format!(r#"{{"args":{{}},"traceparent":"{}"}}"#, "y".repeat(200_000));
    let texts: [&[u8]; 9] = [
        b"not json",
        b"",
        b"{}",
        br#"{"args":{}}"#,
        br#"{"args":{"broadcast_id":"x"}}"#,
        b"\x00\x01\xff",
        b"\x011 2 3\n{}",
        &b"[".repeat(100_000),
        long_but_legal.as_bytes(),
    ];
    texts.iter().map(|text| text.to_vec()).collect()
}

#[tokio::test]
async fn a_malformed_text_is_dead_at_once_with_its_raw_form() {
    let fixture = Fixture::new().await;
    let runs = Runs::default();
    let worker = fixture.doing_worker(&runs);
    let big = vec![b'x'; 10 * 1024 * 1024];
    let bad = bad_texts();
    for text in &bad {
        fixture.queue.push_raw("broadcast-send", text).await.unwrap();
    }
    fixture.queue.push_raw("broadcast-send", &big).await.unwrap();
    let (good, id) = text();
    fixture.rpush(&good).await;

    until("the good one has run", || async { runs.of(id) == 1 }).await;
    until("the bad ones are rows", || async {
        fixture.dead_rows().await.len() == 10
    })
    .await;
    let rows = fixture.dead_rows().await;
    assert!(
        rows.iter()
            .all(|row| row.reason == DeadReason::Malformed && row.attempts == 0)
    );
    for text in &bad {
        let kept = &text[..text.len().min(65_536)];
        let row = rows.iter().find(|row| row.raw == kept).expect("kept as it was pushed");
        assert_eq!(row.raw_length, i64::try_from(text.len()).unwrap());
        assert_eq!(
            row.raw_sha256,
            ring::digest::digest(&ring::digest::SHA256, text).as_ref()
        );
    }
    let row = rows.iter().find(|row| row.raw_length == 10 * 1024 * 1024).unwrap();
    assert_eq!(row.raw, big[..65_536]);
    assert_eq!(
        row.raw_sha256,
        ring::digest::digest(&ring::digest::SHA256, &big).as_ref()
    );
    assert!(row.error.contains("the limit is 1048576"), "{}", row.error);
    let row = rows.iter().find(|row| row.raw == br#"{"args":{}}"#).unwrap();
    assert!(
        row.error.starts_with("args: missing field `broadcast_id`"),
        "{}",
        row.error
    );
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn an_unknown_kind_is_left_for_a_newer_worker() {
    let fixture = Fixture::new().await;
    fixture.queue.push_raw("time-travel", b"{}").await.unwrap();
    let runs = Runs::default();
    let worker = fixture.doing_worker(&runs);
    let (job, id) = job();
    fixture.queue.ring(job).await.unwrap();
    until("the known one has run", || async { runs.of(id) == 1 }).await;
    worker.stop().await;
    let left: Vec<String> = fixture
        .raw
        .clone()
        .lrange(fixture.key("ready:time-travel"), 0, -1)
        .await
        .unwrap();
    assert_eq!(left, ["{}"]);
}

#[tokio::test]
async fn a_dead_job_waits_in_redis_while_postgres_is_away() {
    let fixture = Fixture::new().await;
    sqlx::query("alter table dead_job rename to gone")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let worker = fixture.worker(|_, _| async { Err(JobError::dead("no such broadcast")) });
    fixture.queue.ring(job().0).await.unwrap();
    until("it is dead", || async {
        fixture.raw.clone().hlen::<_, i64>(fixture.key("dead")).await.unwrap() == 1
    })
    .await;
    // Even the end of the worker loses nothing: the next one carries it over.
    worker.stop().await;
    sqlx::query("alter table gone rename to dead_job")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let worker = fixture.worker(|_, _| async { Ok(Outcome::Done) });
    until("it is a row", || async { fixture.dead_rows().await.len() == 1 }).await;
    assert_eq!(fixture.dead_rows().await[0].reason, DeadReason::Rejected);
    fixture.emptied().await;
    worker.stop().await;
}

#[tokio::test]
async fn dead_jobs_are_listed_replayed_and_deleted_by_filter() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(|_, context| async move { Err(JobError::dead(format!("no {}", context.id))) });
    let jobs: Vec<_> = (0..5).map(|_| job().0).collect();
    fixture.queue.ring_many(&jobs).await.unwrap();
    fixture
        .queue
        .push_raw("broadcast-send", &vec![b'z'; 70_000])
        .await
        .unwrap();
    until("they are rows", || async { fixture.dead_rows().await.len() == 6 }).await;
    worker.stop().await;

    let filter = DeadFilter {
        reason: Some(DeadReason::Rejected),
        kind: Some("broadcast-send".to_owned()),
        error_contains: Some("NO ".to_owned()),
        ..DeadFilter::default()
    };
    assert_eq!(dead::count(&fixture.pool, &filter).await.unwrap(), 5);
    let none = DeadFilter {
        older_than: Some(Duration::from_hours(1)),
        ..DeadFilter::default()
    };
    assert_eq!(dead::count(&fixture.pool, &none).await.unwrap(), 0);

    let page = dead::list(&fixture.pool, &filter, None, 2).await.unwrap();
    let next = dead::list(&fixture.pool, &filter, Some(page[1].id), 2).await.unwrap();
    assert!(page[0].id > page[1].id && page[1].id > next[0].id);

    let one = DeadFilter {
        ids: Some(vec![page[0].id]),
        ..DeadFilter::default()
    };
    assert_eq!(
        dead::replay(&fixture.pool, &fixture.queue, &one).await.unwrap().pushed,
        1
    );
    assert_eq!(
        dead::replay(&fixture.pool, &fixture.queue, &one).await.unwrap().pushed,
        0,
        "only once"
    );
    assert!(
        dead::get(&fixture.pool, page[0].id)
            .await
            .unwrap()
            .unwrap()
            .replayed_at
            .is_some()
    );
    let all = dead::replay(&fixture.pool, &fixture.queue, &DeadFilter::default())
        .await
        .unwrap();
    assert_eq!((all.pushed, all.cut), (4, 1));

    let runs = Runs::default();
    let worker = fixture.worker({
        let runs = runs.clone();
        move |job, context| {
            assert_eq!(context.attempt, 1);
            runs.note(&job);
            async { Ok(Outcome::Done) }
        }
    });
    until("the replayed ones have run", || async { runs.jobs() == 5 }).await;
    worker.stop().await;

    let everything = DeadFilter {
        replayed_too: true,
        ..DeadFilter::default()
    };
    assert_eq!(dead::delete(&fixture.pool, &everything).await.unwrap(), 6);
    assert!(dead::get(&fixture.pool, page[0].id).await.unwrap().is_none());
}
