//! A worker's turn on the slices of a lane: permits, claim, send, settle, until the turn is over.
//!
//! The order is the whole point: permits first (so that nobody waits inside a claim), then the intent is committed,
//! then the socket is written, then the outcome and the next intent are committed together. Killed anywhere, the next
//! worker knows from the slice's row what may have been sent.

mod back;
mod judged;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    channel::SendOutcome,
    delivery::{
        DeliveryError,
        bisect::Suspects,
        crew::Crew,
        settle::{InFlight, Next, Settled, settle_window},
        store::{self, ClaimedSlice},
        turn::{LaneTurn, TurnEnd},
        verdict::{Ended, SenderTrouble, Sent, Verdict, repeat_after},
        window::{self, Multicast},
    },
};

/// Works slices one after another; several of these run side by side on one lane.
pub(super) async fn work(turn: Arc<LaneTurn>) -> Result<TurnEnd, DeliveryError> {
    let job = &turn;
    let mut crew = Crew::new(&turn);
    loop {
        if job.turn_is_over() {
            return Ok(TurnEnd::Budget);
        }
        let permits = match job
            .wait_for_permits(job.briefing.window(job.probing, crew.pace()))
            .await
        {
            Ok(permits) => permits,
            Err(wait) => return Ok(TurnEnd::Limited(wait)),
        };
        let claimed_at = Instant::now();
        let settings = &job.delivery.config;
        let slice = store::claim_slice(
            &job.delivery.db,
            &job.lane,
            (permits, job.most(permits)),
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
            crew: &mut crew,
            repeat: slice.repeats > 0,
            intent_no: slice.intent_no,
            slice: Arc::new(slice),
            rest: Vec::new(),
            flying: Vec::new(),
            uncertain: Vec::new(),
            suspects: Suspects::default(),
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
    crew: &'a mut Crew,
    slice: Arc<ClaimedSlice>,
    /// Number of the latest intent.
    intent_no: i32,
    /// The window in hand was begun before, by us or by a worker that died.
    repeat: bool,
    /// Members nobody began to send to yet.
    rest: Vec<i64>,
    /// Members with the crew: their intent is committed and their outcome is not known.
    flying: Vec<i64>,
    /// Members whose outcome is open; their intent stays beside those of later windows.
    uncertain: Vec<i64>,
    /// Members at the front of `rest` whose multicast was refused because of one of them.
    suspects: Suspects,
    /// Our side of the lease: taken before the claim was sent, so it ends before Postgres' does.
    lease_until: Instant,
    /// Permits that are granted and not used yet.
    permits: u32,
}

/// What followed from committing an intent.
enum Begun {
    /// Its members are on their way, or these outcomes are known at once.
    Known(Vec<(i64, Sent)>),
    /// The claim is over; with the turn, or (`None`) on to the next slice.
    Over(Option<TurnEnd>),
}

impl SliceTurn<'_> {
    /// Sends until everybody has an outcome or something is in the way. `None`: on to the next slice.
    ///
    /// The window rolls: when three quarters of those who are out are back, or half of them while others are slow, their results are
    /// written and the next members begin beside the others, so that neither a slow answer nor the database makes the sockets
    /// wait. A window that permits made small is not waited for that long: more permits will have come.
    async fn run(mut self) -> Result<Option<TurnEnd>, DeliveryError> {
        let first = self.slice.in_flight.clone();
        let not_begun = |customer: &&i64| first.binary_search(*customer).is_err();
        self.rest = self.slice.customers.iter().filter(not_begun).copied().collect();
        let mut begun = self.start(first).await?;
        loop {
            let sent = match begun {
                Begun::Over(end) => return Ok(end),
                Begun::Known(sent) if self.crew.out() == 0 => sent,
                Begun::Known(_) => self.collect_enough().await,
            };
            let nobody_came = sent.is_empty();
            let (verdict, goes_on) = self.judge_window(sent).await;
            if !goes_on {
                return self.finish(verdict).await;
            }
            begun = self.next_window(&verdict.ended, nobody_came).await?;
        }
    }

    /// Begins the members of an intent that is committed.
    async fn start(&mut self, window: Vec<i64>) -> Result<Begun, DeliveryError> {
        let permits = std::mem::take(&mut self.permits) as usize;
        if !self.job.briefing.multicast() {
            if permits < window.len() {
                // Only a repeat is larger than what there are permits for. It need not wait for all of them at once: a slow
                // sender never has so many in one turn.
                let until = self.held_until();
                let patience = until.min(self.job.budget_until());
                let sent = self
                    .crew
                    .send_as_permitted(&self.slice, &window, permits, patience, until);
                return Ok(Begun::Known(sent.await));
            }
            self.hand_out(window);
            return Ok(Begun::Known(Vec::new()));
        }
        if !store::one_by_one(self.intent_no) {
            // What is repeated keeps the key it may have left under.
            let alone = window.len() == 1 && !self.repeat;
            let together = !alone && !self.suspects.is_hopeless();
            if together && let Some(sent) = self.multicast(&window).await {
                return Ok(Begun::Known(sent));
            }
            // Committed before the first of them leaves: a repeat under the multicast's key would be a second one.
            self.intent_no = -(self.intent_no.abs() + 1);
            let settled = self.settle(&[], Next::Send(&window)).await?;
            if settled != Settled::Going {
                return self.over(settled).await;
            }
        }
        // The permit of a multicast covers one request: single ones take theirs as they go.
        let until = self.held_until();
        let sent = self.crew.send_as_permitted(&self.slice, &window, 0, until, until).await;
        match sent.as_slice() {
            [(_, Sent::Outcome(SendOutcome::Refused(_)))] => self.suspects.refused(1),
            _ => self.suspects.ended(),
        }
        Ok(Begun::Known(sent))
    }

    /// One request to all of them. Refused because of one of them, nobody has it: they wait again, at the front and in halves, and
    /// each half is an intent of its own with its own key. `None`: refused for one alone, of whom a request of their own will tell
    /// more.
    async fn multicast(&mut self, window: &[i64]) -> Option<Vec<(i64, Sent)>> {
        let until = self.held_until();
        match window::multicast(self.job, &self.slice, self.intent_no, window, until).await {
            Multicast::Ended(sent) => {
                self.suspects.ended();
                Some(sent)
            }
            Multicast::Refused if window.len() == 1 => None,
            Multicast::Refused => {
                self.suspects.refused(window.len());
                // Refused is not uncertain: what was begun before under this key has not arrived either.
                self.repeat = false;
                self.rest.splice(0..0, window.iter().copied());
                Some(Vec::new())
            }
        }
    }

    fn hand_out(&mut self, mut window: Vec<i64>) {
        let until = self.held_until();
        self.crew.hand_out(&self.slice, &window, until);
        self.flying.append(&mut window);
    }

    /// Judges outcomes and sorts out whose they are; says whether others are to be begun.
    async fn judge_window(&mut self, sent: Vec<(i64, Sent)>) -> (Verdict, bool) {
        let mut verdict = self.judge(sent).await;
        let repeated = std::mem::replace(&mut self.repeat, false);
        self.uncertain.append(&mut verdict.uncertain);
        // Sent back first: they have waited longest.
        if !verdict.unsent.is_empty() {
            self.suspects.forget();
        }
        self.rest.splice(0..0, verdict.unsent.iter().copied());
        // That those fail again says little of the sender: the members behind them will tell.
        if repeated && verdict.trouble == Some(SenderTrouble::Failing) && !self.rest.is_empty() {
            verdict.trouble = None;
        }
        // A multicast's members share a key and must stay together; others go on beside those who are uncertain.
        let together = self.job.briefing.multicast() && !self.uncertain.is_empty();
        // A search that ends with its turn would begin again with the next one, and never end where the provider is slow.
        let searching = self.suspects.next().is_some() && !self.job.told_to_stop(self.held_until());
        let over = self.job.turn_is_over() && !searching;
        let goes_on = verdict.trouble.is_none() && !self.rest.is_empty() && !together && !over;
        (verdict, goes_on)
    }

    /// Waits for permits and commits the next intent, together with the results so far. `nothing_new`: there are none, and
    /// those in flight are who they were.
    async fn next_window(&mut self, ended: &[Ended], nothing_new: bool) -> Result<Begun, DeliveryError> {
        // A permit cannot be given back, so none is taken for members who are not there.
        let most = self.suspects.next().unwrap_or(self.rest.len());
        let wanted = self.room().min(u32::try_from(most).unwrap_or(u32::MAX));
        if let Ok(permits) = self.job.try_permits(wanted).await {
            return self.begin(ended, permits).await;
        }
        if !nothing_new {
            // Results do not wait for permits.
            let held = self.settle(ended, Next::Hold).await?;
            if held != Settled::Going {
                return self.over(held).await;
            }
        }
        match self.job.wait_for_permits(wanted).await {
            Ok(permits) => self.begin(&[], permits).await,
            Err(wait) => {
                let end = self.finish(Verdict::default()).await?;
                Ok(Begun::Over(Some(end.unwrap_or(TurnEnd::Limited(wait)))))
            }
        }
    }

    /// Commits the intent for the next members, together with the results so far, and begins them.
    async fn begin(&mut self, ended: &[Ended], permits: u32) -> Result<Begun, DeliveryError> {
        let n = self.rest.len().min(permits as usize);
        if self.suspects.next().is_some_and(|members| members != n) {
            self.suspects.forget();
        }
        let mut window: Vec<i64> = self.rest.drain(..n).collect();
        window.sort_unstable();
        self.intent_no = self.intent_no.abs() + 1;
        self.permits = permits;
        match self.settle(ended, Next::Send(&window)).await? {
            Settled::Going => self.start(window).await,
            settled => self.over(settled).await,
        }
    }

    /// The broadcast was stopped, or the slice is somebody else's: ends the claim as far as it is ours.
    async fn over(&mut self, settled: Settled) -> Result<Begun, DeliveryError> {
        if settled == Settled::Stale {
            self.warn_stale();
            self.bring_home(Verdict::default()).await?;
            return Ok(Begun::Over(None));
        }
        if self.flying.is_empty() {
            return Ok(Begun::Over(Some(TurnEnd::Stopped)));
        }
        let end = self.finish(Verdict::default()).await?;
        Ok(Begun::Over(Some(end.unwrap_or(TurnEnd::Stopped))))
    }

    /// Ends the claim: writes what ended, leaves uncertain members in flight for a repeat, gives the rest back.
    async fn finish(&mut self, verdict: Verdict) -> Result<Option<TurnEnd>, DeliveryError> {
        let verdict = self.bring_home(verdict).await?;
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

    /// Writes, and tries again through a short absence of Postgres while the lease lasts: what a provider accepted
    /// must not become unknown because a connection broke.
    async fn settle(&mut self, ended: &[Ended], next: Next<'_>) -> Result<Settled, DeliveryError> {
        let delivery = &self.job.delivery;
        let lease = delivery.config.lease();
        loop {
            let asked_at = Instant::now();
            let in_flight = InFlight {
                flying: &self.flying,
                uncertain: &self.uncertain,
                intent_no: self.intent_no,
            };
            match settle_window(&delivery.db, &self.job.lane, &self.slice, ended, next, in_flight, lease).await {
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
}

/// Between two tries to write an outcome.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
