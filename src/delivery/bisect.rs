//! Finding the few members for whom a multicast is refused (pure): which members the next requests go to.
//!
//! Why it exists: LINE refuses a multicast whole when it refuses one of its members, and need not say which. Sent one by one, five
//! hundred members cost five hundred requests; cut in halves again and again, one bad member costs some ten. Where the first half
//! of a refused piece is accepted, the bad one is in the second, which is cut without being asked.
//!
//! It must never lose or double a member: pieces only say how many of those at the front of the queue go together.

use std::collections::VecDeque;

/// So many refusals in one claim, and the members are too many bad ones to look for: they are sent to one by one.
const MOST_REFUSALS: u32 = 48;

/// Members who go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    members: usize,
    /// When nobody of the piece before it is refused, somebody of this one is.
    inherits: bool,
}

/// The members of refused multicasts, cut into pieces, in the order in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    pieces: VecDeque<Piece>,
    refusals: u32,
}

impl Suspects {
    /// How many members at the front of the queue the next request goes to; none: nobody is suspected.
    pub(super) fn next(&self) -> Option<usize> {
        self.pieces.front().map(|piece| piece.members)
    }

    /// Whether too many were refused: who is suspected is sent to one by one.
    pub(super) const fn is_hopeless(&self) -> bool {
        self.refusals > MOST_REFUSALS
    }

    /// A request to so many members was refused. They are at the front of the queue again when they are more than one.
    pub(super) fn refused(&mut self, members: usize) {
        self.refusals += 1;
        self.pieces.pop_front();
        // Whoever was behind them is suspected on their account no more.
        if let Some(next) = self.pieces.front_mut() {
            next.inherits = false;
        }
        self.cut(members);
    }

    /// A request to so many members was accepted, or they ended in another way.
    pub(super) fn ended(&mut self) {
        self.pieces.pop_front();
        while let Some(next) = self
            .pieces
            .front()
            .copied()
            .filter(|next| next.inherits && next.members > 1)
        {
            self.pieces.pop_front();
            self.cut(next.members);
        }
    }

    /// The queue is not in the order of the pieces any more: whoever is bad is found anew.
    pub(super) fn forget(&mut self) {
        self.pieces.clear();
    }

    fn cut(&mut self, members: usize) {
        if members < 2 {
            return;
        }
        let first = members / 2;
        self.pieces.push_front(Piece {
            members: members - first,
            inherits: true,
        });
        self.pieces.push_front(Piece {
            members: first,
            inherits: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::Suspects;

    /// Sends to `n` members of whom these are bad, as a slice does: (who has it, who is refused, requests).
    fn run(n: usize, bad: &BTreeSet<usize>) -> (Vec<usize>, BTreeSet<usize>, u32) {
        let mut suspects = Suspects::default();
        let mut queue: VecDeque<usize> = (0..n).collect();
        let (mut have, mut refused, mut requests) = (Vec::new(), BTreeSet::new(), 0);
        while !queue.is_empty() {
            let window: Vec<usize> = queue.drain(..suspects.next().unwrap_or(queue.len())).collect();
            requests += 1;
            if !window.iter().any(|member| bad.contains(member)) {
                have.extend(window);
                suspects.ended();
            } else if let [one] = window.as_slice() {
                refused.insert(*one);
                suspects.refused(1);
            } else {
                suspects.refused(window.len());
                for member in window.into_iter().rev() {
                    queue.push_front(member);
                }
            }
        }
        (have, refused, requests)
    }

    #[test]
    fn one_bad_member_of_five_hundred_costs_some_ten_requests() {
        let worst = (0..500).map(|bad| run(500, &BTreeSet::from([bad])).2).max();
        assert!(worst.is_some_and(|worst| worst <= 20), "{worst:?}");
        let best = (0..500).map(|bad| run(500, &BTreeSet::from([bad])).2).min();
        assert!(best.is_some_and(|best| best <= 11), "{best:?}");
        assert_eq!(run(500, &BTreeSet::new()).2, 1);
    }

    proptest! {
        /// Whoever is bad, everybody else has it exactly once, and the requests stay within twice the depth for each bad one.
        #[test]
        fn everybody_else_has_it_once(n in 1_usize..501, bad in prop::collection::btree_set(0_usize..500, 0..12)) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|member| *member < n).collect();
            let (mut have, refused, requests) = run(n, &bad);
            have.sort_unstable();
            let good: Vec<usize> = (0..n).filter(|member| !bad.contains(member)).collect();
            prop_assert_eq!(have, good);
            let depth = usize::BITS - n.leading_zeros();
            let most = 1 + u32::try_from(bad.len()).unwrap_or(u32::MAX) * 2 * depth;
            prop_assert!(requests <= most, "{} requests, at most {}", requests, most);
            prop_assert_eq!(refused, bad);
        }
    }
}
