//! A worker's turn on the slices of a lane: permits, claim, send, settle, until the turn is over.
//!
//! The order is the whole point: permits first (so that nobody waits inside a claim), then the intent is committed,
//! then the socket is written, then the outcome and the next intent are committed together. Killed anywhere, the next
//! worker knows from the slice's row what may have been sent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    channel::ErrorClass,
    delivery::{
        DeliveryError,
        store::{self, ClaimedSlice, Next, Settled},
        turn::{LaneTurn, TurnEnd},
        verdict::{Ended, SenderTrouble, Sent, Verdict, judge, repeat_after},
        window,
    },
    metrics::sends,
};

/// Works slices one after another. Several of these run side by side on one lane.
pub(super) async fn work(turn: Arc<LaneTurn>) -> Result<TurnEnd, DeliveryError> {
    let job = &turn;
    loop {
        if job.turn_is_over() {
            return Ok(TurnEnd::Budget);
        }
        let permits = match job.wait_for_permits(job.briefing.window(job.probing)).await {
            Ok(permits) => permits,
            Err(wait) => return Ok(TurnEnd::Limited(wait)),
        };
        let claimed_at = Instant::now();
        let settings = &job.delivery.config;
        let slice = store::claim_slice(
            &job.delivery.db,
            &job.lane,
            permits,
            settings.lease(),
            job.briefing.key_life(),
            job.briefing.same_body(),
        )
        .await?;
        let Some(slice) = slice else {
            return Ok(TurnEnd::NothingToClaim);
        };
        let turn = SliceTurn {
            job,
            repeat: slice.repeats > 0,
            intent_no: slice.intent_no,
            slice: Arc::new(slice),
            uncertain: Vec::new(),
            lease_until: claimed_at + settings.lease(),
            permits,
        };
        if let Some(end) = turn.run().await? {
            return Ok(end);
        }
    }
}

/// One claimed slice.
struct SliceTurn<'a> {
    job: &'a Arc<LaneTurn>,
    slice: Arc<ClaimedSlice>,
    /// Number of the intent in hand.
    intent_no: i32,
    /// The window in hand was begun before, by us or by a worker that died.
    repeat: bool,
    /// Members whose outcome is open; their intent stays beside those of later windows.
    uncertain: Vec<i64>,
    /// Our side of the lease: taken before the claim was sent, so it ends before Postgres' does.
    lease_until: Instant,
    /// Permits that are granted and not used yet.
    permits: u32,
}

