//! Every planned delivery held against what the providers took, one by one, and against what it was charged; and the books against
//! themselves.
//! It must never count by totals: two mistakes that cancel out are two mistakes.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{
    charges::{self, Charge},
    load::Told,
    notes::Fact,
    outcome::{Because, Once, Outcome},
    provider::Provider,
    told::{self, Arrival, Unknown},
    town::Town,
};

/// Who got how many messages of which broadcast: the broadcast's name, the provider, the address.
type Received<'a> = HashMap<(&'a str, Provider, &'a str), u64>;
/// About whom an answer came when nobody read it any more.
type Unread = BTreeMap<Provider, BTreeMap<String, u64>>;

#[derive(FromRow)]
struct Delivery {
    broadcast_id: Uuid,
    name: String,
    broadcast_state: String,
    /// The sender's name.
    provider: String,
    address: String,
    customer_id: i64,
    state: String,
    reason: Option<String>,
    code: Option<String>,
    settled_at: Option<DateTime<Utc>>,
    /// A receipt has moved it since.
    is_moved: bool,
    charged_tokens: i64,
    price: i64,
}

/// Kind, reason, error, crashes, first claimed, died.
type DeadJob = (String, String, String, i32, DateTime<Utc>, DateTime<Utc>);

/// Judges all broadcasts.
pub async fn judge(town: &Town, told: &Told<'_>, outcome: &mut Outcome) {
    let mut received = Received::new();
    for arrival in told.arrivals {
        let name = broadcast_of(arrival);
        *received
            .entry((name, arrival.provider, &arrival.recipient))
            .or_default() += 1;
    }
    let unread: Unread = Provider::ALL.map(|provider| (provider, unread(town, provider))).into();
    let mut charged = Once::default();
    let deliveries: Vec<Delivery> = sqlx::query_as(
        "select d.broadcast_id, b.name, b.state as broadcast_state, s.name as provider, a.address, d.customer_id,
                d.state::text as state, d.reason, d.code, d.settled_at, d.changed_at is not null as is_moved,
                d.charged_tokens::bigint, c.tokens::bigint as price
           from delivery_with_state d join broadcast b on b.id = d.broadcast_id join address a on a.id = d.address_id
           join sender s on s.id = a.sender_id
           join broadcast_channel c on c.broadcast_id = d.broadcast_id and c.channel = d.channel",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    for delivery in &deliveries {
        let provider = Provider::of_sender(&delivery.provider).unwrap();
        let got = received.remove(&(delivery.name.as_str(), provider, delivery.address.as_str()));
        let one = One {
            delivery,
            provider,
            got: got.unwrap_or(0),
            unread: unread[&provider].contains_key(&delivery.address),
        };
        one.hold_against(town, told, outcome);
        one.hold_against_its_price(town, told, &mut charged);
    }
    for ((name, provider, _), n) in received {
        let provider = provider.name();
        outcome
            .unaccounted
            .add(|| format!("{n} on {provider} of broadcast {name} to somebody it was not planned for"));
    }
    lanes(town, &mut charged).await;
    outcome.once.insert("charges", charged);
    by_the_provider(town, outcome);
    broadcasts(town, outcome).await;
}

/// The name between the signs; see the load.
fn broadcast_of(arrival: &Arrival) -> &str {
    arrival.text.split('#').nth(1).unwrap_or("")
}

/// About whom a provider's answer was not read, as we store addresses.
fn unread(town: &Town, provider: Provider) -> BTreeMap<String, u64> {
    let unread = town.providers().unread(provider.wire());
    unread.into_iter().map(|(to, n)| (provider.stored(to), n)).collect()
}

/// One delivery, and what is known of it elsewhere.
struct One<'a> {
    delivery: &'a Delivery,
    provider: Provider,
    /// How many of it arrived.
    got: u64,
    unread: bool,
}

