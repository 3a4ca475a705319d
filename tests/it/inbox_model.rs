//! What an inbox must hold, worked out plainly: every event in the order it happened, one after the other.
//!
//! Shared by the property test of `apply` and the proof over whole processes. It must stay too simple to be wrong: no SQL, no
//! batches, no knowledge of what came first.

use std::collections::{BTreeMap, BTreeSet};

use carillon::{
    channel::webhook::{
        Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, ReceiptState,
        Referral, WebhookEvent, What,
    },
    inbox::{Ad, latest, phone},
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

/// Something that can happen to one of a few people, with a few messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Happening {
    Message(usize),
    Edited { message: usize, at: i64 },
    Unsent { message: usize, at: i64 },
    Echo(usize),
    Postback(usize),
    Followed { person: usize, at: i64 },
    Unfollowed { person: usize, at: i64 },
    Referred { person: usize, ad: usize, at: i64 },
    Read { person: usize, at: i64 },
    Unknown { person: usize, at: i64 },
}

const PEOPLE: usize = 4;
const MESSAGES: usize = 16;

pub(crate) fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let (message, person, at) = (0..MESSAGES, 0..PEOPLE, 0..40_i64);
    let one = prop_oneof![
        8 => message.clone().prop_map(Happening::Message),
        3 => (message.clone(), at.clone()).prop_map(|(message, at)| Happening::Edited { message, at }),
        2 => (message.clone(), at.clone()).prop_map(|(message, at)| Happening::Unsent { message, at }),
        2 => message.clone().prop_map(Happening::Echo),
        1 => message.prop_map(Happening::Postback),
        1 => (person.clone(), at.clone()).prop_map(|(person, at)| Happening::Followed { person, at }),
        1 => (person.clone(), at.clone()).prop_map(|(person, at)| Happening::Unfollowed { person, at }),
        2 => (person.clone(), 0..14_usize, at.clone()).prop_map(|(person, ad, at)| Happening::Referred { person, ad, at }),
        1 => (person.clone(), at.clone()).prop_map(|(person, at)| Happening::Read { person, at }),
        1 => (person, at).prop_map(|(person, at)| Happening::Unknown { person, at }),
    ];
    prop::collection::vec(one, 1..50)
}

pub(crate) fn moment(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + at, 0).unwrap()
}

/// When a message was written; some at the same moment.
fn written(message: usize) -> i64 {
    (message * 7 % 30).try_into().unwrap()
}

fn text_of(message: usize, version: usize) -> String {
    // Some versions hold a number, others do not.
    match (message + version) % 3 {
        0 => format!("call 0912-345-6{:02}", message + version),
        _ => format!("text {message} version {version}"),
    }
}

impl Happening {
    /// How a provider tells it.
    pub(crate) fn event(self) -> WebhookEvent {
        let (person, at, what) = match self {
            Self::Message(n) => (
                n % PEOPLE,
                written(n),
                What::Message(InboundMessage {
                    message_id: format!("m{n}"),
                    text: Some(text_of(n, 0)),
                    attachments: (n % 3 == 0)
                        .then(|| Attachment {
                            kind: AttachmentKind::Image,
                            source: Some(MediaSource::ProviderId(format!("m{n}"))),
                            label: None,
                        })
                        .into_iter()
                        .collect(),
                    referral: (n % 5 == 0).then(|| referral(n)),
                    profile_name: (n % 2 == 0).then(|| format!("Name {}", n % 6)),
                    ..InboundMessage::default()
                }),
            ),
            Self::Edited { message, at } => (
                message % PEOPLE,
                at,
                What::Edited {
                    message_id: format!("m{message}"),
                    text: text_of(message, usize::try_from(at).unwrap() + 1),
                },
            ),
            Self::Unsent { message, at } => (
                message % PEOPLE,
                at,
                What::Unsent {
                    message_id: format!("m{message}"),
                },
            ),
            Self::Echo(n) => (
                n % PEOPLE,
                written(n),
                What::Echo(Echo {
                    message_id: format!("e{n}"),
                    text: Some("we answer".to_owned()),
                    ..Echo::default()
                }),
            ),
            Self::Postback(n) => (
                n % PEOPLE,
                written(n),
                What::Postback(Postback {
                    message_id: Some(format!("p{n}")),
                    title: Some("Yes".to_owned()),
                    ..Postback::default()
                }),
            ),
            Self::Followed { person, at } => (person, at, What::Followed),
            Self::Unfollowed { person, at } => (person, at, What::Unfollowed),
            Self::Referred { person, ad, at } => (person, at, What::Referred(referral(ad))),
            Self::Read { person, at } => (
                person,
                at,
                What::Receipt(Receipt {
                    of: ReceiptOf::UpTo(moment(at)),
                    state: ReceiptState::Read,
                }),
            ),
            Self::Unknown { person, at } => (person, at, What::Unknown("join".to_owned())),
        };
        WebhookEvent {
            account: None,
            key: format!("{self:?}"),
            at: moment(at),
            from: Some(format!("U{person}")),
            what,
        }
    }
}

