//! What becomes of a window of sends (pure): which outcomes are written, which members go back, what it says of the sender.
//!
//! Why it exists: every rule about "sent, not sent, perhaps sent" is here in one match, away from clocks and sockets.
//! It must never turn a "perhaps" on a channel without keys into something that is sent again.

use std::time::Duration;

use crate::{
    channel::{ErrorClass, SendOutcome},
    delivery::DeliveryState,
};

/// What happened to one member of a window.
#[derive(Debug)]
pub enum Sent {
    /// The provider was asked and this came of it.
    Outcome(SendOutcome),
    /// It was not begun: the worker was told to stop.
    NotBegun,
}

impl Sent {
    /// Whether the provider has it.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Outcome(SendOutcome::Accepted { .. }))
    }

    /// Whether the provider asks for patience or for a person: whoever follows now would hear the same.
    #[must_use]
    pub fn closes_sender(&self) -> bool {
        match self {
            Self::Outcome(SendOutcome::Refused(refusal)) => matches!(
                refusal.class,
                ErrorClass::Throttled | ErrorClass::Credentials | ErrorClass::Quota
            ),
            Self::Outcome(SendOutcome::Accepted { .. }) | Self::NotBegun => false,
        }
    }
}

/// A result to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The member's customer id.
    pub customer: i64,
    /// A state in which sending has ended.
    pub state: DeliveryState,
    /// Error class, or why it is unknown.
    pub reason: Option<&'static str>,
    /// The provider's code.
    pub code: Option<String>,
    /// The provider's message id.
    pub provider_id: Option<String>,
}

impl Ended {
    /// Accepted, and there is nothing more to say of it.
    pub(super) fn is_plainly_accepted(&self) -> bool {
        self.state == DeliveryState::Accepted && self.reason.is_none() && self.code.is_none()
    }
}

/// What the window says of the sender as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderTrouble {
    /// The provider asks for patience; its Retry-After if it gave one.
    Throttled(Option<Duration>),
    /// Failures that are no recipient's fault and not one success: probe with one message after a while.
    Failing,
    /// A person must act: credentials or quota, with the provider's code.
    NeedsPerson(ErrorClass, String),
}

/// The verdict over one window.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Results to write.
    pub ended: Vec<Ended>,
    /// Members whose outcome is open and whose send is repeated with the same key; keyed channels only.
    pub uncertain: Vec<i64>,
    /// Members known not to have been sent; they go back to the slice.
    pub unsent: Vec<i64>,
    /// Customers whose address the provider says is dead, with its code.
    pub dead_addresses: Vec<(i64, String)>,
    /// How many the provider accepted.
    pub accepted: u32,
    /// What it says of the sender, if anything.
    pub trouble: Option<SenderTrouble>,
}

impl Verdict {
    /// The same, with no wait longer than the longest that is believed.
    #[must_use]
    pub fn waiting_at_most(mut self, longest: Duration) -> Self {
        if let Some(SenderTrouble::Throttled(Some(after))) = &mut self.trouble {
            *after = (*after).min(longest);
        }
        self
    }

    /// Two verdicts on members of one claim as one.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.ended.append(&mut other.ended);
        self.uncertain.append(&mut other.uncertain);
        self.unsent.append(&mut other.unsent);
        self.dead_addresses.append(&mut other.dead_addresses);
        self.accepted += other.accepted;
        self.trouble = match (self.trouble, other.trouble) {
            (trouble, None) | (None, trouble) => trouble,
            (old, Some(new)) => Some(worse(old, new)),
        };
        // Failing means: not one success.
        if self.accepted > 0 && self.trouble == Some(SenderTrouble::Failing) {
            self.trouble = None;
        }
        self
    }
}

/// Judges a window. `keyed`: the provider honours our keys, so an uncertain send may be repeated. `repeat`: these
/// members were begun before; that they were not sent this time says nothing of the time before.
#[must_use]
pub fn judge(keyed: bool, repeat: bool, window: Vec<(i64, Sent)>) -> Verdict {
    let mut verdict = judge_once(keyed, window);
    if repeat {
        verdict.uncertain.append(&mut verdict.unsent);
        verdict.uncertain.sort_unstable();
    }
    verdict
}

