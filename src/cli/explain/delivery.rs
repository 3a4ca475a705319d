//! Sentences about what one customer gets from a broadcast (pure).

use chrono::{DateTime, Utc};

use super::{
    super::{plain, table::number},
    Reason, reason, when,
};
use crate::{
    broadcast::{
        BroadcastState,
        whereabouts::{BroadcastFacts, CustomerFacts, DeliveryFacts, SliceFacts},
    },
    channel::Channel,
    delivery::DeliveryState,
};

const CODE_CHARS: usize = 120;

/// Every message to this customer, or why there is none.
pub(super) fn reasons(b: &BroadcastFacts, customer: i64, one: &CustomerFacts) -> Vec<Reason> {
    if !one.deliveries.is_empty() {
        return one.deliveries.iter().map(|delivery| message(b, delivery)).collect();
    }
    if let Some(skipped) = &one.skipped {
        return vec![reason(
            "skipped_at_planning",
            format!("Gets nothing: {}.", skip_words(skipped)),
        )];
    }
    if !one.exists {
        return vec![reason(
            "no_customer",
            format!("The broadcast's shop has no customer {customer}, or the customer was erased."),
        )];
    }
    let planned = b.sending_at.is_some() || b.plan_cursor >= customer;
    if planned && b.state != BroadcastState::Failed {
        return vec![reason(
            "not_in_audience",
            "Gets nothing: was not in the audience when the broadcast was planned.",
        )];
    }
    vec![reason("not_planned", "Nothing is planned for this customer yet.")]
}

fn message(b: &BroadcastFacts, d: &DeliveryFacts) -> Reason {
    let (code, says) = match (d.settled_at, &d.slice) {
        (Some(at), _) => ended(d, at, b.now),
        (None, Some(slice)) if slice.in_flight => under_way(b, d.channel, slice),
        (None, Some(slice)) => ("waiting", waiting(b, slice)),
        // Between the two reads it ended, or its plan is being cleared away.
        (None, None) => ("waiting", "has not left".to_owned()),
    };
    reason(code, format!("{}: {says}.", d.channel))
}

fn waiting(b: &BroadcastFacts, slice: &SliceFacts) -> String {
    let before = match slice.before {
        0 => "which is the next to go".to_owned(),
        1 => "behind 1 other".to_owned(),
        n => format!("behind {} others", number(n)),
    };
    let due = if slice.due_at > b.now {
        format!("; the slice is due at {}", when(slice.due_at, b.now))
    } else {
        String::new()
    };
    format!("has not left; it is in slice {}, {before}{due}", slice.slice_no)
}

fn under_way(b: &BroadcastFacts, channel: Channel, slice: &SliceFacts) -> (&'static str, String) {
    let begun = slice
        .first_attempt_at
        .map_or_else(|| "-".to_owned(), |at| when(at, b.now));
    let intent = slice.intent_no.abs();
    match slice.lease_until {
        Some(until) if until > b.now => (
            "in_flight",
            format!(
                "is being sent: intent {intent} of slice {}, begun at {begun}; the worker's lease lasts until {}",
                slice.slice_no,
                when(until, b.now)
            ),
        ),
        Some(until) => (
            "interrupted",
            format!(
                "was being sent (intent {intent} of slice {}, begun at {begun}) when its worker died or stalled: the lease ran \
                 out at {}. The next worker {}",
                slice.slice_no,
                when(until, b.now),
                match channel {
                    Channel::Line =>
                        "repeats it with the same key, so it cannot arrive twice; after 23 hours it becomes unknown instead",
                    Channel::Sms =>
                        "repeats it with the same key if it left by Mitake, so it cannot arrive twice, and after 11 hours it \
                         becomes unknown instead; what left by Twilio, which has no keys, becomes unknown at once",
                    Channel::App | Channel::Messenger | Channel::Whatsapp | Channel::Email =>
                        "writes unknown: the provider has no keys, so it is never repeated",
                }
            ),
        ),
        None => (
            "uncertain",
            format!(
                "perhaps arrived: the answer to intent {intent} of slice {}, begun at {begun}, was lost. It is repeated with the \
                 same key at {}, so it cannot arrive twice; repeated {} so far",
                slice.slice_no,
                when(slice.due_at.max(b.now), b.now),
                times(slice.repeats)
            ),
        ),
    }
}

