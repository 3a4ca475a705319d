//! PostgreSQL: one small pool per process, the embedded migrations, and whether the schema fits this program.
//!
//! Nothing here needs the database to be up: a pool connects when it is first used, so a process that starts during an outage
//! waits it out. Nothing is kept on a connection (no session lock, no LISTEN, no SET outside a transaction, no statement), so
//! a pooler in transaction mode may stand in front.

mod pool;
mod presence;

use std::{collections::BTreeMap, time::Duration};

use sqlx::{
    Executor as _,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::{
    pool::{PgConnection, PgPool, Transaction},
    presence::Presence,
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
    /// A newer program has taken away what this one needs ([`CONTRACTS`]).
    Outgrown(Vec<i64>),
    /// These versions were applied with another text, or only half: a person must look.
    Changed(Vec<i64>),
}

/// What the name of a migration begins with that takes away what older programs need. Such a one is only applied when none
/// of them is left, so a program that does not know it is too old for the database.
pub const CONTRACTS: &str = "contract ";

/// The pool of one process. Does not connect yet.
pub fn pool(config: &DatabaseConfig, process: ProcessKind) -> Result<PgPool, DbError> {
    let options = connect_options(config, process)?;
    let mut pool = PgPoolOptions::new()
        .max_connections(config.pool_size(process))
        .acquire_timeout(Duration::from_secs(config.acquire_timeout_secs))
        // Small hosted databases count every connection: what is not needed is given back.
        .idle_timeout(Duration::from_mins(5))
        .max_lifetime(Duration::from_mins(30));
    if !config.transaction_pooler {
        return Ok(pool.connect_lazy_with(options).into());
    }
    pool = pool.after_connect(|conn, _| Box::pin(pool::learn_types(conn)));
    Ok(PgPool::behind_pooler(
        pool.connect_lazy_with(options),
        &begin_with_limits(config),
    ))
}

fn connect_options(config: &DatabaseConfig, process: ProcessKind) -> Result<PgConnectOptions, DbError> {
    let options: PgConnectOptions = config.url.expose().parse().map_err(|_| DbError::Url)?;
    let options = options.application_name(&format!("carillon-{}", process.name()));
    if config.transaction_pooler {
        // A pooler refuses parameters it does not know, these among them.
        return Ok(options.extra_float_digits(None));
    }
    Ok(options.options(time_limits(config).map(|(name, ms)| (name, ms.to_string()))))
}

/// The time limits and their values in milliseconds.
fn time_limits(config: &DatabaseConfig) -> [(&'static str, u64); 3] {
    [
        ("statement_timeout", config.statement_timeout_secs),
        ("lock_timeout", config.lock_timeout_secs),
        (
            "idle_in_transaction_session_timeout",
            config.idle_in_transaction_timeout_secs,
        ),
    ]
    .map(|(name, secs)| (name, u64::from(secs) * 1_000))
}

/// The beginning of a transaction where the connection cannot carry the limits: one simple query, one round trip.
fn begin_with_limits(config: &DatabaseConfig) -> String {
    let limits = time_limits(config).map(|(name, ms)| format!("; SET LOCAL {name} = {ms}"));
    format!("BEGIN{}", limits.concat())
}

/// Begins a transaction; see [`PgPool::begin`].
pub async fn begin(pool: &PgPool) -> Result<Transaction, sqlx::Error> {
    pool.begin().await
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
    let before = applied(&mut lock).await?;
    let migrator = Migrator {
        migrations: MIGRATOR.migrations.clone(),
        locking: false,
        // A database that a newer program has migrated further is fine: an old release may come back.
        ignore_missing: true,
        ..Migrator::DEFAULT
    };
    let result = if pool.is_behind_pooler() {
        // All of it in the one transaction of the lock: the library's statements would be torn apart anywhere else.
        let result = migrator.run(lock.bare()).await;
        // They have names, too, which nobody may find later on this connection of the pooler's.
        let closed = sqlx::Connection::clear_cached_statements(lock.bare()).await;
        result.and(closed.map_err(MigrateError::Execute))
    } else {
        migrator.run(pool.bare()).await
    };
    result?;
    let after = applied(&mut lock).await?;
    lock.commit().await?;
    Ok(after
        .into_keys()
        .filter(|version| !before.contains_key(version))
        .collect())
}

/// Compares the database with the embedded migrations.
pub async fn check_schema(pool: &PgPool) -> Result<SchemaState, sqlx::Error> {
    let mut tx = begin(pool).await?;
    let applied = applied(&mut tx).await?;
    tx.rollback().await?;
    let ours = || {
        MIGRATOR
            .iter()
            .filter(|migration| !migration.migration_type.is_down_migration())
    };
    let changed: Vec<i64> = ours()
        .filter(|ours| {
            applied
                .get(&ours.version)
                .is_some_and(|there| !there.success || there.checksum != *ours.checksum)
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
    let newer = || {
        applied
            .iter()
            .filter(|(version, _)| !MIGRATOR.version_exists(**version))
    };
    let contracts = newer().filter(|(_, there)| there.description.starts_with(CONTRACTS));
    let contracts: Vec<i64> = contracts.map(|(version, _)| *version).collect();
    if !contracts.is_empty() {
        return Ok(SchemaState::Outgrown(contracts));
    }
    let newer: Vec<i64> = newer().map(|(version, _)| *version).collect();
    Ok(if newer.is_empty() {
        SchemaState::UpToDate
    } else {
        SchemaState::Ahead(newer)
    })
}

/// A migration the database has seen.
struct Applied {
    checksum: Vec<u8>,
    /// Whether it went through.
    success: bool,
    /// Its file's name, without the number and with blanks.
    description: String,
}

/// What the database has seen, by version.
async fn applied(conn: &mut PgConnection) -> Result<BTreeMap<i64, Applied>, sqlx::Error> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !known {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(i64, Vec<u8>, bool, String)> =
        sqlx::query_as("SELECT version, checksum, success, description FROM _sqlx_migrations")
            .fetch_all(conn)
            .await?;
    let applied = rows.into_iter().map(|(version, checksum, success, description)| {
        let applied = Applied {
            checksum,
            success,
            description,
        };
        (version, applied)
    });
    Ok(applied.collect())
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
                // A lock not got in time; and, behind a pooler, a type that is new since we connected (`pool::learn_types`).
                || ["55P03", "26000"].contains(&&*code)
        }),
        _ => false,
    }
}

/// Why waiting will not make the database answer, and what to do; none when it may.
#[must_use]
pub fn refusal(error: &sqlx::Error) -> Option<String> {
    let sqlx::Error::Database(refused) = error else {
        return None;
    };
    // Poolers answer almost everything with this code; only this one is about us.
    if refused.message().contains("unsupported startup parameter") {
        return Some(format!(
            "{}: a pooler stands in front of PostgreSQL; set CARILLON__DATABASE__TRANSACTION_POOLER=true",
            describe(error)
        ));
    }
    let advice = "look at DATABASE_URL and at the role's permissions";
    (!may_pass(error)).then(|| format!("{}: {advice}", describe(error)))
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
