//! The web process: readiness tells what is missing, and an unsubscribe link acts on POST and on nothing else.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use carillon::db::PgPool;
use carillon::{
    app::{App, ProcessKind},
    config::{Config, Sources},
    db, secret,
};
use carillon_jobs::{AddressId, BroadcastId};
use serde_json::Value;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::fixture_db::{TestDb, database, empty_database, service};

/// The web process' routes on a database of its own.
struct Fixture {
    /// Dropped with the test; none where no database answers.
    _db: Option<TestDb>,
    app: App,
    web: Router,
}

impl Fixture {
    /// On a database without a schema; `more` goes over the configuration.
    async fn empty(more: &[(&str, &str)]) -> Self {
        Self::on(empty_database().await, more)
    }

    async fn migrated() -> Self {
        Self::on(database().await, &[])
    }

    fn on(db: TestDb, more: &[(&str, &str)]) -> Self {
        let env = [
            ("DATABASE_URL", db.url.clone()),
            ("REDIS_URL", service("CARILLON_TEST_REDIS_URL")),
            ("CARILLON__SECRET__KEYS", secret::new_key("k1").unwrap()),
        ];
        let env = env
            .into_iter()
            .chain(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let config = Config::load(&Sources::of(env)).unwrap().config;
        let app = App::for_process(ProcessKind::Web, config).unwrap();
        let web = carillon::web::router(app.clone());
        Self {
            _db: Some(db),
            app,
            web,
        }
    }

    async fn call(&self, method: &str, path: &str, body: &'static str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body))
            .unwrap();
        let response = self.web.clone().oneshot(request).await.unwrap();
        assert!(!response.headers().contains_key(header::SET_COOKIE));
        assert!(!response.headers().contains_key(header::LOCATION));
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn ready(&self) -> (StatusCode, Value) {
        let (status, body) = self.call("GET", "/readyz", "").await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// Two customers of one shop who share a mailbox, and a third with another; returns their addresses.
async fn three_mailboxes(db: &PgPool) -> [AddressId; 3] {
    let (shop, sender) = (Uuid::now_v7(), Uuid::now_v7());
    sqlx::query("INSERT INTO shop (id, name, url, plan) VALUES ($1, 'Tea & <Co>', 'https://tea.example', 'core')")
        .bind(shop)
        .execute(db)
        .await
        .unwrap();
    sqlx::query("INSERT INTO sender (id, shop_id, channel, name, credentials) VALUES ($1, $2, 'email', 'Mail', '')")
        .bind(sender)
        .bind(shop)
        .execute(db)
        .await
        .unwrap();
    let mut addresses = Vec::new();
    for mailbox in ["family@mail.example", "family@mail.example", "other@mail.example"] {
        let customer: i64 = sqlx::query_scalar("INSERT INTO customer (shop_id) VALUES ($1) RETURNING id")
            .bind(shop)
            .fetch_one(db)
            .await
            .unwrap();
        let address: i64 = sqlx::query_scalar("SELECT put_address($1, $2, $3)")
            .bind(sender)
            .bind(customer)
            .bind(mailbox)
            .fetch_one(db)
            .await
            .unwrap();
        addresses.push(AddressId(address));
    }
    addresses.try_into().unwrap()
}

/// The states, and when they last changed.
async fn states(db: &PgPool, addresses: [AddressId; 3]) -> Vec<(String, Option<String>)> {
    let ids: Vec<i64> = addresses.iter().map(|address| address.0).collect();
    sqlx::query_as("SELECT state, state_changed_at::text FROM address WHERE id = ANY ($1) ORDER BY id")
        .bind(ids)
        .fetch_all(db)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_unsubscribe_link_asks_on_get_and_acts_on_post_for_everybody_with_that_mailbox() {
    let fixture = Fixture::migrated().await;
    let db = &fixture.app.db;
    let addresses = three_mailboxes(db).await;
    let path = format!(
        "/u/{}",
        fixture.app.secrets.unsubscribe_token(addresses[0], BroadcastId::new())
    );

    let (status, page) = fixture.call("GET", &path, "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains("Tea &amp; &lt;Co&gt;") && page.contains("<form method=\"post\">"),
        "{page}"
    );
    let (status, _) = fixture.call("HEAD", &path, "").await;
    assert_eq!(status, StatusCode::OK);
    let active = ("active".to_owned(), None);
    assert_eq!(
        states(db, addresses).await,
        [active.clone(), active.clone(), active.clone()],
        "GET changed something"
    );

    let (status, page) = fixture.call("POST", &path, "List-Unsubscribe=One-Click").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("已取消訂閱") && !page.contains("<form"), "{page}");
    let after = states(db, addresses).await;
    assert_eq!(
        [&after[0].0, &after[1].0, &after[2].0],
        ["opted_out", "opted_out", "active"]
    );

    let (status, _) = fixture.call("POST", &path, "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(states(db, addresses).await, after, "the second time changed something");
}

#[tokio::test]
async fn a_link_we_did_not_make_is_a_404_page_and_changes_nothing() {
    let fixture = Fixture::migrated().await;
    let addresses = three_mailboxes(&fixture.app.db).await;
    let foreign = secret::Secrets::new(&[secret::Hidden::new(secret::new_key("k1").unwrap())]).unwrap();
    let forged = foreign.unsubscribe_token(addresses[0], BroadcastId::new());
    for token in [forged.as_str(), "x", "%F0%9F%94%94", "..%2f..%2fetc"] {
        for method in ["GET", "POST"] {
            let (status, page) = fixture.call(method, &format!("/u/{token}"), "").await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {token}");
            assert!(page.contains("<h1>") && !page.contains("<form"), "{page}");
        }
    }
    assert!(
        states(&fixture.app.db, addresses)
            .await
            .iter()
            .all(|(state, _)| state == "active")
    );
    // An address that was erased meanwhile: there is nothing left to send to, so the answer is yes.
    let path = format!(
        "/u/{}",
        fixture
            .app
            .secrets
            .unsubscribe_token(AddressId(i64::MAX), BroadcastId::new())
    );
    assert_eq!(fixture.call("POST", &path, "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let fixture = Fixture::empty(&[]).await;
    let (status, answer) = fixture.ready().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        (&answer["checks"]["postgres"]["ok"], &answer["checks"]["redis"]["ok"]),
        (&true.into(), &true.into())
    );
    assert!(
        answer["checks"]["schema"]["error"]
            .as_str()
            .unwrap()
            .contains("carillon migrate"),
        "{answer}"
    );

    let first = db::migrate(&fixture.app.db).await.unwrap();
    assert!(!first.is_empty());
    assert_eq!(db::migrate(&fixture.app.db).await.unwrap(), Vec::<i64>::new());
    let (status, answer) = fixture.ready().await;
    assert_eq!((status, &answer["ready"]), (StatusCode::OK, &true.into()), "{answer}");

    // A newer program has migrated further: the old one goes on.
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99999, '', true, '', 0)";
    sqlx::query(newer).execute(&fixture.app.db).await.unwrap();
    assert_eq!(fixture.ready().await.0, StatusCode::OK);
    assert_eq!(
        db::check_schema(&fixture.app.db).await.unwrap(),
        db::SchemaState::Ahead(vec![99_999])
    );
    // One that was applied only half, or with another text.
    sqlx::query("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 1")
        .execute(&fixture.app.db)
        .await
        .unwrap();
    assert_eq!(fixture.ready().await.0, StatusCode::SERVICE_UNAVAILABLE);

    fixture.app.stop.cancel();
    assert_eq!(fixture.ready().await.1["stopping"], true);
}

#[tokio::test]
async fn without_redis_and_postgres_the_process_lives_and_says_who_is_away() {
    // Nothing listens on port 1.
    let away = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
    ];
    let env = away.into_iter().chain([
        ("CARILLON__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
        (
            "CARILLON__SECRET__KEYS",
            "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
    ]);
    let app = App::for_process(ProcessKind::Web, Config::load(&Sources::of(env)).unwrap().config).unwrap();
    let path = format!("/u/{}", app.secrets.unsubscribe_token(AddressId(1), BroadcastId::new()));
    let fixture = Fixture {
        _db: None,
        web: carillon::web::router(app.clone()),
        app,
    };

    assert_eq!(fixture.call("GET", "/healthz", "").await.0, StatusCode::OK);
    let (status, answer) = fixture.ready().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    for name in ["postgres", "schema", "redis"] {
        assert_eq!(answer["checks"][name]["ok"], false, "{answer}");
        assert!(
            answer["checks"][name]["duration_ms"].as_u64().unwrap() < 3_000,
            "{answer}"
        );
    }
    let (status, page) = fixture.call("GET", &path, "").await;
    assert_eq!(status, StatusCode::OK, "the question needs no database");
    assert!(page.contains("這家商店"));
    let (status, page) = fixture.call("POST", &path, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.contains("Not done yet"));
}

#[tokio::test]
async fn what_is_too_large_or_nowhere_is_refused() {
    let fixture = Fixture::empty(&[("CARILLON__WEB__MAX_BODY_BYTES", "1024")]).await;
    assert_eq!(fixture.call("GET", "/nowhere", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        fixture.call("DELETE", "/healthz", "").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let request = Request::post("/u/x")
        .header(header::CONTENT_LENGTH, 2_048)
        .body(Body::from(vec![b'x'; 2_048]))
        .unwrap();
    assert_eq!(
        fixture.web.clone().oneshot(request).await.unwrap().status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
}
