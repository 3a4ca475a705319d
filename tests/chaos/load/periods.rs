//! Periods of schedules that come due one after the other. No run lasts for hours, so a schedule is made to have looked
//! less far than it has: what is due since then is found like anything that was missed, and what was found before once more.
//! It must never write a period's row: finding it, once, is what is shown.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{millis, rest, until_answered};
use crate::{dice::Dice, notes::Fact, outcome::Outcome, town::Town};

/// The schedules, beside those of the product.
const NAMES: [&str; 2] = ["chaos-a", "chaos-b"];
/// What they are like.
const REST: &str = "every = \"hour\"\nzone = \"UTC\"\nkind = \"top-up-settlement\"\nargs = {}\ncatch_up = \"all\"";
/// So many hours are gone back at most; then it begins again.
const MOST_HOURS: u64 = 400;

/// The file of schedules: the product's own, and those of the run.
pub fn schedules() -> String {
    let mut text = include_str!("../../../config/schedule.toml").to_owned();
    for name in NAMES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n[[schedule]]\nname = \"{name}\"\n{REST}");
    }
    text
}

/// Lets periods come due until told to stop.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    let mut tracks = tokio::task::JoinSet::new();
    for (track, name) in NAMES.into_iter().enumerate() {
        let (town, stop) = (town.clone(), stop.clone());
        tracks.spawn(async move {
            stop.run_until_cancelled(bring(&town, track as u64, name)).await;
        });
    }
    tracks.spawn(async move {
        stop.run_until_cancelled(take_the_lead_away(&town)).await;
    });
    tracks.join_all().await;
}

/// Ends the leading scheduler's lease again and again: whoever looks next leads, beside one that still rings.
async fn take_the_lead_away(town: &Town) {
    for n in 0_u64.. {
        rest(Dice::of(town.seed, &[8, n]).between(500, 4_000)).await;
        let _ = sqlx::query("update scheduler_lease set lease_until = now() - interval '1 second'")
            .execute(&town.pool)
            .await;
    }
}

async fn bring(town: &Town, track: u64, name: &'static str) {
    for n in 0_u64.. {
        rest(Dice::of(town.seed, &[5, track, n]).between(500, 3_000)).await;
        let period = until_answered(|| came_due(town, name, n % MOST_HOURS)).await;
        town.notes.add(Fact::CameDue, &format!("{name} {period}"));
    }
}

/// Makes the hour that began so many hours ago, and all later ones, due; says what the first of them is called.
async fn came_due(town: &Town, name: &str, hours_ago: u64) -> sqlx::Result<String> {
    sqlx::query_scalar(
        "with hour as (select date_trunc('hour', now() at time zone 'UTC') - $2 * interval '1 hour' as begins),
              mark as (select (begins - interval '1 minute') at time zone 'UTC' as at from hour),
              moved as (insert into schedule as s (name, began_at, looked_until) select $1, at, at from mark
                        on conflict (name) do update set looked_until = least(s.looked_until, excluded.looked_until))
         select to_char(begins, 'YYYY-MM-DD\"T\"HH24') from hour",
    )
    .bind(name)
    .bind(millis(hours_ago))
    .fetch_one(&town.pool)
    .await
}

/// Periods whose work has not ended, of every schedule, and marks nobody has looked from.
pub(super) async fn left(town: &Town) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('period %s of %s is %s after %s bells', period, schedule, state, rings)
           from schedule_period where state in ('due', 'rung', 'begun')
         union all
         select format('the schedule %s was looked at until %s', name, looked_until)
           from schedule where looked_until < now() - interval '30 seconds'",
    )
    .fetch_all(&town.pool)
    .await
}

#[derive(sqlx::FromRow)]
struct Period {
    name: String,
    state: String,
    is_ahead: bool,
    found_at: DateTime<Utc>,
    done_at: Option<DateTime<Utc>>,
    rings: i32,
}

/// Each period that came due has one row, and its work has ended.
pub(super) async fn judge(town: &Town, outcome: &mut Outcome) {
    let rows: Vec<Period> = sqlx::query_as(
        "select schedule || ' ' || period as name, state, due_at > now() as is_ahead, found_at, done_at, rings
           from schedule_period where schedule = any($1)",
    )
    .bind(&NAMES[..])
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let terms: Option<i64> = sqlx::query_scalar("select max(term) from scheduler_lease")
        .fetch_one(&town.pool)
        .await
        .unwrap();
    let once = outcome.once.entry("periods").or_default();
    once.counts.insert(
        "changes of the lead",
        u64::try_from(terms.map_or(0, |term| term - 1)).unwrap(),
    );
    let mut rows_of = BTreeMap::<&str, u64>::new();
    for period in &rows {
        let Period { name, state, .. } = period;
        once.due += 1;
        *rows_of.entry(name).or_default() += 1;
        *once.counts.entry("bells").or_default() += u64::try_from(period.rings).unwrap();
        if period.is_ahead {
            once.undue.add(|| format!("{name} is ahead, and {state}"));
        }
        match period.done_at.filter(|_| state == "done") {
            Some(at) => {
                once.done += 1;
                let took_ms = u64::try_from((at - period.found_at).num_milliseconds()).unwrap_or(0);
                once.slowest_ms = once.slowest_ms.max(took_ms);
            }
            None => once.missing.add(|| format!("{name} is {state}")),
        }
    }
    for (name, n) in rows_of.iter().filter(|(_, n)| **n > 1) {
        once.twice.add(|| format!("{name} has {n} rows"));
    }
    for name in town.notes.all(Fact::CameDue) {
        if !rows_of.contains_key(name.as_str()) {
            once.missing.add(|| format!("{name} came due and has no row"));
        }
    }
}
