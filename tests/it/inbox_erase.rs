//! Erasing a person: nothing they wrote, said or are called is left, and what was sent to them keeps its numbers.

use crate::{
    fixture_db::database,
    inbox::{Scene, wrote},
    scene::{one, run},
};

/// Every row of the database that holds this text, by table.
async fn traces(pool: &carillon::db::PgPool, text: &str) -> Vec<String> {
    let tables: Vec<String> = one(
        pool,
        "select array_agg(quote_ident(c.relname) order by 1) from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'public' and c.relkind in ('r', 'p')",
    )
    .await;
    let mut found = Vec::new();
    for table in tables {
        let rows: i64 = one(
            pool,
            &format!(
                "select count(*) from {table} t where position('{text}' in t::text) > 0
            or position(encode('{text}'::bytea, 'hex') in t::text) > 0"
            ),
        )
        .await;
        if rows > 0 {
            found.push(format!("{table}: {rows}"));
        }
    }
    found
}

#[tokio::test]
async fn an_erased_customer_is_nowhere() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    let raw = |person: &str| {
        format!(
            "select store_webhook('{}', 'line', '{{}}', convert_to('{{\"events\": [\"{person}\"]}}', 'UTF8'))",
            scene.sender
        )
    };
    run(&db.pool, &raw("Uerase")).await;
    run(&db.pool, &raw("Uother")).await;
    run(&db.pool, "delete from webhook_pending").await;
    let mut edited = wrote("Uerase", "later", "", 5);
    edited.what = carillon::channel::webhook::What::Edited {
        message_id: "never came".to_owned(),
        text: "Uerase changed it".to_owned(),
    };
    scene
        .apply(&[
            wrote("Uerase", "m1", "I am Uerase", 0),
            wrote("Uother", "m2", "I am another", 1),
            edited,
        ])
        .await;
    run(&db.pool, "update customer set first_name = 'Uerase' where id = (select customer_id from address where address = 'Uerase')").await;
    assert!(!traces(&db.pool, "Uerase").await.is_empty());
    let erased: bool = scene
        .get("select erase_customer((select customer_id from address where address = 'Uerase'))")
        .await;
    assert!(erased);
    assert_eq!(traces(&db.pool, "Uerase").await, Vec::<String>::new());
    let left: Vec<i64> = scene.get("select array[(select count(*) from webhook), (select count(*) from message), (select count(*) from customer)]").await;
    assert_eq!(left, [1, 1, 1], "another's are all there");
    // What is told again brings nobody back.
    assert_eq!(scene.apply(&[wrote("Uerase", "m1", "I am Uerase", 0)]).await.new, 0);
    assert_eq!(traces(&db.pool, "Uerase").await, Vec::<String>::new());
    let again: bool = scene.get("select erase_customer(1000000)").await;
    assert!(!again, "there is no such customer");
}

#[tokio::test]
async fn who_is_named_in_a_webhook_that_still_waits_is_erased_after_it() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    scene.apply(&[wrote("Uerase", "m1", "hello", 0)]).await;
    run(
        &db.pool,
        &format!(
            "select store_webhook('{}', 'line', '{{}}', convert_to('Uerase', 'UTF8'))",
            scene.sender
        ),
    )
    .await;
    let refused = sqlx::query("select erase_customer(id) from customer")
        .execute(&db.pool)
        .await
        .unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "55006");
    let left: i64 = scene.get("select count(*) from customer").await;
    assert_eq!(left, 1);
}
