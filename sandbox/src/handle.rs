//! The typed way to drive a sandbox running in the same process, for integration tests.
//! It exists so that a test sets a fault or reads what arrived without HTTP and without strings.
//! It must never do more than the control API can: both sit on the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::accounts::{Account, BadAccount};
use crate::channel::Channel;
use crate::faults::{BadFault, Fault, FaultStatus};
use crate::outage::Port;
use crate::received::{ReceivedMessage, ReceivedQuery};
use crate::state::State;
use crate::traffic::{ChannelSummary, Latency, RateCap};

/// Drives a running sandbox; cheap to clone, usable from any task.
#[derive(Clone)]
pub struct Handle {
    pub(crate) state: Arc<State>,
}

impl Handle {
    /// Adds a fault rule; the number clears it alone.
    pub fn set_fault(&self, fault: Fault) -> Result<u64, BadFault> {
        self.state.faults.set(fault)
    }

    /// Every rule with its hits, in the order they are asked.
    pub fn faults(&self) -> Vec<FaultStatus> {
        self.state.faults.list()
    }

    /// Removes one rule.
    pub fn clear_fault(&self, id: u64) {
        self.state.faults.clear(Some(id));
    }

    /// Removes every rule.
    pub fn clear_faults(&self) {
        self.state.faults.clear(None);
    }

    /// Cuts every connection of a port and refuses new ones for so long, from 50 ms from now. A later call replaces it.
    pub fn outage(&self, port: Port, time: Duration) {
        self.state.outages.begin(port, time);
    }

    /// Sets how long every answer of a channel takes.
    pub fn set_latency(&self, channel: Channel, latency: Latency) {
        self.state.traffic(channel).set_latency(latency);
    }

    /// Caps the sends per second of each account of a channel (LINE: of each endpoint); `None` lifts the cap.
    pub fn set_rate_cap(&self, channel: Channel, cap: Option<RateCap>) {
        self.state.traffic(channel).cap.set(cap);
    }

    /// Registers an account, or another credential of a known one.
    pub fn register(&self, account: Account) -> Result<(), BadAccount> {
        self.state.register(account)
    }

    /// Makes a credential invalid: a LINE token, an FCM `client_email` (with its access tokens) or access token, an
    /// SMTP user. False when it was not known.
    pub fn revoke(&self, channel: Channel, credential: &str) -> bool {
        self.state.revoke(channel, credential)
    }

    /// Makes every FCM access token invalid; service accounts stay.
    pub fn revoke_fcm_access_tokens(&self) {
        self.state.fcm.revoke_tokens();
    }

    /// Seconds every FCM access token issued from now on lives.
    pub fn set_fcm_token_lifetime_secs(&self, secs: u64) {
        self.state.fcm.set_token_lifetime(secs);
    }

    /// A LINE reply token for `user_id`, good for one reply within a minute of the sandbox's clock.
    pub fn issue_reply_token(&self, user_id: &str) -> String {
        self.state.line.issue_reply_token(user_id, self.state.clock.elapsed())
    }

    /// Sets where the LINE account of a token has its webhooks sent, and whether it does. False when the token is not known.
    pub fn set_line_webhook(&self, access_token: &str, endpoint: &str, active: bool) -> bool {
        let official = self.state.line.official(access_token);
        official.is_some_and(|official| {
            official.set_webhook(endpoint.to_owned(), active);
            true
        })
    }

    /// Moves the sandbox's clock forward (retry keys, reply tokens, access tokens, rate caps).
    pub fn advance_clock(&self, by: Duration) {
        self.state.clock.advance(by);
    }

    /// Matching messages, in order of arrival.
    pub fn received(&self, channel: Channel, query: &ReceivedQuery) -> Vec<ReceivedMessage> {
        self.state.traffic(channel).received.find(query).1
    }

    /// Everything one recipient got, in order of arrival.
    pub fn received_by(&self, channel: Channel, recipient: &str) -> Vec<ReceivedMessage> {
        self.received(
            channel,
            &ReceivedQuery {
                recipient: Some(recipient.to_owned()),
                ..ReceivedQuery::default()
            },
        )
    }

    /// How many messages each recipient got whose marker, text or body contains `contains` (`None`: all).
    pub fn counts(&self, channel: Channel, contains: Option<&str>) -> BTreeMap<String, u64> {
        self.state.traffic(channel).received.counts(contains)
    }

    /// How many answers about each recipient were never read: the caller hung up before they came, or with them unopened.
    pub fn unread(&self, channel: Channel) -> BTreeMap<String, u64> {
        self.state.traffic(channel).unread()
    }

    /// Totals of every channel.
    pub fn summary(&self) -> BTreeMap<Channel, ChannelSummary> {
        self.state.summary()
    }

    /// Totals of one channel.
    pub fn channel_summary(&self, channel: Channel) -> ChannelSummary {
        self.state.traffic(channel).summary(self.state.peak(channel))
    }

    /// Forgets what was received and counted, retry keys, reply tokens, quota used, faults, latencies and caps.
    /// Accounts and access tokens stay.
    pub fn reset(&self) {
        self.state.reset();
    }
}
