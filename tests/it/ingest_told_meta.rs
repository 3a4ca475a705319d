//! What Meta tells: Messenger's and WhatsApp's webhooks, and the events in them.

use carillon::channel::{
    ErrorClass,
    webhook::{Echo, InboundMessage, Postback, Receipt, ReceiptOf, ReceiptState, Referral, What},
};
use carillon_sandbox::webhooks::{messenger, whatsapp};
use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    inbox_model::moment,
    ingest_told::{Door, NUMBER, PAGE, SENT_AT, Told, echoed, event, failure, text_of, wrote},
};

impl Door {
    pub(crate) fn messenger(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
        let (id, text) = (format!("m_{}", self.next), text_of(self.next));
        let psid = self.address(person);
        let changed = self.one_written(dice, person);
        let whose = self.address(changed.0);
        let what = dice.random_range(0..20);
        // Nobody has seen what comes after the moment of saying so: a watermark far ahead of its event is taken for a broken clock.
        let at = if matches!(what, 12..=14) {
            at.max(SENT_AT + 60)
        } else {
            at
        };
        let at_ms = moment(at).timestamp_millis();
        let (body, events) = match what {
            0..=5 => {
                self.written.push((person, id.clone()));
                let what = What::Message(wrote(&id, &text));
                (
                    messenger::text(PAGE, &psid, at_ms, &id, &text),
                    vec![(format!("message:{id}"), psid, what)],
                )
            }
            6 => {
                let what = What::Echo(echoed(&id, &text));
                (
                    messenger::echo(PAGE, &psid, at_ms, &id, &text, None),
                    vec![(format!("echo:{id}"), psid, what)],
                )
            }
            7 => {
                let edit = json!({"mid": changed.1, "text": text, "num_edit": self.next});
                let body = json!({"sender": {"id": whose}, "recipient": {"id": PAGE}, "timestamp": at_ms, "message_edit": edit});
                let key = format!("edited:{}:{}", changed.1, self.next);
                (
                    body,
                    vec![(
                        key,
                        whose,
                        What::Edited {
                            message_id: changed.1,
                            text,
                        },
                    )],
                )
            }
            8 => {
                let gone = json!({"mid": changed.1, "is_deleted": true});
                let body =
                    json!({"sender": {"id": whose}, "recipient": {"id": PAGE}, "timestamp": at_ms, "message": gone});
                (
                    body,
                    vec![(
                        format!("unsent:{}", changed.1),
                        whose,
                        What::Unsent { message_id: changed.1 },
                    )],
                )
            }
            9 => {
                let pressed = json!({"mid": id, "title": "好", "payload": "yes"});
                let body =
                    json!({"sender": {"id": psid}, "recipient": {"id": PAGE}, "timestamp": at_ms, "postback": pressed});
                let postback = Postback {
                    message_id: Some(id.clone()),
                    title: Some("好".to_owned()),
                    ..Postback::default()
                };
                (body, vec![(format!("message:{id}"), psid, What::Postback(postback))])
            }
            10 | 11 => {
                let ad = format!("ad{}", dice.random_range(0..14));
                let referral = Referral {
                    ad_id: Some(ad.clone()),
                    ..Referral::default()
                };
                let body = messenger::referral(PAGE, &psid, at_ms, &ad, "春季特賣");
                (
                    body,
                    vec![(format!("referral:{psid}:{at}:{ad}"), psid, What::Referred(referral))],
                )
            }
            12..=14 => self.messenger_receipt(dice, at),
            _ => self.messenger_echo(dice, at),
        };
        Told {
            request: self.signer.json(&messenger::body(PAGE, at_ms, &[body])),
            events: events
                .into_iter()
                .map(|(key, from, what)| event(key, moment(at), &from, what))
                .collect(),
        }
    }

    fn messenger_receipt(&self, dice: &mut StdRng, at: i64) -> (Value, Vec<(String, String, What)>) {
        let (person, ..) = self.recipient(dice);
        let (psid, at_ms) = (self.address(person), moment(at).timestamp_millis());
        let up_to = SENT_AT + if dice.random() { 60 } else { -60 };
        let watermark = |state| {
            What::Receipt(Receipt {
                of: ReceiptOf::UpTo(moment(up_to)),
                state,
            })
        };
        let watermark_ms = moment(up_to).timestamp_millis();
        if dice.random() {
            let body = messenger::read(PAGE, &psid, at_ms, watermark_ms);
            return (
                body,
                vec![(format!("read:{psid}:{up_to}"), psid, watermark(ReceiptState::Read))],
            );
        }
        // What ended as unknown has no id that Messenger could name.
        let mid = self.provider_id(person);
        let mids = if person % 10 < 8 {
            vec![mid.as_str()]
        } else {
            Vec::new()
        };
        let mut events = vec![(
            format!("delivered:{psid}:{up_to}"),
            psid.clone(),
            watermark(ReceiptState::Delivered),
        )];
        for mid in &mids {
            let of = ReceiptOf::Message {
                provider_id: Some((*mid).to_owned()),
                mark: None,
            };
            let state = ReceiptState::Delivered;
            events.push((
                format!("delivered:{mid}"),
                psid.clone(),
                What::Receipt(Receipt { of, state }),
            ));
        }
        (messenger::delivered(PAGE, &psid, at_ms, &mids, watermark_ms), events)
    }

