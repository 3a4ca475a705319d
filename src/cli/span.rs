//! Spans of time as people type them: `90s`, `30m`, `12h`, `7d`.

use std::time::Duration;

/// The longest that is believed, in days: a longer one is a slip of the finger.
const MAX_DAYS: u64 = 3_650;

/// Reads one. The error says how to write it.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with s, m, h or d, as in 90s, 30m, 12h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let secs: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    number
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(secs))
        .filter(|secs| *secs <= MAX_DAYS * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("at most {MAX_DAYS}d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_slips_are_told() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("7d"), Ok(Duration::from_hours(168)));
        for wrong in [
            "",
            "7",
            "d",
            "-1d",
            "+1d",
            "1.5h",
            "7 d",
            "7w",
            "99999999999999999999d",
            "4000d",
            "1é",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
