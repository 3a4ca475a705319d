//! A `broadcast-send` job's turn on one lane: take its lease, work slices for a few seconds, leave it.
//!
//! A turn is short so that a million-recipient broadcast and a shop with ten recipients share the workers in turn, and a
//! worker can stop quickly. Everything that must survive is in the lane's and slices' rows; the job itself is a bell.

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{BroadcastId, SenderId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::delivery::{
    Delivery, DeliveryError,
    briefing::Briefing,
    share::{Crowd, Share},
    slice,
    store::{self, LaneMode, TakenLane},
    turn::{LaneTurn, TurnEnd},
    verdict::{SenderTrouble, rest_after},
};

impl Delivery {
    /// Works one lane for one turn. Ends at once when there is nothing to do on it or somebody else has it.
    /// Returns how long the lane rests. `crowd`: who waits behind this job. `halt` is cancelled when the process stops or the job is no longer this worker's.
    pub async fn work_lane(
        &self,
        broadcast: BroadcastId,
        sender: SenderId,
        crowd: Crowd,
        halt: &CancellationToken,
    ) -> Result<Duration, DeliveryError> {
        // Taken before the question is asked, so that our side of the lease ends before Postgres' does.
        let taken_at = Instant::now();
        let Some(lane) = store::take_lane(&self.db, broadcast, sender, self.config.lease()).await? else {
            return Ok(Duration::ZERO);
        };
        let strikes = lane.strikes;
        let turn = match lane.mode {
            LaneMode::Send => self.send_turn(&lane, crowd, taken_at, halt).await,
            LaneMode::DrainCancelled => self.drain(&lane, "cancelled", halt).await.map(|rest| (rest, strikes)),
            LaneMode::DrainExpired => self.drain(&lane, "expired", halt).await.map(|rest| (rest, strikes)),
        };
        let (wait, strikes) = match turn {
            Ok(left) => left,
            Err(error) => {
                // Nobody of this turn is at work any more. A lane that is not left would idle until its lease ends.
                if let Err(error) = store::leave_lane(&self.db, &lane, rest_after_error(&error), strikes).await {
                    tracing::debug!(error = %crate::db::describe(&error), "A lane could not be left; its lease will end");
                }
                return Err(error);
            }
        };
        store::leave_lane(&self.db, &lane, wait, strikes).await?;
        Ok(wait)
    }

    /// Sends for one turn. Returns how long the lane should rest and its strikes.
    async fn send_turn(
        &self,
        lane: &TakenLane,
        crowd: Crowd,
        taken_at: Instant,
        halt: &CancellationToken,
    ) -> Result<(Duration, u32), DeliveryError> {
        let share = Share::of(lane, crowd, &self.config, self.slice_size);
        let briefing = match Briefing::load(self, lane, share).await {
            // It sleeps, and is left at once: no slot is held, no attempt made, and it is due when the quiet time ends.
            Ok(Briefing {
                sleeps: Some(sleep), ..
            }) => return Ok((sleep, lane.strikes)),
            Ok(briefing) => briefing,
            Err(DeliveryError::Sender(reason)) => {
                tracing::error!(sender.id = %lane.sender, reason, "This sender cannot be used; it is paused until a person mends it");
                if !store::pause_sender(&self.db, lane.sender, &reason).await? {
                    // Disconnected: the claim ends everybody, or this lane would turn for ever. Nothing can be repeated.
                    store::claim_slice(&self.db, lane, (0, None), self.config.lease(), Duration::ZERO, false).await?;
                }
                return Ok((Duration::ZERO, lane.strikes));
            }
            Err(other) => return Err(other),
        };
        let turn = Arc::new(LaneTurn::new(
            self.clone(),
            lane.clone(),
            briefing,
            taken_at,
            share,
            halt,
        ));
        let mut tasks = JoinSet::new();
        for _ in 0..if turn.probing { 1 } else { share.parallel } {
            // Tasks of their own use every core; dropped with this future they end with it.
            tasks.spawn(slice::work(Arc::clone(&turn)));
        }
        let work = async {
            let mut ends = Vec::new();
            while let Some(end) = tasks.join_next().await {
                ends.push(end);
            }
            turn.end();
            ends
        };
        let (ends, ()) = tokio::join!(work, turn.watch());
        let mut sums = Sums {
            rest: turn.limited_for(),
            failing: false,
        };
        for end in ends {
            match end {
                Ok(end) => sums.add(&end?),
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        Ok(sums.conclude(lane, turn.has_proved()))
    }

    /// Ends what is left of a lane without sending, slice by slice.
    async fn drain(
        &self,
        lane: &TakenLane,
        outcome: &str,
        halt: &CancellationToken,
    ) -> Result<Duration, DeliveryError> {
        let until = Instant::now() + self.config.lane_budget();
        while Instant::now() < until && !halt.is_cancelled() {
            if !store::drain_slice(&self.db, lane, outcome).await? {
                break;
            }
        }
        Ok(Duration::ZERO)
    }
}

/// How long a lane rests whose turn ended with an error: what passes by itself is tried again at once, what a person must
/// mend only now and then.
fn rest_after_error(error: &DeliveryError) -> Duration {
    match error {
        DeliveryError::Db(error) if crate::db::may_pass(error) => Duration::ZERO,
        DeliveryError::Db(_) | DeliveryError::Sender(_) | DeliveryError::Content(_) => Duration::from_mins(1),
    }
}

/// What the tasks of a turn say together.
struct Sums {
    rest: Duration,
    failing: bool,
}

impl Sums {
    fn add(&mut self, end: &TurnEnd) {
        match end {
            TurnEnd::Trouble(SenderTrouble::Failing) => self.failing = true,
            TurnEnd::Trouble(SenderTrouble::Throttled(after)) => {
                self.rest = self.rest.max(after.unwrap_or(Duration::from_secs(1)));
            }
            TurnEnd::Limited(wait) => self.rest = self.rest.max(*wait),
            TurnEnd::Trouble(SenderTrouble::NeedsPerson(..))
            | TurnEnd::Budget
            | TurnEnd::NothingToClaim
            | TurnEnd::Stopped => {}
        }
    }

    /// How long the lane rests, and its strikes from now on.
    fn conclude(self, lane: &TakenLane, proved: bool) -> (Duration, u32) {
        if proved {
            return (self.rest, 0);
        }
        let strikes = lane.strikes + u32::from(self.failing);
        if !self.failing {
            return (self.rest, strikes);
        }
        let rest = self.rest.max(rest_after(strikes));
        tracing::warn!(
            broadcast.id = %lane.broadcast, sender.id = %lane.sender, strikes, rest_secs = rest.as_secs(),
            "Nothing gets through on this sender; probing with one message after a rest"
        );
        (rest, strikes)
    }
}