impl SliceTurn<'_> {
    /// Sends window after window. `None`: on to the next slice.
    async fn run(mut self) -> Result<Option<TurnEnd>, DeliveryError> {
        let mut window = self.slice.in_flight.clone();
        let not_begun = |customer: &&i64| window.binary_search(*customer).is_err();
        let mut rest: Vec<i64> = self.slice.customers.iter().filter(not_begun).copied().collect();
        loop {
            let settled = match self.send(&window).await {
                // Committed before the first of them leaves: a repeat under the multicast's key would be a second one.
                None => {
                    self.intent_no = -(self.intent_no.abs() + 1);
                    self.settle(&[], Next::Send(&window, self.intent_no)).await?
                }
                Some(sent) => {
                    let (verdict, goes_on) = self.judge_window(sent, &mut rest).await;
                    if !goes_on {
                        return self.give_back(verdict).await;
                    }
                    match self.next_window(&verdict.ended, &mut rest, &mut window).await? {
                        Ok(settled) => settled,
                        Err(end) => return Ok(Some(end)),
                    }
                }
            };
            match settled {
                Settled::Going => {}
                Settled::Stopped => return Ok(Some(TurnEnd::Stopped)),
                Settled::Stale => {
                    self.warn_stale();
                    return Ok(None);
                }
            }
        }
    }

    /// Sends to the members of an intent that is committed. `None`: their multicast was refused.
    async fn send(&mut self, window: &[i64]) -> Option<Vec<(i64, Sent)>> {
        if self.top_up_permits(window.len()).await {
            window::send(self.job, &self.slice, self.intent_no, window, self.held_until()).await
        } else {
            Some(window.iter().map(|customer| (*customer, Sent::NotBegun)).collect())
        }
    }

    /// Judges a window and sorts out its members; says whether another window follows.
    async fn judge_window(&mut self, sent: Vec<(i64, Sent)>, rest: &mut Vec<i64>) -> (Verdict, bool) {
        let mut verdict = self.judge(sent).await;
        let repeated = std::mem::replace(&mut self.repeat, false);
        self.uncertain.append(&mut verdict.uncertain);
        // Sent back first: they have waited longest.
        rest.splice(0..0, verdict.unsent.iter().copied());
        // That those fail again says little of the sender: the members behind them will tell.
        if repeated && verdict.trouble == Some(SenderTrouble::Failing) && !rest.is_empty() {
            verdict.trouble = None;
        }
        // A multicast's members share a key and must stay together; others go on beside those who are uncertain.
        let together = self.job.briefing.multicast() && !self.uncertain.is_empty();
        let goes_on = verdict.trouble.is_none() && !rest.is_empty() && !together && !self.job.turn_is_over();
        (verdict, goes_on)
    }

    /// Waits for permits and commits the next intent, together with the results of the window before; or why not.
    async fn next_window(
        &mut self,
        ended: &[Ended],
        rest: &mut Vec<i64>,
        window: &mut Vec<i64>,
    ) -> Result<Result<Settled, TurnEnd>, DeliveryError> {
        let size = self.job.briefing.window(self.job.probing);
        if let Ok(permits) = self.job.try_permits(size).await {
            return self.begin(ended, rest, window, permits).await.map(Ok);
        }
        // Results do not wait for permits.
        let held = self.settle(ended, Next::Hold).await?;
        if held != Settled::Going {
            return Ok(Ok(held));
        }
        match self.job.wait_for_permits(size).await {
            Ok(permits) => self.begin(&[], rest, window, permits).await.map(Ok),
            Err(wait) => {
                self.settle(&[], Next::GiveBack(self.repeat_wait())).await?;
                Ok(Err(TurnEnd::Limited(wait)))
            }
        }
    }

    /// Commits the intent for the next members of `rest`, together with the results of the window before.
    async fn begin(
        &mut self,
        ended: &[Ended],
        rest: &mut Vec<i64>,
        window: &mut Vec<i64>,
        permits: u32,
    ) -> Result<Settled, DeliveryError> {
        let n = rest.len().min(permits as usize);
        *window = rest.drain(..n).collect();
        window.sort_unstable();
        self.intent_no = self.intent_no.abs() + 1;
        self.permits = permits;
        self.settle(ended, Next::Send(window, self.intent_no)).await
    }

    /// Ends the claim: writes what ended, leaves uncertain members in flight for a repeat, gives the rest back.
    async fn give_back(mut self, verdict: Verdict) -> Result<Option<TurnEnd>, DeliveryError> {
        let wait = match &verdict.trouble {
            Some(SenderTrouble::Throttled(after)) => after.unwrap_or(Duration::from_secs(1)),
            Some(SenderTrouble::Failing | SenderTrouble::NeedsPerson(..)) | None => Duration::ZERO,
        };
        let settled = self
            .settle(&verdict.ended, Next::GiveBack(wait.max(self.repeat_wait())))
            .await?;
        if settled == Settled::Stale {
            self.warn_stale();
        }
        Ok(match (verdict.trouble, settled) {
            (Some(trouble), _) => Some(TurnEnd::Trouble(trouble)),
            (None, Settled::Stopped) => Some(TurnEnd::Stopped),
            (None, Settled::Going | Settled::Stale) => None,
        })
    }

    /// How long a slice with uncertain members rests before their sends are repeated.
    fn repeat_wait(&self) -> Duration {
        if self.uncertain.is_empty() {
            Duration::ZERO
        } else {
            repeat_after(u32::try_from(self.slice.repeats).unwrap_or(u32::MAX))
        }
    }

    /// Judges a window, and tells the limiter, the address book and the operator what they must know.
    async fn judge(&self, sent: Vec<(i64, Sent)>) -> Verdict {
        let delivery = &self.job.delivery;
        let verdict = judge(self.job.briefing.keyed(), self.repeat, sent);
        if verdict.accepted > 0 {
            self.job.proved();
            delivery
                .limits
                .succeeded(&self.job.briefing.limit, verdict.accepted)
                .await;
        }
        match &verdict.trouble {
            Some(SenderTrouble::Throttled(after)) => delivery.limits.throttled(&self.job.briefing.limit, *after).await,
            Some(SenderTrouble::NeedsPerson(class, code)) => self.call_person(*class, code).await,
            Some(SenderTrouble::Failing) | None => {}
        }
        if !verdict.dead_addresses.is_empty() {
            let dead: Vec<(i64, String)> = verdict
                .dead_addresses
                .iter()
                .filter_map(|(customer, code)| {
                    let place = self.slice.place(*customer)?;
                    Some((*self.slice.address_ids.get(place)?, code.clone()))
                })
                .collect();
            if let Err(error) = store::suppress_addresses(&delivery.db, &dead).await {
                tracing::warn!(error = %crate::db::describe(&error), "Dead addresses were not closed; the next broadcast will meet them again");
            }
        }
        verdict
    }

    async fn call_person(&self, class: ErrorClass, code: &str) {
        let sender = self.job.lane.sender;
        let reason = format!("{class}: {code}");
        tracing::error!(sender.id = %sender, reason, "The provider refuses this sender; it is paused until a person resumes it");
        if let Err(error) = store::pause_sender(&self.job.delivery.db, sender, &reason).await {
            tracing::warn!(error = %crate::db::describe(&error), "The sender could not be paused yet; its next window will try again");
        }
    }

    /// Writes, and tries again through a short absence of Postgres while the lease lasts: what a provider accepted
    /// must not become unknown because a connection broke.
    async fn settle(&mut self, ended: &[Ended], next: Next<'_>) -> Result<Settled, DeliveryError> {
        let delivery = &self.job.delivery;
        let lease = delivery.config.lease();
        loop {
            let asked_at = Instant::now();
            let settled = store::settle_slice(
                &delivery.db,
                &self.job.lane,
                &self.slice,
                ended,
                &self.uncertain,
                next,
                lease,
            )
            .await;
            match settled {
                Ok(settled) => {
                    self.lease_until = asked_at + lease;
                    return Ok(settled);
                }
                Err(error) if crate::db::may_pass(&error) && Instant::now() + SETTLE_PAUSE < self.held_until() => {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Until when this claim holds: its own lease, or what the turn has renewed it to.
    fn held_until(&self) -> Instant {
        self.lease_until.max(self.job.held_until())
    }

    /// A repeated intent may be larger than the permits asked for; false when the lease does not last until they come.
    async fn top_up_permits(&mut self, members: usize) -> bool {
        let needed = u32::try_from(members).unwrap_or(u32::MAX);
        while self.permits < needed {
            match self.job.wait_for_permits(needed - self.permits).await {
                Ok(more) => self.permits += more,
                Err(_) => return false,
            }
            if Instant::now() >= self.held_until() {
                return false;
            }
        }
        self.permits = 0;
        true
    }

    fn warn_stale(&self) {
        sends::stale(self.job.lane.channel);
        tracing::warn!(
            broadcast.id = %self.job.lane.broadcast, slice.no = self.slice.slice_no,
            "This slice went to another worker while it was being sent; nothing was written here"
        );
    }
}

/// Between two tries to write an outcome.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
