//! A `broadcast-send` job's turn on one lane: take its lease, work slices for a few seconds, leave it.
//!
//! A turn is short so that a million-recipient broadcast and a shop with ten recipients share the workers in turn, and a
//! worker can stop quickly. Everything that must survive is in the lane's and slices' rows; the job itself is a bell.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use carillon_jobs::{BroadcastId, SenderId};

use crate::{
    delivery::{
        Delivery, DeliveryError,
        briefing::Briefing,
        slice,
        store::{self, LaneMode, TakenLane},
        verdict::{SenderTrouble, rest_after},
    },
    limit::{Grant, LimitKey},
};

/// Why a turn on the slices ended.
#[derive(Debug)]
pub(super) enum TurnEnd {
    /// Time is up, or the process stops: the lane goes to the tail.
    Budget,
    /// No slice can be claimed now: all are settled, or others hold them.
    NothingToClaim,
    /// The sender's rate is used up for longer than a turn should wait.
    Limited(Duration),
    /// The broadcast was paused, cancelled, or its deadline passed.
    Stopped,
    /// The provider refuses the sender, or fails.
    Trouble(SenderTrouble),
}

/// What the tasks of one turn share.
pub(super) struct LaneJob<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) lane: TakenLane,
    pub(super) briefing: Briefing,
    /// Probing a failing sender: windows of one message.
    pub(super) probing: bool,
    halt: CancellationToken,
    started_at: Instant,
    /// Milliseconds after `started_at` at which the leases of this turn end.
    held_ms: AtomicU64,
    budget_until: Instant,
    /// The provider accepted something in this turn.
    proved: AtomicBool,
    /// Milliseconds the longest wait for permits asks for.
    limited_ms: AtomicU64,
}

impl Delivery {
    /// Works one lane for one turn. Ends at once when there is nothing to do on it or somebody else has it.
    /// `halt` is cancelled when the process stops or the job is no longer this worker's.
    pub async fn work_lane(
        &self,
        broadcast: BroadcastId,
        sender: SenderId,
        halt: &CancellationToken,
    ) -> Result<(), DeliveryError> {
        // Taken before the question is asked, so that our side of the lease ends before Postgres' does.
        let taken_at = Instant::now();
        let Some(lane) = store::take_lane(&self.db, broadcast, sender, self.config.lease()).await? else {
            return Ok(());
        };
        let strikes = lane.strikes;
        let (wait, strikes) = match lane.mode {
            LaneMode::Send => self.send_turn(&lane, taken_at, halt).await?,
            LaneMode::DrainCancelled => (self.drain(&lane, "cancelled", halt).await?, strikes),
            LaneMode::DrainExpired => (self.drain(&lane, "expired", halt).await?, strikes),
        };
        store::leave_lane(&self.db, &lane, wait, strikes).await?;
        Ok(())
    }

