//! A database whose `now()` a test sets: months pass in a moment, and a period's last second can be stood on.
//!
//! The pool looks for functions in a schema of its own before PostgreSQL's; every function of the product that asks `now()`
//! gets the test's time there. Defaults of columns and views keep PostgreSQL's own.

use carillon::db::PgPool;
use sqlx::{
    AssertSqlSafe,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{fixture_db::TestDb, scene::run};

/// The clock, and the pool on which it is the time.
#[derive(Clone)]
pub(crate) struct FakeClock {
    pub(crate) pool: PgPool,
}

impl FakeClock {
    pub(crate) async fn new(db: &TestDb) -> Self {
        run(
            &db.pool,
            "create schema fake; create table fake.clock (at timestamptz not null); insert into fake.clock values (now());
             create function fake.now() returns timestamptz language sql stable as 'select at from fake.clock'",
        )
        .await;
        let options: PgConnectOptions = db.url.parse().unwrap();
        let options = options.options([("search_path", "fake,public,pg_catalog"), ("lock_timeout", "20s")]);
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .connect_with(options)
            .await
            .unwrap();
        Self { pool: pool.into() }
    }

    /// Sets the time, such as `2026-11-30 23:59:59+08`.
    pub(crate) async fn set(&self, at: &str) {
        sqlx::query(AssertSqlSafe(format!("update fake.clock set at = '{at}'")))
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Publishes plans that hold from a day on.
    pub(crate) async fn publish_plans(&self, from: &str, plans: &[(&str, i64)]) {
        let plans: serde_json::Map<String, serde_json::Value> = plans
            .iter()
            .map(|(plan, tokens)| ((*plan).to_owned(), (*tokens).into()))
            .collect();
        let tables = serde_json::json!([{
            "version": format!("plans-{from}"), "kind": "plans", "effective_from": from, "document": plans,
        }]);
        sqlx::query("select publish_prices($1)")
            .bind(tables)
            .execute(&self.pool)
            .await
            .unwrap();
    }
}
