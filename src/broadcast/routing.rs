//! Who gets what on which channel: the rule in plain Rust (pure).
//!
//! Why it exists: planning routes set-based in SQL (`routing_sql`); this is the same rule one customer after the
//! other, short enough to be believed. A property test holds the two against each other on random shops.
//!
//! The rule:
//! - `app_plus_one`: every chosen channel (the app and at most one more) on which the customer is reachable.
//! - `priority_single`: the first channel, in the broadcast's order, on which the customer is reachable.
//! - Reachable on a channel: a current address on the broadcast's sender, in state `active`, inside the provider's
//!   window where it has one; and the customer has not opted out of everything, and has not had as many broadcasts as the
//!   shop's frequency cap allows.
//! - Twins, two customers of a shop with one address: of those routed to it the lowest id gets it. The others get
//!   nothing on that channel, and are not moved on to another one: the same person has the message.
//! - Who gets nothing has one reason, the first that applies to any of their chosen channels: `opted_out`,
//!   `suppressed`, `frequency_cap`, `same_address`, `window_closed`, `no_address`. `frequency_cap` only where there is an
//!   address that could have been written to.
//!
//! It must never depend on anything but its arguments.

use std::{collections::HashSet, fmt, str::FromStr};

use carillon_jobs::{AddressId, CustomerId};
use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// How the channels of a broadcast work together. Stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Mode {
    /// The app, and at most one more channel; a customer gets 0, 1 or 2 messages.
    AppPlusOne,
    /// Channels in order; a customer gets 0 or 1 message.
    PrioritySingle,
}

impl Mode {
    /// The name in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppPlusOne => "app_plus_one",
            Self::PrioritySingle => "priority_single",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "app_plus_one" => Ok(Self::AppPlusOne),
            "priority_single" => Ok(Self::PrioritySingle),
            _ => Err("use app_plus_one or priority_single".to_owned()),
        }
    }
}

/// Why a customer of the audience gets nothing, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The customer opted out, of everything or of one of the chosen channels.
    OptedOut,
    /// The provider said that an address is dead or blocks us.
    Suppressed,
    /// The customer has had as many broadcasts as the shop allows in this time.
    FrequencyCap,
    /// Somebody with the same address gets it.
    SameAddress,
    /// The customer has not written within the time the provider asks for.
    WindowClosed,
    /// No address on any of the chosen channels.
    NoAddress,
}

impl SkipReason {
    /// Every reason, in order of precedence.
    pub const ALL: [Self; 6] = [
        Self::OptedOut,
        Self::Suppressed,
        Self::FrequencyCap,
        Self::SameAddress,
        Self::WindowClosed,
        Self::NoAddress,
    ];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OptedOut => "opted_out",
            Self::Suppressed => "suppressed",
            Self::FrequencyCap => "frequency_cap",
            Self::SameAddress => "same_address",
            Self::WindowClosed => "window_closed",
            Self::NoAddress => "no_address",
        }
    }
}

/// The hours after a customer's last message within which the provider lets a broadcast through; none: always.
#[must_use]
pub const fn window_hours(channel: Channel) -> Option<u32> {
    match channel {
        Channel::Messenger | Channel::Whatsapp => Some(24),
        Channel::App | Channel::Line | Channel::Sms | Channel::Email => None,
    }
}

/// Whether an address may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It may.
    Open,
    /// Its owner opted out of this channel.
    OptedOut,
    /// The provider said that it is dead or blocks us.
    Suppressed,
    /// The provider's window is closed.
    WindowClosed,
}

/// A customer's current address on the sender of one of the broadcast's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: AddressId,
    /// Names the group of customers who share it; none for nearly everybody.
    pub twin_of: Option<AddressId>,
    /// Whether it may be sent to.
    pub reach: Reach,
}

/// A customer of the audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub customer: CustomerId,
    /// Opted out of everything.
    pub opted_out: bool,
    /// Has had as many broadcasts as the shop's frequency cap allows.
    pub capped: bool,
    /// One entry per channel of the broadcast, in its order.
    pub places: Vec<Option<Place>>,
}

/// What one customer gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Who.
    pub customer: CustomerId,
    /// The channels, as positions in the broadcast's order, and the addresses.
    pub messages: Vec<(usize, AddressId)>,
    /// Why nothing; `None` when there are messages.
    pub skipped: Option<SkipReason>,
}

/// Routes an audience, given in ascending order of customers.
#[must_use]
pub fn route(mode: Mode, audience: &[Candidate]) -> Vec<Routed> {
    let mut taken: HashSet<(usize, AddressId)> = HashSet::new();
    audience
        .iter()
        .map(|candidate| {
            let mut messages = chosen(mode, candidate);
            messages.retain(|(channel, place)| place.twin_of.is_none_or(|group| taken.insert((*channel, group))));
            Routed {
                customer: candidate.customer,
                skipped: messages.is_empty().then(|| reason(candidate)),
                messages: messages
                    .iter()
                    .map(|(channel, place)| (*channel, place.address))
                    .collect(),
            }
        })
        .collect()
}

