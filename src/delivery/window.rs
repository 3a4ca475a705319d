//! One window: every member of an intent is sent to, at the same time, and what became of each is collected.
//!
//! No database here, and no decision: permits were granted and the intent is committed before this is called, and
//! `verdict` judges what comes back. A member is begun only while the slice's lease lasts and nobody said stop.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use carillon_jobs::{AddressId, CustomerId};
use tokio::task::JoinSet;

use crate::{
    channel::{ErrorClass, Refusal, SendOutcome, delivery_key, slice_key},
    delivery::{
        store::{self, ClaimedSlice},
        turn::LaneTurn,
        verdict::Sent,
    },
    metrics::sends,
};

/// Sends to `members` of a slice, its intent `intent_no`. `until`: nothing is begun after this moment, because the lease
/// may end. `None`: their multicast was refused, so nobody has it, and they are to be sent to one by one under an intent
/// that says so.
pub(super) async fn send(
    job: &Arc<LaneTurn>,
    slice: &Arc<ClaimedSlice>,
    intent_no: i32,
    members: &[i64],
    until: Instant,
) -> Option<Vec<(i64, Sent)>> {
    match (job.briefing.multicast(), store::one_by_one(intent_no)) {
        (true, false) => multicast(job, slice, intent_no, members, until).await,
        (true, true) => Some(singly_within_limit(job, slice, members, until).await),
        (false, _) => Some(singly(job, slice, members, until).await),
    }
}

/// One request for all: nothing in the message depends on the recipient.
async fn multicast(
    job: &LaneTurn,
    slice: &ClaimedSlice,
    intent_no: i32,
    members: &[i64],
    until: Instant,
) -> Option<Vec<(i64, Sent)>> {
    if job.told_to_stop(until) {
        return Some(members.iter().map(|customer| (*customer, Sent::NotBegun)).collect());
    }
    let to: Vec<&str> = members
        .iter()
        .filter_map(|customer| slice.addresses.get(slice.place(*customer)?).map(String::as_str))
        .collect();
    let key = slice_key(job.lane.broadcast, job.lane.channel, slice.slice_no, intent_no);
    let outcome = match job.briefing.render("", "", None) {
        Ok(message) => {
            let began = Instant::now();
            let channels = &job.delivery.channels;
            let outcome = channels.multicast(&job.briefing.sender, &to, &message, key).await;
            sends::answered(job.lane.channel, began.elapsed());
            outcome
        }
        Err(refusal) => SendOutcome::Refused(refusal),
    };
    match outcome {
        // One bad address refuses all, and then nobody has it.
        SendOutcome::Refused(refusal)
            if refusal.class == ErrorClass::Recipient || refusal.class == ErrorClass::Content =>
        {
            None
        }
        outcome => {
            sends::ended(job.lane.channel, &outcome, members.len());
            let sent = |customer: &i64| (*customer, Sent::Outcome(outcome.clone()));
            Some(members.iter().map(sent).collect())
        }
    }
}

/// The permit of the multicast covers one request: the single ones take theirs as they go.
async fn singly_within_limit(
    job: &Arc<LaneTurn>,
    slice: &Arc<ClaimedSlice>,
    members: &[i64],
    until: Instant,
) -> Vec<(i64, Sent)> {
    let mut sent = Vec::with_capacity(members.len());
    let mut rest = members;
    while !rest.is_empty() {
        let wanted = rest.len().min(job.briefing.in_flight());
        let permits = job
            .single_permits(u32::try_from(wanted).unwrap_or(u32::MAX), until)
            .await as usize;
        let (now, later) = rest.split_at(permits.min(rest.len()));
        if now.is_empty() {
            sent.extend(rest.iter().map(|customer| (*customer, Sent::NotBegun)));
            break;
        }
        sent.extend(singly(job, slice, now, until).await);
        rest = later;
    }
    sent
}

/// A request each, as many at once as the channel's configuration allows.
///
/// Senders are few and take member after member, each a task of its own: a future a message, all polled by one task, cost
/// a tenth of the processor. They end with the future that waits here, finished or dropped.
async fn singly(job: &Arc<LaneTurn>, slice: &Arc<ClaimedSlice>, members: &[i64], until: Instant) -> Vec<(i64, Sent)> {
    let queue = Arc::new(Queue {
        members: members.to_vec(),
        next: AtomicUsize::new(0),
    });
    let mut senders = JoinSet::new();
    for _ in 0..members.len().min(job.briefing.in_flight()) {
        let (job, slice, queue) = (Arc::clone(job), Arc::clone(slice), Arc::clone(&queue));
        senders.spawn(async move { member_after_member(&job, &slice, &queue, until).await });
    }
    let mut sent = Vec::with_capacity(members.len());
    while let Some(done) = senders.join_next().await {
        match done {
            Ok(outcomes) => sent.extend(outcomes),
            // What its members came to is not known. The claim must die with it and be recovered as after a crash, or
            // they would go back to the slice as if they had never been begun.
            Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error))),
        }
    }
    sent
}

/// The members of a window, and who is next.
struct Queue {
    members: Vec<i64>,
    next: AtomicUsize,
}

/// Sends to the members nobody has taken yet, one at a time.
async fn member_after_member(job: &LaneTurn, slice: &ClaimedSlice, queue: &Queue, until: Instant) -> Vec<(i64, Sent)> {
    let mut sent = Vec::new();
    while let Some(customer) = queue.members.get(queue.next.fetch_add(1, Ordering::Relaxed)) {
        sent.push(begin(job, slice, *customer, until).await);
    }
    sent
}

/// One member, unless told to stop.
async fn begin(job: &LaneTurn, slice: &ClaimedSlice, customer: i64, until: Instant) -> (i64, Sent) {
    if job.told_to_stop(until) {
        return (customer, Sent::NotBegun);
    }
    let outcome = match slice.place(customer).and_then(|place| Member::of(slice, place)) {
        Some(member) => one(job, customer, &member).await,
        // Only an intent of a customer who was erased since; the claim has ended that delivery already.
        None => SendOutcome::Refused(Refusal::new(ErrorClass::Recipient, "erased")),
    };
    sends::ended(job.lane.channel, &outcome, 1);
    (customer, Sent::Outcome(outcome))
}

/// One member, out of the slice's parallel lists.
struct Member<'a> {
    address_id: AddressId,
    address: &'a str,
    first_name: &'a str,
    last_name: &'a str,
}

impl<'a> Member<'a> {
    fn of(slice: &'a ClaimedSlice, place: usize) -> Option<Self> {
        Some(Self {
            address_id: AddressId(*slice.address_ids.get(place)?),
            address: slice.addresses.get(place)?,
            first_name: slice.first_names.get(place)?,
            last_name: slice.last_names.get(place)?,
        })
    }
}

async fn one(job: &LaneTurn, customer: i64, member: &Member<'_>) -> SendOutcome {
    let key = delivery_key(job.lane.broadcast, job.lane.channel, CustomerId(customer));
    match job
        .briefing
        .render(member.first_name, member.last_name, Some((member.address_id, key)))
    {
        Ok(message) => {
            let began = Instant::now();
            let channels = &job.delivery.channels;
            let outcome = channels.send(&job.briefing.sender, member.address, &message, key).await;
            sends::answered(job.lane.channel, began.elapsed());
            outcome
        }
        Err(refusal) => SendOutcome::Refused(refusal),
    }
}
