//! Publishing: the price tables of this program, copied to Postgres.
//!
//! Why it exists: refills and orders are priced by SQL functions, which frontends call too. They must read what the program
//! reads. The rule that a table which has begun never changes is the database's (`publish_prices`), so that no program can
//! break it.
//!
//! It must never take a table away: an older program that comes back knows fewer of them.

use serde_json::{Value, json};

use super::{Prices, table::Table};
use crate::db::{self, PgPool};

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// What the files say contradicts what was published, or what shops have; the sentence says what to do.
    #[error("{0}")]
    Refused(String),
    /// Postgres did not answer.
    #[error("{}", db::describe(.0))]
    Database(#[source] sqlx::Error),
}

/// What publishing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Versions that were new, or corrected before their first day.
    pub versions: Vec<String>,
    /// Versions in Postgres that this program does not know: a newer one has published them.
    pub unknown_versions: Vec<String>,
}

/// Publishes every table, or none. Running it twice, from any number of processes at once, changes nothing more.
///
/// # Errors
/// A contradiction, or the database.
pub async fn publish(pool: &PgPool, prices: &Prices) -> Result<Published, PublishError> {
    let tables: Vec<Value> = prices.0.iter().map(row).collect();
    let known: Vec<&str> = prices.0.iter().map(|table| &*table.version).collect();
    let versions = sqlx::query_scalar("select publish_prices($1)")
        .bind(Value::Array(tables))
        .fetch_all(pool)
        .await
        .map_err(refused)?;
    let unknown_versions = sqlx::query_scalar("select version from price_table where version <> all ($1) order by 1")
        .bind(known)
        .fetch_all(pool)
        .await
        .map_err(PublishError::Database)?;
    Ok(Published {
        versions,
        unknown_versions,
    })
}

fn row(table: &Table) -> Value {
    json!({
        "version": table.version,
        "kind": table.kind().as_str(),
        "effective_from": table.from,
        "document": table.document(),
    })
}

fn refused(error: sqlx::Error) -> PublishError {
    match &error {
        sqlx::Error::Database(database) if database.constraint() == Some("prices_may_be_published") => {
            PublishError::Refused(database.message().to_owned())
        }
        _ => PublishError::Database(error),
    }
}
