//! What an inbox must hold, worked out plainly: every event in the order it happened, one after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use carillon::{
    channel::webhook::{
        Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, ReceiptState,
        Referral, WebhookEvent, What,
    },
    inbox::{Ad, latest, phone},
};
use chrono::{DateTime, Utc};
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

fn moment(at: i64) -> DateTime<Utc> {
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
    name: Option<(i64, String)>,
    inbound_at: Option<i64>,
    has_conversation: bool,
    ads: Vec<Ad>,
}

struct Message {
    person: usize,
    inbound: bool,
    at: i64,
    text: Option<String>,
    attachments: usize,
}

/// What stands in Postgres afterwards, a line for each person and message, in order.
pub(crate) fn expected(happenings: &[Happening]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<(Happening, WebhookEvent)> = happenings
        .iter()
        .map(|one| (*one, one.event()))
        .filter(|(_, event)| seen.insert(event.key.clone()))
        .collect();
    // In the order it happened, but for this: a message is there before it is changed.
    told.sort_by_key(|(one, event)| {
        let change = matches!(one, Happening::Edited { .. } | Happening::Unsent { .. });
        let text = if let What::Edited { text, .. } = &event.what {
            text.clone()
        } else {
            String::new()
        };
        (change, event.at, text)
    });
    let mut people: BTreeMap<usize, Person> = BTreeMap::new();
    let mut messages: BTreeMap<String, Message> = BTreeMap::new();
    for (one, event) in &told {
        let at = (event.at - moment(0)).num_seconds();
        match *one {
            Happening::Message(n) | Happening::Postback(n) | Happening::Echo(n) => {
                let inbound = !matches!(one, Happening::Echo(_));
                let person = people.entry(n % PEOPLE).or_default();
                person.has_conversation = true;
                let (id, text, attachments) = match &event.what {
                    What::Message(m) => (m.message_id.clone(), m.text.clone(), m.attachments.len()),
                    What::Postback(p) => (p.message_id.clone().unwrap(), p.title.clone(), 0),
                    What::Echo(e) => (e.message_id.clone(), e.text.clone(), 0),
                    _ => unreachable!("one of the three"),
                };
                if inbound {
                    person.inbound_at = person.inbound_at.max(Some(at));
                }
                if let What::Message(InboundMessage {
                    profile_name: Some(name),
                    ..
                }) = &event.what
                {
                    person.name = person.name.clone().max(Some((at, name.clone())));
                }
                if let What::Message(InboundMessage {
                    referral: Some(referral),
                    ..
                }) = &event.what
                {
                    click(person, referral, event.at);
                }
                messages.insert(
                    id,
                    Message {
                        person: n % PEOPLE,
                        inbound,
                        at,
                        text,
                        attachments,
                    },
                );
            }
            Happening::Edited { message, .. } => {
                if let (Some(there), What::Edited { text, .. }) =
                    (messages.get_mut(&format!("m{message}")), &event.what)
                {
                    there.text = there.text.is_some().then(|| text.clone());
                }
            }
            Happening::Unsent { message, .. } => {
                if let Some(there) = messages.get_mut(&format!("m{message}")) {
                    (there.text, there.attachments) = (None, 0);
                }
            }
            Happening::Followed { person, .. } => {
                people.entry(person).or_default();
            }
            Happening::Referred { person, ad, .. } => {
                let person = people.entry(person).or_default();
                person.has_conversation = true;
                click(person, &referral(ad), event.at);
            }
            Happening::Unfollowed { .. } | Happening::Read { .. } | Happening::Unknown { .. } => {}
        }
    }
    let mut lines: Vec<String> = people
        .iter()
        .map(|(n, person)| line_of(*n, person, &messages))
        .collect();
    lines.extend(messages.iter().map(|(id, message)| {
        format!(
            "message {id} of U{} inbound {} at {} text {} attachments {}",
            message.person,
            message.inbound,
            message.at,
            message.text.as_deref().unwrap_or("-"),
            message.attachments
        )
    }));
    lines.sort();
    lines
}

fn click(person: &mut Person, referral: &Referral, at: DateTime<Utc>) {
    if let Some(ad_id) = referral.ad_id.clone() {
        person.ads.push(Ad {
            referred_at: at,
            ad_id,
            title: referral.title.clone(),
            url: None,
            reference: None,
        });
    }
}

fn line_of(n: usize, person: &Person, messages: &BTreeMap<String, Message>) -> String {
    let number = |at: Option<i64>| at.map_or("-".to_owned(), |at| at.to_string());
    let name = person.name.as_ref().map_or("", |(_, name)| name);
    let mut line = format!("person U{n} name {name} inbound {}", number(person.inbound_at));
    if person.has_conversation {
        let mine: Vec<&Message> = messages.values().filter(|message| message.person == n).collect();
        let inbound = || mine.iter().filter(|message| message.inbound);
        let unread = inbound().filter(|message| message.text.is_some()).count();
        let has_phone = inbound().any(|message| {
            message
                .text
                .as_deref()
                .is_some_and(|text| !phone::find(text).is_empty())
        });
        let ads: Vec<String> = latest(person.ads.clone()).into_iter().map(|ad| ad.ad_id).collect();
        let _ = write!(
            line,
            " unread {unread} last {} inbound {} phone {has_phone} ad {} ads {}",
            number(mine.iter().map(|message| message.at).max()),
            number(inbound().map(|message| message.at).max()),
            !ads.is_empty(),
            ads.join(",")
        );
    }
    line
}

/// The same lines, read from Postgres.
pub(crate) const STANDING: &str = "
    with a as (
        select a.address, c.id as customer_id, c.first_name, a.last_inbound_at
          from address a join customer c on c.id = a.customer_id where a.sender_id = 'SENDER'
    )
    select coalesce(array_agg(line order by line collate \"C\"), '{}') from (
        select format('person %s name %s inbound %s', a.address, a.first_name, secs(a.last_inbound_at))
               || case when t.id is null then '' else format(' unread %s last %s inbound %s phone %s ad %s ads %s', t.unread, secs(t.last_message_at), secs(t.last_inbound_at),
                      case when t.has_phone then 'true' else 'false' end, case when t.from_ad then 'true' else 'false' end,
                      (select string_agg(r.ad_id, ',' order by r.referred_at desc, r.ad_id collate \"C\" desc) from referral r
                        where r.conversation_id = t.id)) end as line
          from a left join conversation t on t.customer_id = a.customer_id
        union all
        select format('message %s of %s inbound %s at %s text %s attachments %s', m.provider_id, a.address,
                      case when m.direction = 'in' then 'true' else 'false' end, secs(m.sent_at), coalesce(m.text, '-'),
                      jsonb_array_length(m.attachments))
          from message m join conversation t on t.id = m.conversation_id join a on a.customer_id = t.customer_id
         where m.sender_id = 'SENDER'
    ) l";

/// What `STANDING` needs.
pub(crate) const SECS: &str = "create function secs(p timestamptz) returns text language sql as $$
    select coalesce((extract(epoch from p) - 1767225600)::bigint::text, '-') $$";
