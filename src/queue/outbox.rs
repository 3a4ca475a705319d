//! Settlements on their way to Redis: queued by tickets, taken by whoever gets to Redis first.
//!
//! A busy claim loop takes a few along, because the end of a job is what lets it claim the next one. The settle loop is told
//! when the claim loop rests, and when there are many: then Redis settles those while the jobs of the last claim run, and the
//! next claim does not wait for it. It must never lose one: what was taken and not answered is put back.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::store::{STEP, Settlement};

/// So many are worth a round trip of their own.
pub(crate) const MANY: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<VecDeque<Settlement>>,
    /// How many were taken and are not answered yet. Changed only while `waiting` is locked.
    under_way: AtomicUsize,
    /// Whether the claim loop comes by before long, so that nobody else need be woken.
    collected: AtomicBool,
    /// Told when the settle loop is to come.
    pub(crate) told: Notify,
}

/// Settlements on their way; back in the outbox if nobody says that they [arrived](Taken::arrived).
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    outbox: &'a Outbox,
    batch: Vec<Settlement>,
    count: usize,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Settlement>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, settlement: Settlement) {
        let count = {
            let mut waiting = self.waiting();
            waiting.push_back(settlement);
            waiting.len()
        };
        if count == MANY || !self.collected.load(Ordering::SeqCst) {
            self.told.notify_one();
        }
    }

    /// Takes at most as many as one script call may touch.
    pub(crate) fn take(&self) -> Taken<'_> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(STEP);
        self.hand_out(&mut waiting, count)
    }

    /// Takes what waits if that is few; many are on their way with the settle loop.
    pub(crate) fn take_few(&self) -> Taken<'_> {
        let mut waiting = self.waiting();
        let count = waiting.len();
        self.hand_out(&mut waiting, if count < MANY { count } else { 0 })
    }

    fn hand_out(&self, waiting: &mut VecDeque<Settlement>, count: usize) -> Taken<'_> {
        self.under_way.fetch_add(count, Ordering::SeqCst);
        Taken {
            outbox: self,
            batch: waiting.drain(..count).collect(),
            count,
        }
    }

    /// Whether Redis has answered for every settlement there was.
    pub(crate) fn is_settled(&self) -> bool {
        let waiting = self.waiting();
        waiting.is_empty() && self.under_way.load(Ordering::SeqCst) == 0
    }

    /// The claim loop says that it will come before long.
    pub(crate) fn collect(&self) {
        self.collected.store(true, Ordering::SeqCst);
    }

    /// The claim loop says that it rests: what waits, and what comes, is the settle loop's.
    pub(crate) fn leave(&self) {
        // In this order, so that a settlement put beside this call is seen here or tells by itself.
        self.collected.store(false, Ordering::SeqCst);
        self.hand_over();
    }

    /// What waits is the settle loop's.
    pub(crate) fn hand_over(&self) {
        if !self.waiting().is_empty() {
            self.told.notify_one();
        }
    }
}

impl Taken<'_> {
    pub(crate) fn batch(&self) -> &[Settlement] {
        &self.batch
    }

    /// Redis has answered.
    pub(crate) fn arrived(mut self) {
        self.batch.clear();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut waiting = self.outbox.waiting();
        // In front and in their order: of jobs given back, each goes to the head of its list.
        let any = !self.batch.is_empty();
        self.outbox.under_way.fetch_sub(self.count, Ordering::SeqCst);
        for settlement in self.batch.drain(..).rev() {
            waiting.push_front(settlement);
        }
        drop(waiting);
        if any {
            self.outbox.told.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::store::Verb;

    fn settlement(number: u64) -> Settlement {
        Settlement {
            kind: 0,
            number,
            verb: Verb::Done,
        }
    }

    #[test]
    fn what_was_taken_and_not_answered_is_back_in_its_place() {
        let outbox = Outbox::default();
        (0..STEP as u64 + 2).for_each(|number| outbox.put(settlement(number)));
        let taken = outbox.take();
        assert_eq!(taken.batch().len(), STEP);
        drop(taken);
        outbox.take().arrived();
        let last = outbox.take();
        let left: Vec<u64> = last.batch().iter().map(|left| left.number).collect();
        assert_eq!(left, [STEP as u64, STEP as u64 + 1]);
        assert!(!outbox.is_settled(), "the last ones are under way");
        drop(last);
        assert!(!outbox.is_settled(), "they are back");
        outbox.take_few().arrived();
        assert!(outbox.is_settled());
    }

    #[tokio::test]
    async fn the_settle_loop_is_told_unless_the_claim_loop_comes() {
        let told = async |outbox: &Outbox| futures::poll!(std::pin::pin!(outbox.told.notified())).is_ready();
        let outbox = Outbox::default();
        outbox.put(settlement(1));
        assert!(told(&outbox).await);
        outbox.collect();
        outbox.put(settlement(2));
        assert!(!told(&outbox).await);
        outbox.leave();
        assert!(told(&outbox).await, "what waited when the claim loop went to rest");
        outbox.collect();
        (2..MANY as u64).for_each(|number| outbox.put(settlement(number)));
        assert!(told(&outbox).await, "there are many");
        assert!(outbox.take_few().batch().is_empty());
    }
}