fn ended(d: &DeliveryFacts, at: DateTime<Utc>, now: DateTime<Utc>) -> (&'static str, String) {
    let at = when(at, now);
    let reason = d.reason.as_deref().unwrap_or("no reason");
    let code = d
        .code
        .as_ref()
        .map_or_else(String::new, |code| format!(" ({})", plain::cell(code, CODE_CHARS)));
    match d.state {
        DeliveryState::Accepted | DeliveryState::Delivered | DeliveryState::Read => {
            let arrived = match d.state {
                DeliveryState::Read => ", and the customer opened it",
                DeliveryState::Delivered => ", and says it arrived",
                _ => "",
            };
            let id = d.provider_id.as_ref().map_or_else(
                || "without an id".to_owned(),
                |id| format!("as {}", plain::cell(id, CODE_CHARS)),
            );
            let tokens = number(d.charged_tokens.into());
            let charged = if d.charged_tokens == 0 && d.changed_at.is_some() {
                "nothing was charged, because nobody knew until its tokens had gone back".to_owned()
            } else {
                format!("{tokens} tokens were charged")
            };
            let says = format!("the provider took it at {at}, {id}{arrived}; {charged}");
            (d.state.as_str(), says)
        }
        DeliveryState::Failed if d.changed_at.is_some() => (
            "failed",
            format!(
                "did not arrive: sent at {at}, and the provider said at {} that it failed, {reason}{code}; nothing is charged for it",
                d.changed_at.map_or_else(|| "-".to_owned(), |at| when(at, now))
            ),
        ),
        DeliveryState::Failed => (
            "failed",
            format!("failed at {at}: the provider refused it, {reason}{code}; nothing is charged for it"),
        ),
        DeliveryState::Unknown => (
            "unknown",
            format!(
                "nobody knows whether it arrived since {at}: {}{code}; it is not charged and not repeated",
                unknown_words(reason)
            ),
        ),
        DeliveryState::Skipped => (
            "skipped",
            format!(
                "was not sent after all at {at}: {}; its tokens went back",
                skip_words(reason)
            ),
        ),
        DeliveryState::Cancelled => (
            "cancelled",
            format!("did not leave: the broadcast was cancelled, {at}; its tokens went back"),
        ),
        DeliveryState::Expired => (
            "expired",
            format!("did not leave before the broadcast's deadline, {at}; its tokens went back"),
        ),
        DeliveryState::Queued | DeliveryState::Sending => ("waiting", "has not left".to_owned()),
    }
}

fn times(n: i32) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

/// Why somebody gets nothing, in words; what is not known is shown as it is.
fn skip_words(reason: &str) -> &str {
    match reason {
        "opted_out" => "the customer opted out",
        "suppressed" => "the address is suppressed: the provider called it dead",
        "frequency_cap" => {
            "the customer has had as many broadcasts as the shop allows in this time: `carillon shop rules SHOP`"
        }
        "same_address" => "another customer with the same address gets it",
        "window_closed" => "the provider's window since the customer's last message is closed",
        "no_address" => "the customer has no address on the chosen channels",
        "erased" => "the customer or the address was erased",
        "shop_suspended" => "the shop was suspended",
        "sender_disconnected" => "the sender was disconnected",
        other => other,
    }
}

fn unknown_words(reason: &str) -> &str {
    match reason {
        "interrupted" => "the worker died or stalled in the middle of it",
        "uncertain" => "the provider's answer was lost",
        "key_expired" => "it could not be repeated while the provider remembered its key",
        "renamed" => "the customer was renamed before it could be repeated, and a key stands for one body",
        "erased" => "the customer was erased before it could be repeated",
        other => other,
    }
}
