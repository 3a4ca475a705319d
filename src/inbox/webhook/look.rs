//! Webhooks for people: which came, what became of them, and another try for those that failed.

use std::{fmt, str::FromStr};

use carillon_jobs::{SenderId, WebhookId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{channel::webhook::Provider, db::PgPool};

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
    /// It waits.
    Stored,
    /// Everything it says is applied.
    Done,
    /// It is put aside, with a reason, until a person replays it.
    Failed,
}

impl State {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A word that is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a state of webhooks: use stored, done or failed")]
pub struct NoState;

impl FromStr for State {
    type Err = NoState;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Stored, Self::Done, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or(NoState)
    }
}

/// Which webhooks.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    /// Only of this sender.
    pub sender: Option<SenderId>,
    /// Only of this provider.
    pub provider: Option<Provider>,
    /// Only in this state.
    pub state: Option<State>,
}

/// A webhook without what it says.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize)]
pub struct Overview {
    /// Its id.
    pub id: Uuid,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// Who sent it.
    pub provider: String,
    /// Whom it was addressed to.
    pub sender_id: Uuid,
    /// Bytes of its body.
    pub bytes: i64,
    /// What became of it.
    pub state: State,
    /// Tries that came to nothing.
    pub attempts: i32,
    /// Why.
    pub reason: Option<String>,
}

/// A webhook as it came.
#[derive(Clone, sqlx::FromRow)]
pub struct Shown {
    /// What stands in the list.
    #[sqlx(flatten)]
    pub overview: Overview,
    /// Whether its signature was found right before it was stored.
    pub is_verified: bool,
    /// When it is due, while it waits.
    pub due_at: Option<DateTime<Utc>>,
    /// The headers that were kept.
    pub headers: Value,
    /// The query of its address.
    pub query: String,
    /// The bytes that were signed.
    pub body: Vec<u8>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown({:?})", self.overview)
    }
}

const OVERVIEW: &str =
    "id, received_at, provider, sender_id, octet_length(body)::bigint as bytes, state, attempts, reason";

/// The newest webhooks the filter lets through, newest first.
pub async fn list(db: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Overview>> {
    // Few wait or were put aside, and what is pending knows which: without it every request that is kept would be looked at.
    let among = match filter.state {
        Some(State::Stored) => {
            "id = any (array(select webhook_id from webhook_pending where failed_at is null order by 1 desc limit 10000))"
        }
        Some(State::Failed) => {
            "id = any (array(select webhook_id from webhook_pending where failed_at is not null order by 1 desc limit 10000))"
        }
        Some(State::Done) | None => "true",
    };
    let sql = format!(
        "select {OVERVIEW} from webhook_with_state
          where {among} and ($1::uuid is null or sender_id = $1) and ($2::text is null or provider = $2)
            and ($3::text is null or state = $3)
          order by id desc limit $4"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(filter.sender.map(|sender| sender.0))
        .bind(filter.provider.map(Provider::as_str))
        .bind(filter.state.map(State::as_str))
        .bind(limit)
        .fetch_all(db)
        .await
}

/// One webhook; none if there is none, or it is forgotten.
pub async fn show(db: &PgPool, id: WebhookId) -> sqlx::Result<Option<Shown>> {
    let sql =
        format!("select {OVERVIEW}, is_verified, due_at, headers, query, body from webhook_with_state where id = $1");
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.0)
        .fetch_optional(db)
        .await
}

/// Puts webhooks back to be worked through; how many of them are still kept. Events that were applied before are not
/// applied again.
pub async fn replay(db: &PgPool, ids: &[WebhookId]) -> sqlx::Result<i64> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query_scalar("select replay_webhooks($1)")
        .bind(ids)
        .fetch_one(db)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_shows_neither_headers_nor_query_nor_body() {
        let shown = Shown {
            overview: Overview {
                id: Uuid::nil(),
                received_at: DateTime::UNIX_EPOCH,
                provider: "line".to_owned(),
                sender_id: Uuid::nil(),
                bytes: 6,
                state: State::Done,
                attempts: 0,
                reason: None,
            },
            is_verified: true,
            due_at: None,
            headers: Value::from("secret"),
            query: "secret".to_owned(),
            body: b"secret".to_vec(),
        };
        let text = format!("{shown:?}");
        assert!(
            text.contains("line") && !text.contains("secret") && !text.contains("115, 101"),
            "{text}"
        );
    }
}
