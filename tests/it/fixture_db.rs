//! A database of its own for each test, copied from a template that was migrated once.
//!
//! `CARILLON_TEST_DATABASE_URL` is the address of a server where databases may be created. The template is named by the
//! content of the migrations and price tables, so it is made once however many tests and runs need it; a test's database is dropped when
//! the test ends, whichever way it ends. It must never touch a database it did not create.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    str::FromStr,
};

use carillon::{
    db::PgPool,
    prices::{self, Prices},
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// A migrated, empty database; dropped with this value.
pub(crate) struct TestDb {
    pub(crate) pool: PgPool,
    /// Its address, for processes the test starts.
    pub(crate) url: String,
    name: String,
}

/// A new database with every migration applied.
pub(crate) async fn database() -> TestDb {
    create(TEMPLATE.get_or_init(template).await).await
}

/// A new database without a schema.
pub(crate) async fn empty_database() -> TestDb {
    create("template1").await
}

async fn create(template: &str) -> TestDb {
    let name = format!("carillon_test_{}", Uuid::new_v4().simple());
    let mut admin = admin().await;
    execute(&mut admin, format!("create database {name} template {template}")).await;
    admin.close().await.unwrap();
    // Who would wait for a lock for ever fails instead.
    let options = admin_options().database(&name).options([("lock_timeout", "20s")]);
    let url = sqlx::ConnectOptions::to_url_lossy(&options).to_string();
    let pool = PgPoolOptions::new()
        .max_connections(24)
        .connect_with(options)
        .await
        .unwrap()
        .into();
    TestDb { pool, url, name }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // The test's runtime may be the one that is going down: dropping needs its own.
        let name = std::mem::take(&mut self.name);
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async {
                    let mut admin = admin().await;
                    execute(&mut admin, format!("drop database if exists {name} with (force)")).await;
                });
        });
        assert!(
            dropped.join().is_ok() || std::thread::panicking(),
            "the test's database could not be dropped"
        );
    }
}

async fn template() -> String {
    let mut hasher = DefaultHasher::new();
    MIGRATIONS
        .iter()
        .for_each(|migration| migration.checksum.hash(&mut hasher));
    format!("{:?}", Prices::embedded().unwrap()).hash(&mut hasher);
    let name = format!("carillon_template_{:016x}", hasher.finish());
    let mut admin = admin().await;
    // Test binaries may start at once: one makes the template, the others find it.
    execute(&mut admin, "select pg_advisory_lock(4212)".to_owned()).await;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    if !exists {
        // Made under another name, so that one whose migration failed is never taken for finished.
        let making = format!("{name}_making");
        execute(&mut admin, format!("drop database if exists {making} with (force)")).await;
        execute(&mut admin, format!("create database {making}")).await;
        let mut fresh = PgConnection::connect_with(&admin_options().database(&making))
            .await
            .unwrap();
        MIGRATIONS
            .run(&mut fresh)
            .await
            .expect("migrations apply to an empty database");
        fresh.close().await.unwrap();
        let pool = PgPoolOptions::new()
            .connect_with(admin_options().database(&making))
            .await
            .unwrap();
        prices::publish(&pool.clone().into(), &Prices::embedded().unwrap())
            .await
            .expect("prices are published in an empty database");
        pool.close().await;
        execute(&mut admin, format!("alter database {making} rename to {name}")).await;
    }
    admin.close().await.unwrap();
    name
}

/// The address of a service the tests need.
pub(crate) fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with bin/test"))
}

fn admin_options() -> PgConnectOptions {
    PgConnectOptions::from_str(&service("CARILLON_TEST_DATABASE_URL")).unwrap()
}

async fn admin() -> PgConnection {
    PgConnection::connect_with(&admin_options()).await.unwrap()
}

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

#[tokio::test]
async fn a_tests_database_is_migrated_and_gone_when_the_test_ends() {
    let db = database().await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let name: String =
        sqlx::query_scalar("select current_database() from token_account right join (select 1) one on true")
            .fetch_one(&mut other)
            .await
            .unwrap();
    drop(db);
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(&name)
        .fetch_one(&mut admin().await)
        .await
        .unwrap();
    assert_eq!((name.starts_with("carillon_test_"), left), (true, 0));
}
