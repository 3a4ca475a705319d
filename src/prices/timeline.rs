//! The tables of one kind, one after the other: on every day from the first on exactly one holds (pure).

use super::{Kind, PricesError, table::Table};

/// Looks at the tables of a kind, sorted by their first day.
pub(super) fn check(kind: Kind, tables: &[&Table]) -> Result<(), PricesError> {
    if tables.is_empty() && !kind.is_needed() {
        return Ok(());
    }
    if tables.is_empty() {
        return Err(PricesError::Missing(kind));
    }
    for table in tables {
        if let Some(until) = table.until.filter(|until| *until <= table.from) {
            return Err(PricesError::Backwards {
                version: table.version.clone(),
                from: table.from,
                until,
            });
        }
    }
    let followers = tables.iter().skip(1).map(Some).chain([None]);
    for (table, next) in tables.iter().zip(followers) {
        if let Some(next) =
            next.filter(|next| next.from == table.from || table.until.is_some_and(|end| end > next.from))
        {
            return Err(PricesError::Overlap {
                first: table.version.clone(),
                second: next.version.clone(),
                day: next.from,
            });
        }
        if let Some(end) = table.until.filter(|end| next.is_none_or(|next| next.from > *end)) {
            return Err(PricesError::Gap {
                kind,
                version: table.version.clone(),
                from: end,
            });
        }
    }
    Ok(())
}
