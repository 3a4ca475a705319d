//! PostgreSQL: one small pool per process, the embedded migrations, and whether the schema fits this program.
//!
//! Nothing here needs the database to be up: a pool connects when it is first used, so a process that starts during an outage
//! waits it out. Nothing is kept on a connection (no session lock, no LISTEN, no SET outside a transaction), so a pooler in
//! transaction mode may stand in front.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{
    Executor as _, PgPool, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{app::ProcessKind, config::DatabaseConfig};

/// Every migration, embedded. Their lock is ours ([`migrate`]) and not the library's, which is a session's.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Any fixed number; it only has to be the same in every version of this program.
const MIGRATION_LOCK: i64 = 0x0043_4152_494C_4C4F;

/// What can go wrong with the database before any work is done.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The address cannot be read. It is not shown: it may hold a password.
    #[error("database.url cannot be read as postgres://user:password@host:port/database")]
    Url,
    /// The database did not answer, or refused.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
    /// A migration failed; everything before it stays applied.
    #[error("migration: {0}")]
    Migrate(#[from] MigrateError),
}

/// Whether the database's schema is the one this program was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// Exactly as built.
    UpToDate,
    /// These versions are still to be applied: run `carillon migrate`.
    Behind(Vec<i64>),
    /// A newer program has migrated further. The old one may go on: migrations are safe while the old code still runs.
    Ahead(Vec<i64>),
    /// These versions were applied with another text, or only half: a person must look.
    Changed(Vec<i64>),
}

/// The pool of one process. Does not connect yet.
pub fn pool(config: &DatabaseConfig, process: ProcessKind) -> Result<PgPool, DbError> {
    let options = connect_options(config, process)?;
    let pool = PgPoolOptions::new()
        .max_connections(config.pool_size(process))
        .acquire_timeout(Duration::from_secs(config.acquire_timeout_secs))
        // Small hosted databases count every connection: what is not needed is given back.
        .idle_timeout(Duration::from_mins(5))
        .max_lifetime(Duration::from_mins(30))
        .connect_lazy_with(options);
    Ok(pool)
}

fn connect_options(config: &DatabaseConfig, process: ProcessKind) -> Result<PgConnectOptions, DbError> {
    let options: PgConnectOptions = config.url.expose().parse().map_err(|_| DbError::Url)?;
    let options = options.application_name(&format!("carillon-{}", process.name()));
    if config.transaction_pooler {
        // A pooler refuses parameters it does not know, these among them.
        return Ok(options.extra_float_digits(None));
    }
    let millis = |secs: u32| (u64::from(secs) * 1_000).to_string();
    Ok(options.options([
        ("statement_timeout", millis(config.statement_timeout_secs)),
        ("lock_timeout", millis(config.lock_timeout_secs)),
        (
            "idle_in_transaction_session_timeout",
            millis(config.idle_in_transaction_timeout_secs),
        ),
    ]))
}

/// Begins a transaction, safely for a caller whose future may be dropped.
///
/// `Pool::begin` of sqlx 0.9 is not: dropped between sending BEGIN and hearing the answer it gives the connection back
/// with the transaction open, and what the next user writes there is never committed. Here BEGIN runs in a task of its
/// own, which always hears the answer; a transaction that nobody waits for any more is rolled back.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin().await }).await;
    begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Applies what is missing and returns the versions applied. Two at once are fine: the second waits, then finds nothing to do.
pub async fn migrate(pool: &PgPool) -> Result<Vec<i64>, DbError> {
    // A lock that belongs to a transaction holds through a pooler, where one that belongs to a session would be lost or stay
    // for ever. It is held on a connection of its own, because a migration may need to run outside a transaction.
    let mut lock = begin(pool).await?;
    lock.execute("SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *lock)
        .await?;
    let before = applied(pool).await?;
    let migrator = Migrator {
        migrations: MIGRATOR.migrations.clone(),
        locking: false,
        // A database that a newer program has migrated further is fine: an old release may come back.
        ignore_missing: true,
        ..Migrator::DEFAULT
    };
    let result = migrator.run(pool).await;
    let after = applied(pool).await?;
    lock.rollback().await?;
    result?;
    Ok(after
        .into_keys()
        .filter(|version| !before.contains_key(version))
        .collect())
}

/// Compares the database with the embedded migrations.
pub async fn check_schema(pool: &PgPool) -> Result<SchemaState, sqlx::Error> {
    let applied = applied(pool).await?;
    let ours = || {
        MIGRATOR
            .iter()
            .filter(|migration| !migration.migration_type.is_down_migration())
    };
    let changed: Vec<i64> = ours()
        .filter(|ours| {
            applied
                .get(&ours.version)
                .is_some_and(|(checksum, success)| !success || *checksum != *ours.checksum)
        })
        .map(|ours| ours.version)
        .collect();
    if !changed.is_empty() {
        return Ok(SchemaState::Changed(changed));
    }
    let missing: Vec<i64> = ours()
        .map(|ours| ours.version)
        .filter(|version| !applied.contains_key(version))
        .collect();
    if !missing.is_empty() {
        return Ok(SchemaState::Behind(missing));
    }
    let newer: Vec<i64> = applied
        .into_keys()
        .filter(|version| !MIGRATOR.version_exists(*version))
        .collect();
    Ok(if newer.is_empty() {
        SchemaState::UpToDate
    } else {
        SchemaState::Ahead(newer)
    })
}

/// Version → (checksum, whether it went through).
async fn applied(pool: &PgPool) -> Result<BTreeMap<i64, (Vec<u8>, bool)>, sqlx::Error> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !known {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(i64, Vec<u8>, bool)> = sqlx::query_as("SELECT version, checksum, success FROM _sqlx_migrations")
        .fetch_all(pool)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(version, checksum, success)| (version, (checksum, success)))
        .collect())
}

/// Whether an error may be gone a moment later: the connection broke, the server restarts or is overloaded, or two
/// transactions met in an unlucky order.
#[must_use]
pub fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            // Connection, insufficient resources, operator intervention, system error, rolled back by the server.
            ["08", "53", "57", "58", "40"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "55P03"
        }),
        _ => false,
    }
}

/// An error in words that hold no data of a row: the server's message without its detail.
#[must_use]
pub fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            format!(
                "PostgreSQL: {} ({})",
                database.message(),
                database.code().unwrap_or_default()
            )
        }
        other => format!("PostgreSQL: {other}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_migration_file_is_embedded_and_says_why() {
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|extension| extension == "sql") {
                versions.push(name.split('_').next().unwrap().parse::<i64>().unwrap());
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("-- why:"), "{name} must begin with -- why:");
            }
        }
        versions.sort_unstable();
        let embedded: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, embedded);
    }
}
