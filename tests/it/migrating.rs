//! Migrating while the release before is at work: nobody is thrown out of a transaction for it.

use std::fs;

use uuid::Uuid;

use crate::{
    fixture_db::empty_database,
    scene::{one, run},
    wait::until,
};

/// The migrations' texts by number.
fn files() -> Vec<(u32, String)> {
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

/// Before each of them a planner has its broadcast and shop and a settle its broadcast; after it has begun they want the tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_and_those_at_work_never_wait_for_each_other() {
    let db = empty_database().await;
    let pool = &db.pool;
    let (before, new): (Vec<_>, Vec<_>) = files().into_iter().partition(|(number, _)| *number <= 10);
    for (_, text) in before {
        run(pool, &text).await;
    }
    let [shop, other, sent, opened] = [(); 4].map(|()| Uuid::now_v7());
    run(
        pool,
        &format!(
            "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'u', 'core'), ('{other}', 'Cake', 'u', 'core');
             insert into broadcast (id, shop_id, name, mode, content, audience)
             select i, '{shop}', 'b', 'priority_single', '{{}}', '{{}}' from unnest(array['{sent}', '{opened}']::uuid[]) as i;
             select ledger_refill('{shop}', '2999-11', 100), ledger_refill('{other}', '2999-11', 100);
             select ledger_hold('{sent}', '{shop}', 50)"
        ),
    )
    .await;
    for (number, text) in new {
        let mut settle = carillon::db::begin(pool).await.unwrap();
        one::<String>(
            &mut *settle,
            &format!("select state from broadcast where id = '{sent}'"),
        )
        .await;
        let mut plan = carillon::db::begin(pool).await.unwrap();
        one::<String>(
            &mut *plan,
            &format!("select state from broadcast where id = '{opened}' for update"),
        )
        .await;
        one::<String>(
            &mut *plan,
            &format!("update shop set name = name where id = '{other}' returning name"),
        )
        .await;
        let migration = {
            let pool = pool.clone();
            tokio::spawn(async move { run(&pool, &format!("begin; {text}; commit")).await })
        };
        until("it waits for them, or is done", async || {
            migration.is_finished()
                || one::<bool>(
                    pool,
                    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')",
                )
                .await
        })
        .await;
        one::<i64>(
            &mut *plan,
            &format!("select ledger_hold('{}', '{other}', 1)", Uuid::now_v7()),
        )
        .await;
        plan.commit().await.unwrap();
        let settled = format!("select 1::bigint from ledger_settle('{sent}', 'line', 1, 1, 'k{number}')");
        one::<i64>(&mut *settle, &settled).await;
        settle.commit().await.unwrap();
        migration.await.unwrap();
    }
    assert_eq!(
        one::<i64>(pool, "select count(*) from ledger_entry where kind = 'capture'").await,
        7
    );
}