fn judge_once(keyed: bool, window: Vec<(i64, Sent)>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut failing = false;
    for (customer, sent) in window {
        let outcome = match sent {
            Sent::NotBegun => {
                verdict.unsent.push(customer);
                continue;
            }
            Sent::Outcome(outcome) => outcome,
        };
        let refusal = match outcome {
            SendOutcome::Accepted { provider_id } => {
                verdict.accepted += 1;
                verdict.ended.push(Ended {
                    customer,
                    state: DeliveryState::Accepted,
                    reason: None,
                    code: None,
                    provider_id,
                });
                continue;
            }
            SendOutcome::Refused(refusal) => refusal,
        };
        let class = refusal.class;
        let end = |state, code| Ended {
            customer,
            state,
            reason: Some(class.as_str()),
            code: Some(code),
            provider_id: None,
        };
        match class {
            ErrorClass::Recipient => {
                if refusal.closes_address() {
                    verdict.dead_addresses.push((customer, refusal.code.clone()));
                }
                verdict.ended.push(end(DeliveryState::Failed, refusal.code));
            }
            ErrorClass::Content => {
                failing = true;
                verdict.ended.push(end(DeliveryState::Failed, refusal.code));
            }
            ErrorClass::Uncertain => {
                failing = true;
                if keyed {
                    verdict.uncertain.push(customer);
                } else {
                    verdict.ended.push(end(DeliveryState::Unknown, refusal.code));
                }
            }
            ErrorClass::Unreachable => {
                failing = true;
                verdict.unsent.push(customer);
            }
            ErrorClass::Throttled => {
                verdict.unsent.push(customer);
                let trouble = SenderTrouble::Throttled(refusal.retry_after);
                verdict.trouble = Some(worse(verdict.trouble.take(), trouble));
            }
            ErrorClass::Credentials | ErrorClass::Quota => {
                verdict.unsent.push(customer);
                let trouble = SenderTrouble::NeedsPerson(class, refusal.code);
                verdict.trouble = Some(worse(verdict.trouble.take(), trouble));
            }
        }
    }
    if failing && verdict.accepted == 0 {
        verdict.trouble = Some(worse(verdict.trouble.take(), SenderTrouble::Failing));
    }
    verdict
}

/// The graver of two: a person, then failing, then the longer wait.
fn worse(old: Option<SenderTrouble>, new: SenderTrouble) -> SenderTrouble {
    match (old, new) {
        (Some(old @ SenderTrouble::NeedsPerson(..)), _) => old,
        (None, new) | (Some(_), new @ SenderTrouble::NeedsPerson(..)) => new,
        (Some(SenderTrouble::Throttled(a)), SenderTrouble::Throttled(b)) => SenderTrouble::Throttled(a.max(b)),
        (Some(SenderTrouble::Failing), _) | (Some(_), SenderTrouble::Failing) => SenderTrouble::Failing,
    }
}

/// How long a failing sender rests before the next probe: 5 s doubling to 5 min.
#[must_use]
pub fn rest_after(strikes: u32) -> Duration {
    Duration::from_secs(5_u64.saturating_mul(1 << strikes.saturating_sub(1).min(6)).min(300))
}

