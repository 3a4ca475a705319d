//! Comma-separated values, record by record (pure but for reading).
//!
//! Why our own: a list comes from whatever a merchant's last system wrote, and a line that is wrong must be named by its number and
//! not end the import. So a record that cannot be read is an item like any other.
//!
//! It must never hold more than one record in memory, however the file is broken, and never write a cell that a spreadsheet takes
//! for a formula.

use std::io::{self, BufRead};

/// The longest record, in bytes; what is longer is no line of a list.
const RECORD_LIMIT: usize = 16 * 1024;
/// What a spreadsheet takes for the beginning of a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// One record and the line it begins on, counted from 1; `Err`: why it cannot be read.
pub(super) type Record = (u64, Result<Vec<String>, &'static str>);

/// Reads records one after another.
pub(super) struct Reader<R> {
    input: R,
    line: u64,
}

impl<R: BufRead> Reader<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, line: 0 }
    }

    /// The next record that is not empty; `None` at the end.
    ///
    /// # Errors
    /// The input could not be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let begins = self.line + 1;
            let mut raw = Vec::new();
            let mut too_long = false;
            loop {
                let read = self.read_line(&mut raw, &mut too_long)?;
                if read == 0 {
                    break;
                }
                self.line += 1;
                // A line break inside of quotes belongs to the record; past the limit nobody looks for the end of the quotes.
                if too_long || !is_open(&raw) {
                    break;
                }
            }
            if raw.is_empty() && !too_long {
                return Ok(None);
            }
            if too_long {
                return Ok(Some((begins, Err("is longer than any line of a list"))));
            }
            let Ok(text) = std::str::from_utf8(&raw) else {
                return Ok(Some((begins, Err("is not UTF-8: save the file as UTF-8"))));
            };
            let text = text.strip_prefix('\u{feff}').filter(|_| begins == 1).unwrap_or(text);
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some((begins, fields(text))));
            }
        }
    }

    /// Appends a line with its end, as far as the limit; bytes read, 0 at the end of the input.
    fn read_line(&mut self, raw: &mut Vec<u8>, too_long: &mut bool) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(total);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let take = end.map_or(buffer.len(), |end| end + 1);
            let piece = buffer.get(..take).unwrap_or_default();
            if raw.len() + piece.len() > RECORD_LIMIT {
                *too_long = true;
            } else if !*too_long {
                raw.extend_from_slice(piece);
            }
            self.input.consume(take);
            total += take;
            if end.is_some() {
                return Ok(total);
            }
        }
    }
}

/// Whether a record ends inside of a quoted field. A quote in the middle of a field opens nothing: that record is bad by itself.
fn is_open(raw: &[u8]) -> bool {
    #[derive(PartialEq)]
    enum At {
        Start,
        Plain,
        Quoted,
        /// Behind a quote in a quoted field: the end of it, or the first of two.
        Quote,
    }
    let end = raw.iter().fold(At::Start, |at, byte| match (at, byte) {
        (At::Quoted, b'"') => At::Quote,
        (At::Start | At::Quote, b'"') | (At::Quoted, _) => At::Quoted,
        (At::Start | At::Plain | At::Quote, b',') => At::Start,
        (At::Start | At::Plain | At::Quote, _) => At::Plain,
    });
    end == At::Quoted
}

/// The fields of a record.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_field(quoted)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (field, behind) = rest.split_at(end);
            if field.contains('"') {
                return Err("has a quote in the middle of a field");
            }
            (field.to_owned(), behind)
        };
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None if behind.is_empty() => return Ok(fields),
            None => return Err("has something behind a closing quote"),
        }
    }
}

/// A field up to its closing quote, and what stands behind that.
fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (piece, behind) = rest.split_once('"').ok_or("has a quote that is never closed")?;
        field.push_str(piece);
        match behind.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, behind)),
        }
    }
}

/// A text as one field: safe in a spreadsheet, quoted where it holds what ends a field.
#[must_use]
pub(super) fn field(text: &str) -> String {
    // An apostrophe that stands there already is doubled, so that reading takes away exactly what writing put there.
    let safe = if text.starts_with(FORMULA) || text.starts_with('\'') {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if safe.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

/// A cell as it was before [`field`] made it safe.
#[must_use]
pub(super) fn plain(cell: &str) -> &str {
    let inside = cell.strip_prefix('\'');
    inside
        .filter(|text| text.starts_with(FORMULA) || text.starts_with('\''))
        .unwrap_or(cell)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::{Reader, Record, field, fields, plain};

    fn all(text: &[u8]) -> Vec<Record> {
        let mut reader = Reader::new(text);
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn records_are_read_with_the_line_they_begin_on() {
        let read = all("\u{feff}a,b\r\n\n\"x,\"\"y\"\"\nz\",2\nlast,".as_bytes());
        let texts: Vec<(u64, Vec<String>)> = read.into_iter().map(|(line, fields)| (line, fields.unwrap())).collect();
        let wanted = |line, a: &str, b: &str| (line, vec![a.to_owned(), b.to_owned()]);
        assert_eq!(
            texts,
            [wanted(1, "a", "b"), wanted(3, "x,\"y\"\nz", "2"), wanted(5, "last", "")]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_next_line_is_read() {
        let long = "x".repeat(20_000);
        let text = format!("a\"b,1\n\"c\"d,2\n{long},3\ne,4\n\"f,5");
        let read = all(text.as_bytes());
        let bad: Vec<u64> = read
            .iter()
            .filter(|(_, fields)| fields.is_err())
            .map(|(line, _)| *line)
            .collect();
        assert_eq!(bad, [1, 2, 3, 5]);
        assert!(all(b"\xff\xfe,1\ngood,2").last().unwrap().1.is_ok());
    }

    proptest! {
        /// Whatever a text is, it comes back from a list as it went in, and no cell begins a formula.
        #[test]
        fn a_cell_comes_back_as_it_went_in(texts in prop::collection::vec("[^\u{0}]{0,20}", 1..5)) {
            let line: Vec<String> = texts.iter().map(|text| field(text)).collect();
            for cell in &line {
                let shown = fields(cell).unwrap();
                prop_assert!(!shown[0].starts_with(['=', '+', '-', '@', '\t', '\r']));
            }
            // A line of blanks is no record, nor is the mark of UTF-8 at the beginning of a file a text.
            prop_assume!(!line.join(",").trim().is_empty() && !line.join("").starts_with('\u{feff}'));
            prop_assume!(!texts.last().unwrap().ends_with(['\r', '\n']) || line.last().unwrap().ends_with('"'));
            let read = all(line.join(",").as_bytes());
            prop_assert_eq!(read.len(), 1);
            let back: Vec<String> = read[0].1.clone().unwrap().iter().map(|cell| plain(cell).to_owned()).collect();
            prop_assert_eq!(back, texts);
        }

        /// Whatever bytes a file holds, reading ends and names no line twice.
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let lines: Vec<u64> = all(&bytes).into_iter().map(|(line, _)| line).collect();
            prop_assert!(lines.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
