//! What receipts and follows must come to, worked out plainly: how deliveries end, what is given back, which addresses are open.

use std::collections::{BTreeMap, BTreeSet};

use carillon::channel::webhook::{ReceiptOf, ReceiptState, WebhookEvent, What};
use chrono::{DateTime, Utc};

use crate::{
    inbox_model::moment,
    ingest_told::{Door, SENT_AT},
};

/// How a message was sent, by its recipient's place.
pub(crate) const fn sent_as(person: usize) -> &'static str {
    match person % 10 {
        8 => "failed",
        9 => "unknown",
        _ => "accepted",
    }
}

/// Tokens a message of a proof's broadcast costs.
pub(crate) const TOKENS: i32 = 5;

const STATES: [&str; 3] = ["accepted", "delivered", "read"];

#[derive(Default)]
struct Delivery {
    /// How far it got, by what names it, and by a watermark of its address.
    named: Option<usize>,
    up_to: Option<usize>,
    failed: Option<(String, String)>,
}

impl Delivery {
    fn hears(&mut self, state: &ReceiptState) {
        match state {
            ReceiptState::Sent => self.named = self.named.max(Some(0)),
            ReceiptState::Delivered => self.named = self.named.max(Some(1)),
            ReceiptState::Read => self.named = self.named.max(Some(2)),
            ReceiptState::Failed { class, code, .. } => {
                let said = (class.as_str().to_owned(), code.clone());
                self.failed = Some(self.failed.take().map_or(said.clone(), |before| before.min(said)));
            }
        }
    }

    fn line(&self, person: usize) -> String {
        let sent = sent_as(person);
        if sent == "failed" {
            return "failed 0 recipient".to_owned();
        }
        if let Some((reason, code)) = &self.failed {
            return format!("failed 0 {reason} {code}");
        }
        match (sent, self.named) {
            // A watermark proves nothing of one message.
            ("unknown", None) => "unknown 0 recipient".to_owned(),
            (_, named) => {
                let reached = named.max(self.up_to).unwrap_or(0);
                let charged = if sent == "unknown" { 0 } else { TOKENS };
                format!("{} {charged}", STATES[reached])
            }
        }
    }
}

/// What a person said last: at which moment, and whether it was no.
type Said = Option<(DateTime<Utc>, bool)>;

#[derive(Default)]
struct Standing {
    follows: Said,
    wanted: Said,
    dead: bool,
}

/// What stands in Postgres after these events of one door, a line for each delivery and address.
pub(crate) fn expected(door: &Door, known: &[String], events: &[WebhookEvent]) -> Vec<String> {
    let recipients = door.broadcast.as_ref().map_or(0, |(_, customers)| customers.len());
    let place: BTreeMap<String, usize> = (0..recipients)
        .map(|person| (door.provider_id(person), person))
        .collect();
    let mut deliveries: Vec<Delivery> = (0..recipients).map(|_| Delivery::default()).collect();
    let mut standings: BTreeMap<&str, Standing> = known.iter().map(|one| (one.as_str(), Standing::default())).collect();
    let mut people: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    for event in events.iter().filter(|event| seen.insert(&event.key)) {
        let from = event.from.as_deref().unwrap();
        let standing = standings.entry(from).or_default();
        match &event.what {
            What::Receipt(receipt) => match &receipt.of {
                ReceiptOf::Message { provider_id, .. } => {
                    let person = place[provider_id.as_ref().unwrap()];
                    deliveries[person].hears(&receipt.state);
                    let dead = matches!(
                        receipt.state,
                        ReceiptState::Failed {
                            closes_address: true,
                            ..
                        }
                    );
                    standing.dead |= dead;
                }
                ReceiptOf::UpTo(up_to) if *up_to >= moment(SENT_AT) => {
                    let person = known.iter().position(|one| one == from).unwrap();
                    let reached = if receipt.state == ReceiptState::Read { 2 } else { 1 };
                    deliveries[person].up_to = deliveries[person].up_to.max(Some(reached));
                }
                ReceiptOf::UpTo(_) => {}
            },
            What::Echo(echo) if echo.mark.is_some() => deliveries[place[&echo.message_id]].hears(&ReceiptState::Sent),
            What::Followed | What::Unfollowed => {
                let said = Some((event.at, event.what == What::Unfollowed));
                standing.follows = standing.follows.max(said);
            }
            What::Consent { wanted } => standing.wanted = standing.wanted.max(Some((event.at, !wanted))),
            _ => {}
        }
        if matches!(
            event.what,
            What::Message(_) | What::Postback(_) | What::Followed | What::Referred(_)
        ) || matches!(&event.what, What::Echo(echo) if echo.mark.is_none())
        {
            people.insert(from);
        }
    }
    let mut lines: Vec<String> = deliveries
        .iter()
        .enumerate()
        .map(|(person, delivery)| format!("delivery {} {}", door.address(person), delivery.line(person)))
        .collect();
    if door.provider != "store" {
        lines.extend(people.iter().map(|address| {
            let standing = &standings[address];
            let no = |said: Said| said.is_some_and(|(_, no)| no);
            let state = match (no(standing.wanted), no(standing.follows) || standing.dead) {
                (true, _) => "opted_out",
                (false, true) => "suppressed",
                (false, false) => "active",
            };
            format!("address {address} {state}")
        }));
    }
    lines.sort();
    lines
}

/// The same lines, read from Postgres.
pub(crate) const STANDING: &str = "
    select coalesce(array_agg(line order by line collate \"C\"), '{}') from (
        select concat_ws(' ', 'delivery', a.address, d.state, d.charged_tokens, d.reason, d.code) as line
          from delivery_with_state d join address a on a.id = d.address_id where a.sender_id = 'SENDER'
        union all
        select format('address %s %s', a.address, a.state) from address a where a.sender_id = 'SENDER'
    ) l";