impl One<'_> {
    fn which(&self) -> String {
        let Delivery { customer_id, name, .. } = self.delivery;
        format!("customer {customer_id} on {} of broadcast {name}", self.provider.name())
    }

    /// What explains that nobody knew, for this reason, when its send was settled.
    fn cause_of_unknown(&self, town: &Town, told: &Told<'_>, reason: &str) -> Option<&'static str> {
        let unknown = Unknown {
            provider: self.provider,
            reason,
            at_ms: self.delivery.settled_at.map_or(0, |at| town.clock.of(at)),
            cancelled: self.delivery.broadcast_state == "cancelled",
            unread: self.unread,
        };
        told::cause_of_unknown(told.faults, unknown)
    }

    fn hold_against(&self, town: &Town, told: &Told<'_>, outcome: &mut Outcome) {
        let Self { delivery, got, .. } = *self;
        let (state, name) = (&delivery.state, self.provider.name());
        let count = outcome.providers.entry(name).or_default();
        count.planned += 1;
        *count.states.entry(state.clone()).or_default() += 1;
        count.most_to_one = count.most_to_one.max(got);
        // What did not arrive after all was taken by the provider all the same.
        let bounced = state == "failed"
            && town
                .book
                .may_have_failed(delivery.broadcast_id, self.provider, delivery.customer_id);
        let because = |cause: Option<&str>| Because {
            of: name.to_owned(),
            reason: [delivery.reason.as_deref(), delivery.code.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" "),
            cause: cause.map(str::to_owned),
        };
        match state.as_str() {
            "queued" | "sending" => outcome.lost.add(|| format!("{} is {state}", self.which())),
            "accepted" | "delivered" | "read" if got == 0 => {
                outcome
                    .lost
                    .add(|| format!("{} is {state} and was never received", self.which()));
            }
            "accepted" | "delivered" | "read" => {}
            "unknown" => {
                let cause = self.cause_of_unknown(town, told, delivery.reason.as_deref().unwrap_or_default());
                *outcome.unknown.entry(because(cause)).or_default() += 1;
            }
            // failed, skipped, cancelled, expired: not sent, say the books.
            _ => {
                if got > 0 && !bounced {
                    outcome
                        .unaccounted
                        .add(|| format!("{} is {state} and was received", self.which()));
                }
                if state == "failed" {
                    let cause = bounced.then_some("reported so later");
                    *outcome.failed.entry(because(cause)).or_default() += 1;
                }
            }
        }
    }

    fn hold_against_its_price(&self, town: &Town, told: &Told<'_>, charged: &mut Once) {
        let cause = |reason| self.cause_of_unknown(town, told, reason);
        let may_be_free = || cause("interrupted").or_else(|| cause("uncertain")).is_some();
        let charge = Charge {
            state: &self.delivery.state,
            charged: self.delivery.charged_tokens,
            price: self.delivery.price,
            may_be_free: self.delivery.is_moved && may_be_free(),
        };
        charges::hold_against(charged, charge, || self.which());
    }
}

fn by_the_provider(town: &Town, outcome: &mut Outcome) {
    for provider in Provider::ALL {
        let summary = town.providers().channel_summary(provider.wire());
        let count = outcome.providers.entry(provider.name()).or_default();
        count.received = summary.messages;
        count.duplicates = summary.duplicates;
    }
}

/// Holds the ledger's entries of each lane against its deliveries.
async fn lanes(town: &Town, once: &mut Once) {
    let wrong: Vec<(Uuid, String, i64, i64, i64)> = rows(
        &town.pool,
        "select * from (
            select l.broadcast_id, l.channel::text,
                   (select coalesce(-sum(e.allowance + e.extra), 0)::bigint from ledger_entry e
                     where e.broadcast_id = l.broadcast_id and e.channel = l.channel and e.kind = 'capture') as captured,
                   (select coalesce(sum(e.allowance + e.extra), 0)::bigint from ledger_entry e
                     where e.broadcast_id = l.broadcast_id and e.channel = l.channel and e.kind = 'refund') as refunded,
                   (select coalesce(sum(r.charged_tokens), 0)::bigint from delivery_result r
                     where r.broadcast_id = l.broadcast_id and r.channel = l.channel) as charged
              from lane l) s
          where captured - refunded <> charged",
    )
    .await;
    for (broadcast, channel, captured, refunded, charged) in wrong {
        once.undue.add(|| {
            format!("broadcast {broadcast} on {channel}: {captured} tokens captured, {refunded} given back, {charged} charged")
        });
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
