//! Members who come back: how many are waited for before their results are written.
//!
//! Why it exists: every settle has its price, and what is not written yet is what a crash makes unknown.
//!
//! It must never lose a member: whoever was handed out is collected before the claim ends.

use std::time::Duration;

use super::SliceTurn;
use crate::delivery::{
    DeliveryError,
    settle::Next,
    verdict::{Sent, Verdict},
};

/// How long the last members of a slice are waited for before the results of the others are written.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// How often others begin beside a window that leaves sockets idle: a sender of few messages a second would else send one at a time.
const ROLL_EVERY: Duration = Duration::from_millis(50);

impl SliceTurn<'_> {
    /// Waits until as many are back as it takes to write results: three quarters, because every settle has its price, and who is
    /// still out keeps the sockets busy meanwhile; half where the others are slow; whoever is back soon while sockets are idle or nobody
    /// waits; all, where their outcomes must be judged together.
    pub(super) async fn collect_enough(&mut self) -> Vec<(i64, Sent)> {
        if self.repeat {
            return self.collect(usize::MAX, Duration::MAX).await;
        }
        if self.rest.is_empty() {
            let mut sent = self.collect(usize::MAX, LAST_WAIT).await;
            if !sent.iter().any(|(_, sent)| sent.is_accepted()) {
                sent.append(&mut self.collect(usize::MAX, Duration::MAX).await);
            }
            return sent;
        }
        let out = self.crew.out();
        let (half, mut most) = (out.div_ceil(2), out - out / 4);
        // A few more back now, and the rest begins whole: no settle for a handful at the end.
        if self.rest.len() > most && self.rest.len() <= out {
            most = self.rest.len();
        }
        let idle = self.room() > 0 && out < self.job.briefing.senders();
        let mut sent = self.collect(most, ROLL_EVERY).await;
        if !idle && sent.len() < half {
            sent.append(&mut self.collect(half - sent.len(), Duration::MAX).await);
        }
        // A few who failed at once say nothing of the sender yet.
        if !sent.is_empty() && !sent.iter().any(|(_, sent)| sent.is_accepted() || sent.closes_sender()) {
            sent.append(&mut self.collect(half.saturating_sub(sent.len()), Duration::MAX).await);
        }
        sent
    }

    /// How many may begin beside those who are on their way.
    pub(super) fn room(&self) -> u32 {
        let out = u32::try_from(self.flying.len()).unwrap_or(u32::MAX);
        let window = self.job.briefing.window(self.job.probing, self.crew.pace());
        window.saturating_sub(out)
    }

    pub(super) async fn collect(&mut self, n: usize, patience: Duration) -> Vec<(i64, Sent)> {
        let sent = self.crew.collect(n, patience).await;
        let mut back: Vec<i64> = sent.iter().map(|(customer, _)| *customer).collect();
        back.sort_unstable();
        self.flying.retain(|customer| back.binary_search(customer).is_err());
        sent
    }

    /// Begins nobody any more and waits for those who are on their way. What is known is written before the slow ones are waited
    /// for: a crash meanwhile must not make it unknown.
    pub(super) async fn bring_home(&mut self, mut verdict: Verdict) -> Result<Verdict, DeliveryError> {
        self.crew.recall();
        for patience in [LAST_WAIT, Duration::MAX] {
            if self.crew.out() == 0 {
                break;
            }
            let sent = self.collect(usize::MAX, patience).await;
            let (last, _) = self.judge_window(sent).await;
            verdict = verdict.and(last);
            if self.crew.out() > 0 && !verdict.ended.is_empty() {
                self.settle(&verdict.ended, Next::Hold).await?;
                verdict.ended.clear();
            }
        }
        Ok(verdict)
    }
}
