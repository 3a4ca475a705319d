//! Twilio: one form per message, and what its answers mean.
//!
//! Why the care about everything above 499: Twilio has no idempotency key. Only its own 201 is acceptance, only its own 4xx says that
//! nothing left; the rest is uncertain until its StatusCallback tells, by the mark in the address we gave it.
//!
//! It must never repeat a message whose fate is uncertain.

use ::http::{HeaderValue, Method, header};
use reqwest::{Body, Client, Request};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    Letter,
    account::{Origin, TwilioAccount, is_sid},
    codes,
};
use crate::channel::{
    check::Finding,
    config::{ChannelsError, SmsConfig, base_url, secs},
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal, SendOutcome},
    phone,
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

#[derive(Debug)]
pub(super) struct Twilio {
    client: Client,
    base_url: String,
    timeout: std::time::Duration,
    validity_secs: String,
}

impl Twilio {
    pub(super) fn new(client: Client, config: &SmsConfig) -> Result<Self, ChannelsError> {
        let wrong = || ChannelsError::Settings(vec!["channel.sms.twilio_base_url is not a URL".into()]);
        base_url(&config.twilio_base_url).ok_or_else(wrong)?;
        Ok(Self {
            client,
            base_url: config.twilio_base_url.trim_end_matches('/').to_owned(),
            timeout: secs(config.timeout_secs),
            validity_secs: config.twilio_validity_secs.to_string(),
        })
    }

    pub(super) async fn send(&self, account: &TwilioAccount, letter: &Letter<'_>) -> SendOutcome {
        let Some(to) = phone::e164(letter.to) else {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        };
        let form = self.form(account, &to, letter);
        match self.request(Method::POST, account, "/Messages.json", Some(form)) {
            Some(request) => match exchange(&self.client, request).await {
                Ok(answer) => judge(&answer),
                Err(refusal) => refusal.into(),
            },
            None => Refusal::new(ErrorClass::Credentials, "account_url").into(),
        }
    }

    fn form(&self, account: &TwilioAccount, to: &str, letter: &Letter<'_>) -> String {
        let mut form = form_urlencoded::Serializer::new(String::with_capacity(letter.text.len() * 3 + 300));
        form.append_pair("To", to);
        match &account.origin {
            Origin::From(from) => form.append_pair("From", from),
            Origin::Service(service) => form.append_pair("MessagingServiceSid", service),
        };
        form.append_pair("Body", letter.text)
            .append_pair("ValidityPeriod", &self.validity_secs);
        if let Some(below) = letter.told_below {
            let callback = format!("{below}/{}?mark={}", letter.sender, letter.mark);
            form.append_pair("StatusCallback", &callback);
        }
        form.finish()
    }

    /// What Twilio says of the account.
    pub(super) async fn check(&self, account: &TwilioAccount) -> Result<Finding, Refusal> {
        #[derive(Deserialize)]
        struct Account {
            sid: String,
            status: String,
        }
        let request = self
            .request(Method::GET, account, ".json", None)
            .ok_or_else(|| Refusal::new(ErrorClass::Credentials, "account_url"))?;
        let answer = exchange(&self.client, request).await?;
        let said = (answer.status == 200).then(|| answer.json::<Account>()).flatten();
        match said {
            Some(said) if said.sid == account.account_sid && said.status == "active" => {
                let (zh, en) = ("Twilio 帳號可以使用。", "The Twilio account is active.");
                Ok(Finding::good("account", zh, en))
            }
            Some(said) if said.sid == account.account_sid => Err(Refusal::new(
                ErrorClass::Credentials,
                format!("twilio account {}", said.status),
            )),
            _ => Err(refused(&answer)),
        }
    }

    fn request(&self, method: Method, account: &TwilioAccount, path: &str, form: Option<String>) -> Option<Request> {
        let sid = &account.account_sid;
        let url = Url::parse(&format!("{}/2010-04-01/Accounts/{sid}{path}", self.base_url)).ok()?;
        let mut request = Request::new(method, url);
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, account.authorization.clone());
        if let Some(form) = form {
            request.headers_mut().insert(header::CONTENT_TYPE, FORM);
            *request.body_mut() = Some(Body::from(form));
        }
        *request.timeout_mut() = Some(self.timeout);
        Some(request)
    }
}

#[derive(Deserialize)]
struct Sent {
    sid: String,
    status: String,
    error_code: Option<u32>,
}

#[derive(Deserialize)]
struct Failure {
    code: u32,
}

/// What an answer means.
pub(super) fn judge(answer: &Answer) -> SendOutcome {
    if !matches!(answer.status, 200 | 201) {
        return refused(answer).into();
    }
    let broken = || Refusal::new(ErrorClass::Uncertain, format!("{} not_as_promised", answer.status)).into();
    match answer.json::<Sent>() {
        Some(sent) if !is_sid(&sent.sid, &["SM", "MM"]) => broken(),
        Some(sent) => match (sent.status.as_str(), sent.error_code) {
            ("accepted" | "scheduled" | "queued" | "sending" | "sent" | "delivered", None) => {
                SendOutcome::accepted(Some(&sent.sid))
            }
            ("failed" | "undelivered" | "canceled", Some(code)) => ended(of_code(code)).into(),
            _ => broken(),
        },
        None => broken(),
    }
}

/// A message that Twilio took and gave up is never sent again, whatever held it up.
fn ended(refusal: Refusal) -> Refusal {
    if matches!(refusal.class, ErrorClass::Throttled | ErrorClass::Unreachable) {
        return Refusal::new(ErrorClass::Content, refusal.code);
    }
    refusal
}

fn refused(answer: &Answer) -> Refusal {
    let failure = answer.json::<Failure>();
    match (answer.status, failure) {
        (400..=499, Some(failure)) if answer.status != 408 => {
            let refusal = of_code(failure.code);
            match (answer.status, refusal.class) {
                (401 | 403, ErrorClass::Content) => Refusal::new(ErrorClass::Credentials, refusal.code),
                (429, ErrorClass::Content | ErrorClass::Recipient) => {
                    Refusal::new(ErrorClass::Throttled, refusal.code).after(answer.retry_after())
                }
                _ => refusal.after(answer.retry_after()),
            }
        }
        // Not Twilio's words: a proxy's, or a wrong address.
        (401 | 403 | 404, None) => Refusal::new(ErrorClass::Credentials, format!("{} not_as_promised", answer.status)),
        (429, None) => Refusal::new(ErrorClass::Throttled, "429").after(answer.retry_after()),
        (status, _) => Refusal::new(ErrorClass::Uncertain, status.to_string()).after(answer.retry_after()),
    }
}

fn of_code(code: u32) -> Refusal {
    let class = codes::twilio(code).unwrap_or(ErrorClass::Content);
    Refusal::new(class, format!("twilio {code}"))
}
