//! Words for people: numbers, spans and moments as they are read, and foreign text made harmless.
//!
//! Data must never reach the terminal as it is: an error or a job's text may hold escape sequences.

use chrono::{DateTime, Utc};

/// A number with its thousands apart: `1,234,567`.
pub(super) fn number(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

/// A span of time as a person says it: `8 s`, `2 min 05 s`, `3 h 10 min`.
pub(super) fn span(secs: f64) -> String {
    if secs < 9.95 {
        return format!("{secs:.1} s");
    }
    let whole = std::time::Duration::try_from_secs_f64(secs.max(0.0)).map_or(u64::MAX, |span| span.as_secs());
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, secs) => format!("{secs} s"),
        (0, mins, secs) => format!("{mins} min {secs:02} s"),
        (hours, mins, _) => format!("{hours} h {mins:02} min"),
    }
}

/// One line of at most `most` characters without anything a terminal would obey.
pub(super) fn cell(text: &str, most: usize) -> String {
    let mut cut: String = text.chars().map(harmless).take(most + 1).collect();
    if cut.chars().count() > most {
        cut = cut.chars().take(most.saturating_sub(1)).chain(['…']).collect();
    }
    cut
}

/// Text of several lines without anything a terminal would obey.
pub(super) fn block(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { harmless(c) }).collect()
}

fn harmless(c: char) -> char {
    // Control characters, and the marks that turn the direction of what follows.
    if c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') {
        ' '
    } else {
        c
    }
}

/// A moment, to the second.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A moment that may be missing.
pub(super) fn moment_or_dash(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.04, 8.0, 59.9, 125.0, 11_400.0].map(span),
            ["0.0 s", "8.0 s", "59 s", "2 min 05 s", "3 h 10 min"]
        );
    }

    #[test]
    fn no_data_commands_the_terminal() {
        assert_eq!(cell("a\u{1b}[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(cell("abcdef", 4), "abc…");
        assert_eq!(block("a\u{7}\nb"), "a \nb");
    }
}
