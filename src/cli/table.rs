//! Tables on a terminal, aligned by what is seen: a Chinese character is two columns wide.
//!
//! It must never decide what is shown, only where it stands.

use unicode_width::UnicodeWidthStr as _;

use super::{CliError, say};

/// How a column stands under its heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a heading, with a rule between.
#[derive(Debug)]
pub(super) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of figures: the first column to the left, the others to the right.
    pub(super) fn new(headings: &[&str]) -> Self {
        let align = |place| if place == 0 { Align::Left } else { Align::Right };
        let headings: Vec<(&str, Align)> =
            headings.iter().enumerate().map(|(place, text)| (*text, align(place))).collect();
        Self::aligned(&headings)
    }

    /// A table whose columns stand as said.
    pub(super) fn aligned(headings: &[(&str, Align)]) -> Self {
        Self {
            aligns: headings.iter().map(|(_, align)| *align).collect(),
            rows: vec![headings.iter().map(|(text, _)| (*text).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each behind two blanks.
    pub(super) fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let mut lines: Vec<String> = self.rows.iter().map(|row| self.line(row, &widths)).collect();
        let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        lines.insert(1.min(lines.len()), format!("  {}", "─".repeat(rule)));
        lines
    }

    /// Prints it.
    pub(super) fn print(&self) -> Result<(), CliError> {
        self.lines().iter().try_for_each(|line| say(line))
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), align) in row.iter().zip(widths).zip(&self.aligns) {
            let blanks = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => line.extend(["  ", cell, &blanks]),
                Align::Right => line.extend(["  ", &blanks, cell]),
            }
        }
        line.trim_end().to_owned()
    }
}

/// Prints rows under their headings.
pub(super) fn print(headings: &[(&str, Align)], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::aligned(headings);
    rows.into_iter().for_each(|row| table.row(row));
    table.print()
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::Table;

    #[test]
    fn columns_align_by_what_is_seen() {
        let mut table = Table::new(&["shop", "tokens"]);
        table.row(["鐘聲選物".to_owned(), "12,500".to_owned()]);
        table.row(["Tea".to_owned(), "-5".to_owned()]);
        let lines = table.lines();
        assert_eq!(
            lines,
            [
                "  shop      tokens",
                "  ────────────────",
                "  鐘聲選物  12,500",
                "  Tea           -5"
            ]
        );
        assert!(lines.iter().all(|line| line.width() == 18));
    }
}
