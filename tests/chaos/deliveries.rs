//! Every planned delivery held against what the providers took, one by one; and the books against themselves.
//! It must never count by totals: two mistakes that cancel out are two mistakes.

use std::collections::{BTreeMap, HashMap};

use carillon::channel::Channel;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{
    load::Told,
    notes::Fact,
    outcome::{Because, Outcome},
    told::{self, Arrival},
    town::{Town, provider},
};

/// Who got how many messages of which broadcast: the broadcast's name, the channel, the address.
type Received<'a> = HashMap<(&'a str, Channel, &'a str), u64>;

#[derive(FromRow)]
struct Delivery {
    broadcast_id: Uuid,
    name: String,
    broadcast_state: String,
    channel: Channel,
    address: String,
    customer_id: i64,
    state: String,
    reason: Option<String>,
    code: Option<String>,
    settled_at: Option<DateTime<Utc>>,
}

/// Kind, reason, error, crashes, first claimed, died.
type DeadJob = (String, String, String, i32, DateTime<Utc>, DateTime<Utc>);

/// Judges all broadcasts.
pub async fn judge(town: &Town, told: &Told<'_>, outcome: &mut Outcome) {
    let mut received = Received::new();
    for arrival in told.arrivals {
        let name = broadcast_of(arrival);
        *received.entry((name, arrival.channel, &arrival.recipient)).or_default() += 1;
    }
    let deliveries: Vec<Delivery> = sqlx::query_as(
        "select d.broadcast_id, b.name, b.state as broadcast_state, d.channel, a.address, d.customer_id, d.state::text as state, d.reason, d.code,
                d.settled_at
           from delivery_with_state d join broadcast b on b.id = d.broadcast_id join address a on a.id = d.address_id",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    for delivery in &deliveries {
        let got = received.remove(&(delivery.name.as_str(), delivery.channel, delivery.address.as_str()));
        hold_against(town, told, delivery, got.unwrap_or(0), outcome);
    }
    for ((name, channel, _), n) in received {
        outcome
            .unaccounted
            .add(|| format!("{n} on {channel} of broadcast {name} to somebody it was not planned for"));
    }
    by_the_provider(town, outcome);
    broadcasts(town, outcome).await;
}

/// The name between the signs; see the load.
fn broadcast_of(arrival: &Arrival) -> &str {
    arrival.text.split('#').nth(1).unwrap_or("")
}

