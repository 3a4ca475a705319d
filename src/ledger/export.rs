//! A shop's entries as CSV, oldest first, for whoever keeps the shop's books.
//!
//! Read in pages by key, so that memory stays flat and no statement runs for longer than a page takes, however slow the reader
//! is. Entries are only ever appended, in the order of their ids, so the pages fit together without a snapshot.

use std::io::{self, Write};

use carillon_jobs::ShopId;
use thiserror::Error;

use super::{Entry, LedgerError, Period, entry};
use crate::db::PgPool;

/// Entries a page.
const PAGE: i64 = 5_000;

/// The first line: the names of the columns. All numbers are tokens, times are UTC.
pub const CSV_HEADER: &str = "shop_id,id,at,kind,operation,broadcast_id,channel,allowance,extra,held_allowance,held_extra,\
                              allowance_after,extra_after,held_allowance_after,held_extra_after";

/// Why an export ended early. What was written until then is whole lines.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The output could not be written.
    #[error("the export could not be written")]
    Output(#[from] io::Error),
}

/// Writes the header and a line an entry, of one calendar month by the shop's clock or of all times; returns how many entries.
pub async fn export(
    db: &PgPool,
    shop: ShopId,
    month: Option<Period>,
    out: &mut impl Write,
) -> Result<u64, ExportError> {
    writeln!(out, "{CSV_HEADER}")?;
    let (mut after, mut written) = (0, 0);
    loop {
        let page = entry::after(db, shop, month, after, PAGE).await?;
        for entry in &page {
            writeln!(out, "{}", csv_line(shop, entry))?;
        }
        out.flush()?;
        written += u64::try_from(page.len()).unwrap_or(u64::MAX);
        match page.last() {
            Some(last) if i64::try_from(page.len()).is_ok_and(|read| read == PAGE) => after = last.id,
            _ => return Ok(written),
        }
    }
}

/// One entry, in the order of [`CSV_HEADER`].
#[must_use]
pub fn csv_line(shop: ShopId, entry: &Entry) -> String {
    let numbers = [
        entry.allowance,
        entry.extra,
        entry.held_allowance,
        entry.held_extra,
        entry.allowance_after,
        entry.extra_after,
        entry.held_allowance_after,
        entry.held_extra_after,
    ]
    .map(|number| number.to_string());
    let texts = [
        shop.to_string(),
        entry.id.to_string(),
        entry.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        entry.kind.as_str().to_owned(),
        field(&entry.operation),
        entry.broadcast.map(|id| id.to_string()).unwrap_or_default(),
        entry.channel.map(|channel| channel.to_string()).unwrap_or_default(),
    ];
    [texts.join(","), numbers.join(",")].join(",")
}

/// A text as one field: quoted where it holds what ends a field. An operation begins with its kind, so no spreadsheet takes it
/// for a formula.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_with_anything_that_ends_one_is_quoted() {
        assert_eq!(field("top_up:order-1"), "top_up:order-1");
        assert_eq!(field("top_up:a,\"b\"\nc"), "\"top_up:a,\"\"b\"\"\nc\"");
    }
}
