//! Sentences about a broadcast and its lanes: what holds each up, the deciding thing first (pure).

use std::time::Duration;

use carillon_jobs::Kind;

use super::{
    super::{
        plain,
        table::{number, span},
    },
    QueueFacts, Reason, job, reason, when,
};
use crate::{
    broadcast::{
        BroadcastState,
        whereabouts::{BroadcastFacts, LaneFacts},
    },
    delivery::senders::SenderState,
    limit::LimitStatus,
    queue::find::{FoundJob, Place},
};

const REASON_CHARS: usize = 200;

/// Where the broadcast as a whole is. `queue`: what was found of it; `None`: Redis is away.
pub(super) fn reasons(b: &BroadcastFacts, queue: Option<&QueueFacts>) -> Vec<Reason> {
    let why = || plain::cell(b.state_reason.as_deref().unwrap_or("no reason was given"), REASON_CHARS);
    let at =
        |time: Option<chrono::DateTime<chrono::Utc>>| time.map_or_else(|| "-".to_owned(), |time| when(time, b.now));
    let id = b.id;
    let mut reasons = match b.state {
        BroadcastState::Draft => vec![reason(
            "draft",
            format!("The broadcast is a draft: it was never sent off. `carillon broadcast send {id}` does."),
        )],
        BroadcastState::Scheduled => vec![reason(
            "scheduled",
            format!("The broadcast leaves at {}.", at(b.scheduled_at)),
        )],
        BroadcastState::Queued | BroadcastState::Planning => planning(b, queue),
        BroadcastState::ComplianceReview => vec![reason(
            "compliance_review",
            format!(
                "The text message of the broadcast waits for a person, nothing is held meanwhile ({}). `carillon broadcast review list` \
                 shows the text; `carillon broadcast review clear {id} --by NAME --reason TEXT` lets it go on, `reject` ends it.",
                why()
            ),
        )],
        BroadcastState::Paused => vec![reason(
            "paused",
            format!(
                "The broadcast is paused where it was ({}). `carillon broadcast resume {id}` sends exactly the rest.",
                b.resume_state.map_or("-", BroadcastState::as_str)
            ),
        )],
        BroadcastState::Sending => vec![reason(
            "sending",
            format!(
                "The broadcast is being sent since {}; what has not left by {} expires.",
                at(b.sending_at),
                at(b.deadline_at)
            ),
        )],
        BroadcastState::Completed => vec![reason(
            "completed",
            format!("The broadcast ended at {}.", at(b.finished_at)),
        )],
        BroadcastState::Failed => vec![reason(
            "failed",
            format!(
                "The broadcast failed at {}: {}. Nothing left.",
                at(b.finished_at),
                why()
            ),
        )],
        BroadcastState::Cancelled if b.finished_at.is_none() => vec![reason(
            "cancelled",
            "The broadcast was cancelled; workers are ending what has not left and giving its tokens back.",
        )],
        BroadcastState::Cancelled => vec![reason(
            "cancelled",
            format!("The broadcast was cancelled and ended at {}.", at(b.finished_at)),
        )],
    };
    if b.shop_state != "active" && b.finished_at.is_none() {
        reasons.push(reason(
            "shop_suspended",
            format!(
                "The shop is {}: what has not left is skipped, its tokens go back.",
                b.shop_state
            ),
        ));
    }
    if b.shop_paused && b.finished_at.is_none() {
        reasons.push(reason(
            "shop_paused",
            format!(
                "The shop is paused, nothing is planned or sent for it: `carillon paused` says who and why, \
                 `carillon resume shop {}` lets it go on.",
                b.shop_id
            ),
        ));
    }
    reasons
}

