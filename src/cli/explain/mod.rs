//! `carillon jobs explain`: where a job, a broadcast or one delivery is, and why it has not left yet.
//!
//! For a person at three in the morning: sentences, the deciding one first, each with the command that changes it where
//! there is one. It reads only. What cannot be known because Redis is away is said, and the rest is told all the same.
//!
//! - `broadcast`: a broadcast and its lanes; `delivery`: one customer's messages; `job`: what lies in the queue
//! - the facts come from `crate::broadcast::whereabouts` and `crate::queue::find`; the sentences are made of them here (pure)

mod broadcast;
mod delivery;
mod job;

use carillon_jobs::{BroadcastId, Kind, SenderId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::{CliError, need_schema, plain, say, table};
use crate::{
    app::App,
    broadcast::whereabouts::{self, BroadcastFacts, LaneFacts},
    delivery::senders,
    limit::LimitStatus,
    pause,
    queue::{
        Depth,
        dead::{self, DeadJob},
        find::{Search, Wanted},
    },
};

/// Explain one job, broadcast or delivery
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A job's id, a dead job's number, a broadcast's id, or BROADCAST:CUSTOMER for one customer's messages
    #[arg(value_name = "ID")]
    id: String,
    /// One JSON object: {"what": …, "id": …, "reasons": [{"code": …, "says": …}, …], "facts": …}
    #[arg(long)]
    json: bool,
}

/// One thing that is so, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Reason {
    /// A word that does not change when the sentence does.
    code: &'static str,
    /// The sentence.
    says: String,
}