    fn messenger_echo(&self, dice: &mut StdRng, at: i64) -> (Value, Vec<(String, String, What)>) {
        let (person, text, ..) = self.recipient(dice);
        let (psid, mid) = (self.address(person), self.provider_id(person));
        let body = messenger::echo(PAGE, &psid, moment(at).timestamp_millis(), &mid, "特賣", Some(&text));
        let echo = Echo {
            mark: text.parse().ok(),
            ..echoed(&mid, "特賣")
        };
        (body, vec![(format!("echo:{mid}"), psid, What::Echo(echo))])
    }

    pub(crate) fn whatsapp(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
        let (id, text) = (format!("wamid.{}", self.next), text_of(self.next));
        let (address, changed) = (self.address(person), self.one_written(dice, person));
        let whose = self.address(changed.0);
        let bare = |address: &str| address[1..].to_owned();
        let secs = moment(at).timestamp();
        let key = format!("message:{id}");
        let (messages, statuses, events) = match dice.random_range(0..20) {
            0..=7 => {
                self.written.push((person, id.clone()));
                let message = InboundMessage {
                    profile_name: Some("王小明".to_owned()),
                    ..wrote(&id, &text)
                };
                let told = whatsapp::text(&bare(&address), secs, &id, &text);
                (vec![told], vec![], vec![(key, address, What::Message(message))])
            }
            8 | 9 => {
                let now =
                    json!({"original_message_id": changed.1, "message": {"type": "text", "text": {"body": text}}});
                let told =
                    json!({"from": bare(&whose), "id": id, "timestamp": secs.to_string(), "type": "edit", "edit": now});
                let what = What::Edited {
                    message_id: changed.1,
                    text,
                };
                (vec![told], vec![], vec![(key, whose, what)])
            }
            10 => {
                let gone = json!({"original_message_id": changed.1});
                let told = json!({"from": bare(&whose), "id": id, "timestamp": secs.to_string(), "type": "revoke", "revoke": gone});
                (
                    vec![told],
                    vec![],
                    vec![(key, whose, What::Unsent { message_id: changed.1 })],
                )
            }
            11 => return self.whatsapp_preference(dice, at),
            _ => {
                let (status, event) = self.whatsapp_status(dice, secs);
                (vec![], vec![status], vec![event])
            }
        };
        Told {
            request: self.signer.json(&whatsapp::body(NUMBER, &messages, &statuses)),
            events: events
                .into_iter()
                .map(|(key, from, what)| event(key, moment(at), &from, what))
                .collect(),
        }
    }

    fn whatsapp_status(&self, dice: &mut StdRng, secs: i64) -> (Value, (String, String, What)) {
        let (person, text, of, by_id_only) = self.recipient(dice);
        let (name, state, code) = match dice.random_range(0..10) {
            0..=2 => ("sent", ReceiptState::Sent, None),
            3..=5 => ("delivered", ReceiptState::Delivered, None),
            6 | 7 => ("read", ReceiptState::Read, None),
            // A person is not on WhatsApp at all, or got enough for today.
            _ if person % 4 == 0 => ("failed", failure(ErrorClass::Recipient, "131026", true), Some(131_026)),
            _ => ("failed", failure(ErrorClass::Recipient, "131049", false), Some(131_049)),
        };
        let (address, id) = (self.address(person), self.provider_id(person));
        let mark = (!by_id_only).then_some(text.as_str());
        let body = whatsapp::status(&address[1..], secs, &id, name, mark, code);
        (
            body,
            (format!("{name}:{id}"), address, What::Receipt(Receipt { of, state })),
        )
    }

    /// Stops or resumes; never who is not on WhatsApp.
    fn whatsapp_preference(&self, dice: &mut StdRng, at: i64) -> Told {
        let (address, wanted) = (
            self.address(dice.random_range(0..self.people / 4) * 4 + 1),
            dice.random(),
        );
        let said = json!({"wa_id": address[1..], "value": if wanted { "resume" } else { "stop" },
            "category": "marketing_messages", "timestamp": moment(at).timestamp()});
        let value = json!({"messaging_product": "whatsapp", "metadata": {"phone_number_id": NUMBER}, "user_preferences": [said]});
        let body = json!({"object": "whatsapp_business_account",
            "entry": [{"id": "1", "changes": [{"field": "user_preferences", "value": value}]}]});
        let key = format!("preference:{address}:{wanted}:{at}");
        Told {
            request: self.signer.json(&body),
            events: vec![event(key, moment(at), &address, What::Consent { wanted })],
        }
    }
}
