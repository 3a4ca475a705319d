//! Webhooks of every provider, of every kind, signed as the providers sign; and beside each the events that are in it, put into
//! our words by hand, so that the model judges the parsers, too. Here LINE's; `ingest_told_meta`, `ingest_told_sms` and
//! `ingest_told_store` have the others'.

use carillon::channel::{
    ErrorClass,
    webhook::{
        Attachment, AttachmentKind, Echo, InboundMessage, Postback, ReceiptOf, ReceiptState, WebhookEvent, What,
    },
};
use carillon_sandbox::{
    LINE_BOT_USER_ID,
    webhooks::{Request, Signer, line},
};
use chrono::{DateTime, Utc};
use rand::{Rng as _, rngs::StdRng};
use serde_json::json;
use uuid::Uuid;

use crate::{inbox_model::moment, receipt_scene::mark};

pub(crate) const PAGE: &str = "1001";
pub(crate) const NUMBER: &str = "2002";

/// One sender, and who tells us of it.
pub(crate) struct Door {
    pub(crate) provider: &'static str,
    pub(crate) sender: Uuid,
    pub(crate) signer: Signer,
    /// The broadcast that went over it, with its customers; the customer's place is the person's.
    pub(crate) broadcast: Option<(Uuid, Vec<i64>)>,
    /// People it may hear of; those behind the recipients are new.
    pub(crate) people: usize,
    pub(crate) next: usize,
    /// Messages that can be changed: whose, and their id.
    pub(crate) written: Vec<(usize, String)>,
}

/// One webhook, and what is in it.
pub(crate) struct Told {
    pub(crate) request: Request,
    pub(crate) events: Vec<WebhookEvent>,
}

/// When the messages of broadcasts count as sent, in seconds of this year.
pub(crate) const SENT_AT: i64 = 500_000;

pub(crate) fn event(key: String, at: DateTime<Utc>, from: &str, what: What) -> WebhookEvent {
    WebhookEvent {
        account: None,
        key,
        at,
        from: Some(from.to_owned()),
        what,
    }
}

pub(crate) fn text_of(n: usize) -> String {
    if n.is_multiple_of(5) {
        format!("打給我 0912-345-{:03}", n % 1000)
    } else {
        format!("第 {n} 則訊息 😀")
    }
}

pub(crate) fn wrote(message_id: &str, text: &str) -> InboundMessage {
    InboundMessage {
        message_id: message_id.to_owned(),
        text: Some(text.to_owned()),
        ..InboundMessage::default()
    }
}

pub(crate) fn echoed(message_id: &str, text: &str) -> Echo {
    Echo {
        message_id: message_id.to_owned(),
        text: Some(text.to_owned()),
        ..Echo::default()
    }
}

pub(crate) fn failure(class: ErrorClass, code: &str, closes_address: bool) -> ReceiptState {
    ReceiptState::Failed {
        class,
        code: code.to_owned(),
        closes_address,
    }
}

impl Door {
    pub(crate) fn new(provider: &'static str, sender: Uuid, signer: Signer, people: usize) -> Self {
        Self {
            provider,
            sender,
            signer,
            broadcast: None,
            people,
            next: 0,
            written: Vec::new(),
        }
    }

    /// The provider's name of a person, as we keep it.
    pub(crate) fn address(&self, person: usize) -> String {
        match self.provider {
            "line" => format!("U{person:032x}"),
            "messenger" => format!("7{person:015}"),
            "store" => format!("C-{person}"),
            _ => format!("+8869{person:08}"),
        }
    }

    /// The provider's id of the broadcast's message to a person.
    pub(crate) fn provider_id(&self, person: usize) -> String {
        match self.provider {
            "messenger" => format!("m_sent_{person}"),
            "whatsapp" => format!("wamid.sent.{person}"),
            _ => format!("SM{person:030}"),
        }
    }

