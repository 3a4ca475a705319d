//! What is still to be done with webhooks, row by row of `webhook_pending`.
//!
//! A row is locked only while its events are applied (`apply_webhook`): reading a request twice does no harm, and nobody waits for
//! a row here, so a worker that hangs keeps only its own.

use carillon_jobs::WebhookId;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{channel::Channel, db::PgPool};

/// Webhooks taken at once, and for how long.
const TAKEN: i32 = 50;
const TAKEN_SECS: f64 = 60.0;
/// The wait after the first try that came to nothing; each further one waits twice as long.
const AGAIN_SECS: f64 = 5.0;

/// A webhook in hand, and whom it was addressed to.
#[derive(sqlx::FromRow)]
pub(in crate::inbox) struct Taken {
    pub(in crate::inbox) sender_id: Uuid,
    pub(in crate::inbox) provider: String,
    pub(in crate::inbox) headers: Json<Map<String, Value>>,
    pub(in crate::inbox) query: String,
    pub(in crate::inbox) body: Vec<u8>,
    pub(in crate::inbox) is_verified: bool,
    pub(in crate::inbox) received_at: DateTime<Utc>,
    pub(in crate::inbox) waited_secs: f64,
    pub(in crate::inbox) attempts: i32,
    pub(in crate::inbox) channel: Option<Channel>,
    pub(in crate::inbox) credentials: Option<Vec<u8>>,
}

/// Reads what is to be done. None: it is done or put aside.
pub(in crate::inbox) async fn take(db: &PgPool, id: WebhookId) -> sqlx::Result<Option<Taken>> {
    // The id twice: the planner does not carry it over to the partitions by itself.
    sqlx::query_as(
        "select w.sender_id, w.provider, w.headers, w.query, w.body, w.is_verified, w.received_at, p.attempts,
                extract(epoch from now() - w.received_at)::float8 as waited_secs, s.channel, s.credentials
           from webhook_pending p
           join webhook w on w.id = p.webhook_id
           left join sender s on s.id = w.sender_id
          where p.webhook_id = $1 and w.id = $1 and p.failed_at is null",
    )
    .bind(id.0)
    .fetch_optional(db)
    .await
}

/// The secret in its query has done its work: it is believed from now on, and the secret is not kept.
pub(in crate::inbox) async fn believe(db: &PgPool, id: WebhookId, query: &str) -> sqlx::Result<()> {
    sqlx::query("update webhook set is_verified = true, query = $2 where id = $1")
        .bind(id.0)
        .bind(query)
        .execute(db)
        .await?;
    Ok(())
}

/// Nothing is left to do, and nothing was.
pub(in crate::inbox) async fn done(db: &PgPool, id: WebhookId) -> sqlx::Result<()> {
    sqlx::query("delete from webhook_pending where webhook_id = $1 and failed_at is null")
        .bind(id.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Whether there is such a webhook, in whatever state.
pub(in crate::inbox) async fn exists(db: &PgPool, id: WebhookId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from webhook where id = $1)")
        .bind(id.0)
        .fetch_one(db)
        .await
}

/// Takes webhooks that wait longer than they should; each counts as tried.
pub(in crate::inbox) async fn take_overdue(db: &PgPool) -> sqlx::Result<Vec<WebhookId>> {
    let taken: Vec<Uuid> = sqlx::query_scalar("select take_due_webhooks($1, $2)")
        .bind(TAKEN)
        .bind(TAKEN_SECS)
        .fetch_all(db)
        .await?;
    Ok(taken.into_iter().map(WebhookId).collect())
}

/// Counts a try before it is made.
pub(in crate::inbox) async fn count(db: &PgPool, id: WebhookId) -> sqlx::Result<()> {
    sqlx::query("update webhook_pending set attempts = attempts + 1 where webhook_id = $1 and failed_at is null")
        .bind(id.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Leaves it to a person.
pub(in crate::inbox) async fn put_aside(db: &PgPool, id: WebhookId, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_pending set failed_at = now(), reason = $2 where webhook_id = $1 and failed_at is null",
    )
    .bind(id.0)
    .bind(reason)
    .execute(db)
    .await?;
    Ok(())
}

/// Leaves it for later, or after `most` tries to a person. `counted`: this try is counted already.
pub(in crate::inbox) async fn put_off(
    db: &PgPool,
    id: WebhookId,
    reason: &str,
    counted: bool,
    most: i32,
) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_pending p
            set attempts = n.attempts, reason = $2, failed_at = case when n.attempts >= $4 then now() end,
                due_at = now() + $5 * 2 ^ greatest(n.attempts - 1, 0) * interval '1 second'
           from (select webhook_id, attempts + $3 as attempts from webhook_pending where webhook_id = $1 for update) n
          where p.webhook_id = n.webhook_id and p.failed_at is null",
    )
    .bind(id.0)
    .bind(reason)
    .bind(i32::from(!counted))
    .bind(most)
    .bind(AGAIN_SECS)
    .execute(db)
    .await?;
    Ok(())
}
