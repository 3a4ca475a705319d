//! Everything the sandbox remembers, built once and shared by every connection.
//! It exists so that HTTP, SMTP, the control API and the typed handle all look at the same state.
//! It must never hold a lock across an await (no method here is async).

use std::collections::BTreeMap;

use crate::SandboxConfig;
use crate::accounts::{Account, BadAccount};
use crate::channel::Channel;
use crate::clock::Clock;
use crate::faults::Faults;
use crate::fcm::FcmState;
use crate::graph::GraphState;
use crate::line::LineState;
use crate::mitake::MitakeState;
use crate::outage::Outages;
use crate::smtp::SmtpState;
use crate::traffic::{ChannelSummary, Latency, RateCap, Traffic};
use crate::twilio::TwilioState;

pub(crate) struct State {
    pub(crate) keep_bodies: bool,
    pub(crate) keep_marks: bool,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    pub(crate) outages: Outages,
    pub(crate) line: LineState,
    pub(crate) fcm: FcmState,
    pub(crate) smtp: SmtpState,
    pub(crate) graph: GraphState,
    pub(crate) twilio: TwilioState,
    pub(crate) mitake: MitakeState,
    traffic: [Traffic; 7],
}

impl State {
    pub(crate) fn new(config: &SandboxConfig) -> Self {
        Self {
            keep_bodies: config.keep_bodies,
            keep_marks: config.keep_marks,
            clock: Clock::new(),
            faults: Faults::new(config.seed),
            outages: Outages::new(),
            line: LineState::new(config.seed),
            fcm: FcmState::new(config.seed),
            smtp: SmtpState::default(),
            graph: GraphState::new(config.seed),
            twilio: TwilioState::default(),
            mitake: MitakeState::default(),
            traffic: [1, 2, 3, 4, 5, 6, 7].map(|n| Traffic::new(config.seed.wrapping_add(n))),
        }
    }

    /// What is kept of a message beside its text: all of it, or its mark, or nothing.
    pub(crate) fn kept<'m>(&self, body: &'m [u8], mark: &'m str) -> &'m str {
        match (self.keep_bodies, self.keep_marks) {
            (true, _) => std::str::from_utf8(body).unwrap_or_default(),
            (false, true) => mark,
            (false, false) => "",
        }
    }

    pub(crate) fn traffic(&self, channel: Channel) -> &Traffic {
        let [line, fcm, smtp, messenger, whatsapp, twilio, mitake] = &self.traffic;
        match channel {
            Channel::Line => line,
            Channel::Fcm => fcm,
            Channel::Smtp => smtp,
            Channel::Messenger => messenger,
            Channel::Whatsapp => whatsapp,
            Channel::Twilio => twilio,
            Channel::Mitake => mitake,
        }
    }

    pub(crate) fn register(&self, account: Account) -> Result<(), BadAccount> {
        match account {
            Account::Line(account) => self.line.register(account),
            Account::Fcm(account) => self.fcm.register(account),
            Account::Smtp(account) => self.smtp.register(account),
            Account::Messenger(account) => self.graph.register_page(account),
            Account::Whatsapp(account) => self.graph.register_number(account),
            Account::Twilio(account) => self.twilio.register(account),
            Account::Mitake(account) => self.mitake.register(account),
        }
    }

    /// Makes a credential invalid: a LINE token, an FCM `client_email` or access token, an SMTP user, a page's or a number's token, a
    /// Twilio account, a Mitake user. False when it
    /// was not known.
    pub(crate) fn revoke(&self, channel: Channel, credential: &str) -> bool {
        match channel {
            Channel::Line => self.line.revoke(credential),
            Channel::Fcm => self.fcm.revoke(credential),
            Channel::Smtp => self.smtp.revoke(credential),
            Channel::Messenger | Channel::Whatsapp => self.graph.revoke(credential),
            Channel::Twilio => self.twilio.revoke(credential),
            Channel::Mitake => self.mitake.revoke(credential),
        }
    }

    pub(crate) fn summary(&self) -> BTreeMap<Channel, ChannelSummary> {
        Channel::ALL
            .map(|channel| (channel, self.traffic(channel).summary(self.peak(channel))))
            .into()
    }

    /// The most sends one account of the channel made in one second.
    pub(crate) fn peak(&self, channel: Channel) -> u64 {
        match channel {
            Channel::Line => self.line.peak(),
            Channel::Fcm => self.fcm.peak(),
            Channel::Smtp => self.smtp.peak(),
            Channel::Messenger | Channel::Whatsapp => self.graph.peak(channel),
            Channel::Twilio => self.twilio.peak(),
            Channel::Mitake => self.mitake.peak(),
        }
    }

    /// Forgets what was received, counted and used up, all faults, latencies and caps. Accounts stay.
    pub(crate) fn reset(&self) {
        self.faults.clear(None);
        for channel in Channel::ALL {
            let traffic = self.traffic(channel);
            traffic.set_latency(Latency::default());
            traffic.cap.set(None::<RateCap>);
            traffic.clear();
        }
        self.line.clear();
        self.fcm.clear();
        self.smtp.clear();
        self.graph.clear();
        self.twilio.clear();
        self.mitake.clear();
    }
}
