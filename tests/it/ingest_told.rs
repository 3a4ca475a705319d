//! Webhooks of every provider, of every kind, signed as the providers sign; and beside each the events that are in it, put into
//! our words by hand, so that the model judges the parsers, too.

use carillon::channel::{
    ErrorClass,
    webhook::{
        Attachment, AttachmentKind, Echo, InboundMessage, Postback, Receipt, ReceiptOf, ReceiptState, Referral, Thread,
        WebhookEvent, What,
    },
};
use carillon_sandbox::{
    LINE_BOT_USER_ID,
    webhooks::{Request, Signer, line, messenger, mitake, twilio, whatsapp},
};
use chrono::{DateTime, Utc};
use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};
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
    next: usize,
    /// Messages that can be changed: whose, and their id.
    written: Vec<(usize, String)>,
}

/// One webhook, and what is in it.
pub(crate) struct Told {
    pub(crate) request: Request,
    pub(crate) events: Vec<WebhookEvent>,
}

/// When the messages of broadcasts count as sent, in seconds of this year.
pub(crate) const SENT_AT: i64 = 500_000;

fn event(key: String, at: DateTime<Utc>, from: &str, what: What) -> WebhookEvent {
    WebhookEvent {
        account: None,
        key,
        at,
        from: Some(from.to_owned()),
        what,
    }
}

fn text_of(n: usize) -> String {
    if n.is_multiple_of(5) {
        format!("打給我 0912-345-{:03}", n % 1000)
    } else {
        format!("第 {n} 則訊息 😀")
    }
}

fn wrote(message_id: &str, text: &str) -> InboundMessage {
    InboundMessage {
        message_id: message_id.to_owned(),
        text: Some(text.to_owned()),
        ..InboundMessage::default()
    }
}

fn echoed(message_id: &str, text: &str) -> Echo {
    Echo {
        message_id: message_id.to_owned(),
        text: Some(text.to_owned()),
        ..Echo::default()
    }
}

fn failure(class: ErrorClass, code: &str, closes_address: bool) -> ReceiptState {
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
    fn one_written(&self, dice: &mut StdRng, person: usize) -> (usize, String) {
        if self.written.is_empty() || dice.random_ratio(1, 20) {
            return (person, format!("never-told-{}", self.next));
        }
        self.written[dice.random_range(0..self.written.len())].clone()
    }

    /// Somebody the broadcast went to, and our mark in it.
    fn recipient(&self, dice: &mut StdRng) -> (usize, String, ReceiptOf, bool) {
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

    fn messenger(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
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

    fn whatsapp(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
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

    fn twilio(&mut self, dice: &mut StdRng, person: usize) -> Told {
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

    fn mitake(&self, dice: &mut StdRng) -> Told {
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

    fn store(&mut self, dice: &mut StdRng, person: usize, at: i64) -> Told {
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
