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

/// What came by a query, or to the address of another shop whose page is of the same app, goes, too; what only holds the same
/// letters stays, and keeps nobody waiting.
#[tokio::test]
async fn an_erasure_finds_every_request_that_names_the_person_and_no_other() {
    let db = database().await;
    let (front, sms) = (Scene::new(&db.pool, "app").await, Scene::new(&db.pool, "sms").await);
    let (page, other) = (
        Scene::new(&db.pool, "messenger").await,
        Scene::new(&db.pool, "messenger").await,
    );
    let store = async |scene: &Scene, provider: &str, query: &str, body: &str| {
        let stored = "select store_webhook($1, $2, '{}', convert_to($3, 'UTF8'), $4)";
        sqlx::query(stored)
            .bind(scene.sender.0)
            .bind(provider)
            .bind(body)
            .bind(query)
            .execute(&db.pool)
            .await
            .unwrap();
    };
    store(&sms, "mitake", "msgid=1&dstaddr=0912345678&StatusFlag=4", "").await;
    store(&sms, "twilio", "", "From=%2B886912345678&Body=hi").await;
    store(&sms, "mitake", "msgid=10912345678&dstaddr=0987654321", "").await;
    store(&other, "messenger", "", r#"{"sender":{"id":"7001"}}"#).await;
    store(&other, "messenger", "", r#"{"sender":{"id":"17001"}}"#).await;
    store(&front, "store", "", r#"{"customer":{"external_id":"7"}}"#).await;
    run(&db.pool, "delete from webhook_pending").await;
    store(
        &front,
        "store",
        "",
        r#"{"id":"e-17","customer":{"external_id":"C-70"}}"#,
    )
    .await;
    for (scene, address) in [(&sms, "+886912345678"), (&page, "7001")] {
        run(
            &db.pool,
            &format!(
                "insert into customer (shop_id) values ('{shop}');
                 insert into address (shop_id, sender_id, customer_id, address)
                 select '{shop}', '{}', id, '{address}' from customer where shop_id = '{shop}'",
                scene.sender,
                shop = scene.shop
            ),
        )
        .await;
    }
    run(
        &db.pool,
        &format!(
            "insert into customer (shop_id, external_id) values ('{}', '7')",
            front.shop
        ),
    )
    .await;
    run(&db.pool, "select erase_customer(id) from customer").await;
    let left: Vec<String> = one(
        &db.pool,
        "select array_agg(query || encode(body, 'escape') order by received_at) from webhook",
    )
    .await;
    assert_eq!(
        left,
        [
            "msgid=10912345678&dstaddr=0987654321",
            r#"{"sender":{"id":"17001"}}"#,
            r#"{"id":"e-17","customer":{"external_id":"C-70"}}"#
        ]
    );
}
