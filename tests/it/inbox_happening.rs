//! What can happen to a few people with a few messages, and how a provider tells it: food for the property test of the inbox.

use carillon::channel::webhook::{
    Attachment, AttachmentKind, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, ReceiptState,
    Referral, WebhookEvent, What,
};
use proptest::prelude::*;

use crate::inbox_model::moment;

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
