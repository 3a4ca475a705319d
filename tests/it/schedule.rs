//! Schedules on a real Postgres and Redis: whoever looks, however late, whatever is killed or lost in between, each period
//! has one row, and its work is rung for until it has ended.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use carillon::scheduler::{self, Found, PeriodId, ScheduleList, lease::Leader, status};
use chrono::{DateTime, TimeDelta, Utc};
use redis::AsyncCommands as _;

use crate::{fixture::Fixture, scene};

/// Long enough that no bell of a test counts as unanswered by itself.
pub(crate) const NEVER: Duration = Duration::from_mins(10);

/// A list of schedules: name, every and what else, catch-up.
pub(crate) fn list_text(schedules: &[(&str, &str, &str)]) -> String {
    let one = |(name, every, catch_up): &(&str, &str, &str)| {
        format!(
            "[[schedule]]\nname = \"{name}\"\nevery = {every}\nzone = \"Asia/Taipei\"\nkind = \"broadcast-send\"\n\
             args = {{ broadcast_id = \"0197a1b2-0000-7000-8000-000000000000\" }}\ncatch_up = \"{catch_up}\"\n"
        )
    };
    schedules.iter().map(one).collect()
}

/// Every hour, at a minute that is half an hour away: none comes due by itself while a test runs.
pub(crate) fn hourly() -> String {
    let minute = (chrono::Timelike::minute(&Utc::now()) + 30) % 60;
    format!("\"hour\"\nminute = {minute}")
}

pub(crate) fn list(schedules: &[(&str, &str, &str)]) -> ScheduleList {
    ScheduleList::parse(&list_text(schedules)).unwrap()
}

pub(crate) fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

impl Fixture {
    pub(crate) async fn find(&self, list: &ScheduleList, at: DateTime<Utc>) -> Found {
        scheduler::find(&self.pool, list, Some(at)).await.unwrap()
    }

    pub(crate) async fn ring(&self, stale: Duration) -> usize {
        scheduler::ring(&self.pool, &self.queue, stale, None)
            .await
            .unwrap()
            .rung
    }

    /// Every row: `schedule period state rings`.
    pub(crate) async fn periods(&self) -> Vec<String> {
        scene::one::<Vec<String>>(
            &self.pool,
            "select coalesce(array_agg(concat_ws(' ', schedule, period, state, rings) order by schedule, due_at, period), '{}')
               from schedule_period",
        )
        .await
    }

