//! Sending to the members of an intent: each by a request of its own, or all by one multicast.
//!
//! No database here, and no decision: permits were granted and the intent is committed before this is called, and
//! `verdict` judges what comes back. A member is begun only while the slice's lease lasts and nobody said stop.

use std::time::Instant;

use carillon_jobs::{AddressId, CustomerId};

use crate::{
    channel::{ErrorClass, Refusal, SendOutcome, delivery_key, slice_key},
    delivery::{store::ClaimedSlice, turn::LaneTurn, verdict::Sent},
    metrics::sends,
};

/// What came of a multicast.
pub(super) enum Multicast {
    /// All of them ended alike, or it was not begun.
    Ended(Vec<(i64, Sent)>),
    /// Refused because of a member or of what it says: nobody has it.
    Refused,
}

/// One request for all: nothing in the message depends on the recipient.
pub(super) async fn multicast(
    job: &LaneTurn,
    slice: &ClaimedSlice,
    intent_no: i32,
    members: &[i64],
    until: Instant,
) -> Multicast {
    if job.told_to_stop(until) {
        return Multicast::Ended(not_begun(members));
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
            Multicast::Refused
        }
        outcome => {
            sends::ended(job.lane.channel, &outcome, members.len());
            let sent = |customer: &i64| (*customer, Sent::Outcome(outcome.clone()));
            Multicast::Ended(members.iter().map(sent).collect())
        }
    }
}

/// What is said of members nobody began to send to.
pub(super) fn not_begun(members: &[i64]) -> Vec<(i64, Sent)> {
    members.iter().map(|customer| (*customer, Sent::NotBegun)).collect()
}

/// One member, unless told to stop.
pub(super) async fn begin(job: &LaneTurn, slice: &ClaimedSlice, customer: i64, until: Instant) -> Sent {
    if job.told_to_stop(until) {
        return Sent::NotBegun;
    }
    let outcome = match slice.place(customer).and_then(|place| Member::of(slice, place)) {
        Some(member) => one(job, customer, &member).await,
        // Only an intent of a customer who was erased since; the claim has ended that delivery already.
        None => SendOutcome::Refused(Refusal::new(ErrorClass::Recipient, "erased")),
    };
    sends::ended(job.lane.channel, &outcome, 1);
    Sent::Outcome(outcome)
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
    let customer = CustomerId(customer);
    let key = delivery_key(job.lane.broadcast, job.lane.channel, customer);
    let to = (member.address_id, customer, key);
    match job.briefing.render(member.first_name, member.last_name, Some(to)) {
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
