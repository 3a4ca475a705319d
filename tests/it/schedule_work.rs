//! Bells and the work they ring for: a period is rung for until a worker has ended its work, and by hand when a person asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use carillon::{
    queue::{JobError, Outcome, dead},
    scheduler::{
        self, Found,
        ask::{self, Ask, Hindrance},
    },
};
use carillon_jobs::Kind;
use chrono::{DateTime, TimeDelta, Utc};
use redis::AsyncCommands as _;

use crate::{
    fixture::{Fixture, Worker},
    scene,
    schedule::{NEVER, list, utc},
    wait::until,
};

const AT_ONCE: Duration = Duration::ZERO;

impl Fixture {
    async fn lose_redis(&self) {
        for key in self.keys().await {
            let _: i64 = self.raw.clone().del(key).await.unwrap();
        }
    }

    /// A worker that keeps the rows of periods, and counts the times their work is done.
    fn keeping(&self, works: &Arc<AtomicUsize>, outcome: fn(usize) -> Result<Outcome, JobError>) -> Worker {
        let (pool, works) = (self.pool.clone(), works.clone());
        self.worker(move |job, context| {
            let (pool, works) = (pool.clone(), works.clone());
            async move {
                let work = async { outcome(works.fetch_add(1, Ordering::SeqCst)) };
                scheduler::keep_row(&pool, job.kind(), &context, work).await
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_that_was_lost_is_rung_again_until_the_work_has_ended_and_then_never() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    fixture.find(&list, utc("2026-11-20T17:00:00Z")).await;
    fixture.ring(NEVER).await;
    fixture.lose_redis().await;
    assert_eq!(fixture.ring(NEVER).await, 0, "it may still be waiting");
    assert_eq!(fixture.ring(AT_ONCE).await, 1);
    let works = Arc::new(AtomicUsize::new(0));
    let worker = fixture.keeping(&works, |_| Ok(Outcome::Done));
    until("its work has ended", async || {
        fixture.periods().await == ["audit 2026-11-21 done 2"]
    })
    .await;
    assert_eq!(fixture.ring(AT_ONCE).await, 0);
    // The first bell, back from the dead: a Redis restored from a file.
    let text = r#"{"id":"schedule/audit/2026-11-21","args":{"broadcast_id":"0197a1b2-0000-7000-8000-000000000000"}}"#;
    fixture.rpush(text).await;
    fixture.emptied().await;
    worker.stop().await;
    assert_eq!(works.load(Ordering::SeqCst), 1, "what was done is not done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_goes_on_is_left_alone_and_work_whose_worker_lost_it_is_rung_for() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    fixture.find(&list, utc("2026-11-20T17:00:00Z")).await;
    fixture.ring(NEVER).await;
    let (pool, begun) = (fixture.pool.clone(), Arc::new(tokio::sync::Notify::new()));
    let started = begun.clone();
    let worker = fixture.worker(move |job, context| {
        let (pool, begun) = (pool.clone(), begun.clone());
        async move {
            let lost = context.lease.lost();
            let work = async {
                begun.notify_one();
                lost.cancelled().await;
                Err(JobError::retry("the lease is lost"))
            };
            scheduler::keep_row(&pool, job.kind(), &context, work).await
        }
    });
    started.notified().await;
    assert_eq!(fixture.periods().await, ["audit 2026-11-21 begun 1"]);
    assert_eq!(fixture.ring(AT_ONCE).await, 0, "somebody is at it");
    // Redis forgets the job; its worker learns that when it renews, and says so.
    fixture.lose_redis().await;
    until("it is to be rung for", async || {
        fixture.periods().await == ["audit 2026-11-21 due 1"]
    })
    .await;
    worker.stop().await;
    assert_eq!(fixture.ring(AT_ONCE).await, 1);
    // A worker that dies together with Redis says nothing: time does.
    scene::run(
        &fixture.pool,
        "update schedule_period set state = 'begun', begun_at = now()",
    )
    .await;
    assert_eq!(fixture.ring(AT_ONCE).await, 0);
    let longest = Kind::BroadcastSend.policy().timeout_secs + 61;
    scene::run(
        &fixture.pool,
        &format!("update schedule_period set begun_at = now() - interval '{longest} seconds'"),
    )
    .await;
    assert_eq!(fixture.ring(AT_ONCE).await, 1);
    // Where the queue holds nothing of the kind, a minute.
    fixture.lose_redis().await;
    for (secs, rung) in [(30, 0), (61, 1)] {
        let began = format!(
            "update schedule_period set state = 'begun', begun_at = now() - interval '{secs} seconds', rung_at = now() - interval '1 hour'"
        );
        scene::run(&fixture.pool, &began).await;
        assert_eq!(fixture.ring(AT_ONCE).await, rung, "{secs} s after its begin");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_whose_job_is_dead_waits_for_a_person() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    fixture.find(&list, utc("2026-11-20T17:00:00Z")).await;
    fixture.ring(NEVER).await;
    let works = Arc::new(AtomicUsize::new(0));
    let worker = fixture.keeping(&works, |before| match before {
        0 => Err(JobError::dead("cannot be")),
        _ => Ok(Outcome::Done),
    });
    until("it is dead", async || fixture.dead_rows().await.len() == 1).await;
    let long_ago =
        "update schedule_period set rung_at = now() - interval '1 hour', begun_at = now() - interval '1 hour'";
    scene::run(&fixture.pool, long_ago).await;
    assert_eq!(fixture.ring(AT_ONCE).await, 0);
    let filter = dead::DeadFilter::default();
    dead::replay(&fixture.pool, &fixture.queue, &filter).await.unwrap();
    until("its work has ended", async || {
        fixture.periods().await == ["audit 2026-11-21 done 1"]
    })
    .await;
    worker.stop().await;
    assert_eq!(works.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_kind_is_rung_for_once_and_not_again() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    fixture.find(&list, utc("2026-11-20T17:00:00Z")).await;
    scene::run(
        &fixture.pool,
        "select pause_work('kind', 'broadcast-send', 'a test', 'anna')",
    )
    .await;
    assert_eq!((fixture.ring(AT_ONCE).await, fixture.ring(AT_ONCE).await), (1, 0));
    scene::run(&fixture.pool, "select resume_work('kind', 'broadcast-send', 'anna')").await;
    assert_eq!(fixture.ring(AT_ONCE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_by_hand_is_the_period_of_the_calendar() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    let schedule = list.get("audit").unwrap();
    let now: DateTime<Utc> = scene::one(&fixture.pool, "select now()").await;
    let ask = async |days: i64, again: bool, force: bool| {
        let period = schedule.rhythm.next(now + TimeDelta::days(days), 1).remove(0);
        let asked = Ask {
            by: "anna",
            again,
            force,
        };
        ask::ask(&fixture.pool, schedule, &period, &asked).await.unwrap()
    };
    // Tomorrow's, yesterday's (the schedule begins with this call), and yesterday's all the same.
    assert_eq!(ask(0, true, false).await, Some(Hindrance::Future));
    assert!(matches!(
        ask(-2, true, false).await,
        Some(Hindrance::BeforeItBegan { .. })
    ));
    assert_eq!(fixture.periods().await.len(), 0, "refused: nothing is written");
    assert_eq!(ask(-2, false, true).await, None);
    assert_eq!(fixture.ring(NEVER).await, 1);
    // Known by now, and under way.
    assert!(matches!(ask(-2, false, true).await, Some(Hindrance::UnderWay { .. })));
    let works = Arc::new(AtomicUsize::new(0));
    let worker = fixture.keeping(&works, |_| Ok(Outcome::Done));
    until("done", async || {
        fixture.periods().await.iter().all(|row| row.ends_with("done 1"))
    })
    .await;
    assert!(matches!(ask(-2, false, false).await, Some(Hindrance::Done { .. })));
    assert_eq!(ask(-2, true, false).await, None);
    fixture.ring(NEVER).await;
    until("done again", async || works.load(Ordering::SeqCst) == 2).await;
    // Ahead of its time: when that comes, it is not rung for a second time.
    assert_eq!(ask(0, false, true).await, None);
    fixture.ring(NEVER).await;
    until("done ahead", async || {
        fixture.periods().await.iter().all(|row| row.ends_with("done 1"))
    })
    .await;
    fixture.find(&list, now).await;
    assert_eq!(fixture.find(&list, now + TimeDelta::days(1)).await, Found::default());
    worker.stop().await;
    assert_eq!(works.load(Ordering::SeqCst), 3);
}
