//! One turn on a lane: what its tasks share, how they are told to stop, and what they may send.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{
        Delivery,
        briefing::Briefing,
        share::Share,
        store::{self, TakenLane},
        verdict::SenderTrouble,
    },
    limit::{Grant, LimitKey},
    metrics::sends,
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
pub(super) struct LaneTurn {
    pub(super) delivery: Delivery,
    pub(super) lane: TakenLane,
    pub(super) briefing: Briefing,
    /// Probing a failing sender: windows of one message.
    pub(super) probing: bool,
    halt: CancellationToken,
    /// The tasks have ended.
    ended: CancellationToken,
    started_at: Instant,
    /// Milliseconds after `started_at` at which the leases of this turn end.
    held_ms: AtomicU64,
    budget_until: Instant,
    /// Messages that may be begun in this turn, and those permits were granted for.
    quantum: u32,
    begun: AtomicU32,
    /// The provider accepted something in this turn.
    proved: AtomicBool,
    /// Milliseconds the longest wait for permits asks for.
    limited_ms: AtomicU64,
}

impl LaneTurn {
    /// A turn with this share on a lane whose lease was asked for at `taken_at`.
    pub(super) fn new(
        delivery: Delivery,
        lane: TakenLane,
        briefing: Briefing,
        taken_at: Instant,
        share: Share,
        halt: &CancellationToken,
    ) -> Self {
        let config = &delivery.config;
        Self {
            probing: lane.strikes > 0,
            halt: halt.child_token(),
            ended: CancellationToken::new(),
            started_at: taken_at,
            held_ms: AtomicU64::new(u64::try_from(config.lease().as_millis()).unwrap_or(0)),
            budget_until: taken_at + share.turn,
            quantum: share.quantum,
            begun: AtomicU32::new(0),
            proved: AtomicBool::new(false),
            limited_ms: AtomicU64::new(0),
            delivery,
            lane,
            briefing,
        }
    }

    /// The tasks have ended: nothing is left to hold the leases for.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Whether the provider accepted something in this turn.
    pub(super) fn has_proved(&self) -> bool {
        self.proved.load(Ordering::Relaxed)
    }

    /// The longest wait for permits that was met.
    pub(super) fn limited_for(&self) -> Duration {
        Duration::from_millis(self.limited_ms.load(Ordering::Relaxed))
    }

    /// Renews the leases and watches for pause, cancel and deadline while the tasks work; ends with them. Who was told to
    /// stop still holds the leases until the last answer is in: another worker must not take what is in flight for lost.
    pub(super) async fn watch(&self) {
        let mut ticks = tokio::time::interval(self.delivery.config.watch_every());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let look = async {
                let held = self.renew().await;
                let goes_on = held && (self.halt.is_cancelled() || self.is_sending().await);
                (held, goes_on)
            };
            tokio::select! {
                () = self.ended.cancelled() => return,
                (held, goes_on) = look => {
                    if !goes_on {
                        self.halt.cancel();
                    }
                    if !held {
                        return;
                    }
                }
            }
        }
    }

    /// Renews the leases when it is time; false when they are lost. A database that does not answer is given their time.
    async fn renew(&self) -> bool {
        let lease = self.delivery.config.lease();
        let asked_at = Instant::now();
        let held_until = self.held_until();
        if held_until.saturating_duration_since(asked_at) >= lease * 2 / 3 {
            return true;
        }
        match store::renew_lane(&self.delivery.db, &self.lane, lease).await {
            Ok(true) => {
                self.hold_until(asked_at + lease);
                true
            }
            Ok(false) => false,
            Err(_) => Instant::now() < held_until,
        }
    }

    async fn is_sending(&self) -> bool {
        store::is_sending(&self.delivery.db, &self.lane).await.unwrap_or(true)
    }

    /// Until when the leases of this turn hold, by our clock.
    pub(super) fn held_until(&self) -> Instant {
        self.started_at + Duration::from_millis(self.held_ms.load(Ordering::Relaxed))
    }

    /// Until when windows may begin.
    pub(super) const fn budget_until(&self) -> Instant {
        self.budget_until
    }

    fn hold_until(&self, until: Instant) {
        let ms = u64::try_from(until.saturating_duration_since(self.started_at).as_millis()).unwrap_or(0);
        self.held_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Whether to begin no more windows: time or messages are up, or somebody said stop.
    pub(super) fn turn_is_over(&self) -> bool {
        self.halt.is_cancelled()
            || Instant::now() >= self.budget_until
            || self.begun.load(Ordering::Relaxed) >= self.quantum
    }

    /// How many members a claim for a window of this size need read: no more than the turn will begin; none: all of the slice.
    pub(super) fn most(&self, window: u32) -> Option<u32> {
        let left = self.quantum.saturating_sub(self.begun.load(Ordering::Relaxed));
        (self.quantum < u32::MAX).then(|| left.saturating_add(window))
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
        let multicast = self.briefing.multicast();
        let wanted = if multicast { 1 } else { members };
        let granted = match self.permits(&self.briefing.limit, wanted).await {
            Grant::Granted(_) if multicast => members,
            Grant::Granted(permits) => permits,
            Grant::Wait(wait) => return Err(wait),
        };
        self.begun.fetch_add(granted, Ordering::Relaxed);
        Ok(granted)
    }

    async fn permits(&self, key: &LimitKey, wanted: u32) -> Grant {
        let grant = self.delivery.limits.acquire(key, wanted).await;
        let granted = match grant {
            Grant::Granted(permits) => Some(permits),
            Grant::Wait(_) => None,
        };
        sends::permits(self.lane.channel, granted);
        grant
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

    /// Permits for single requests; 0 when none come before `until`.
    pub(super) async fn single_permits(&self, members: u32, until: Instant) -> u32 {
        let key: LimitKey = self.briefing.single_limit;
        while !self.told_to_stop(until) {
            match self.permits(&key, members).await {
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
