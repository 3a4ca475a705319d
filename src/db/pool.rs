//! The pool, a transaction, and the connection inside one: sqlx's own, made safe behind a pooler in transaction mode.
//!
//! sqlx prepares a statement in one round trip and runs it in the next, and between the two such a pooler may hand the
//! server's connection to somebody else. So behind one every statement runs inside a transaction, which pins the connection,
//! and none has a name, so that nothing is left there for the next client to stumble over. This needs nothing of the pooler:
//! the oldest PgBouncer will do. Without a pooler these types add nothing and cost nothing.
//!
//! They have sqlx's names because they stand in its place: the product must never run a statement on sqlx's own pool.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use futures::{
    TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use sqlx::{
    AssertSqlSafe, Connection as _, Describe, Either, Execute, Executor, Postgres, Row as _, SqlSafeStr as _, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

/// Connections to one database. Clones share them.
#[derive(Clone)]
pub struct PgPool {
    inner: sqlx::PgPool,
    /// Behind a pooler: what begins every transaction. It sets the time limits, which no connection keeps there.
    begin: Option<Arc<str>>,
}

impl fmt::Debug for PgPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold a password.
        f.debug_struct("PgPool")
            .field("behind_pooler", &self.begin.is_some())
            .finish_non_exhaustive()
    }
}

impl From<sqlx::PgPool> for PgPool {
    /// A pool whose connections are the server's own.
    fn from(inner: sqlx::PgPool) -> Self {
        Self { inner, begin: None }
    }
}

impl PgPool {
    /// A pool of connections to a pooler; `begin` begins a transaction in one simple query.
    pub(super) fn behind_pooler(inner: sqlx::PgPool, begin: &str) -> Self {
        Self {
            inner,
            begin: Some(begin.into()),
        }
    }

    /// The pool itself. Only for what runs no statement that a pooler could tear apart.
    pub(super) fn bare(&self) -> &sqlx::PgPool {
        &self.inner
    }

    /// Whether a pooler in transaction mode stands in front.
    pub(super) fn is_behind_pooler(&self) -> bool {
        self.begin.is_some()
    }

    /// Begins a transaction, safely for a caller whose future may be dropped.
    ///
    /// The library's own is not: dropped between sending BEGIN and hearing the answer it gives the connection back with the
    /// transaction open, and what the next user writes there is never committed. Here BEGIN runs in a task of its own, which
    /// always hears the answer; a transaction that nobody waits for any more is rolled back.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let pool = self.clone();
        let begun = tokio::spawn(async move {
            match &pool.begin {
                Some(begin) => pool.inner.begin_with(AssertSqlSafe(&**begin)).await,
                None => pool.inner.begin().await,
            }
        })
        .await;
        let tx = begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))?;
        Ok(Transaction(PgConnection {
            tx,
            unnamed: self.is_behind_pooler(),
        }))
    }

    /// The most connections it opens.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.inner.options().get_max_connections()
    }

    /// Connections that are open now, and how many of them nobody uses.
    #[must_use]
    pub fn open_and_idle(&self) -> (u32, u32) {
        let open = self.inner.size();
        (open, u32::try_from(self.inner.num_idle()).unwrap_or(u32::MAX).min(open))
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

/// A transaction; rolled back when dropped.
pub struct Transaction(PgConnection);

impl Transaction {
    /// Commits it.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.tx.commit().await
    }

    /// Rolls it back and waits until that is done.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.tx.rollback().await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transaction").finish()
    }
}

/// The connection a transaction runs on.
pub struct PgConnection {
    tx: sqlx::Transaction<'static, Postgres>,
    unnamed: bool,
}

impl PgConnection {
    /// The connection itself, for the library's own migrations.
    pub(super) fn bare(&mut self) -> &mut sqlx::PgConnection {
        &mut self.tx
    }
}

impl fmt::Debug for PgConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnection").finish_non_exhaustive()
    }
}

/// A statement without a name, with its arguments.
struct Unnamed {
    sql: SqlStr,
    arguments: Option<PgArguments>,
}

impl Unnamed {
    fn of<'q>(mut query: impl Execute<'q, Postgres>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            arguments: query.take_arguments().map_err(sqlx::Error::Encode)?,
            sql: query.sql(),
        })
    }
}

impl Execute<'_, Postgres> for Unnamed {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// Makes the connection know every type of the schema before it is used.
///
/// The library looks a type up when it first meets it, between preparing a statement and running it, with a query of its
/// own, which destroys a statement without a name.
pub(super) async fn learn_types(conn: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    conn.execute("BEGIN").await?;
    let types = sqlx::raw_sql(
        "select string_agg(format('null::%s', t.oid::regtype), ', ')
           from pg_type t left join pg_type e on e.oid = t.typelem
          where t.typnamespace = current_schema()::regnamespace and coalesce(e.typtype, t.typtype) in ('e', 'd')",
    );
    let types: Option<String> = types.fetch_one(&mut *conn).await?.try_get(0)?;
    if let Some(types) = types {
        let ask = AssertSqlSafe(format!("select {types}"));
        conn.prepare(ask.into_sql_str()).await?;
        // It has a name, which nobody may find later on this connection of the pooler's.
        conn.clear_cached_statements().await?;
    }
    conn.execute("COMMIT").await?;
    Ok(())
}

type Step = Result<Either<PgQueryResult, PgRow>, sqlx::Error>;

/// Runs one statement in a transaction of its own.
async fn alone(
    pool: PgPool,
    query: Result<Unnamed, sqlx::Error>,
) -> Result<Vec<Either<PgQueryResult, PgRow>>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let steps = tx.0.tx.fetch_many(query?).try_collect().await?;
    tx.commit().await?;
    Ok(steps)
}

fn row(step: Either<PgQueryResult, PgRow>) -> Option<PgRow> {
    match step {
        Either::Left(_) => None,
        Either::Right(row) => Some(row),
    }
}

/// Nobody here keeps a statement beyond its run; one that was kept would belong to a connection others use.
fn never_kept<'e, T: Send + 'e>() -> BoxFuture<'e, Result<T, sqlx::Error>> {
    Box::pin(async { Err(sqlx::Error::Protocol("statements are not kept here".to_owned())) })
}

impl<'p> Executor<'p> for &'_ PgPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.is_behind_pooler() {
            return self.inner.fetch_many(query);
        }
        let alone = alone(self.clone(), Unnamed::of(query));
        stream::once(alone)
            .map_ok(|steps| stream::iter(steps.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.is_behind_pooler() {
            return self.inner.fetch_optional(query);
        }
        let alone = alone(self.clone(), Unnamed::of(query));
        Box::pin(async move { Ok(alone.await?.into_iter().find_map(row)) })
    }

    fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        never_kept()
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        never_kept()
    }
}

impl<'c> Executor<'c> for &'c mut PgConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.unnamed {
            return self.tx.fetch_many(query);
        }
        match Unnamed::of(query) {
            Ok(query) => self.tx.fetch_many(query),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.unnamed {
            return self.tx.fetch_optional(query);
        }
        match Unnamed::of(query) {
            Ok(query) => self.tx.fetch_optional(query),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        never_kept()
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        never_kept()
    }
}
