//! Migrating while the release before is at work: nobody is thrown out of a transaction for it.

use std::fs;

use carillon::db::{PgPool, Transaction};
use uuid::Uuid;

use crate::{
    fixture_db::empty_database,
    scene::{one, run},
    wait::until,
};

/// The migrations' texts by number.
pub(crate) fn files() -> Vec<(u32, String)> {
    let mut files: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let number = path.file_name().unwrap().to_str().unwrap()[..4].parse().unwrap();
            (number, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Before each of them a planner has its broadcast and shop, a settle its broadcast, and an export reads the ledger; after it has
/// begun, the first two want the tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_and_those_at_work_never_wait_for_each_other() {
    let db = empty_database().await;
    let pool = &db.pool;
    let (before, new): (Vec<_>, Vec<_>) = files().into_iter().partition(|(number, _)| *number <= 10);
    for (_, text) in before {
        run(pool, &text).await;
    }
    let settles = i64::try_from(new.len()).unwrap() * 2;
    // A settle captures a token and releases one.
    let tokens = settles * 2;
    let [shop, other, sent, opened] = [(); 4].map(|()| Uuid::now_v7());
    run(
        pool,
        &format!(
            "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'u', 'core'), ('{other}', 'Cake', 'u', 'core');
             insert into broadcast (id, shop_id, name, mode, content, audience)
             select i, '{shop}', 'b', 'priority_single', '{{}}', '{{}}' from unnest(array['{sent}', '{opened}']::uuid[]) as i;
             select ledger_refill('{shop}', '2999-11', {tokens}), ledger_refill('{other}', '2999-11', 100);
             select ledger_hold('{sent}', '{shop}', {tokens})"
        ),
    )
    .await;
    for (number, text) in new {
        let settle = looked(pool, sent).await;
        let mut export = carillon::db::begin(pool).await.unwrap();
        one::<i64>(&mut *export, "select count(*) from ledger_entry").await;
        let mut plan = carillon::db::begin(pool).await.unwrap();
        let lock = format!("select state from broadcast where id = '{opened}' for update");
        one::<String>(&mut *plan, &lock).await;
        let shop = format!("update shop set name = name where id = '{other}' returning name");
        one::<String>(&mut *plan, &shop).await;
        let migration = tokio::spawn({
            let pool = pool.clone();
            async move { run(&pool, &format!("begin; {text}; commit")).await }
        });
        until("it waits for them, or is done", async || {
            migration.is_finished() || one::<i64>(pool, WAITING).await > 0
        })
        .await;
        // Begins in the middle of it: it must not be found inside an old function when the new rules are there.
        let late = tokio::spawn({
            let pool = pool.clone();
            async move { settled(looked(&pool, sent).await, sent, &format!("late{number}")).await }
        });
        until("the late one waits, too, or somebody is done", async || {
            late.is_finished() || migration.is_finished() || one::<i64>(pool, WAITING).await > 1
        })
        .await;
        export.commit().await.unwrap();
        let hold = format!("select ledger_hold('{}', '{other}', 1)", Uuid::now_v7());
        one::<i64>(&mut *plan, &hold).await;
        plan.commit().await.unwrap();
        settled(settle, sent, &format!("early{number}")).await;
        migration.await.unwrap();
        late.await.unwrap();
    }
    let captures = "select count(*) from ledger_entry where kind = 'capture'";
    assert_eq!(one::<i64>(pool, captures).await, settles);
}

/// How many wait for a lock.
const WAITING: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

/// A settle that has read its broadcast.
async fn looked(pool: &PgPool, broadcast: Uuid) -> Transaction {
    let mut tx = carillon::db::begin(pool).await.unwrap();
    one::<String>(
        &mut *tx,
        &format!("select state from broadcast where id = '{broadcast}'"),
    )
    .await;
    tx
}

/// The rest of it.
async fn settled(mut tx: Transaction, broadcast: Uuid, operation: &str) {
    let settle = format!("select 1::bigint from ledger_settle('{broadcast}', 'line', 1, 1, '{operation}')");
    one::<i64>(&mut *tx, &settle).await;
    tx.commit().await.unwrap();
}
