//! One window: every member of an intent is sent to, at the same time, and what became of each is collected.
//!
//! No database here, and no decision: permits were granted and the intent is committed before this is called, and
//! `verdict` judges what comes back. A member is begun only while the slice's lease lasts and nobody said stop.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use carillon_jobs::{AddressId, CustomerId};
use futures::future::join_all;

use crate::{
    channel::{ErrorClass, Refusal, SendOutcome, delivery_key, slice_key},
    delivery::{store::ClaimedSlice, turn::LaneTurn, verdict::Sent},
};

/// Sends to `members` of a slice. `until`: nothing is begun after this moment, because the lease may end. `None`: their
/// multicast was refused, so nobody has it, and they are to be sent to one by one under an intent that says so.
pub(super) async fn send(
    job: &LaneTurn,
    slice: &ClaimedSlice,
    members: &[i64],
    until: Instant,
) -> Option<Vec<(i64, Sent)>> {
    match (job.briefing.multicast(), slice.one_by_one()) {
        (true, false) => multicast(job, slice, members, until).await,
        (true, true) => Some(singly_within_limit(job, slice, members, until).await),
        (false, _) => Some(singly(job, slice, members, until).await),
    }
}

/// One request for all: nothing in the message depends on the recipient.
async fn multicast(job: &LaneTurn, slice: &ClaimedSlice, members: &[i64], until: Instant) -> Option<Vec<(i64, Sent)>> {
    if job.told_to_stop(until) {
        return Some(members.iter().map(|customer| (*customer, Sent::NotBegun)).collect());
    }
    let to: Vec<&str> = members
        .iter()
        .filter_map(|customer| slice.addresses.get(slice.place(*customer)?).map(String::as_str))
        .collect();
    let key = slice_key(job.lane.broadcast, job.lane.channel, slice.slice_no, slice.intent_no);
    let outcome = match job.briefing.render("", "", None) {
        Ok(message) => {
            job.delivery
                .channels
                .multicast(&job.briefing.sender, &to, &message, key)
                .await
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
        outcome => Some(
            members
                .iter()
                .map(|customer| (*customer, Sent::Outcome(outcome.clone())))
                .collect(),
        ),
    }
}

/// The permit of the multicast covers one request: the single ones take theirs as they go.
async fn singly_within_limit(
    job: &LaneTurn,
    slice: &ClaimedSlice,
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
/// Senders are few and take member after member: a future of its own for each message would be allocated, moved and
/// freed thousands of times a second, and those futures are large.
async fn singly(job: &LaneTurn, slice: &ClaimedSlice, members: &[i64], until: Instant) -> Vec<(i64, Sent)> {
    let next = AtomicUsize::new(0);
    let senders = members.len().min(job.briefing.in_flight());
    // Collected first: an iterator of closures over borrows cannot be proved Send.
    let senders: Vec<_> = (0..senders)
        .map(|_| member_after_member(job, slice, members, &next, until))
        .collect();
    join_all(senders).await.into_iter().flatten().collect()
}

/// Sends to the members nobody has taken yet, one at a time.
async fn member_after_member(
    job: &LaneTurn,
    slice: &ClaimedSlice,
    members: &[i64],
    next: &AtomicUsize,
    until: Instant,
) -> Vec<(i64, Sent)> {
    let mut sent = Vec::new();
    while let Some(customer) = members.get(next.fetch_add(1, Ordering::Relaxed)) {
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
            job.delivery
                .channels
                .send(&job.briefing.sender, member.address, &message, key)
                .await
        }
        Err(refusal) => SendOutcome::Refused(refusal),
    }
}