    /// Sends for one turn. Returns how long the lane should rest and its strikes.
    async fn send_turn(
        &self,
        lane: &TakenLane,
        taken_at: Instant,
        halt: &CancellationToken,
    ) -> Result<(Duration, u32), DeliveryError> {
        let briefing = match Briefing::load(self, lane).await {
            Ok(briefing) => briefing,
            Err(DeliveryError::Sender(reason)) => {
                tracing::error!(sender.id = %lane.sender, reason, "This sender cannot be used; it is paused until a person mends it");
                store::pause_sender(&self.db, lane.sender, &reason).await?;
                return Ok((Duration::ZERO, lane.strikes));
            }
            Err(other) => return Err(other),
        };
        let probing = lane.strikes > 0;
        let job = LaneJob {
            delivery: self,
            lane: lane.clone(),
            briefing,
            probing,
            halt: halt.child_token(),
            started_at: taken_at,
            held_ms: AtomicU64::new(u64::try_from(self.config.lease().as_millis()).unwrap_or(0)),
            budget_until: taken_at + self.config.lane_budget(),
            proved: AtomicBool::new(false),
            limited_ms: AtomicU64::new(0),
        };
        let tasks = if probing { 1 } else { self.config.parallel_slices };
        let work = async {
            let ends = join_all((0..tasks).map(|_| slice::work(&job))).await;
            job.halt.cancel();
            ends
        };
        let (ends, ()) = tokio::join!(work, job.watch());
        let mut rest = Duration::from_millis(job.limited_ms.load(Ordering::Relaxed));
        let mut failing = false;
        for end in ends {
            match end? {
                TurnEnd::Trouble(SenderTrouble::Failing) => failing = true,
                TurnEnd::Trouble(SenderTrouble::Throttled(after)) => {
                    rest = rest.max(after.unwrap_or(Duration::from_secs(1)));
                }
                TurnEnd::Limited(wait) => rest = rest.max(wait),
                TurnEnd::Trouble(SenderTrouble::NeedsPerson(..))
                | TurnEnd::Budget
                | TurnEnd::NothingToClaim
                | TurnEnd::Stopped => {}
            }
        }
        let proved = job.proved.load(Ordering::Relaxed);
        let strikes = if proved { 0 } else { lane.strikes + u32::from(failing) };
        if failing && !proved {
            rest = rest.max(rest_after(strikes));
            tracing::warn!(
                broadcast.id = %lane.broadcast, sender.id = %lane.sender, strikes, rest_secs = rest.as_secs(),
                "Nothing gets through on this sender; probing with one message after a rest"
            );
        }
        Ok((rest, strikes))
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

impl LaneJob<'_> {
    /// Renews the leases and watches for pause, cancel and deadline while the tasks work; ends with them.
    async fn watch(&self) {
        let mut ticks = tokio::time::interval(self.delivery.config.watch_every());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.halt.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = self.halt.cancelled() => return,
                goes_on = self.look() => if !goes_on { return self.halt.cancel() },
            }
        }
    }

    /// One look: false when this turn must stop. A database that does not answer is given the time of the lease.
    async fn look(&self) -> bool {
        let lease = self.delivery.config.lease();
        let asked_at = Instant::now();
        let held_until = self.held_until();
        if held_until.saturating_duration_since(asked_at) < lease * 2 / 3 {
            match store::renew_lane(&self.delivery.db, &self.lane, lease).await {
                Ok(true) => self.hold_until(asked_at + lease),
                Err(_) if Instant::now() < held_until => {}
                Ok(false) | Err(_) => return false,
            }
        }
        store::is_sending(&self.delivery.db, &self.lane).await.unwrap_or(true)
    }

    /// Until when the leases of this turn hold, by our clock.
    pub(super) fn held_until(&self) -> Instant {
        self.started_at + Duration::from_millis(self.held_ms.load(Ordering::Relaxed))
    }

    fn hold_until(&self, until: Instant) {
        let ms = u64::try_from(until.saturating_duration_since(self.started_at).as_millis()).unwrap_or(0);
        self.held_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Whether to begin no more windows: time is up, or somebody said stop.
    pub(super) fn turn_is_over(&self) -> bool {
        self.halt.is_cancelled() || Instant::now() >= self.budget_until
    }

    /// Whether to begin no more messages of the window in hand.
    pub(super) fn told_to_stop(&self, until: Instant) -> bool {
        self.halt.is_cancelled() || Instant::now() >= until
    }

    /// Remembers that the sender works.
    pub(super) fn proved(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// Permits for up to `members` messages, without waiting; or how long none will come.
    pub(super) async fn try_permits(&self, members: u32) -> Result<u32, Duration> {
        match self
            .delivery
            .limits
            .acquire(
                &self.briefing.limit,
                if self.briefing.multicast() { 1 } else { members },
            )
            .await
        {
            Grant::Granted(_) if self.briefing.multicast() => Ok(members),
            Grant::Granted(permits) => Ok(permits),
            Grant::Wait(wait) => Err(wait),
        }
    }

    /// Permits for up to `members` messages, waiting a little. A longer wait is the lane's to take, not this worker
    /// slot's: it comes back as the error.
    pub(super) async fn wait_for_permits(&self, members: u32) -> Result<u32, Duration> {
        loop {
            let wait = match self.try_permits(members).await {
                Ok(permits) => return Ok(permits),
                Err(wait) => wait,
            };
            if wait > self.delivery.config.permit_patience() || Instant::now() + wait > self.budget_until {
                let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                self.limited_ms.fetch_max(ms, Ordering::Relaxed);
                return Err(wait);
            }
            tokio::select! {
                () = self.halt.cancelled() => return Err(Duration::ZERO),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Permits for single requests where a multicast was refused; 0 when none come before `until`.
    pub(super) async fn single_permits(&self, members: u32, until: Instant) -> u32 {
        let key: LimitKey = self.briefing.single_limit;
        while !self.told_to_stop(until) {
            match self.delivery.limits.acquire(&key, members).await {
                Grant::Granted(permits) => return permits,
                Grant::Wait(wait) => tokio::select! {
                    () = self.halt.cancelled() => return 0,
                    () = tokio::time::sleep(wait.min(until.saturating_duration_since(Instant::now()))) => {}
                },
            }
        }
        0
    }
}
