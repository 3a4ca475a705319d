//! WhatsApp Cloud API: one message to one number, and what Meta's answers mean.
//!
//! Why the care about unclear answers: there is no idempotency key, so a message of unknown fate is never sent again; our mark in
//! its `biz_opaque_callback_data` comes back with every status and settles it then.
//!
//! It must never take anything for acceptance but a 200 that names the message.

mod account;
mod check;
mod template;

use reqwest::Client;
use serde::Deserialize;

pub use self::account::NumberAccount;
pub use self::template::{MessageTemplate, TemplateBlank};
use super::{
    config::{ChannelsError, WhatsappConfig},
    graph::{Graph, GraphError, not_graph, read, unlisted, wait},
    http::Answer,
    outcome::{ErrorClass, Refusal, SendOutcome},
};

/// The adapter.
#[derive(Debug)]
pub(super) struct Whatsapp {
    graph: Graph,
}

impl Whatsapp {
    pub(super) fn new(client: Client, config: &WhatsappConfig) -> Result<Self, ChannelsError> {
        let key = "channel.whatsapp";
        let graph = Graph::new(client, key, &config.base_url, &config.api_version, config.timeout_secs)?;
        Ok(Self { graph })
    }

    /// Sends one number the message; `parts` are the members of the request after `to`.
    pub(super) async fn send(&self, account: &NumberAccount, to: &str, parts: &[u8]) -> SendOutcome {
        if !is_number(to) {
            // Somebody who hides their number is known by another id, which this call does not take: no fault of the address.
            let refusal = Refusal::new(ErrorClass::Recipient, "no_phone_number");
            return refusal.keeping_address().into();
        }
        let opening = br#"{"messaging_product":"whatsapp","recipient_type":"individual","to":""#;
        let body = [opening, to.as_bytes(), br#"","#, parts, b"}"];
        let sent = self
            .graph
            .send(&account.messages, &account.phone_number_id, &account.access, &body);
        match sent.await {
            Ok(answer) => judge(&answer),
            Err(refusal) => refusal.into(),
        }
    }
}

/// `+` and 7 to 15 digits. Without the `+` Meta would put the country of the shop's own number before it.
fn is_number(to: &str) -> bool {
    to.strip_prefix('+')
        .is_some_and(|digits| (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[derive(Deserialize)]
struct Sent {
    messaging_product: String,
    messages: Vec<SentMessage>,
}

#[derive(Deserialize)]
struct SentMessage {
    id: String,
}

/// What an answer means.
fn judge(answer: &Answer) -> SendOutcome {
    if answer.status == 200 {
        let sent = read::<Sent>(answer).filter(|sent| sent.messaging_product == "whatsapp");
        let first = sent.and_then(|sent| sent.messages.into_iter().next());
        return match first {
            Some(message) if message.id.starts_with("wamid.") => SendOutcome::accepted(Some(&message.id)),
            Some(_) | None => Refusal::new(ErrorClass::Uncertain, "200_not_as_promised").into(),
        };
    }
    match GraphError::of(answer) {
        Some(error) if (400..500).contains(&answer.status) => refused(answer, &error).into(),
        // Whatever stands in it: an answer of this kind comes when something broke on the way, and nobody knows where.
        Some(error) => Refusal::new(ErrorClass::Uncertain, error.name())
            .after(wait(answer))
            .into(),
        None => not_graph(answer).into(),
    }
}

/// Meta's table, by code: subcodes and statuses are not to be relied on.
fn refused(answer: &Answer, error: &GraphError) -> Refusal {
    let refusal = |class| Refusal::new(class, error.name());
    match error.code {
        // Not on WhatsApp; or stopped this shop's messages, who must never be asked again.
        131_026 | 131_050 => refusal(ErrorClass::Recipient),
        // Outside the window, sent enough for a day, in an experiment of Meta's, the sender itself; or spoken to a moment ago: six
        // seconds have to pass between two messages to one person, and nobody else is held up for that.
        131_021 | 131_047 | 131_049 | 130_472 | 131_056 | 131_030 => refusal(ErrorClass::Recipient).keeping_address(),
        // Too fast; or out of order for a while, and says so: nothing was taken.
        4 | 80_007 | 130_429 | 131_048 | 131_057 | 133_016 | 2 | 131_016 | 133_004 => {
            refusal(ErrorClass::Throttled).after(wait(answer))
        }
        1 | 131_000 => refusal(ErrorClass::Uncertain).after(wait(answer)),
        131_042 => refusal(ErrorClass::Quota),
        // The account; or its template, which is not there, breaks a rule or is paused: true of every message until somebody mends it.
        0
        | 3
        | 10
        | 33
        | 190
        | 200..=299
        | 368
        | 130_497
        | 131_005
        | 131_031
        | 131_037
        | 131_045
        | 133_006
        | 133_010
        | 132_000
        | 132_001
        | 132_007
        | 132_012
        | 132_015
        | 132_016 => refusal(ErrorClass::Credentials),
        100 if error.subcode() == 33 || error.about_the_proof() => refusal(ErrorClass::Credentials),
        _ => unlisted(answer, error),
    }
}

#[cfg(test)]
mod tests;