fn reason(code: &'static str, says: impl Into<String>) -> Reason {
    Reason {
        code,
        says: says.into(),
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Delivery(BroadcastId, i64),
    /// Perhaps a broadcast's, perhaps a job's.
    Uuid(BroadcastId, String),
    /// Perhaps a dead job's number, perhaps a job's id.
    Number(i64, String),
    Job(String),
}

fn parse(id: &str) -> Subject {
    if let Some((broadcast, customer)) = id.split_once(':')
        && let (Ok(broadcast), Ok(customer)) = (broadcast.parse(), customer.parse())
    {
        return Subject::Delivery(broadcast, customer);
    }
    if let Ok(broadcast) = id.parse() {
        return Subject::Uuid(broadcast, id.to_owned());
    }
    match id.parse() {
        Ok(number) => Subject::Number(number, id.to_owned()),
        Err(_) => Subject::Job(id.to_owned()),
    }
}

/// How much of a name is shown, in characters.
const NAME_CHARS: usize = 60;

/// What the queue says, or that it says nothing.
struct QueueFacts {
    search: Search,
    depths: Vec<Depth>,
    /// Kinds nobody may begin.
    paused: Vec<Kind>,
}

/// What Redis knows; `None`: it does not answer.
type Seen<T> = Option<T>;

pub(super) async fn run(app: &App, args: Args) -> Result<(), CliError> {
    need_schema(app).await?;
    match parse(args.id.trim()) {
        Subject::Delivery(broadcast, customer) => of_customer(app, broadcast, customer, args.json).await,
        Subject::Uuid(broadcast, id) => match whereabouts::broadcast(&app.db, broadcast).await? {
            Some(facts) => of_broadcast(app, facts, args.json).await,
            None => of_job(app, id, None, args.json).await,
        },
        Subject::Number(number, id) => match dead::get(&app.db, number).await? {
            Some(dead) => of_job(app, id, Some(dead), args.json).await,
            None => of_job(app, id, None, args.json).await,
        },
        Subject::Job(id) => of_job(app, id, None, args.json).await,
    }
}

async fn of_broadcast(app: &App, facts: BroadcastFacts, as_json: bool) -> Result<(), CliError> {
    let id = BroadcastId(facts.id);
    let (reasons, lanes, queue) = broadcast_reasons(app, &facts).await?;
    let jobs = queue.as_ref().map(|queue| &queue.search.jobs);
    let all = json!({"broadcast": facts, "lanes": lanes, "jobs": jobs});
    head(as_json, &facts)?;
    print(as_json, "broadcast", &id.to_string(), &reasons, &all)
}

/// Which broadcast it is, for a person; programs find it among the facts.
fn head(as_json: bool, facts: &BroadcastFacts) -> Result<(), CliError> {
    if as_json {
        return Ok(());
    }
    let (name, shop) = (
        plain::cell(&facts.name, NAME_CHARS),
        plain::cell(&facts.shop, NAME_CHARS),
    );
    say(&format!("{name}, of {shop}, broadcast {}", facts.id))
}

async fn of_customer(app: &App, id: BroadcastId, customer: i64, as_json: bool) -> Result<(), CliError> {
    let Some(facts) = whereabouts::broadcast(&app.db, id).await? else {
        return Err(CliError::Wrong(format!("there is no broadcast {id}")));
    };
    let one = whereabouts::customer(&app.db, id, customer).await?;
    let mut reasons = delivery::reasons(&facts, customer, &one);
    let (mut lanes, mut jobs) = (Vec::new(), None);
    if one.deliveries.iter().any(|delivery| delivery.settled_at.is_none()) || one.deliveries.is_empty() {
        let (why, all_lanes, queue) = broadcast_reasons(app, &facts).await?;
        reasons.extend(why);
        lanes = all_lanes;
        jobs = queue.map(|queue| queue.search.jobs);
    }
    let all = json!({"broadcast": facts, "customer": one, "lanes": lanes, "jobs": jobs});
    head(as_json, &facts)?;
    print(as_json, "delivery", &format!("{id}:{customer}"), &reasons, &all)
}

async fn of_job(app: &App, id: String, by_number: Option<DeadJob>, as_json: bool) -> Result<(), CliError> {
    let wanted = Wanted::Job(id.clone());
    let queue = if by_number.is_some() {
        None
    } else {
        look(app, &wanted).await
    };
    let dead = match by_number {
        Some(dead) => vec![dead],
        None => dead::of_job(&app.db, &id).await?,
    };
    let (mut reasons, mut about) = (Vec::new(), None);
    if let Some(queue) = &queue {
        reasons = job::in_queue(&queue.search.jobs, queue);
        about = queue.search.jobs.iter().find_map(|job| job.broadcast_id);
    }
    reasons.extend(dead.iter().map(job::dead));
    if reasons.is_empty() {
        return Err(match queue {
            Some(queue) if !queue.search.complete => CliError::Failed(format!(
                "the queue is too long to be read to its end, and {id} is not among the first 500,000 jobs of it"
            )),
            Some(_) => CliError::Wrong(format!(
                "nothing is known of {id}: it is no broadcast, no dead job, and no job in the queue. A job that ended well \
                 leaves nothing behind"
            )),
            None => CliError::Failed(format!("Redis does not answer, and no dead job is {id}")),
        });
    }
    if let Some(broadcast) = about
        && let Some(facts) = whereabouts::broadcast(&app.db, broadcast).await?
    {
        reasons.push(reason("about", format!("It is a bell for broadcast {broadcast}:")));
        reasons.extend(broadcast_reasons(app, &facts).await?.0);
    }
    let dead: Vec<Value> = dead.iter().map(super::dead_jobs::summary).collect();
    let jobs = queue.map(|queue| queue.search.jobs);
    print(as_json, "job", &id, &reasons, &json!({"jobs": jobs, "dead": dead}))
}

/// Why a broadcast and each of its lanes stand where they stand.
async fn broadcast_reasons(
    app: &App,
    facts: &BroadcastFacts,
) -> Result<(Vec<Reason>, Vec<LaneFacts>, Seen<QueueFacts>), CliError> {
    let id = BroadcastId(facts.id);
    let config = &app.config.delivery;
    let lanes = whereabouts::lanes(&app.db, id, config.bell_stale()).await?;
    let queue = look(app, &Wanted::Broadcast(id)).await;
    let mut reasons = broadcast::reasons(facts, queue.as_ref());
    for lane in lanes.iter().filter(|lane| lane.remaining > 0) {
        let limit = limit_of(app, lane).await;
        let view = broadcast::LaneView {
            broadcast: facts,
            lane,
            limit: limit.as_ref(),
            queue: queue.as_ref(),
            per_shop: config.lanes_per_shop,
            stale: config.bell_stale(),
        };
        reasons.extend(view.reasons());
    }
    if queue.is_none() {
        reasons.push(reason(
            "redis_away",
            "Redis does not answer: without it nothing is sent, and what waits in the queue cannot be told.",
        ));
    }
    Ok((reasons, lanes, queue))
}

async fn look(app: &App, wanted: &Wanted) -> Seen<QueueFacts> {
    let queue = app.queue().ok()?;
    let depths = queue.depths().await.ok()?;
    Some(QueueFacts {
        search: queue.find(wanted).await.ok()?,
        paused: pause::kinds(&app.db, Kind::ALL).await.ok()?,
        depths,
    })
}

/// The sender's bucket of single requests, or of multicasts where that one is closed.
async fn limit_of(app: &App, lane: &LaneFacts) -> Seen<LimitStatus> {
    let delivery = app.delivery().ok()?;
    let mut found: Option<LimitStatus> = None;
    for call in senders::calls(lane.channel) {
        let key = delivery.limit_key(SenderId(lane.sender_id), lane.channel, *call, lane.rate_per_sec);
        let status = delivery.limits.status(&key).await.ok()?;
        if found.is_none_or(|found| found.closed_until < status.closed_until) {
            found = Some(status);
        }
    }
    found
}

fn print(as_json: bool, what: &str, id: &str, reasons: &[Reason], facts: &Value) -> Result<(), CliError> {
    if as_json {
        let all = json!({"what": what, "id": id, "reasons": reasons, "facts": facts});
        return say(&all.to_string());
    }
    reasons.iter().try_for_each(|reason| say(&plain::block(&reason.says)))
}

/// A moment and how far it is from now: `2026-11-21 23:47:24 UTC (in 4 min 05 s)`.
fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let secs = (at - now).as_seconds_f64();
    let span = table::span(secs.abs());
    if secs >= 0.0 {
        format!("{} (in {span})", plain::moment(at))
    } else {
        format!("{} ({span} ago)", plain::moment(at))
    }
}
