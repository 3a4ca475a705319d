//! What an inbox must hold, worked out plainly: every event in the order it happened, one after the other.
//!
//! Shared by the property test of `apply` and the proof over whole processes. It must stay too simple to be wrong: no SQL, no
//! batches, no knowledge of what came first.

use std::collections::{BTreeMap, BTreeSet};

use carillon::{
    channel::webhook::{Referral, WebhookEvent, What},
    inbox::{Ad, latest, phone},
};
use chrono::{DateTime, TimeDelta, Utc};

pub(crate) fn moment(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + at, 0).unwrap()
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
