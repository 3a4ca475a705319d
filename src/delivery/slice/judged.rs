//! What follows from a window's verdict beyond its own slice: the limiter, the address book and the operator are told.
//!
//! It must never end a send: what cannot be told now is met again by the next window.

use std::time::Duration;

use super::SliceTurn;
use crate::{
    channel::ErrorClass,
    delivery::{
        store,
        verdict::{SenderTrouble, Sent, Verdict, judge},
    },
    metrics::sends,
};

impl SliceTurn<'_> {
    /// Judges a window, and tells the limiter, the address book and the operator what they must know.
    pub(super) async fn judge(&self, sent: Vec<(i64, Sent)>) -> Verdict {
        let (delivery, briefing) = (&self.job.delivery, &self.job.briefing);
        // LINE counts single requests apart from multicasts, also those that stand in for one.
        let limit = if store::one_by_one(self.intent_no) {
            &briefing.single_limit
        } else {
            &briefing.limit
        };
        let longest = Duration::from_secs(delivery.limit_config.max_close_secs.get().into());
        let mut verdict = judge(briefing.keyed(), self.repeat, sent).waiting_at_most(longest);
        if verdict.accepted > 0 {
            self.job.proved();
            delivery.limits.succeeded(limit, verdict.accepted).await;
        }
        match &verdict.trouble {
            Some(SenderTrouble::Throttled(after)) => delivery.limits.throttled(limit, *after).await,
            Some(SenderTrouble::NeedsPerson(class, code)) => self.call_person(*class, code).await,
            Some(SenderTrouble::Failing) | None => {}
        }
        if !verdict.dead_addresses.is_empty() {
            // In one order, or two broadcasts that meet the same dead addresses could wait for each other.
            verdict.dead_addresses.sort_unstable();
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

    pub(super) fn warn_stale(&self) {
        sends::stale(self.job.lane.channel);
        tracing::warn!(
            broadcast.id = %self.job.lane.broadcast, slice.no = self.slice.slice_no,
            "This slice went to another worker while it was being sent; nothing was written here"
        );
    }
}
