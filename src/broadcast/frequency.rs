//! How often one customer may hear from a shop: n marketing broadcasts in a calendar month or in a number of days (pure).
//!
//! Why it exists: people block who writes too often. Off unless a shop sets it. What counts is in `routing_sql`: every marketing
//! broadcast that has, or may have, reached a customer, and every one that is still on its way to them; a broadcast on two channels
//! is one. What failed, was skipped, cancelled or expired does not count.
//!
//! It must never depend on anything but its arguments.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use crate::ledger::Period;

/// The time a shop's cap looks back over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapSpan {
    /// The calendar month of the shop's clock.
    Month,
    /// So many times 24 hours up to now.
    Days(u16),
}

/// A shop's cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FrequencyCap {
    /// The most marketing broadcasts one customer may get.
    pub broadcasts: u16,
    /// In which time.
    pub span: CapSpan,
}

impl FrequencyCap {
    /// From when on broadcasts count.
    #[must_use]
    pub fn counts_from(&self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        match self.span {
            // Anchored at the 1st: the calendar's month, whatever the shop's own period is. No month has no beginning between
            // the years 2000 and 9999; before and after nothing counts.
            CapSpan::Month => Period::at(now, zone, 1)
                .and_then(|month| month.starts_at(zone, 1))
                .unwrap_or(now),
            CapSpan::Days(days) => now - TimeDelta::days(days.into()),
        }
    }

    /// Whether a customer with so many broadcasts may get no more.
    #[must_use]
    pub const fn is_full(&self, got: u16) -> bool {
        got >= self.broadcasts
    }
}

/// A cap as one plan applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedCap {
    /// The most marketing broadcasts one customer may get.
    pub broadcasts: u16,
    /// From when on they count.
    pub since: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, Datelike as _, Utc};
    use chrono_tz::{TZ_VARIANTS, Tz};
    use proptest::prelude::*;

    use super::{CapSpan, FrequencyCap};

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn month(now: &str, zone: Tz) -> DateTime<Utc> {
        let cap = FrequencyCap {
            broadcasts: 2,
            span: CapSpan::Month,
        };
        cap.counts_from(utc(now), zone)
    }

    #[test]
    fn a_month_begins_at_midnight_of_the_shops_clock() {
        assert_eq!(
            month("2026-11-22T00:00:00Z", Tz::Asia__Taipei),
            utc("2026-10-31T16:00:00Z")
        );
        assert_eq!(
            month("2026-10-31T16:00:00Z", Tz::Asia__Taipei),
            utc("2026-10-31T16:00:00Z")
        );
        assert_eq!(
            month("2026-10-31T15:59:59Z", Tz::Asia__Taipei),
            utc("2026-09-30T16:00:00Z")
        );
        // Summer time begins within the month.
        assert_eq!(
            month("2026-03-29T12:00:00Z", Tz::Europe__Berlin),
            utc("2026-02-28T23:00:00Z")
        );
    }

    #[test]
    fn days_are_counted_back_from_now() {
        let cap = FrequencyCap {
            broadcasts: 1,
            span: CapSpan::Days(7),
        };
        assert_eq!(
            cap.counts_from(utc("2026-03-30T12:00:00Z"), Tz::Europe__Berlin),
            utc("2026-03-23T12:00:00Z")
        );
        assert_eq!([0, 1, 2].map(|got| cap.is_full(got)), [false, true, true]);
    }

    proptest! {
        /// In every zone a month holds now and all of its own days before it, and nothing of the month before.
        #[test]
        fn the_month_is_the_clocks(secs in 946_684_800_i64..4_102_444_800, zone in 0..TZ_VARIANTS.len()) {
            let zone = *TZ_VARIANTS.get(zone).unwrap();
            let now = DateTime::from_timestamp(secs, 0).unwrap();
            let cap = FrequencyCap { broadcasts: 1, span: CapSpan::Month };
            let since = cap.counts_from(now, zone);
            prop_assert!(since <= now);
            let month = |at: DateTime<Utc>| { let at = at.with_timezone(&zone); (at.year(), at.month()) };
            // Where the clock is put back over midnight of the 1st, the old month is on it once more: by a day at most.
            let before = month(since - chrono::TimeDelta::days(1));
            prop_assert!(before < month(since + chrono::TimeDelta::days(1)));
            prop_assert!(month(now) >= month(since) || now - since < chrono::TimeDelta::days(1));
            prop_assert!(now - since <= chrono::TimeDelta::days(32));
        }
    }
}
