//! Checks of connections: what a merchant is told of a page and a number, and the ten pages a shop may have.

use carillon::{
    app::ProcessKind,
    channel::Checked,
    delivery::connection::{self, ConnectionError},
};
use carillon_jobs::SenderId;
use carillon_sandbox::{Account, META_APP_ID, META_APP_SECRET, PageAccount};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    meta_scene::{number, page, sender},
    scene::one,
    world::World,
};

async fn check(world: &World, id: Uuid, mend: bool) -> Checked {
    let delivery = world.app(ProcessKind::Command).delivery().unwrap();
    connection::check(&delivery, SenderId(id), mend).await.unwrap()
}

fn ids(checked: &Checked) -> Vec<&'static str> {
    checked.findings.iter().map(|one| one.id).collect()
}

/// A page of the sandbox with a set-up of its own, and what it is connected by.
fn other_page(world: &World, nr: u32, change: impl FnOnce(&mut PageAccount)) -> Value {
    let mut account = PageAccount {
        access_token: format!("token-{nr}"),
        page_id: nr.to_string(),
        name: format!("Page {nr}"),
        app_id: Some(META_APP_ID.to_owned()),
        app_secret: Some(META_APP_SECRET.to_owned()),
        needs_proof: true,
        scopes: vec!["pages_messaging".to_owned(), "pages_manage_metadata".to_owned()],
        subscribed: true,
        is_primary_receiver: true,
    };
    change(&mut account);
    world.sandbox.handle().register(Account::Messenger(account)).unwrap();
    json!({"page_id": nr.to_string(), "access_token": format!("token-{nr}"), "app_id": META_APP_ID, "app_secret": META_APP_SECRET})
}

async fn connect(world: &World, credentials: &Value) -> Uuid {
    world
        .run("update sender set is_primary = false where channel = 'messenger'")
        .await;
    sender(world, "messenger", credentials).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_checked_and_its_subscription_mended() {
    let world = World::new(&[]).await;
    let id = connect(&world, &page()).await;
    let found = check(&world, id, false).await;
    assert_eq!(
        ids(&found),
        ["page", "scopes", "not_subscribed", "primary_receiver", "pages"]
    );
    assert!(!found.works());
    assert!(found.findings[4].en.contains("1 of at most 10"), "{found:?}");
    let mended = check(&world, id, true).await;
    assert_eq!(
        ids(&mended),
        ["page", "scopes", "subscribed", "primary_receiver", "pages"]
    );
    assert!(mended.works());
    assert_eq!(ids(&check(&world, id, false).await), ids(&mended));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_page_is_said_by_name() {
    let world = World::new(&[]).await;
    let with = |mut json: Value, name: &str, value: Value| {
        json[name] = value;
        json
    };
    let whole = other_page(&world, 11, |_| {});
    let without_scope = other_page(&world, 12, |page| page.scopes = vec!["pages_messaging".to_owned()]);
    let second = other_page(&world, 13, |page| page.is_primary_receiver = false);
    let open = other_page(&world, 14, |page| page.needs_proof = false);
    for (credentials, expected, works) in [
        (
            with(whole.clone(), "access_token", "gone".into()),
            "token_invalid",
            false,
        ),
        (
            with(whole.clone(), "page_id", "12".into()),
            "token_of_other_page",
            false,
        ),
        (
            with(whole.clone(), "app_secret", "another".into()),
            "app_secret_wrong",
            false,
        ),
        (without_scope, "scope_missing", false),
        (second, "not_primary_receiver", true),
        (
            with(with(open, "app_id", Value::Null), "app_secret", Value::Null),
            "app_unknown",
            true,
        ),
    ] {
        let id = connect(&world, &credentials).await;
        let found = check(&world, id, false).await;
        assert!(found.has(expected), "{expected}: {:?}", ids(&found));
        assert_eq!(found.works(), works, "{expected}: {found:?}");
        let said = format!("{found:?}");
        assert!(!said.contains("token-1") && !said.contains(META_APP_SECRET), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_tells_its_limit_and_quality() {
    let world = World::new(&[]).await;
    let good = sender(&world, "whatsapp", &number()).await;
    let found = check(&world, good, false).await;
    assert_eq!(ids(&found), ["number", "quality", "limit", "no_template"]);
    assert!(found.works() && found.findings[2].en.contains("2,000"), "{found:?}");
    world
        .run("update sender set is_primary = false where channel = 'whatsapp'")
        .await;
    let mut wrong = number();
    wrong["phone_number_id"] = "5".into();
    let wrong = sender(&world, "whatsapp", &wrong).await;
    assert_eq!(ids(&check(&world, wrong, false).await), ["number_refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_and_an_account_without_a_check_are_told_apart() {
    let world = World::new(&[("CHANNEL__MESSENGER__BASE_URL", "http://127.0.0.1:9")]).await;
    let id = connect(&world, &page()).await;
    assert_eq!(ids(&check(&world, id, false).await), ["provider_silent", "pages"]);
    let delivery = world.app(ProcessKind::Command).delivery().unwrap();
    let email = one(world.pool(), "select id from sender where channel = 'email'").await;
    let refused = connection::check(&delivery, SenderId(email), false).await;
    assert!(matches!(refused, Err(ConnectionError::NoCheck(_))), "{refused:?}");
    let nobody = connection::check(&delivery, SenderId::new(), false).await;
    assert!(matches!(nobody, Err(ConnectionError::NoSender(_))), "{nobody:?}");
}

/// Twenty at once: ten are connected, and the others are told why not.
#[tokio::test(flavor = "multi_thread")]
async fn a_shop_has_ten_pages_however_many_connect_at_once() {
    let world = World::new(&[]).await;
    let tries = (0..20).map(|nr| {
        let (pool, shop) = (world.pool().clone(), world.shop);
        tokio::spawn(async move {
            sqlx::query(
                "insert into sender (id, shop_id, channel, name, is_primary, credentials) values ($1, $2, 'messenger', 'p', $3, '')",
            )
            .bind(Uuid::now_v7())
            .bind(shop)
            .bind(nr == 0)
            .execute(&pool)
            .await
        })
    });
    let tries: Vec<_> = tries.collect();
    let mut connected = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(_) => connected += 1,
            Err(error) => {
                let constraint = error
                    .as_database_error()
                    .and_then(|error| error.constraint())
                    .map(str::to_owned);
                assert_eq!(constraint.as_deref(), Some("page_limit"), "{error}");
            }
        }
    }
    assert_eq!(connected, 10);
    // One goes and another may come; the one that went may not come back then.
    let gone: Uuid = world
        .one("update sender set state = 'disconnected' where id = (select min(id::text)::uuid from sender where channel = 'messenger') returning id")
        .await;
    world
        .run(&format!(
            "insert into sender (id, shop_id, channel, name, credentials) values (gen_random_uuid(), '{}', 'messenger', 'p', '')",
            world.shop
        ))
        .await;
    let back = sqlx::query("update sender set state = 'connected' where id = $1")
        .bind(gone)
        .execute(world.pool())
        .await;
    assert!(back.is_err());
    world
        .run("update sender set state = 'paused' where channel = 'messenger' and state = 'connected'")
        .await;
}