fn planning(b: &BroadcastFacts, queue: Option<&QueueFacts>) -> Vec<Reason> {
    let done = number(b.planned_customers);
    let mut reasons = Vec::new();
    if let Some(why) = &b.state_reason {
        reasons.push(reason(
            "planning_held_up",
            format!("It is planned and waits: {}.", plain::cell(why, REASON_CHARS)),
        ));
    }
    if let Some(until) = b.plan_lease_until.filter(|until| *until > b.now) {
        reasons.push(reason(
            "planning",
            format!(
                "A worker is planning it, {done} customers so far; nothing leaves before everybody is planned and paid for. \
                 Its lease lasts until {} and is renewed.",
                when(until, b.now)
            ),
        ));
        return reasons;
    }
    if let Some(other) = b.planning_before {
        reasons.push(reason(
            "planning_waits",
            format!("It waits to be planned: of one shop one broadcast is planned at a time, and {other} is being planned now."),
        ));
    } else {
        let rung = b.rung_at.map_or_else(|| "never".to_owned(), |at| when(at, b.now));
        reasons.push(reason(
            "unplanned",
            format!("It waits to be planned, {done} customers so far, and no worker is at it; the scheduler last rang for it: {rung}."),
        ));
    }
    let whole = |job: &&FoundJob| job.sender_id.is_none();
    reasons.extend(
        queue
            .map(|queue| bell(queue, queue.search.jobs.iter().find(whole)))
            .into_iter()
            .flatten(),
    );
    reasons
}

/// Where a bell is, or that there is none.
fn bell(queue: &QueueFacts, job: Option<&FoundJob>) -> Vec<Reason> {
    let Some(job) = job else {
        return vec![reason(
            "no_bell",
            "No bell for it is in the queue: the scheduler rings within seconds, if one runs.",
        )];
    };
    let mut reasons = job::in_queue([job], queue);
    if let Some(first) = reasons.first_mut() {
        first.says = format!("Its bell: {}", first.says);
    }
    reasons
}

/// One lane with everything that decides about it.
pub(super) struct LaneView<'a> {
    pub(super) broadcast: &'a BroadcastFacts,
    pub(super) lane: &'a LaneFacts,
    /// `None`: Redis is away.
    pub(super) limit: Option<&'a LimitStatus>,
    pub(super) queue: Option<&'a QueueFacts>,
    /// Lanes of a shop at work at once.
    pub(super) per_shop: u32,
    /// How long a bell is believed.
    pub(super) stale: Duration,
}

