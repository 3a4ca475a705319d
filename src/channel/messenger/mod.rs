//! Messenger: one message to one person, and what Meta's answers mean.
//!
//! Why the care about unclear answers: the Send API has no idempotency key, so a message of unknown fate is never sent again;
//! our mark in its `metadata` comes back in the page's echo and settles it then.
//!
//! It must never take anything for acceptance but a 200 that names the message and nobody but the one it was for.

mod account;
mod check;

use reqwest::Client;
use serde::Deserialize;

pub use self::account::PageAccount;
use super::{
    config::{ChannelsError, MessengerConfig},
    graph::{Graph, GraphError, not_graph, read, unlisted, wait},
    http::Answer,
    outcome::{ErrorClass, Refusal, SendOutcome},
};

/// The adapter.
#[derive(Debug)]
pub(super) struct Messenger {
    graph: Graph,
}

impl Messenger {
    pub(super) fn new(client: Client, config: &MessengerConfig) -> Result<Self, ChannelsError> {
        let key = "channel.messenger";
        let graph = Graph::new(client, key, &config.base_url, &config.api_version, config.timeout_secs)?;
        Ok(Self { graph })
    }

    /// Sends one person the message; `parts` are the members of the request after `recipient`.
    pub(super) async fn send(&self, account: &PageAccount, to: &str, parts: &[u8]) -> SendOutcome {
        if !is_person(to) {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        }
        let body = [br#"{"recipient":{"id":""#, to.as_bytes(), br#""},"#, parts, b"}"];
        let sent = self
            .graph
            .send(&account.messages, &account.page_id, &account.access, &body);
        match sent.await {
            Ok(answer) => judge(to, &answer),
            Err(refusal) => refusal.into(),
        }
    }
}

/// A person as a page knows them: digits; safe to write into JSON as they are.
fn is_person(to: &str) -> bool {
    (1..=32).contains(&to.len()) && to.bytes().all(|b| b.is_ascii_digit())
}

#[derive(Deserialize)]
struct Sent {
    message_id: String,
    recipient_id: Option<String>,
}

/// What an answer means.
fn judge(to: &str, answer: &Answer) -> SendOutcome {
    if answer.status == 200 {
        let sent = read::<Sent>(answer).filter(|sent| !sent.message_id.trim().is_empty());
        return match sent {
            Some(sent) if sent.recipient_id.as_deref().is_none_or(|id| id == to) => {
                SendOutcome::accepted(Some(&sent.message_id))
            }
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

/// Meta's table, by code and subcode.
fn refused(answer: &Answer, error: &GraphError) -> Refusal {
    let refusal = |class| Refusal::new(class, error.name());
    match (error.code, error.subcode()) {
        // Outside the window, or enough for this person today: true of this message, not of the address.
        (10, 2_018_278 | 2_534_022 | 2_018_065 | 2_018_108) | (4, 2_018_354) | (9, 2_018_352) => {
            refusal(ErrorClass::Recipient).keeping_address()
        }
        // Nobody here has this id, or they blocked the page.
        (100, 2_018_001) | (551, _) => refusal(ErrorClass::Recipient),
        // "The messages were sent although an error is returned".
        (1, 1_357_046) => refusal(ErrorClass::Uncertain),
        (4 | 17 | 32 | 341 | 613 | 80_001..=80_006, _) => refusal(ErrorClass::Throttled).after(wait(answer)),
        // "Temporary" is also what Meta says, again and again, of some who blocked the page, and of messages that arrive. Whoever
        // would wait for the sender to recover would wait for one person.
        (1 | 2 | 1_200, subcode) if subcode != 2_018_344 => refusal(ErrorClass::Uncertain).after(wait(answer)),
        // Token, permission, a page or an app that is restricted, or a form the page has to agree to: a person has to look.
        (2 | 3 | 10 | 102 | 190 | 200..=299 | 368, _) | (100, 33) => refusal(ErrorClass::Credentials),
        (100, _) if error.about_the_proof() => refusal(ErrorClass::Credentials),
        _ => unlisted(answer, error),
    }
}

#[cfg(test)]
mod tests;