fn chosen(mode: Mode, candidate: &Candidate) -> Vec<(usize, Place)> {
    let open = candidate.places.iter().enumerate().filter_map(|(channel, place)| {
        place
            .filter(|place| place.reach == Reach::Open && !candidate.opted_out && !candidate.capped)
            .map(|place| (channel, place))
    });
    match mode {
        Mode::AppPlusOne => open.collect(),
        Mode::PrioritySingle => open.take(1).collect(),
    }
}

fn reason(candidate: &Candidate) -> SkipReason {
    let any = |reach| candidate.places.iter().flatten().any(|place| place.reach == reach);
    if candidate.opted_out || any(Reach::OptedOut) {
        SkipReason::OptedOut
    } else if any(Reach::Suppressed) {
        SkipReason::Suppressed
    } else if any(Reach::Open) && candidate.capped {
        SkipReason::FrequencyCap
    } else if any(Reach::Open) {
        // Reachable and yet without a message: a twin has it.
        SkipReason::SameAddress
    } else if any(Reach::WindowClosed) {
        SkipReason::WindowClosed
    } else {
        SkipReason::NoAddress
    }
}

#[cfg(test)]
mod tests {
    use carillon_jobs::{AddressId, CustomerId};

    use super::{Candidate, Mode, Place, Reach, Routed, SkipReason, route};

    fn person(id: i64, places: &[Option<(i64, Option<i64>, Reach)>]) -> Candidate {
        let place = |(address, twin, reach): (i64, Option<i64>, Reach)| Place {
            address: AddressId(address),
            twin_of: twin.map(AddressId),
            reach,
        };
        Candidate {
            customer: CustomerId(id),
            opted_out: false,
            capped: false,
            places: places.iter().map(|one| one.map(place)).collect(),
        }
    }

    fn channels(routed: &[Routed]) -> Vec<Vec<usize>> {
        routed
            .iter()
            .map(|one| one.messages.iter().map(|message| message.0).collect())
            .collect()
    }

    #[test]
    fn app_and_email_get_both_and_email_alone_gets_email() {
        let both = person(1, &[Some((1, None, Reach::Open)), Some((2, None, Reach::Open))]);
        let mail = person(2, &[None, Some((3, None, Reach::Open))]);
        let routed = route(Mode::AppPlusOne, &[both, mail]);
        assert_eq!(channels(&routed), [vec![0, 1], vec![1]]);
    }

    #[test]
    fn priority_takes_the_first_reachable_channel_only() {
        let line = person(
            1,
            &[
                Some((1, None, Reach::Suppressed)),
                Some((2, None, Reach::Open)),
                Some((3, None, Reach::Open)),
            ],
        );
        assert_eq!(channels(&route(Mode::PrioritySingle, &[line])), [vec![1]]);
    }

    #[test]
    fn of_twins_the_lowest_routed_one_gets_the_mail() {
        // The first has the app and so never competes for the shared mailbox.
        let app = person(1, &[Some((1, None, Reach::Open)), Some((2, Some(2), Reach::Open))]);
        let mail = person(2, &[None, Some((3, Some(2), Reach::Open))]);
        let late = person(3, &[None, Some((4, Some(2), Reach::Open))]);
        let routed = route(Mode::PrioritySingle, &[app.clone(), mail.clone(), late.clone()]);
        assert_eq!(channels(&routed), [vec![0], vec![1], vec![]]);
        assert_eq!(routed.last().and_then(|one| one.skipped), Some(SkipReason::SameAddress));
        let routed = route(Mode::AppPlusOne, &[app, mail, late]);
        assert_eq!(channels(&routed), [vec![0, 1], vec![], vec![]]);
    }

    fn capped(mut one: Candidate) -> Candidate {
        one.capped = true;
        one
    }

    #[test]
    fn who_has_had_enough_leaves_a_shared_mailbox_to_the_other() {
        let first = capped(person(1, &[Some((1, Some(1), Reach::Open))]));
        let second = person(2, &[Some((2, Some(1), Reach::Open))]);
        let routed = route(Mode::PrioritySingle, &[first, second]);
        assert_eq!(channels(&routed), [vec![], vec![0]]);
    }

    #[test]
    fn who_gets_nothing_has_one_reason() {
        let mut all_out = person(1, &[Some((1, None, Reach::Open))]);
        all_out.opted_out = true;
        let people = [
            all_out,
            person(2, &[Some((2, None, Reach::Suppressed))]),
            capped(person(
                5,
                &[Some((5, None, Reach::Open)), Some((6, None, Reach::WindowClosed))],
            )),
            // Nobody could have written to them: that is the reason.
            capped(person(6, &[Some((7, None, Reach::WindowClosed)), None])),
            person(3, &[Some((3, None, Reach::WindowClosed))]),
            person(4, &[None]),
        ];
        let reasons: Vec<_> = route(Mode::PrioritySingle, &people)
            .into_iter()
            .filter_map(|one| one.skipped)
            .collect();
        assert_eq!(
            reasons,
            [
                SkipReason::OptedOut,
                SkipReason::Suppressed,
                SkipReason::FrequencyCap,
                SkipReason::WindowClosed,
                SkipReason::WindowClosed,
                SkipReason::NoAddress
            ]
        );
    }
}