fn hold_against(town: &Town, told: &Told<'_>, delivery: &Delivery, got: u64, outcome: &mut Outcome) {
    let Delivery {
        name,
        channel,
        state,
        customer_id,
        ..
    } = delivery;
    let count = outcome.channels.entry(channel.as_str()).or_default();
    count.planned += 1;
    *count.states.entry(state.clone()).or_default() += 1;
    count.most_to_one = count.most_to_one.max(got);
    // A mail that came back was received by somebody's server all the same.
    let bounced = state == "failed" && town.book.may_have_failed(delivery.broadcast_id, *customer_id);
    let which = || format!("customer {customer_id} on {channel} of broadcast {name}");
    let because = |cause: Option<&str>| Because {
        of: channel.as_str().to_owned(),
        reason: [delivery.reason.as_deref(), delivery.code.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "),
        cause: cause.map(str::to_owned),
    };
    match state.as_str() {
        "queued" | "sending" => outcome.lost.add(|| format!("{} is {state}", which())),
        "accepted" | "delivered" | "read" if got == 0 => {
            outcome
                .lost
                .add(|| format!("{} is {state} and was never received", which()));
        }
        "accepted" | "delivered" | "read" => {}
        "unknown" => {
            let at_ms = delivery.settled_at.map_or(0, |at| town.clock.of(at));
            let reason = delivery.reason.as_deref().unwrap_or_default();
            let cancelled = delivery.broadcast_state == "cancelled";
            let cause = told::cause_of_unknown(told.faults, channel.as_str(), reason, at_ms, cancelled);
            *outcome.unknown.entry(because(cause)).or_default() += 1;
        }
        // failed, skipped, cancelled, expired: not sent, say the books.
        _ => {
            if got > 0 && !bounced {
                outcome
                    .unaccounted
                    .add(|| format!("{} is {state} and was received", which()));
            }
            if state == "failed" {
                let cause = bounced.then_some("the mail came back");
                *outcome.failed.entry(because(cause)).or_default() += 1;
            }
        }
    }
}

fn by_the_provider(town: &Town, outcome: &mut Outcome) {
    for channel in [Channel::Line, Channel::App, Channel::Email] {
        let summary = town.providers().channel_summary(provider(channel));
        let count = outcome.channels.entry(channel.as_str()).or_default();
        count.received = summary.messages;
        count.duplicates = summary.duplicates;
    }
}

/// Confirmed broadcasts are there, everybody of their audience has a delivery or a reason, and none failed.
async fn broadcasts(town: &Town, outcome: &mut Outcome) {
    let states: Vec<(Uuid, String, Option<String>)> =
        rows(&town.pool, "select id, state, state_reason from broadcast").await;
    let states: BTreeMap<String, (String, Option<String>)> = states
        .into_iter()
        .map(|(id, state, reason)| (id.to_string(), (state, reason)))
        .collect();
    let begun = town.notes.all(Fact::Begun);
    for id in begun.into_iter().filter(|id| !states.contains_key(id)) {
        outcome
            .lost
            .add(|| format!("broadcast {id} was confirmed and is not there"));
    }
    for (id, (state, reason)) in states {
        if state == "failed" {
            let reason = reason.unwrap_or_default();
            outcome.lost.add(|| format!("broadcast {id} failed: {reason}"));
        }
        *outcome.broadcasts.entry(state).or_default() += 1;
    }
    let forgotten: Vec<(Uuid, i64, i64)> = rows(
        &town.pool,
        "select * from (
            select b.id, (select count(*) from customer c where c.shop_id = b.shop_id and b.audience->>'tag' = any(c.tags)) as audience,
                   (select count(distinct d.customer_id) from delivery d where d.broadcast_id = b.id)
                   + (select count(*) from skipped_customer s where s.broadcast_id = b.id) as planned
              from broadcast b where b.state = 'completed') p
          where audience <> planned",
    )
    .await;
    for (id, audience, planned) in forgotten {
        outcome
            .lost
            .add(|| format!("broadcast {id} has an audience of {audience} and a plan for {planned}"));
    }
}

async fn rows<T>(pool: &PgPool, sql: &'static str) -> Vec<T>
where
    T: Send + Unpin + for<'r> FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

/// Dead jobs, each with what the faults of its lifetime explain.
pub async fn dead_jobs(town: &Town, faults: &[told::Fault], outcome: &mut Outcome) {
    let dead: Vec<DeadJob> = rows(
        &town.pool,
        "select kind, reason::text, error, crashes, first_at, died_at from dead_job",
    )
    .await;
    for (kind, reason, error, crashes, first, died) in dead {
        let crashes = u64::try_from(crashes).unwrap_or(0);
        let cause = told::cause_of_death(faults, &reason, crashes, town.clock.of(first), town.clock.of(died));
        let because = Because {
            of: kind,
            reason: format!("{reason}: {error}"),
            cause: cause.map(str::to_owned),
        };
        *outcome.dead.entry(because).or_default() += 1;
    }
}

/// `carillon audit`, as an operator runs it.
pub fn audit(town: &Town, outcome: &mut Outcome) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_carillon"))
        .args(["audit", "--json"])
        .envs(&town.env)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    for check in report["checks"].as_array().into_iter().flatten() {
        outcome.audited += check["examined"].as_u64().unwrap_or(0);
        if check["broken"].as_u64() != Some(0) {
            outcome.drift.add(|| check.to_string());
        }
    }
    if !done.status.success() && outcome.drift.count == 0 {
        outcome
            .drift
            .add(|| format!("carillon audit ended with {}", done.status));
    }
}
