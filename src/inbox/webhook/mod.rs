//! Requests of providers as they came, in the table `webhook`, and what is still to be done with each (`webhook_pending`).
//!
//! Why it exists: what a provider told us is on disk before it is told that we have it, so nothing depends on what happens
//! next. A request is written once and never changed; it is worked through by [`super::ingest`], and forgotten after 30 days.
//!
//! - `config`: section `[webhook]`
//! - `work`: taking one, ending it, leaving it for later or to a person
//! - `route`: reading one, and whose its events are
//! - `look`: for people: list, show, replay
//!
//! It must never show a body or a header in an error or a log: they hold what people wrote, and signatures.

mod config;
mod look;
pub(super) mod route;
pub(super) mod work;

use bytes::Bytes;
use carillon_jobs::{SenderId, WebhookId};
use serde_json::{Map, Value};
use uuid::Uuid;

pub use self::{
    config::WebhookConfig,
    look::{Filter, Overview, Shown, State, list, replay, show},
    route::public_address,
};
use crate::{channel::webhook::Provider, db::PgPool};

/// For how long a bell may go unanswered before the scheduler rings, in seconds.
const BELL_SECS: f64 = 5.0;
/// Days whose partitions are made ahead.
const DAYS_AHEAD: i32 = 3;

/// A request to be stored.
#[derive(Clone)]
pub struct NewWebhook {
    /// Whom it was addressed to.
    pub sender: SenderId,
    /// Who says to have sent it.
    pub provider: Provider,
    /// Headers to keep, names in small letters.
    pub headers: Map<String, Value>,
    /// The query of its address, without secrets.
    pub query: String,
    /// The bytes that were signed.
    pub body: Bytes,
    /// Whether its signature was found right.
    pub is_verified: bool,
}

impl std::fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "NewWebhook({} {}, {} bytes)",
            self.provider,
            self.sender,
            self.body.len()
        )
    }
}

/// Stores requests in one statement; on disk when it returns. Their ids stand in their order.
pub async fn store(db: &PgPool, webhooks: &[NewWebhook]) -> sqlx::Result<Vec<WebhookId>> {
    let of = |f: fn(&NewWebhook) -> Uuid| webhooks.iter().map(f).collect::<Vec<_>>();
    let providers: Vec<&str> = webhooks.iter().map(|webhook| webhook.provider.as_str()).collect();
    let headers: Vec<Value> = webhooks
        .iter()
        .map(|webhook| Value::Object(webhook.headers.clone()))
        .collect();
    let queries: Vec<&str> = webhooks.iter().map(|webhook| webhook.query.as_str()).collect();
    let bodies: Vec<&[u8]> = webhooks.iter().map(|webhook| &*webhook.body).collect();
    let verified: Vec<bool> = webhooks.iter().map(|webhook| webhook.is_verified).collect();
    let ids: Vec<Uuid> = sqlx::query_scalar("select store_webhooks($1, $2, $3, $4, $5, $6, $7)")
        .bind(of(|webhook| webhook.sender.0))
        .bind(providers)
        .bind(headers)
        .bind(queries)
        .bind(bodies)
        .bind(verified)
        .bind(BELL_SECS)
        .fetch_all(db)
        .await?;
    Ok(ids.into_iter().map(WebhookId).collect())
}

/// Whether a webhook waits that nobody has in hand.
pub async fn is_overdue(db: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from webhook_pending where failed_at is null and due_at <= now())")
        .fetch_one(db)
        .await
}

/// What waits, for the figures.
#[derive(Debug, Default, Clone, Copy, PartialEq, sqlx::FromRow)]
pub struct Backlog {
    /// Webhooks that wait to be worked through.
    pub waiting: i64,
    /// Webhooks put aside for a person.
    pub failed: i64,
    /// For how long the oldest one waits.
    pub oldest_secs: f64,
}

/// Counts what waits. Reads only what is pending.
pub async fn backlog(db: &PgPool) -> sqlx::Result<Backlog> {
    sqlx::query_as(
        "select count(*) filter (where failed_at is null) as waiting, count(*) filter (where failed_at is not null) as failed,
                greatest(coalesce(extract(epoch from now() - (select broadcast_id_time(p.webhook_id) from webhook_pending p
                    where p.failed_at is null order by p.webhook_id limit 1)), 0), 0)::float8 as oldest_secs
           from webhook_pending",
    )
    .fetch_one(db)
    .await
}

/// Makes the partitions of the coming days, and drops those of requests that are kept long enough; how many days went.
pub async fn keep_house(db: &PgPool, config: &WebhookConfig) -> sqlx::Result<i64> {
    sqlx::query("select ensure_webhook_day(now() + d * interval '1 day') from generate_series(0, $1) as d")
        .bind(DAYS_AHEAD)
        .execute(db)
        .await?;
    let forgotten = sqlx::query_scalar("select forget_webhooks($1)")
        .bind(i32::from(config.keep_days))
        .fetch_one(db)
        .await;
    match forgotten {
        // Somebody reads the table for long, a dump perhaps: whoever waited for it would keep every webhook waiting.
        Err(error)
            if error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .as_deref()
                == Some("55P03") =>
        {
            Ok(0)
        }
        forgotten => forgotten,
    }
}
