//! Events as `Debug` shows them: what kind of thing happened and when, and nothing of who or what.
//!
//! Why it exists: an event ends in a log or a panic by one careless line, and it holds what a person wrote, where they can be reached and
//! how to open their files. Even a provider's id of a message or of an event may name a person.
//!
//! It must never show a field whose text came from a person or names one.

use std::fmt;

use super::{
    Attachment, Contact, Echo, InboundMessage, MediaSource, Postback, Receipt, ReceiptOf, Referral, WebhookEvent, What,
};

macro_rules! by_name_only {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        })*
    };
}

by_name_only!(
    Attachment,
    Contact,
    Echo,
    InboundMessage,
    MediaSource,
    Postback,
    Referral
);

impl fmt::Debug for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookEvent({:?} at {})", self.what, self.at.format("%FT%TZ"))
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => message.fmt(f),
            Self::Echo(echo) => echo.fmt(f),
            Self::Edited { .. } => f.write_str("Edited(…)"),
            Self::Unsent { .. } => f.write_str("Unsent(…)"),
            Self::Seen { .. } => f.write_str("Seen(…)"),
            Self::Postback(postback) => postback.fmt(f),
            Self::Followed => f.write_str("Followed"),
            Self::Unfollowed => f.write_str("Unfollowed"),
            Self::Consent { wanted } => write!(f, "Consent({wanted})"),
            Self::Complained { mark } => write!(f, "Complained({mark:?})"),
            Self::Referred(referral) => referral.fmt(f),
            Self::Receipt(Receipt { of, state }) => write!(f, "Receipt({of:?}, {state:?})"),
            Self::Unknown(name) => write!(f, "Unknown({name})"),
        }
    }
}

impl fmt::Debug for ReceiptOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { mark: Some(mark), .. } => write!(f, "{mark:?}"),
            Self::Message { mark: None, .. } => f.write_str("Message(…)"),
            Self::UpTo(until) => write!(f, "UpTo({})", until.format("%FT%TZ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::channel::webhook::{AttachmentKind, ReceiptState, Thread};

    const PERSONAL: &str = "0912-345-678";

    #[test]
    fn no_event_shows_who_it_is_about_or_what_they_said() {
        let said = || PERSONAL.to_owned();
        let attachment = Attachment {
            kind: AttachmentKind::File,
            source: Some(MediaSource::Url(said())),
            label: Some(said()),
        };
        let message = InboundMessage {
            message_id: said(),
            text: Some(said()),
            attachments: vec![attachment.clone()],
            reply_to: Some(said()),
            reply_token: Some(said()),
            referral: Some(Referral {
                reference: Some(said()),
                ..Referral::default()
            }),
            profile_name: Some(said()),
            thread: Thread::Store,
            contact: Contact {
                email: Some(said()),
                phone: Some(said()),
            },
        };
        let echo = Echo {
            message_id: said(),
            text: Some(said()),
            attachments: vec![attachment],
            ..Echo::default()
        };
        let of = ReceiptOf::Message {
            provider_id: Some(said()),
            mark: None,
        };
        let receipt = Receipt {
            of,
            state: ReceiptState::Read,
        };
        let referral = Referral {
            reference: Some(said()),
            ..Referral::default()
        };
        for what in [
            What::Message(message),
            What::Echo(echo),
            What::Edited {
                message_id: said(),
                text: said(),
            },
            What::Unsent { message_id: said() },
            What::Seen { message_id: said() },
            What::Postback(Postback {
                data: said(),
                title: Some(said()),
                ..Postback::default()
            }),
            What::Referred(referral),
            What::Receipt(receipt),
        ] {
            let event = WebhookEvent {
                account: None,
                key: said(),
                at: DateTime::UNIX_EPOCH,
                from: Some(said()),
                what,
            };
            let shown = format!("{event:?} {event:#?}");
            assert!(!shown.contains(PERSONAL), "{shown}");
            assert!(shown.contains("1970"), "{shown}");
        }
    }
}
