//! The senders of one slice worker: tasks that take member after member, so that sockets stay busy while results are written.
//!
//! Why tasks that live as long as the worker: a future a message, all polled by one task, cost a tenth of the processor, and
//! a task a message half of that. They end with the crew, finished or dropped.
//!
//! It must never lose a member: who was handed out comes back as sent, or as not begun.

use std::{
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinSet};

use crate::delivery::{pace::Pace, store::ClaimedSlice, turn::LaneTurn, verdict::Sent, window};

/// One member to send to.
struct Errand {
    slice: Arc<ClaimedSlice>,
    customer: i64,
    /// Not begun after this moment: the lease may end.
    until: Instant,
}

/// What came back, and how much of it is waited for.
#[derive(Default)]
struct Pile {
    sent: Vec<(i64, Sent)>,
    wanted: usize,
}

/// Where senders leave what became of their members.
#[derive(Default)]
struct Desk {
    pile: Mutex<Pile>,
    enough: Notify,
}

impl Desk {
    fn put(&self, customer: i64, sent: Sent) {
        let mut pile = self.pile();
        pile.sent.push((customer, sent));
        if pile.sent.len() == pile.wanted {
            self.enough.notify_one();
        }
    }

    /// Nothing that can panic is done under the lock.
    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The senders of one slice worker, and the members who are with them.
pub(super) struct Crew {
    turn: Arc<LaneTurn>,
    errands: async_channel::Sender<Errand>,
    /// Senders take from here; so does [`Crew::recall`].
    waiting: async_channel::Receiver<Errand>,
    desk: Arc<Desk>,
    senders: JoinSet<()>,
    /// Members handed out and not yet collected.
    out: usize,
    pace: Pace,
}

impl Crew {
    pub(super) fn new(turn: &Arc<LaneTurn>) -> Self {
        let (errands, waiting) = async_channel::unbounded();
        Self {
            turn: Arc::clone(turn),
            errands,
            waiting,
            desk: Arc::default(),
            senders: JoinSet::new(),
            out: 0,
            pace: Pace::default(),
        }
    }

    /// How many members have not come back.
    pub(super) const fn out(&self) -> usize {
        self.out
    }

    /// How fast they come back.
    pub(super) const fn pace(&self) -> Pace {
        self.pace
    }

    /// Sends to these members, as many at once as the channel's configuration allows. `until`: nobody is begun after it.
    pub(super) fn hand_out(&mut self, slice: &Arc<ClaimedSlice>, members: &[i64], until: Instant) {
        for &customer in members {
            let slice = Arc::clone(slice);
            // The receiver is ours, so the channel is open.
            let _ = self.errands.try_send(Errand { slice, customer, until });
        }
        if self.out == 0 {
            self.pace.begun(Instant::now());
        }
        self.out += members.len();
        let wanted = self.out.min(self.turn.briefing.senders());
        while self.senders.len() < wanted {
            let (turn, waiting, desk) = (Arc::clone(&self.turn), self.waiting.clone(), Arc::clone(&self.desk));
            self.senders.spawn(async move {
                while let Ok(errand) = waiting.recv().await {
                    let sent = window::begin(&turn, &errand.slice, errand.customer, errand.until).await;
                    let closes = sent.closes_sender();
                    desk.put(errand.customer, sent);
                    // Those behind would only hear the same.
                    while closes && let Ok(errand) = waiting.try_recv() {
                        desk.put(errand.customer, Sent::NotBegun);
                    }
                }
            });
        }
    }

    /// Sends to these members as the permits of single requests come, `permits` of which are in hand. Who got none before
    /// `patience` ended, or would only hear again what closed the sender for those before, comes back as not begun.
    pub(super) async fn send_as_permitted(
        &mut self,
        slice: &Arc<ClaimedSlice>,
        members: &[i64],
        mut permits: usize,
        patience: Instant,
        until: Instant,
    ) -> Vec<(i64, Sent)> {
        let mut sent = Vec::with_capacity(members.len());
        let mut rest = members;
        while !rest.is_empty() {
            let wanted = rest.len().min(self.turn.briefing.in_flight());
            if permits == 0 {
                let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
                permits = self.turn.single_permits(wanted, patience).await as usize;
            }
            let (now, later) = rest.split_at(permits.min(wanted));
            if now.is_empty() {
                break;
            }
            permits -= now.len();
            self.hand_out(slice, now, until);
            let back = self.collect(now.len(), Duration::MAX).await;
            let closed = back.iter().any(|(_, sent)| sent.closes_sender());
            sent.extend(back);
            rest = later;
            if closed {
                break;
            }
        }
        sent.extend(window::not_begun(rest));
        sent
    }

    /// Calls back who was not begun yet; they come back as such.
    pub(super) fn recall(&self) {
        while let Ok(errand) = self.waiting.try_recv() {
            self.desk.put(errand.customer, Sent::NotBegun);
        }
    }

    /// Waits until at least `n` members are back, or all who are out, but no longer than `patience`; returns whoever is back.
    pub(super) async fn collect(&mut self, n: usize, patience: Duration) -> Vec<(i64, Sent)> {
        let mut n = n.min(self.out);
        let mut patience = pin!(tokio::time::sleep(patience));
        loop {
            {
                let mut pile = self.desk.pile();
                if pile.sent.len() >= n {
                    pile.wanted = 0;
                    let sent = std::mem::take(&mut pile.sent);
                    self.out -= sent.len();
                    self.pace.came_back(sent.len(), Instant::now());
                    return sent;
                }
                pile.wanted = n;
            }
            tokio::select! {
                () = self.desk.enough.notified() => {}
                () = &mut patience => n = 0,
                // Senders end only by a panic. What their members came to is not known: the claim must die with them and be
                // recovered as after a crash, or they would go back to the slice as if they had never been begun.
                Some(Err(error)) = self.senders.join_next() => {
                    resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error)))
                }
            }
        }
    }
}
