//! Data made fit for a terminal: nothing in an error, a name or a job's text may command it.

use chrono::{DateTime, Utc};

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
    fn no_data_commands_the_terminal() {
        assert_eq!(cell("a\u{1b}[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(cell("abcdef", 4), "abc…");
        assert_eq!(block("a\u{7}\nb"), "a \nb");
    }
}
