//! Sentences about jobs in the queue and dead ones (pure).

use super::{
    super::{plain, table::number},
    QueueFacts, Reason, reason, when,
};
use crate::queue::{
    Depth,
    dead::DeadJob,
    find::{FoundJob, Place, Search},
};

/// How much of an error a sentence quotes, in characters.
const ERROR_CHARS: usize = 300;

/// Where these jobs are, and what holds their kind up.
pub(super) fn in_queue<'a>(jobs: impl IntoIterator<Item = &'a FoundJob>, queue: &QueueFacts) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for job in jobs {
        let depth = queue.depths.iter().find(|depth| depth.kind == job.kind);
        reasons.push(place(job, &queue.search, depth));
        reasons.extend(past(job));
        reasons.extend(depth.and_then(|depth| kind(job, depth, queue.paused.contains(&job.kind))));
    }
    reasons
}

fn place(job: &FoundJob, search: &Search, depth: Option<&Depth>) -> Reason {
    let now = search.now.unwrap_or_default();
    let of = depth.map_or(0, |depth| depth.ready);
    match &job.place {
        Place::Ready { place } => reason(
            "ready",
            format!(
                "It may run now and waits in the ready list of {}, at place {} of {}.",
                job.kind,
                place,
                of.max(*place as u64)
            ),
        ),
        Place::Scheduled { at: Some(at) } if *at > now => reason(
            "scheduled",
            format!(
                "It waits until {}: delayed, snoozed, or between two tries.",
                when(*at, now)
            ),
        ),
        Place::Scheduled { at } => {
            let since = at.map_or_else(String::new, |at| format!(" since {}", when(at, now)));
            reason(
                "overdue",
                format!("It has been due{since}, and no worker has fetched it: is a worker running?"),
            )
        }
        Place::Running {
            worker,
            lease_until: Some(until),
        } if *until > now => reason(
            "running",
            format!(
                "Worker {worker} is running it; its lease lasts until {} and is renewed.",
                when(*until, now)
            ),
        ),
        Place::Running { worker, lease_until } => {
            let since = lease_until.map_or_else(String::new, |at| format!(" at {}", when(at, now)));
            reason(
                "abandoned",
                format!(
                    "Worker {worker} had it, and its lease ran out{since}: that worker died or stalled. The next free worker \
                     takes it over; when none does within seconds, none is running or the kind is paused."
                ),
            )
        }
        Place::Dying => reason(
            "dying",
            "It is dead and on its way to the dead jobs in Postgres; a running worker carries it there.",
        ),
    }
}

fn past(job: &FoundJob) -> Option<Reason> {
    if job.attempts + job.crashes + job.snoozes == 0 {
        return None;
    }
    let mut says = format!(
        "So far {} failed, {} ended with the worker, {} asked to be woken later.",
        count(job.attempts, "attempt"),
        count(job.crashes, "attempt"),
        count(job.snoozes, "turn"),
    );
    if let Some(worker) = job.lost_by.as_ref().filter(|_| job.crashes > 0) {
        says = format!("{says} The last worker lost over it was {worker}.");
    }
    Some(reason("history", says))
}

fn kind(job: &FoundJob, depth: &Depth, paused: bool) -> Option<Reason> {
    let name = job.kind;
    let waits = !matches!(job.place, Place::Running { .. } | Place::Dying);
    if waits && paused {
        return Some(reason(
            "kind_paused",
            format!("{name} is paused, nobody begins one: `carillon paused` says who, why and how to resume it."),
        ));
    }
    (matches!(job.place, Place::Ready { .. }) && depth.running == 0).then(|| {
        reason(
            "none_running",
            format!("No {name} is running at all: is a worker up, and does it reach Redis?"),
        )
    })
}

/// One dead job.
pub(super) fn dead(job: &DeadJob) -> Reason {
    let error = plain::cell(&job.error, ERROR_CHARS);
    let died = plain::moment(job.died_at);
    let id = job.id;
    match job.replayed_at {
        Some(at) => reason(
            "retried",
            format!(
                "It was dead job {id}, {} at {died} ({error}), and was queued again at {}.",
                job.reason.name(),
                plain::moment(at)
            ),
        ),
        None => reason(
            "dead",
            format!(
                "It is dead since {died}, {}: {error}. Nobody runs it again by itself: `carillon jobs show {id}` shows it, \
                 `carillon jobs retry {id}` queues it again once the cause is mended.",
                job.reason.name()
            ),
        ),
    }
}

fn count(n: u32, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {what}{s}", number(n.into()))
}