impl LaneView<'_> {
    /// What holds the lane up.
    pub(super) fn reasons(&self) -> Vec<Reason> {
        let (b, lane) = (self.broadcast, self.lane);
        let mut reasons = vec![reason(
            "lane",
            format!(
                "{}, from {} ({}): {} of {} messages still to go.",
                lane.channel,
                plain::cell(&lane.sender, 40),
                lane.sender_id,
                number(lane.remaining),
                number(lane.planned)
            ),
        )];
        let drains = b.state == BroadcastState::Cancelled || b.deadline_at.is_some_and(|deadline| deadline <= b.now);
        if b.state == BroadcastState::Paused {
            return reasons;
        }
        if !drains {
            reasons.extend(self.sender());
        }
        if lane.sender_state == SenderState::Paused && !drains {
            return reasons;
        }
        reasons.extend(self.kind_paused());
        reasons.push(self.turn());
        if !drains {
            reasons.extend(self.limited());
        }
        reasons
    }

    fn sender(&self) -> Option<Reason> {
        let lane = self.lane;
        let why = plain::cell(
            lane.sender_reason.as_deref().unwrap_or("no reason was given"),
            REASON_CHARS,
        );
        match lane.sender_state {
            SenderState::Connected => None,
            SenderState::Paused => Some(reason(
                "sender_paused",
                format!(
                    "The sender is paused ({why}); its messages wait, until the deadline. When that is settled: \
                     `carillon resume sender {}`.",
                    lane.sender_id
                ),
            )),
            SenderState::Disconnected => Some(reason(
                "sender_disconnected",
                "The sender is disconnected: what has not left is skipped, its tokens go back.",
            )),
        }
    }

    fn kind_paused(&self) -> Option<Reason> {
        let kind = Kind::BroadcastSend;
        let paused = self.queue?.paused.contains(&kind);
        paused.then(|| {
            reason(
                "kind_paused",
                format!("{kind} is paused, no turn begins: `carillon paused` says who, why and how to resume it."),
            )
        })
    }

    /// Who has the lane, or for what it waits.
    fn turn(&self) -> Reason {
        let (lane, now) = (self.lane, self.broadcast.now);
        if let Some(until) = lane.lease_until {
            return if until > now {
                reason(
                    "lane_leased",
                    format!(
                        "A worker is at it now; its lease lasts until {} and is renewed.",
                        when(until, now)
                    ),
                )
            } else {
                reason(
                    "lane_abandoned",
                    format!(
                        "The worker that was at it died or stalled: its lease ran out at {}. Another one takes it at the next bell.",
                        when(until, now)
                    ),
                )
            };
        }
        if !lane.due {
            return self.rest();
        }
        if let Some(found) = self.own_bell() {
            let placed = match found.place {
                Place::Ready { place } => format!(", at place {place} of the ready list"),
                Place::Scheduled { at: Some(at) } => format!(", to be heard at {}", when(at, now)),
                Place::Running { .. } => ", and a worker has just heard it".to_owned(),
                Place::Scheduled { at: None } | Place::Dying => String::new(),
            };
            return reason(
                "bell_out",
                format!("It is due, and its bell waits in the queue{placed}."),
            );
        }
        if lane.busy_beside >= i64::from(self.per_shop) {
            return reason(
                "shop_at_its_share",
                format!(
                    "It is due and waits for its turn: {} other lanes of its shop are at work or rung for, and of one shop {} may be.",
                    number(lane.busy_beside),
                    self.per_shop
                ),
            );
        }
        let rung_at = lane
            .rung_at
            .filter(|at| (now - *at).to_std().unwrap_or_default() < self.stale);
        match rung_at {
            Some(at) => reason(
                "rung",
                format!(
                    "It is due and was rung for at {}; when no worker answers within {} it is rung again.",
                    when(at, now),
                    span(self.stale.as_secs_f64())
                ),
            ),
            None => reason(
                "nobody",
                format!(
                    "It is due since {} and in nobody's hands: the scheduler rings within seconds. When this stays, no \
                     scheduler or no worker is running.",
                    when(lane.due_at, now)
                ),
            ),
        }
    }

    /// Why it is not due.
    fn rest(&self) -> Reason {
        let (lane, now) = (self.lane, self.broadcast.now);
        let until = when(lane.due_at, now);
        if let Some(quiet) = lane.quiet_until {
            return reason(
                "quiet_hours",
                format!(
                    "It sleeps until {until}: the shop's quiet hours on {} last until {} on the shop's clock. What has not left by \
                     the deadline expires.",
                    lane.channel,
                    when(quiet, now)
                ),
            );
        }
        if lane.strikes > 0 {
            return reason(
                "resting",
                format!(
                    "It rests until {until}: nothing gets through to the provider (failures in a row: {}). Then one message probes; \
                     `carillon resume sender {}` has it probe now.",
                    lane.strikes, lane.sender_id
                ),
            );
        }
        reason(
            "not_due",
            format!(
                "It waits until {until}: for the sender's rate limit, or to repeat messages whose answer was lost."
            ),
        )
    }

    fn own_bell(&self) -> Option<&FoundJob> {
        let jobs = &self.queue?.search.jobs;
        jobs.iter()
            .find(|job| job.sender_id.is_some_and(|sender| sender.0 == self.lane.sender_id))
    }

    fn limited(&self) -> Vec<Reason> {
        let (Some(limit), lane, now) = (self.limit, self.lane, self.broadcast.now) else {
            return Vec::new();
        };
        let mut reasons = Vec::new();
        if let Some(until) = limit.closed_until {
            reasons.push(reason(
                "sender_closed",
                format!(
                    "The provider said it is too fast: the sender is closed until {}.",
                    when(until, now)
                ),
            ));
        }
        #[allow(clippy::cast_precision_loss, reason = "a guess for people")]
        let secs = lane.waiting_on_sender as f64 / limit.effective_per_sec.max(0.001);
        let cut = if limit.effective_per_sec < limit.configured_per_sec {
            format!(
                ", lowered from {:.0} after a refusal as too fast",
                limit.configured_per_sec
            )
        } else {
            String::new()
        };
        let slow = limit.effective_per_sec < limit.configured_per_sec || secs > 60.0;
        if slow {
            reasons.push(reason(
                "rate",
                format!(
                    "The sender may send {:.1} requests a second{cut}; {} messages wait for it, at one a request {}.",
                    limit.effective_per_sec,
                    number(lane.waiting_on_sender),
                    span(secs)
                ),
            ));
        }
        reasons
    }
}