fn referral(ad: usize) -> Referral {
    Referral {
        ad_id: (ad != 13).then(|| format!("ad{ad}")),
        title: Some(format!("Ad {ad}")),
        ..Referral::default()
    }
}

#[derive(Default)]
struct Person {
    name: Option<(DateTime<Utc>, String)>,
    inbound_at: Option<DateTime<Utc>>,
    threads: BTreeMap<Thread, Vec<Ad>>,
}

struct Message {
    person: String,
    thread: Thread,
    inbound: bool,
    at: DateTime<Utc>,
    text: Option<String>,
    attachments: usize,
    gone: bool,
}

/// Kind and order number of a conversation.
type Thread = (&'static str, String);

fn social() -> Thread {
    ("social", String::new())
}

fn thread_of(thread: &carillon::channel::webhook::Thread) -> Thread {
    use carillon::channel::webhook::Thread as Given;
    match thread {
        Given::Social => social(),
        Given::Store => ("store", String::new()),
        Given::Order(number) => ("order", number.clone()),
    }
}

/// Everything of one sender.
#[derive(Default)]
struct Inbox {
    people: BTreeMap<String, Person>,
    messages: BTreeMap<String, Message>,
}

/// What stands in Postgres after these events of one sender, a line for each person, conversation and message, in order. `known`:
/// the addresses it had before.
pub(crate) fn expected(known: &[String], events: &[WebhookEvent]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<&WebhookEvent> = events.iter().filter(|event| seen.insert(&event.key)).collect();
    // In the order it happened, but for this: a message is there before it is changed.
    told.sort_by_key(|event| match &event.what {
        What::Edited { text, .. } => (true, event.at, text.as_str()),
        What::Unsent { .. } => (true, event.at, ""),
        _ => (false, event.at, ""),
    });
    let mut inbox = Inbox::default();
    for address in known {
        inbox.people.entry(address.clone()).or_default();
    }
    for event in told {
        inbox.happens(event);
    }
    inbox.lines()
}

impl Inbox {
    fn happens(&mut self, event: &WebhookEvent) {
        let from = || event.from.clone().unwrap();
        match &event.what {
            What::Message(m) => {
                let person = self.people.entry(from()).or_default();
                if let Some(name) = &m.profile_name {
                    person.name = person.name.clone().max(Some((event.at, name.clone())));
                }
                let thread = thread_of(&m.thread);
                click(person, &thread, m.referral.as_ref(), event.at);
                self.wrote(event, &m.message_id, thread, (m.text.as_ref(), m.attachments.len()));
            }
            What::Postback(p) => {
                let id = p.message_id.as_ref().unwrap_or(&event.key);
                self.wrote(event, id, social(), (p.title.as_ref(), 0));
            }
            What::Echo(e) if e.mark.is_none() => {
                self.wrote(
                    event,
                    &e.message_id,
                    thread_of(&e.thread),
                    (e.text.as_ref(), e.attachments.len()),
                );
            }
            What::Edited { message_id, text } => {
                if let Some(there) = self.messages.get_mut(message_id).filter(|there| !there.gone) {
                    there.text = Some(text.clone());
                }
            }
            What::Unsent { message_id } => {
                if let Some(there) = self.messages.get_mut(message_id) {
                    (there.gone, there.text, there.attachments) = (true, None, 0);
                }
            }
            What::Followed => {
                self.people.entry(from()).or_default();
            }
            What::Referred(referral) => {
                click(
                    self.people.entry(from()).or_default(),
                    &social(),
                    Some(referral),
                    event.at,
                );
            }
            // A delivery, or nothing that an inbox holds.
            What::Echo(_)
            | What::Unfollowed
            | What::Consent { .. }
            | What::Complained { .. }
            | What::Receipt(_)
            | What::Seen { .. }
            | What::Unknown(_) => {}
        }
    }

    fn wrote(&mut self, event: &WebhookEvent, id: &str, thread: Thread, (text, attachments): (Option<&String>, usize)) {
        let address = event.from.clone().unwrap();
        let inbound = !matches!(event.what, What::Echo(_));
        let person = self.people.entry(address.clone()).or_default();
        person.threads.entry(thread.clone()).or_default();
        // Whom a shop front names has no address, and no window.
        if inbound && thread.0 == "social" {
            person.inbound_at = person.inbound_at.max(Some(event.at));
        }
        let message = Message {
            person: address,
            thread,
            inbound,
            at: event.at,
            text: text.cloned(),
            attachments,
            gone: false,
        };
        self.messages.insert(id.to_owned(), message);
    }

    fn lines(&self) -> Vec<String> {
        let mut of: BTreeMap<(&str, &Thread), Vec<&Message>> = BTreeMap::new();
        for message in self.messages.values() {
            of.entry((&message.person, &message.thread)).or_default().push(message);
        }
        let mut lines = Vec::new();
        for (address, person) in &self.people {
            let name = person.name.as_ref().map_or("", |(_, name)| name);
            lines.push(format!(
                "person {address} name {name} inbound {}",
                secs(person.inbound_at)
            ));
            for (thread, ads) in &person.threads {
                let mine = of.get(&(address.as_str(), thread)).map_or(&[][..], Vec::as_slice);
                lines.push(conversation(address, thread, mine, ads));
            }
        }
        lines.extend(self.messages.iter().map(|(id, message)| {
            format!(
                "message {id} of {} in {} {} inbound {} at {} text {} attachments {}",
                message.person,
                message.thread.0,
                message.thread.1,
                message.inbound,
                secs(Some(message.at)),
                message.text.as_deref().unwrap_or("-"),
                message.attachments
            )
        }));
        lines.sort();
        lines
    }
}

fn click(person: &mut Person, thread: &Thread, referral: Option<&Referral>, at: DateTime<Utc>) {
    let Some(referral) = referral else { return };
    let ads = person.threads.entry(thread.clone()).or_default();
    if let Some(ad_id) = referral.ad_id.clone() {
        ads.push(Ad {
            referred_at: at,
            ad_id,
            title: referral.title.clone(),
            url: None,
            reference: None,
        });
    }
}

fn conversation(address: &str, thread: &Thread, mine: &[&Message], ads: &[Ad]) -> String {
    let inbound = || mine.iter().filter(|message| message.inbound);
    let has_phone = inbound().any(|message| {
        message
            .text
            .as_deref()
            .is_some_and(|text| !phone::find(text).is_empty())
    });
    let ads: Vec<String> = latest(ads.to_vec()).into_iter().map(|ad| ad.ad_id).collect();
    format!(
        "conversation {address} {} {} unread {} last {} inbound {} phone {has_phone} ad {} ads {}",
        thread.0,
        thread.1,
        inbound().filter(|message| !message.gone).count(),
        secs(mine.iter().map(|message| message.at).max()),
        secs(inbound().map(|message| message.at).max()),
        !ads.is_empty(),
        ads.join(",")
    )
}

/// Seconds of this year; one word for what happened as it was received, which nobody knows to the second.
fn secs(at: Option<DateTime<Utc>>) -> String {
    match at {
        None => "-".to_owned(),
        Some(at) if at > Utc::now() - TimeDelta::days(1) => "received".to_owned(),
        Some(at) => (at - moment(0)).num_seconds().to_string(),
    }
}

/// The same lines, read from Postgres.
pub(crate) const STANDING: &str = "
    with a as (
        select a.address, c.id as customer_id, c.first_name, a.last_inbound_at
          from address a join customer c on c.id = a.customer_id where a.sender_id = 'SENDER'
        union all
        select c.external_id, c.id, c.first_name, null
          from sender s join customer c on c.shop_id = s.shop_id and c.external_id is not null
         where s.id = 'SENDER' and s.channel = 'app'
    )
    select coalesce(array_agg(line order by line collate \"C\"), '{}') from (
        select format('person %s name %s inbound %s', a.address, a.first_name, secs(a.last_inbound_at)) as line from a
        union all
        select format('conversation %s %s %s unread %s last %s inbound %s phone %s ad %s ads %s', a.address, t.kind, t.order_number,
                      t.unread, secs(t.last_message_at), secs(t.last_inbound_at),
                      case when t.has_phone then 'true' else 'false' end, case when t.from_ad then 'true' else 'false' end,
                      (select string_agg(r.ad_id, ',' order by r.referred_at desc, r.ad_id collate \"C\" desc) from referral r
                        where r.conversation_id = t.id))
          from a join conversation t on t.customer_id = a.customer_id and t.sender_id = 'SENDER'
        union all
        select format('message %s of %s in %s %s inbound %s at %s text %s attachments %s', m.provider_id, a.address, t.kind,
                      t.order_number, case when m.direction = 'in' then 'true' else 'false' end, secs(m.sent_at),
                      coalesce(m.text, '-'), jsonb_array_length(m.attachments))
          from message m join conversation t on t.id = m.conversation_id join a on a.customer_id = t.customer_id
         where m.sender_id = 'SENDER'
    ) l";

/// What `STANDING` needs.
pub(crate) const SECS: &str = "create function secs(p timestamptz) returns text language sql as $$
    select case when p is null then '-' when p > now() - interval '1 day' then 'received'
                else (extract(epoch from p) - 1767225600)::bigint::text end $$";
