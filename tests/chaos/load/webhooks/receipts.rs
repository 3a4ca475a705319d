//! What each provider may say of a message it took, and in which words. Pure but for the date.
//! It must never say of one message what cannot both be true, but that it was delivered and failed later: mail does that.

use carillon_sandbox::{
    META_APP_SECRET, PAGE_ID, PHONE_NUMBER_ID, ReceivedMessage, TWILIO_AUTH_TOKEN,
    webhooks::{Request, Signer, mail, messenger, mitake, twilio, whatsapp},
};
use chrono::Utc;
use url::form_urlencoded;
use uuid::Uuid;

use crate::{
    accounts::{BOUNCE_SECRET, CALLBACK_TOKEN, PUBLIC_URL},
    dice::Dice,
    provider::Provider,
};

/// One thing that may be said of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    /// In the provider's word.
    pub(super) said: &'static str,
    /// Its code, where it has one.
    code: &'static str,
    /// The state it moves the delivery to; none: it says nothing of that.
    pub(super) state: Option<&'static str>,
}

const fn word(said: &'static str, code: &'static str, state: Option<&'static str>) -> Word {
    Word { said, code, state }
}

/// Of a hundred messages so many are reported on; LINE and Google report on none.
pub(super) const fn share(provider: Provider) -> u64 {
    match provider {
        Provider::Line | Provider::App => 0,
        Provider::Email => 15,
        // An echo says only that it left: of use where nobody knew.
        Provider::Messenger => 60,
        Provider::Whatsapp | Provider::Mitake | Provider::Twilio => 40,
    }
}

/// What is said of one message.
pub(super) fn words(provider: Provider, dice: &mut Dice) -> Vec<Word> {
    let roll = dice.between(1, 100);
    match provider {
        Provider::Line | Provider::App => Vec::new(),
        Provider::Email => {
            let (full, gone) = (
                word("failed", "5.2.2", Some("failed")),
                word("failed", "5.1.1", Some("failed")),
            );
            let arrived = word("delivered", "2.0.0", Some("delivered"));
            match roll {
                1..=50 => vec![full],
                51..=65 => vec![gone],
                66..=80 => vec![arrived],
                81..=92 => vec![arrived, full],
                _ => vec![word("delayed", "4.4.1", None)],
            }
        }
        Provider::Messenger => vec![word("echo", "", Some("accepted"))],
        Provider::Whatsapp => {
            let sent = word("sent", "", Some("accepted"));
            let arrived = word("delivered", "", Some("delivered"));
            let seen = word("read", "", Some("read"));
            match roll {
                1..=30 => vec![sent],
                31..=60 => vec![sent, arrived],
                61..=80 => vec![sent, arrived, seen],
                _ => vec![sent, word("failed", "131049", Some("failed"))],
            }
        }
        Provider::Twilio => {
            let sent = word("sent", "", Some("accepted"));
            let arrived = word("delivered", "", Some("delivered"));
            match roll {
                1..=30 => vec![sent],
                31..=75 => vec![sent, arrived],
                _ => vec![sent, word("undelivered", "30003", Some("failed"))],
            }
        }
        Provider::Mitake => match roll {
            1..=70 => vec![word("DELIVRD", "4", Some("delivered"))],
            71..=85 => vec![word("UNDELIV", "5", Some("failed"))],
            _ => vec![word("EXPIRED", "8", Some("failed"))],
        },
    }
}

/// The message that is reported on.
pub(super) struct About<'a> {
    pub(super) sender: Uuid,
    pub(super) provider: Provider,
    pub(super) to: &'a ReceivedMessage,
    /// Our mark as it was written on it.
    pub(super) mark: &'a str,
    /// What the provider calls it: 32 hexadecimal digits.
    pub(super) id: &'a str,
}

impl About<'_> {
    /// The request that says it.
    pub(super) fn request(&self, word: Word) -> Request {
        let (to, mark, now) = (self.to.recipient.as_str(), self.mark, Utc::now());
        match self.provider {
            Provider::Email => {
                let body = mail::report(mark, to, word.said, word.code, &now.to_rfc2822());
                let query = form_urlencoded::Serializer::new(String::new())
                    .append_pair("to", mark)
                    .finish();
                Signer::Store(BOUNCE_SECRET.to_owned()).sign(query, "message/rfc822", body)
            }
            Provider::Messenger => {
                let (mid, at_ms) = (format!("m_{}", self.id), now.timestamp_millis());
                let echo = messenger::echo(PAGE_ID, to, at_ms, &mid, &self.to.text, Some(mark));
                meta().json(&messenger::body(PAGE_ID, at_ms, &[echo]))
            }
            Provider::Whatsapp => {
                let (wamid, to) = (format!("wamid.{}", self.id), to.trim_start_matches('+'));
                let code = word.code.parse().ok();
                let status = whatsapp::status(to, now.timestamp(), &wamid, word.said, Some(mark), code);
                meta().json(&whatsapp::body(PHONE_NUMBER_ID, &[], &[status]))
            }
            Provider::Twilio => {
                let address = format!("{PUBLIC_URL}/webhooks/twilio/{}", self.sender);
                let (sid, code) = (
                    format!("SM{}", self.id),
                    Some(word.code).filter(|code| !code.is_empty()),
                );
                Signer::Twilio(TWILIO_AUTH_TOKEN.to_owned(), address)
                    .form(&format!("mark={mark}"), &twilio::status(&sid, word.said, to, code))
            }
            // LINE and Google say nothing of messages, and are not asked.
            Provider::Mitake | Provider::Line | Provider::App => {
                let at = (now + chrono::TimeDelta::hours(8)).format("%Y%m%d%H%M%S").to_string();
                let mut fields = mitake::status(self.id, to, word.code, word.said, &at);
                fields.push(("mark", mark));
                Signer::Mitake(CALLBACK_TOKEN.to_owned()).callback(&fields)
            }
        }
    }
}

fn meta() -> Signer {
    Signer::Meta(META_APP_SECRET.to_owned())
}
