//! What a shop's own front tells, and the events in it.

use carillon::channel::webhook::{Echo, InboundMessage, Thread, What};
use rand::{Rng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    inbox_model::moment,
    ingest_told::{Door, Told, echoed, event, text_of, wrote},
};

impl Door {
    pub(crate) fn store(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
        let (mut bodies, mut events) = (Vec::new(), Vec::new());
        for part in 0..dice.random_range(1..4_usize) {
            let (key, id, text) = (
                format!("evt-{}-{part}", self.next),
                format!("m-{}-{part}", self.next),
                text_of(self.next),
            );
            let changed = self.one_written(dice, person);
            let number = format!("2026-{}", dice.random_range(0..3));
            let order = Thread::Order(number.clone());
            let (kind, whose, id, what) = match dice.random_range(0..10) {
                0..=2 => (
                    "message",
                    person,
                    id.clone(),
                    What::Message(InboundMessage {
                        thread: Thread::Store,
                        ..wrote(&id, &text)
                    }),
                ),
                3..=5 => (
                    "order_message",
                    person,
                    id.clone(),
                    What::Message(InboundMessage {
                        thread: order,
                        ..wrote(&id, &text)
                    }),
                ),
                6 => (
                    "staff_message",
                    person,
                    id.clone(),
                    What::Echo(Echo {
                        thread: Thread::Store,
                        ..echoed(&id, &text)
                    }),
                ),
                7 => (
                    "staff_order_message",
                    person,
                    id.clone(),
                    What::Echo(Echo {
                        thread: order,
                        ..echoed(&id, &text)
                    }),
                ),
                8 => (
                    "message_edited",
                    changed.0,
                    changed.1.clone(),
                    What::Edited {
                        message_id: changed.1,
                        text: text.clone(),
                    },
                ),
                _ => (
                    "message_unsent",
                    changed.0,
                    changed.1.clone(),
                    What::Unsent { message_id: changed.1 },
                ),
            };
            if matches!(what, What::Message(_)) {
                self.written.push((person, id.clone()));
            }
            let address = self.address(whose);
            bodies.push(
                json!({"id": key, "type": kind, "at": moment(at).to_rfc3339(), "customer": {"external_id": address},
                "order": {"number": number}, "message": {"id": id, "text": text}}),
            );
            events.push(event(key, moment(at), &address, what));
        }
        let request = self.signer.json(&json!({"events": bodies}));
        Told { request, events }
    }
}
