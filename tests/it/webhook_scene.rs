//! What the tests of webhooks stand on: senders with secrets, the web process' routes, and requests signed as the providers do.

use axum::{Router, body::Body, http::Request as HttpRequest};
use carillon::{
    app::{App, ProcessKind},
    secret::Secrets,
};
use carillon_sandbox::{
    LINE_BOT_USER_ID, LINE_CHANNEL_SECRET,
    webhooks::{Request, Signer, line},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::world::World;

pub(crate) const APP_SECRET: &str = "meta-app-secret-of-the-tests";
pub(crate) const VERIFY_TOKEN: &str = "meta-verify-token-of-the-tests";
pub(crate) const AUTH_TOKEN: &str = "twilio-auth-token-of-the-tests";
pub(crate) const CALLBACK_TOKEN: &str = "mitake-callback-token-of-the-tests";
pub(crate) const STORE_SECRET: &str = "store-secret-of-the-tests";

/// A world, and the web process in it.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) app: App,
    pub(crate) web: Router,
    /// The shop's LINE account.
    pub(crate) line: Uuid,
}

impl Scene {
    pub(crate) async fn new(settings: &[(&str, &str)]) -> Self {
        Self::of(World::new(settings).await).await
    }

    pub(crate) async fn of(world: World) -> Self {
        let app = world.app(ProcessKind::Web);
        let web = carillon::web::router(app.clone());
        let line = world
            .one(&format!(
                "select id from sender where shop_id = '{}' and channel = 'line'",
                world.shop
            ))
            .await;
        Self { world, app, web, line }
    }

    /// Adds a sender with these credentials.
    pub(crate) async fn sender(&self, channel: &str, credentials: &Value) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into sender (id, shop_id, channel, name, credentials) values ($1, $2, $3::text::channel, $3, $4)",
        )
        .bind(id)
        .bind(self.world.shop)
        .bind(channel)
        .bind(seal(&self.app.secrets, id, credentials))
        .execute(self.world.pool())
        .await
        .unwrap();
        id
    }

    /// Gives a sender other credentials.
    pub(crate) async fn change(&self, id: Uuid, credentials: &Value) {
        sqlx::query("update sender set credentials = $2 where id = $1")
            .bind(id)
            .bind(seal(&self.app.secrets, id, credentials))
            .execute(self.world.pool())
            .await
            .unwrap();
    }

    pub(crate) async fn messenger(&self, page: &str) -> Uuid {
        let credentials =
            json!({"page_id": page, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN, "access_token": "t"});
        self.sender("messenger", &credentials).await
    }

    /// What the web process answers to a request of a provider.
    pub(crate) async fn tell(&self, provider: &str, sender: impl ToString, request: &Request) -> u16 {
        self.send(provider, sender, request).await.0
    }

    /// The same, with the text of the answer.
    pub(crate) async fn send(&self, provider: &str, sender: impl ToString, request: &Request) -> (u16, String) {
        ask(&self.web, provider, &sender.to_string(), request).await
    }

    /// Tells the shop's LINE account that somebody wrote.
    pub(crate) async fn line_text(&self, nr: u32) -> u16 {
        self.tell("line", self.line, &line_text(nr)).await
    }

    pub(crate) async fn count(&self, state: &str) -> i64 {
        self.world
            .one(&format!(
                "select count(*) from webhook_with_state where state = '{state}'"
            ))
            .await
    }
}

fn seal(secrets: &Secrets, id: Uuid, credentials: &Value) -> Vec<u8> {
    secrets.seal(credentials.to_string().as_bytes(), id).unwrap()
}

pub(crate) async fn ask(web: &Router, provider: &str, sender: &str, request: &Request) -> (u16, String) {
    let question = if request.query.is_empty() { "" } else { "?" };
    let mut http = HttpRequest::builder()
        .method(request.method)
        .uri(format!("/webhooks/{provider}/{sender}{question}{}", request.query));
    for (name, value) in &request.headers {
        http = http.header(*name, value);
    }
    let response = web
        .clone()
        .oneshot(http.body(Body::from(request.body.clone())).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let text = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn line_signer() -> Signer {
    Signer::Line(LINE_CHANNEL_SECRET.to_owned())
}

/// Somebody writes to the shop's LINE account; a number of its own for each.
pub(crate) fn line_text(nr: u32) -> Request {
    let at_ms = chrono::Utc::now().timestamp_millis();
    let event = line::text(
        &format!("01E{nr:023}"),
        &format!("U{nr:032x}"),
        at_ms,
        &nr.to_string(),
        "你好 0912-345-678",
    );
    line_signer().json(&line::body(LINE_BOT_USER_ID, &[event]))
}