/// How long an uncertain intent rests before it is repeated: 1 s doubling to 5 min. `repeats` counts those already done.
#[must_use]
pub fn repeat_after(repeats: u32) -> Duration {
    Duration::from_secs((1_u64 << repeats.min(9)).min(300))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::channel::Refusal;

    fn any_sent() -> impl Strategy<Value = Sent> {
        prop_oneof![
            Just(()).prop_map(|()| Sent::NotBegun),
            Just(()).prop_map(|()| Sent::Outcome(SendOutcome::Accepted { provider_id: None })),
            prop::sample::select(&ErrorClass::ALL[..])
                .prop_map(|class| Sent::Outcome(SendOutcome::Refused(Refusal::new(class, "code")))),
        ]
    }

    fn refused(class: ErrorClass) -> Sent {
        Sent::Outcome(SendOutcome::Refused(Refusal::new(class, "code")))
    }

    proptest! {
        /// Every member of a window ends up in exactly one place.
        #[test]
        fn nobody_is_lost_or_doubled(keyed: bool, repeat: bool, window in prop::collection::vec(any_sent(), 0..60)) {
            let n = window.len();
            let window: Vec<_> = (0_i64..).zip(window).collect();
            let verdict = judge(keyed, repeat, window);
            let mut all: Vec<i64> = verdict.ended.iter().map(|e| e.customer).collect();
            all.extend(&verdict.uncertain);
            all.extend(&verdict.unsent);
            all.sort_unstable();
            prop_assert_eq!(all, (0..i64::try_from(n).unwrap()).collect::<Vec<_>>());
        }

        /// Without keys, what may have been sent is ended, never given back.
        #[test]
        fn unkeyed_uncertainty_ends(window in prop::collection::vec(any_sent(), 0..60)) {
            let window: Vec<_> = (0_i64..).zip(window).collect();
            let perhaps: Vec<i64> = window.iter().filter(|(_, s)| matches!(s,
                Sent::Outcome(SendOutcome::Refused(r)) if r.class == ErrorClass::Uncertain)).map(|(c, _)| *c).collect();
            let verdict = judge(false, false, window);
            prop_assert!(verdict.uncertain.is_empty());
            for customer in perhaps {
                let end = verdict.ended.iter().find(|e| e.customer == customer).unwrap();
                prop_assert_eq!(end.state, DeliveryState::Unknown);
            }
        }
    }

    #[test]
    fn what_may_have_left_before_is_not_forgotten_by_a_repeat_that_did_not_leave() {
        for class in [
            ErrorClass::Throttled,
            ErrorClass::Unreachable,
            ErrorClass::Credentials,
            ErrorClass::Quota,
        ] {
            let verdict = judge(true, true, vec![(1, refused(class)), (2, Sent::NotBegun)]);
            assert_eq!(verdict.uncertain, [1, 2]);
            assert!(verdict.unsent.is_empty());
        }
    }

    #[test]
    fn a_full_mailbox_fails_and_stays_open() {
        let refused = |code| Sent::Outcome(SendOutcome::Refused(Refusal::new(ErrorClass::Recipient, code)));
        let verdict = judge(
            false,
            false,
            vec![(1, refused("rcpt 452 4.2.2")), (2, refused("rcpt 550 5.1.1"))],
        );
        assert_eq!(verdict.ended.len(), 2);
        assert_eq!(verdict.dead_addresses, [(2, "rcpt 550 5.1.1".to_owned())]);
    }

    #[test]
    fn one_success_means_the_sender_works() {
        let window = vec![
            (1, refused(ErrorClass::Uncertain)),
            (2, Sent::Outcome(SendOutcome::Accepted { provider_id: None })),
        ];
        assert_eq!(judge(true, false, window).trouble, None);
        assert_eq!(
            judge(true, false, vec![(1, refused(ErrorClass::Unreachable))]).trouble,
            Some(SenderTrouble::Failing)
        );
        assert_eq!(
            judge(true, false, vec![(1, refused(ErrorClass::Recipient))]).trouble,
            None
        );
    }

    #[test]
    fn a_person_is_called_for_credentials_whatever_else_happens() {
        let window = vec![
            (1, refused(ErrorClass::Throttled)),
            (2, refused(ErrorClass::Credentials)),
            (3, refused(ErrorClass::Content)),
        ];
        assert!(matches!(
            judge(true, false, window).trouble,
            Some(SenderTrouble::NeedsPerson(ErrorClass::Credentials, _))
        ));
    }

    #[test]
    fn no_wait_is_longer_than_what_is_believed_of_a_provider() {
        let day = Duration::from_hours(24);
        let refusal = Refusal::new(ErrorClass::Throttled, "429").after(Some(day));
        let window = vec![(1, Sent::Outcome(SendOutcome::Refused(refusal)))];
        let verdict = judge(true, false, window).waiting_at_most(Duration::from_hours(1));
        assert_eq!(
            verdict.trouble,
            Some(SenderTrouble::Throttled(Some(Duration::from_hours(1))))
        );
    }

    #[test]
    fn rests_double_and_are_capped() {
        let rests: Vec<u64> = (1..9).map(|n| rest_after(n).as_secs()).collect();
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(repeat_after(0).as_secs(), 1);
        assert_eq!(repeat_after(60).as_secs(), 300);
    }
}
