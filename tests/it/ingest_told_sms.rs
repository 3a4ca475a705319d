//! What the providers of text messages tell: Twilio's and Mitake's callbacks, and the events in them.

use carillon::channel::{
    ErrorClass,
    webhook::{Receipt, ReceiptState, What},
};
use carillon_sandbox::webhooks::{mitake, twilio};
use chrono::Utc;
use rand::{Rng as _, rngs::StdRng};

use crate::ingest_told::{Door, Told, event, failure, text_of, wrote};

impl Door {
    pub(crate) fn twilio(&mut self, dice: &mut StdRng, person: usize) -> Told {
        let now = Utc::now();
        if dice.random() {
            let (sid, address) = (format!("MM{:030}", self.next), self.address(person));
            // Never who is found to have no such number.
            let stops = person % 4 == 1 && dice.random_ratio(1, 5);
            let text = if stops { "STOP".to_owned() } else { text_of(self.next) };
            let mut events = vec![event(
                format!("message:{sid}"),
                now,
                &address,
                What::Message(wrote(&sid, &text)),
            )];
            if stops {
                events.push(event(
                    format!("consent:{sid}"),
                    now,
                    &address,
                    What::Consent { wanted: false },
                ));
            }
            let request = self.signer.form("", &twilio::text(&sid, &address, &text));
            return Told { request, events };
        }
        let (person, text, of, by_id_only) = self.recipient(dice);
        let (status, state, code) = match dice.random_range(0..10) {
            0..=3 => ("sent", ReceiptState::Sent, None),
            4..=6 => ("delivered", ReceiptState::Delivered, None),
            7 => ("failed", failure(ErrorClass::Content, "30007", false), Some("30007")),
            _ if person % 4 == 0 => (
                "undelivered",
                failure(ErrorClass::Recipient, "30005", true),
                Some("30005"),
            ),
            _ => (
                "undelivered",
                failure(ErrorClass::Recipient, "30003", false),
                Some("30003"),
            ),
        };
        let (sid, address) = (self.provider_id(person), self.address(person));
        let query = if by_id_only {
            String::new()
        } else {
            format!("mark={text}")
        };
        Told {
            request: self.signer.form(&query, &twilio::status(&sid, status, &address, code)),
            events: vec![event(
                format!("status:{sid}:{status}"),
                now,
                &address,
                What::Receipt(Receipt { of, state }),
            )],
        }
    }

    pub(crate) fn mitake(&self, dice: &mut StdRng) -> Told {
        let (person, text, of, by_id_only) = self.recipient(dice);
        let (flag, word, state) = match dice.random_range(0..10) {
            0..=6 => ("4", "DELIVRD", ReceiptState::Delivered),
            7 => ("5", "UNDELIV", failure(ErrorClass::Content, "5", false)),
            8 => ("8", "EXPIRED", failure(ErrorClass::Recipient, "8", false)),
            _ => ("6", "UNDELIV", failure(ErrorClass::Recipient, "6", true)),
        };
        let (id, address) = (self.provider_id(person), self.address(person));
        let local = format!("0{}", &address[4..]);
        let mut fields = mitake::status(&id, &local, flag, word, "20260110120000");
        if !by_id_only {
            fields.push(("mark", &text));
        }
        Told {
            request: self.signer.callback(&fields),
            events: vec![event(
                format!("status:{id}:{flag}"),
                Utc::now(),
                &address,
                What::Receipt(Receipt { of, state }),
            )],
        }
    }
}
