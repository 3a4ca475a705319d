//! Text messages: Twilio or Mitake, as a sender's credentials say.
//!
//! - `account`: the credentials
//! - `twilio`, `mitake`: the two providers' requests, and what their answers mean
//! - `codes`: what their codes mean, in answers and in receipts
//! - `contacts`: links and phone numbers in a text, and which of them are registered; `numbers`: the numbers (pure)
//!
//! Mitake knows our keys for 12 hours, Twilio knows none; both tell what became of a message at an address of ours that carries its mark.
//! It must never repeat what may have left by Twilio, and never take anything for acceptance but a provider's own words.

mod account;
pub(super) mod codes;
pub(super) mod contacts;
mod mitake;
mod numbers;
mod twilio;

use carillon_jobs::SenderId;
use reqwest::Client;
use uuid::Uuid;

pub use account::{MitakeAccount, SmsAccount, TwilioAccount};
pub(super) use contacts::is_plain_name;
pub use contacts::{Contacts, Registered};

use super::{
    check::{Checked, Finding},
    config::{ChannelsError, SmsConfig},
    mark::DeliveryMark,
    outcome::{ErrorClass, SendOutcome},
};

/// Both providers, and the address below which each may tell what became of a message.
#[derive(Debug)]
pub(super) struct Sms {
    twilio: twilio::Twilio,
    twilio_tells: Option<String>,
    mitake: mitake::Mitake,
    mitake_tells: Option<String>,
}

/// One message on its way to an adapter.
struct Letter<'a> {
    /// As it is stored: [`super::phone::e164`].
    to: &'a str,
    text: &'a str,
    sender: SenderId,
    mark: DeliveryMark,
    /// Below this address the provider tells what became of it; `None`: nowhere.
    told_below: Option<&'a str>,
}

impl Sms {
    pub(super) fn new(client: Client, config: &SmsConfig) -> Result<Self, ChannelsError> {
        Ok(Self {
            twilio: twilio::Twilio::new(client.clone(), config)?,
            twilio_tells: None,
            mitake: mitake::Mitake::new(client, config)?,
            mitake_tells: None,
        })
    }

    /// Providers reach us at this address; empty: nowhere. Mitake calls nothing but the two standard ports.
    pub(super) fn reached_at(&mut self, public_url: &str) {
        let base = public_url.trim_end_matches('/');
        let below = |provider| (!base.is_empty()).then(|| format!("{base}/webhooks/{provider}"));
        self.twilio_tells = below("twilio");
        self.mitake_tells = below("mitake").filter(|url| standard_port(url));
    }

    /// Sends one message.
    pub(super) async fn send(
        &self,
        (sender, account): (SenderId, &SmsAccount),
        to: &str,
        (text, mark): (&str, DeliveryMark),
        key: Uuid,
    ) -> SendOutcome {
        let letter = |told_below| Letter {
            to,
            text,
            sender,
            mark,
            told_below,
        };
        match account {
            SmsAccount::Twilio(account) => self.twilio.send(account, &letter(self.twilio_tells.as_deref())).await,
            SmsAccount::Mitake(account) => {
                let letter = letter(self.mitake_tells.as_deref());
                self.mitake.send(account, &letter, key).await
            }
        }
    }

    /// Asks the provider whether the account may send.
    pub(super) async fn check(&self, account: &SmsAccount) -> Checked {
        let (provider, answer) = match account {
            SmsAccount::Twilio(account) => ("Twilio", self.twilio.check(account).await),
            SmsAccount::Mitake(account) => ("Mitake", self.mitake.check(account).await),
        };
        let finding = match answer {
            Ok(finding) => finding,
            Err(refusal) if refusal.class == ErrorClass::Credentials => Finding::bad(
                "account",
                format!(
                    "{provider} 不接受這組帳號（{}）；請確認帳號與密碼，以及帳號是否啟用。",
                    refusal.code
                ),
                format!(
                    "{provider} refuses this account ({}): check user and password, and whether the account is active.",
                    refusal.code
                ),
            ),
            Err(_) => Finding::no_answer("account", provider),
        };
        Checked {
            findings: vec![finding],
        }
    }
}

fn standard_port(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| matches!(url.port_or_known_default(), Some(80 | 443)))
}

#[cfg(test)]
mod tests;
