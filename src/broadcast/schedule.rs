//! When a broadcast leaves (pure).
//!
//! Why it exists: a merchant says "30 November, ten o'clock" and means the shop's clock, also across a change to or
//! from summer time.
//!
//! It must never guess a time that does not exist.

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;

use super::problem::Problem;

const FORMATS: [&str; 4] = [
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S",
];

/// Reads a time of a shop's clock, such as `2026-11-30 10:00`. An hour that comes twice is taken the first time.
///
/// # Errors
/// `time_unreadable`, `time_skipped` (the clock is put forward over it), `time_zone_unknown` or `time_past`.
pub(super) fn local_time(text: &str, time_zone: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let refuse = |id, problem: String| Problem::new(id, "scheduled_at", problem);
    let zone: Tz = time_zone.parse().map_err(|_| {
        refuse(
            "time_zone_unknown",
            format!("needs the shop's time zone, and {time_zone} is none"),
        )
    })?;
    let naive = FORMATS
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text.trim(), format).ok());
    let naive = naive.ok_or_else(|| {
        refuse(
            "time_unreadable",
            "is no time: write it like 2026-11-30 10:00, on the shop's clock".to_owned(),
        )
    })?;
    let time = match zone.from_local_datetime(&naive) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => time.with_timezone(&Utc),
        LocalResult::None => {
            let problem = format!("does not exist in {zone}: the clock is put forward over it; choose an hour later");
            return Err(refuse("time_skipped", problem));
        }
    };
    if time <= now {
        return Err(refuse(
            "time_past",
            format!("is over in {zone}: choose a later one, or send now"),
        ));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, Utc};

    use super::local_time;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn ten_in_taipei_is_two_in_utc() {
        let now = utc("2026-11-21T00:00:00Z");
        for text in ["2026-11-30 10:00", "2026-11-30T10:00:00"] {
            assert_eq!(
                local_time(text, "Asia/Taipei", now).unwrap(),
                utc("2026-11-30T02:00:00Z")
            );
        }
    }

    #[test]
    fn the_clock_change_is_respected() {
        let now = utc("2026-01-01T00:00:00Z");
        let at = |text| local_time(text, "Europe/Berlin", now);
        assert_eq!(at("2026-03-29 01:59").unwrap(), utc("2026-03-29T00:59:00Z"));
        assert_eq!(at("2026-03-29 02:30").unwrap_err().id, "time_skipped");
        assert_eq!(at("2026-03-29 03:00").unwrap(), utc("2026-03-29T01:00:00Z"));
        assert_eq!(at("2026-10-25 02:30").unwrap(), utc("2026-10-25T00:30:00Z"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let now = utc("2026-11-21T00:00:00Z");
        let id = |text, zone| local_time(text, zone, now).unwrap_err().id;
        assert_eq!(id("tomorrow", "Asia/Taipei"), "time_unreadable");
        assert_eq!(id("2026-02-30 10:00", "Asia/Taipei"), "time_unreadable");
        assert_eq!(id("2026-11-21 07:59", "Asia/Taipei"), "time_past");
        assert_eq!(id("2026-11-30 10:00", "Asia/Atlantis"), "time_zone_unknown");
    }
}
