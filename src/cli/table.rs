//! Tables and words for people: what a terminal shows, aligned and harmless whatever the data holds.
//!
//! Data must never reach the terminal as it is: an error or a job's text may hold escape sequences.

use chrono::{DateTime, Utc};

use super::{CliError, say};

/// How a column stands under its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Prints rows under their heads, each column as wide as its widest cell.
pub(super) fn print(heads: &[(&str, Align)], rows: &[Vec<String>]) -> Result<(), CliError> {
    for line in lines(heads, rows) {
        say(&line)?;
    }
    Ok(())
}

fn lines(heads: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(place, (head, _))| {
            let cells = rows.iter().filter_map(|row| row.get(place));
            cells.map(|cell| width(cell)).max().unwrap_or(0).max(width(head))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, room), (_, align)) in cells.zip(&widths).zip(heads) {
            let blanks = " ".repeat(room.saturating_sub(width(cell)));
            match align {
                Align::Left => line.extend([cell, &blanks]),
                Align::Right => line.extend([&blanks, cell]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    std::iter::once(line(&mut heads.iter().map(|(head, _)| *head)))
        .chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))))
        .collect()
}

/// Columns of a terminal a text takes. Rough, and right for what names of shops are made of: from the Hangul block on,
/// a character is as wide as two.
fn width(text: &str) -> usize {
    text.chars().map(|c| if c < '\u{1100}' { 1 } else { 2 }).sum()
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
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["好日子".to_owned(), "7".to_owned()],
            vec!["tea".to_owned(), "1200".to_owned()],
        ];
        let lines = lines(&[("shop", Align::Left), ("jobs", Align::Right)], &rows);
        assert_eq!(lines, ["shop    jobs", "好日子     7", "tea     1200"]);
    }

    #[test]
    fn no_data_commands_the_terminal() {
        assert_eq!(cell("a\u{1b}[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(cell("abcdef", 4), "abc…");
        assert_eq!(block("a\u{7}\nb"), "a \nb");
    }
}
