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

/// Rows of cells under a heading.
#[derive(Debug, Default)]
pub(super) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; the first column to the left, the others to the right.
    pub(super) fn new(headings: &[&str]) -> Self {
        let aligns = std::iter::once(Align::Left).chain(std::iter::repeat(Align::Right));
        Self::aligned(&headings.iter().copied().zip(aligns).collect::<Vec<_>>())
    }

    /// A table with these headings, each column as it says.
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

    /// The lines, each behind two blanks, with a rule under the headings.
    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.width())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines: Vec<String> = self.rows.iter().map(|row| line(row, &widths, &self.aligns)).collect();
        if !lines.is_empty() {
            let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
            lines.insert(1, format!("  {}", "─".repeat(rule)));
        }
        lines
    }
}

fn line(row: &[String], widths: &[usize], aligns: &[Align]) -> String {
    let cells = row.iter().zip(widths).zip(aligns).map(|((cell, width), align)| {
        let blanks = " ".repeat(width.saturating_sub(cell.width()));
        match align {
            Align::Left => format!("  {cell}{blanks}"),
            Align::Right => format!("  {blanks}{cell}"),
        }
    });
    cells.collect::<String>().trim_end().to_owned()
}

/// Prints a table.
pub(super) fn print(headings: &[(&str, Align)], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::aligned(headings);
    for row in rows {
        table.row(row);
    }
    table.lines().iter().try_for_each(|line| say(line))
}

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

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::{Table, number, span};

    #[test]
    fn columns_align_by_what_is_seen() {
        let mut table = Table::new(&["shop", "tokens"]);
        table.row(["鐘聲選物".to_owned(), number(12_500)]);
        table.row(["Tea".to_owned(), number(-5)]);
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

    #[test]
    fn numbers_and_spans_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(number),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.04, 8.0, 59.9, 125.0, 11_400.0].map(span),
            ["0.0 s", "8.0 s", "59 s", "2 min 05 s", "3 h 10 min"]
        );
    }
}
