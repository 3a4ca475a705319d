//! What becomes of periods that were missed (pure).
//!
//! A look finds everything that has come due since the last one: normally nothing, or one period a second late; after an
//! outage, or a clock that was put forward, many. It must never ring twice for a period: which ones there are is not its
//! business, only which of them are rung.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::calendar::Due;

/// What is done about periods whose time passed while nobody rang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Each is rung, the oldest first.
    All,
    /// Only the latest is rung; a period whose bell still waits when the next one comes due is skipped as well.
    Latest,
    /// None is rung that is later than its grace.
    Skip,
}

impl CatchUp {
    /// Its word in `schedule.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
            Self::Skip => "skip",
        }
    }

    /// Which of the periods a look found are to be rung, in their order.
    #[must_use]
    pub fn choose(self, found: &Due, grace: TimeDelta, now: DateTime<Utc>) -> Vec<bool> {
        let last = found.periods.len().saturating_sub(1);
        let chosen = |(place, due_at): (usize, DateTime<Utc>)| match self {
            Self::All => true,
            // With more to come, the latest is not among these.
            Self::Latest => place == last && !found.more,
            Self::Skip => now - due_at <= grace,
        };
        let moments = found.periods.iter().map(|period| period.due_at);
        moments.enumerate().map(chosen).collect()
    }

    /// Until when a period due then is worth ringing for; `None`: for ever.
    #[must_use]
    pub fn give_up_at(self, due_at: DateTime<Utc>, grace: TimeDelta) -> Option<DateTime<Utc>> {
        match self {
            Self::All | Self::Latest => None,
            Self::Skip => Some(due_at + grace),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::CatchUp;
    use crate::scheduler::calendar::{Due, Period};

    /// Which of periods so many minutes late are rung, with a grace of an hour.
    fn rung(policy: CatchUp, late_mins: &[i64], more: bool) -> Vec<bool> {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let period = |mins: &i64| Period {
            name: mins.to_string(),
            due_at: now - TimeDelta::minutes(*mins),
        };
        let found = Due {
            periods: late_mins.iter().map(period).collect(),
            more,
        };
        policy.choose(&found, TimeDelta::hours(1), now)
    }

    #[test]
    fn each_policy_rings_for_its_own_of_what_was_missed() {
        let late = [180, 120, 60, 0];
        assert_eq!(rung(CatchUp::All, &late, false), [true; 4]);
        assert_eq!(rung(CatchUp::Latest, &late, false), [false, false, false, true]);
        assert_eq!(rung(CatchUp::Skip, &late, false), [false, false, true, true]);
        for policy in [CatchUp::All, CatchUp::Latest, CatchUp::Skip] {
            assert_eq!(rung(policy, &[0], false), [true], "{policy:?}: on time");
            assert!(rung(policy, &[], false).is_empty());
        }
    }

    #[test]
    fn the_latest_is_not_among_those_before_more() {
        assert_eq!(rung(CatchUp::Latest, &[180, 120], true), [false, false]);
        assert_eq!(rung(CatchUp::All, &[180, 120], true), [true, true]);
    }
}