    /// The ids of the jobs that wait.
    async fn bells(&self) -> Vec<String> {
        let texts: Vec<String> = self
            .raw
            .clone()
            .lrange(self.key("ready:broadcast-send"), 0, -1)
            .await
            .unwrap();
        let id = |text: &String| {
            let job: serde_json::Value = serde_json::from_str(text).unwrap();
            job["id"].as_str().unwrap().to_owned()
        };
        texts.iter().map(id).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_schedule_begins_with_the_first_period_due_after_it_is_seen() {
    let fixture = Fixture::new().await;
    let list = list(&[("refill", "\"month\"", "all")]);
    assert_eq!(fixture.find(&list, utc("2026-11-10T00:00:00Z")).await, Found::default());
    assert_eq!(fixture.find(&list, utc("2026-11-30T15:59:59Z")).await, Found::default());
    let found = fixture.find(&list, utc("2026-11-30T16:00:00Z")).await;
    assert_eq!(found, Found { due: 1, skipped: 0 });
    assert_eq!(fixture.find(&list, utc("2026-11-30T16:00:02Z")).await, Found::default());
    assert_eq!(fixture.periods().await, ["refill 2026-12 due 0"]);
    assert_eq!(fixture.ring(NEVER).await, 1);
    assert_eq!(fixture.ring(NEVER).await, 0);
    assert_eq!(fixture.periods().await, ["refill 2026-12 rung 1"]);
    assert_eq!(fixture.bells().await, ["schedule/refill/2026-12"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_each_policy_rings_for_its_own() {
    let fixture = Fixture::new().await;
    let list = list(&[
        ("each", "\"day\"", "all"),
        ("last", "\"day\"", "latest"),
        ("never", "\"day\"", "skip"),
    ]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    // Down over three midnights of Taipei; the last was half an hour ago.
    let found = fixture.find(&list, utc("2026-11-22T16:30:00Z")).await;
    assert_eq!(found, Found { due: 5, skipped: 4 });
    let expected = [
        "each 2026-11-21 due 0",
        "each 2026-11-22 due 0",
        "each 2026-11-23 due 0",
        "last 2026-11-21 skipped 0",
        "last 2026-11-22 skipped 0",
        "last 2026-11-23 due 0",
        "never 2026-11-21 skipped 0",
        "never 2026-11-22 skipped 0",
        "never 2026-11-23 due 0",
    ];
    assert_eq!(fixture.periods().await, expected);
    // Nobody could ring for another day: what is not worth ringing for any more is given up, the rest is not.
    let later = utc("2026-11-23T17:30:00Z");
    assert_eq!(fixture.find(&list, later).await, Found { due: 2, skipped: 1 });
    let rang = scheduler::ring(&fixture.pool, &fixture.queue, NEVER, Some(later))
        .await
        .unwrap();
    assert_eq!((rang.rung, rang.given_up), (5, 1));
    let rung: Vec<String> = fixture
        .periods()
        .await
        .into_iter()
        .filter(|row| row.contains("rung"))
        .collect();
    let expected = [
        "each 2026-11-21 rung 1",
        "each 2026-11-22 rung 1",
        "each 2026-11-23 rung 1",
        "each 2026-11-24 rung 1",
        "last 2026-11-24 rung 1",
    ];
    assert_eq!(rung, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_months_is_worked_off_look_by_look_and_its_latest_is_the_last() {
    let fixture = Fixture::new().await;
    let list = list(&[("each", "\"hour\"", "all"), ("last", "\"hour\"", "latest")]);
    let start = utc("2026-01-01T00:30:00Z");
    fixture.find(&list, start).await;
    let end = start + TimeDelta::hours(1_234);
    let mut looks = 0;
    while fixture.find(&list, end).await != Found::default() {
        looks += 1;
    }
    assert_eq!(looks, 3);
    let counts: Vec<i64> = scene::one(
        &fixture.pool,
        "select array[count(*) filter (where schedule = 'each' and state = 'due'),
                      count(*) filter (where schedule = 'last' and state = 'skipped'),
                      count(*) filter (where schedule = 'last' and state = 'due'),
                      count(distinct period)] from schedule_period",
    )
    .await;
    assert_eq!(counts, [1_234, 1_233, 1, 1_234]);
    let last: bool = scene::one(
        &fixture.pool,
        "select period = (select max(period) from schedule_period) from schedule_period where schedule = 'last' and state = 'due'",
    )
    .await;
    assert!(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_that_look_at_once_give_each_period_one_row_and_one_bell() {
    let fixture = Arc::new(Fixture::new().await);
    let list = Arc::new(list(&[
        ("a", "\"hour\"", "all"),
        ("b", "\"day\"", "latest"),
        ("c", "\"hour\"", "all"),
    ]));
    let start = utc("2026-11-20T00:30:00Z");
    fixture.find(&list, start).await;
    // No lease among them: rows alone decide. Their clocks differ, as those of transactions that began one after another do.
    let looks = (0..8).map(|who| {
        let (fixture, list) = (fixture.clone(), list.clone());
        tokio::spawn(async move {
            for step in 1..=48 {
                let at = start + TimeDelta::minutes(30 * step) + TimeDelta::milliseconds(7 * who);
                fixture.find(&list, at).await;
                fixture.ring(NEVER).await;
            }
        })
    });
    for look in looks.collect::<Vec<_>>() {
        look.await.unwrap();
    }
    let periods = fixture.periods().await;
    assert_eq!(periods.len(), 24 + 1 + 24, "{periods:?}");
    assert!(periods.iter().all(|row| row.contains(" rung ")), "{periods:?}");
    let bells = fixture.bells().await;
    let distinct: BTreeSet<&String> = bells.iter().collect();
    assert_eq!(
        (bells.len(), distinct.len()),
        (49, 49),
        "a second bell for one period waits: {bells:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_on_either_side_of_the_bell_leaves_one_job() {
    let fixture = Fixture::new().await;
    let list = list(&[("audit", "\"day\"", "all")]);
    fixture.find(&list, utc("2026-11-20T00:00:00Z")).await;
    // Killed behind the row, in front of the bell: whoever is next rings.
    fixture.find(&list, utc("2026-11-20T17:00:00Z")).await;
    assert_eq!(fixture.ring(NEVER).await, 1);
    // Killed behind the bell, before the row says so.
    scene::run(
        &fixture.pool,
        "update schedule_period set state = 'due', rung_at = null, rings = 0",
    )
    .await;
    assert_eq!(fixture.ring(NEVER).await, 1);
    assert_eq!(fixture.bells().await, ["schedule/audit/2026-11-21"]);
    assert_eq!(fixture.periods().await, ["audit 2026-11-21 rung 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_and_back_loses_no_period_and_repeats_none() {
    let fixture = Fixture::new().await;
    let list = list(&[("each", "\"month\"", "all"), ("last", "\"month\"", "latest")]);
    let start = utc("2026-11-10T00:00:00Z");
    fixture.find(&list, start).await;
    // Ten years ahead: everything in between looks missed.
    let found = fixture.find(&list, utc("2036-11-10T00:00:00Z")).await;
    assert_eq!(found, Found { due: 121, skipped: 119 });
    // Before it is put back, one bell leaves.
    let id = PeriodId::new("each", "2026-12");
    let one = format!(
        "update schedule_period set state = 'rung', rung_at = now(), rings = 1 where schedule = '{}' and period = '{}'",
        id.schedule, id.period
    );
    scene::run(&fixture.pool, &one).await;
    assert_eq!(
        fixture.find(&list, start + TimeDelta::seconds(20)).await,
        Found::default()
    );
    assert_eq!(fixture.periods().await, ["each 2026-12 rung 1"]);
    // A second back is no jump, and nothing is looked at twice.
    fixture.find(&list, start + TimeDelta::seconds(19)).await;
    let found = fixture.find(&list, utc("2026-12-31T16:00:00Z")).await;
    assert_eq!(found, Found { due: 2, skipped: 1 });
    let expected = [
        "each 2026-12 rung 1",
        "each 2027-01 due 0",
        "last 2026-12 skipped 0",
        "last 2027-01 due 0",
    ];
    assert_eq!(fixture.periods().await, expected);
    // Bells and beginnings that lie ahead of the clock count for nothing.
    scene::run(
        &fixture.pool,
        "update schedule_period set state = 'begun', rung_at = now() + interval '1 year', begun_at = now() + interval '1 year'",
    )
    .await;
    assert_eq!(fixture.ring(NEVER).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scheduler_of_a_list_leads_until_it_leaves_or_falls_silent() {
    let fixture = Fixture::new().await;
    let new = |list: &str| Leader::new(list, Duration::from_secs(30));
    let (a, b, other) = (new("x"), new("x"), new("y"));
    let term = async |leader: &Leader| leader.lead(&fixture.pool).await.unwrap();
    assert_eq!(
        (term(&a).await, term(&b).await, term(&a).await),
        (Some(1), None, Some(1))
    );
    assert_eq!(term(&other).await, Some(1), "another release's list is its own");
    a.leave(&fixture.pool).await.unwrap();
    assert_eq!((term(&b).await, term(&a).await), (Some(2), None));
    scene::run(
        &fixture.pool,
        "update scheduler_lease set lease_until = now() - interval '1 second' where list = 'x'",
    )
    .await;
    assert_eq!(term(&a).await, Some(3));
    // Written under a clock a year ahead, which has been put back.
    scene::run(
        &fixture.pool,
        "update scheduler_lease set lease_until = now() + interval '1 year' where list = 'x'",
    )
    .await;
    assert_eq!(term(&b).await, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_seen_also_while_no_scheduler_runs() {
    let fixture = Fixture::new().await;
    let list = list(&[("hourly", hourly().as_str(), "all")]);
    let waits = async || status::waits(&fixture.pool, &list).await.unwrap().remove(0);
    assert_eq!(waits().await, status::Waits::default());
    let now: DateTime<Utc> = scene::one(&fixture.pool, "select now()").await;
    fixture.find(&list, now - TimeDelta::hours(5)).await;
    // Five hours behind: the oldest it missed is between four and five hours late.
    let seen = waits().await;
    assert!((14_400.0..18_100.0).contains(&seen.unrung_secs), "{seen:?}");
    // Found, it counts from then on.
    fixture.find(&list, now).await;
    assert!(waits().await.unrung_secs < 3_700.0);
    scene::run(
        &fixture.pool,
        "update schedule_period set found_at = now() - interval '2 hours', due_at = now() - interval '3 hours'",
    )
    .await;
    let seen = waits().await;
    assert!((7_100.0..7_400.0).contains(&seen.unrung_secs), "{seen:?}");
    fixture.ring(NEVER).await;
    let seen = waits().await;
    assert!(
        seen.unrung_secs < 3_700.0 && (7_100.0..7_400.0).contains(&seen.undone_secs),
        "{seen:?}"
    );
    scene::run(
        &fixture.pool,
        "update schedule_period set state = 'done', done_at = now()",
    )
    .await;
    assert_eq!(waits().await, status::Waits::default());
}
