//! What LINE says of an account's month: how many messages it may send, and how many it has.
//!
//! Why it exists: LINE counts every recipient of a push or a multicast against the account's plan, and what others send with
//! the account too. Only LINE knows the figure, so it is asked before a broadcast starts.
//!
//! It must never guess: an answer that is not the one promised is a refusal.

use std::time::Duration;

use ::http::{Method, header};
use reqwest::Request;
use serde::Deserialize;

use super::{Failure, Line};
use crate::channel::{
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal},
    sender::LineAccount,
};

/// Nobody waits longer for a figure, whatever a message is given: planning holds its lease meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// An account's month, as LINE told it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReading {
    /// Messages it may send this month, bought ones included; none: no limit.
    pub limit: Option<u64>,
    /// Messages counted against it so far; LINE calls the figure approximate.
    pub used: u64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Limit {
    None,
    Limited { value: u64 },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consumption {
    total_usage: u64,
}

impl Line {
    /// Asks for the limit and for what is used, in this order: what is used grows meanwhile and is not too low then.
    pub(in crate::channel) async fn quota(&self, account: &LineAccount) -> Result<QuotaReading, Refusal> {
        let limit = self.ask(account, &self.quota).await?;
        let limit = match promised::<Limit>(&limit)? {
            Limit::None => None,
            Limit::Limited { value } => Some(value),
        };
        let used = self.ask(account, &self.consumption).await?;
        let used = promised::<Consumption>(&used)?.total_usage;
        Ok(QuotaReading { limit, used })
    }

    /// A question that sends nothing.
    pub(super) async fn ask(&self, account: &LineAccount, url: &url::Url) -> Result<Answer, Refusal> {
        let mut request = Request::new(Method::GET, url.clone());
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, account.authorization.clone());
        *request.timeout_mut() = Some(self.timeout.min(PATIENCE));
        exchange(&self.client, request).await
    }
}

/// The JSON a 200 promises, or what the answer is instead.
pub(super) fn promised<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Refusal> {
    match answer.status {
        200 => answer
            .json()
            .ok_or_else(|| Refusal::new(ErrorClass::Uncertain, "200_not_as_promised")),
        // The account may not ask, or there is nobody to ask at this address: a person has to look.
        401 | 403 | 404 => Err(Refusal::new(ErrorClass::Credentials, answer.status.to_string())),
        429 => Err(Refusal::new(ErrorClass::Throttled, "429").after(answer.retry_after())),
        status => {
            let told = answer.json::<Failure>().is_some() && status < 500;
            let class = if told {
                ErrorClass::Content
            } else {
                ErrorClass::Uncertain
            };
            Err(Refusal::new(class, status.to_string()))
        }
    }
}