    /// The next webhook.
    pub(crate) fn tell(&mut self, dice: &mut StdRng) -> Told {
        self.next += 1;
        let person = dice.random_range(0..self.people);
        let at = dice.random_range(0..1_000_000);
        match self.provider {
            "line" => self.line(dice, person, at),
            "messenger" => self.messenger(dice, person, at),
            "whatsapp" => self.whatsapp(dice, person, at),
            "twilio" => self.twilio(dice, person),
            "mitake" => self.mitake(dice),
            _ => self.store(dice, person, at),
        }
    }

    /// A message to change, most of them told (sooner or later) as well.
    pub(crate) fn one_written(&self, dice: &mut StdRng, person: usize) -> (usize, String) {
        if self.written.is_empty() || dice.random_ratio(1, 20) {
            return (person, format!("never-told-{}", self.next));
        }
        self.written[dice.random_range(0..self.written.len())].clone()
    }

    /// Somebody the broadcast went to, and our mark in it.
    pub(crate) fn recipient(&self, dice: &mut StdRng) -> (usize, String, ReceiptOf, bool) {
        let (broadcast, customers) = self.broadcast.as_ref().unwrap();
        let person = dice.random_range(0..customers.len());
        let mark = mark(*broadcast, customers[person]);
        // Always the same of one person; what ended as unknown has no id of the provider yet.
        let by_id_only = person % 3 == 0 && person % 10 < 8;
        let of = ReceiptOf::Message {
            provider_id: Some(self.provider_id(person)),
            mark: (!by_id_only).then_some(mark),
        };
        (person, mark.to_string(), of, by_id_only)
    }

    fn line(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
        let mut bodies = Vec::new();
        let mut events = Vec::new();
        for part in 0..dice.random_range(1..4_usize) {
            let (key, id) = (format!("01K{:020}{part:03}", self.next), format!("{}{part}", self.next));
            let user = self.address(person);
            let (at_ms, kind) = (moment(at).timestamp_millis(), dice.random_range(0..20));
            let changed = self.one_written(dice, person);
            let whose = self.address(changed.0);
            let text = text_of(self.next);
            let (body, from, what) = match kind {
                0..=8 => {
                    self.written.push((person, id.clone()));
                    (
                        line::text(&key, &user, at_ms, &id, &text),
                        user,
                        What::Message(wrote(&id, &text)),
                    )
                }
                9 => {
                    let sticker = json!({"type": "sticker", "id": id, "packageId": "1", "stickerId": "52"});
                    let attachment = Attachment {
                        kind: AttachmentKind::Sticker,
                        source: None,
                        label: Some("52".to_owned()),
                    };
                    let message = InboundMessage {
                        text: None,
                        attachments: vec![attachment],
                        ..wrote(&id, "")
                    };
                    (
                        line::event("message", &key, &user, at_ms, &[("message", sticker)]),
                        user,
                        What::Message(message),
                    )
                }
                10 | 11 => {
                    let now = json!({"type": "text", "id": changed.1, "text": text});
                    let what = What::Edited {
                        message_id: changed.1,
                        text,
                    };
                    (
                        line::event("messageEdited", &key, &whose, at_ms, &[("message", now)]),
                        whose,
                        what,
                    )
                }
                12 | 13 => {
                    let body = line::unsend(&key, &whose, at_ms, &changed.1);
                    (body, whose, What::Unsent { message_id: changed.1 })
                }
                14 | 15 => (line::follow(&key, &user, at_ms), user, What::Followed),
                16 | 17 => (line::unfollow(&key, &user, at_ms), user, What::Unfollowed),
                18 => (
                    line::postback(&key, &user, at_ms, "a=1"),
                    user,
                    What::Postback(Postback::default()),
                ),
                _ => (
                    line::event("membership", &key, &user, at_ms, &[]),
                    user,
                    What::Unknown("membership".to_owned()),
                ),
            };
            bodies.push(body);
            events.push(event(key, moment(at), &from, what));
        }
        Told {
            request: self.signer.json(&line::body(LINE_BOT_USER_ID, &bodies)),
            events,
        }
    }
}
