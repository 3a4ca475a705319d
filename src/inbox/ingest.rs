//! The `webhook-ingest` job: a stored request becomes events, and these are applied.
//!
//! Level-triggered: what is still to be done is a row of `webhook_pending`, and the row's lock is held by whoever works on it
//! and let go by whatever kills it, so a job that comes twice, late or for nothing does no harm. The events of a request are
//! applied in transactions of at most [`BATCH`], the last of which takes the row away; each event counts once, so what a
//! crash cuts off is simply done again.
//!
//! One that cannot be read is put aside at once, one that cannot be applied after [`ATTEMPTS`] tries, one that takes its worker
//! down as well: none of them keeps another waiting. It must never call anybody while a transaction is open, and never put
//! what a request says into a reason, a log or a job's error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{SenderId, WebhookId, WebhookIngest};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    channel::{
        Channel,
        webhook::{self, Provider, WebhookEvent, WebhookSecrets},
    },
    db::{self, PgPool, Presence, Transaction},
    inbox::{self, InboxError},
    queue::{JobContext, JobError, Outcome},
    secret::Secrets,
    telemetry,
};

/// Events applied in one transaction.
const BATCH: usize = 100;
/// Times a webhook is tried before it is put aside.
const ATTEMPTS: i32 = 5;
/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);
/// How long a job for whatever waits works before it goes to the tail of its queue.
const BUDGET: Duration = Duration::from_secs(5);
/// Webhooks taken at once, and for how long.
const TAKEN: i32 = 50;
const TAKEN_SECS: f64 = 60.0;
/// The wait after the first try that came to nothing; each further one waits twice as long.
const AGAIN_SECS: f64 = 5.0;

/// The parts the job needs; clones share them.
#[derive(Clone)]
pub struct IngestWork {
    /// Postgres.
    pub db: PgPool,
    /// Opens senders' credentials.
    pub secrets: Arc<Secrets>,
    /// The address of this installation, for signatures that are about addresses.
    pub public_url: String,
    /// Whether Postgres answers, for the log.
    pub postgres: Arc<Presence>,
}

/// Why a webhook is put aside, or tried again later.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// No try can succeed before a person did something.
    #[error("{0}")]
    Aside(&'static str),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

#[derive(sqlx::FromRow)]
struct Taken {
    sender_id: Uuid,
    provider: String,
    headers: Json<Map<String, Value>>,
    query: String,
    body: Vec<u8>,
    is_verified: bool,
    attempts: i32,
}

impl IngestWork {
    /// Works through the webhook named, or all that wait longer than they should.
    pub async fn run(&self, args: WebhookIngest, context: &JobContext) -> Result<Outcome, JobError> {
        let done = match args.webhook_id {
            Some(id) => self.one(id, context).await,
            None => self.overdue(context).await,
        };
        match done {
            Ok(outcome) => {
                self.postgres.answered();
                outcome
            }
            // Postgres is away for now: nothing was attempted, so nothing counts as an attempt.
            Err(error) if db::may_pass(&error) => {
                self.postgres.away(&db::describe(&error));
                Ok(Outcome::SnoozeFor { wait: DATABASE_REST })
            }
            Err(error) => {
                self.postgres.answered();
                Err(JobError::retry(reason_of(&error)))
            }
        }
    }

    async fn one(&self, id: WebhookId, context: &JobContext) -> sqlx::Result<Result<Outcome, JobError>> {
        telemetry::note("webhook.id", id);
        // Nearly every webhook ends at its first try, and then this is never written. One whose job was begun before may
        // be what took the worker down: it is counted before it is touched.
        let suspect = context.attempt > 1 || context.suspect.is_some();
        if suspect {
            self.count(id).await?;
        }
        if self.ingest(id, suspect, context).await? {
            return Ok(Ok(Outcome::Done));
        }
        let stored: bool = sqlx::query_scalar("select exists (select from webhook where id = $1)")
            .bind(id.0)
            .fetch_one(&self.db)
            .await?;
        // Done, in somebody's hands, or put aside. A bell for what was never stored is somebody's mistake.
        Ok(if stored {
            Ok(Outcome::Done)
        } else {
            Err(JobError::dead(format!(
                "there is no webhook {id}: it rang before its commit, or for another database"
            )))
        })
    }

    async fn overdue(&self, context: &JobContext) -> sqlx::Result<Result<Outcome, JobError>> {
        context.about_to("work through webhooks that wait").await;
        let began_at = Instant::now();
        loop {
            let taken: Vec<Uuid> = sqlx::query_scalar("select take_due_webhooks($1, $2)")
                .bind(TAKEN)
                .bind(TAKEN_SECS)
                .fetch_all(&self.db)
                .await?;
            if taken.is_empty() {
                return Ok(Ok(Outcome::Done));
            }
            for id in taken.into_iter().map(WebhookId) {
                if context.stop.is_cancelled() || context.lease.lost().is_cancelled() {
                    return Ok(Ok(Outcome::Again));
                }
                self.ingest(id, true, context).await?;
            }
            if began_at.elapsed() > BUDGET {
                return Ok(Ok(Outcome::Again));
            }
        }
    }

    /// Works one through; false when there is nothing to take. An error is Postgres being away: whatever else happens is
    /// written on the row.
    async fn ingest(&self, id: WebhookId, counted: bool, context: &JobContext) -> sqlx::Result<bool> {
        match self.try_one(id, context).await {
            Ok(found) => return Ok(found),
            Err(Refused::Database(error)) if db::may_pass(&error) => return Err(error),
            Err(Refused::Aside(reason)) => {
                tracing::warn!(webhook.id = %id, reason, "A webhook is put aside");
                self.put_aside(id, reason).await?;
            }
            Err(Refused::Database(error)) => {
                let reason = reason_of(&error);
                tracing::warn!(webhook.id = %id, reason, "A webhook cannot be applied");
                self.put_off(id, &reason, counted).await?;
            }
        }
        Ok(true)
    }

    async fn try_one(&self, id: WebhookId, context: &JobContext) -> Result<bool, Refused> {
        let mut tx = db::begin(&self.db).await?;
        let Some(taken) = take(&mut tx, id).await? else {
            return Ok(false);
        };
        if taken.attempts > ATTEMPTS {
            return Err(Refused::Aside(
                "it took down its worker, or ran out of time, again and again",
            ));
        }
        let sender = SenderId(taken.sender_id);
        let provider: Provider = taken
            .provider
            .parse()
            .map_err(|_| Refused::Aside("no provider this release knows"))?;
        if !taken.is_verified {
            self.verify(&mut tx, sender, provider, &taken).await?;
        }
        let events = webhook::parse(provider, &taken.body, &taken.query)
            .map_err(|_| Refused::Aside("the body is not what the provider sends"))?;
        let batches = events.len().div_ceil(BATCH);
        for (nr, batch) in events.chunks(BATCH).enumerate() {
            apply(&mut tx, sender, batch).await?;
            if nr + 1 < batches {
                // Bounded transactions: a thousand events of one request keep nobody's conversation locked for long.
                tx.commit().await?;
                if context.stop.is_cancelled() || context.lease.lost().is_cancelled() {
                    return Ok(true);
                }
                tx = db::begin(&self.db).await?;
                if take(&mut tx, id).await?.is_none() {
                    return Ok(true);
                }
            }
        }
        sqlx::query("delete from webhook_pending where webhook_id = $1")
            .bind(id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Finds out whether a request that a frontend stored is the provider's.
    async fn verify(
        &self,
        tx: &mut Transaction,
        sender: SenderId,
        provider: Provider,
        taken: &Taken,
    ) -> Result<(), Refused> {
        let secrets = open(tx, &self.secrets, sender, provider).await?;
        let mut headers = HeaderMap::new();
        for (name, value) in &taken.headers.0 {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
            if let (Ok(name), Some(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
        let url = public_address(&self.public_url, provider, sender);
        webhook::verify(provider, &secrets, &headers, &taken.body, &url, &taken.query)
            .map_err(|_| Refused::Aside("its signature is not the provider's"))
    }

    async fn count(&self, id: WebhookId) -> sqlx::Result<()> {
        sqlx::query("update webhook_pending set attempts = attempts + 1 where webhook_id = $1 and failed_at is null")
            .bind(id.0)
            .execute(&self.db)
            .await?;
        Ok(())
    }

    async fn put_aside(&self, id: WebhookId, reason: &str) -> sqlx::Result<()> {
        sqlx::query(
            "update webhook_pending set failed_at = now(), reason = $2 where webhook_id = $1 and failed_at is null",
        )
        .bind(id.0)
        .bind(reason)
        .execute(&self.db)
        .await?;
        Ok(())
    }

    async fn put_off(&self, id: WebhookId, reason: &str, counted: bool) -> sqlx::Result<()> {
        sqlx::query(
            "update webhook_pending p
                set attempts = n.attempts, reason = $2, failed_at = case when n.attempts >= $4 then now() end,
                    due_at = now() + $5 * 2 ^ (n.attempts - 1) * interval '1 second'
               from (select webhook_id, attempts + $3 as attempts from webhook_pending where webhook_id = $1 for update) n
              where p.webhook_id = n.webhook_id and p.failed_at is null",
        )
        .bind(id.0)
        .bind(reason)
        .bind(i32::from(!counted))
        .bind(ATTEMPTS)
        .bind(AGAIN_SECS)
        .execute(&self.db)
        .await?;
        Ok(())
    }
}

async fn apply(tx: &mut Transaction, sender: SenderId, events: &[WebhookEvent]) -> sqlx::Result<()> {
    let InboxError::Db(error) = match inbox::apply(tx, sender, events).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(error)
}

/// Locks what is to be done with a webhook and reads it. None: it is done, put aside, or in somebody's hands.
async fn take(tx: &mut Transaction, id: WebhookId) -> sqlx::Result<Option<Taken>> {
    sqlx::query_as(
        "select w.sender_id, w.provider, w.headers, w.query, w.body, w.is_verified, p.attempts
           from webhook_pending p join webhook w on w.id = p.webhook_id
          where p.webhook_id = $1 and w.id = $1 and p.failed_at is null for update of p skip locked",
    )
    .bind(id.0)
    .fetch_optional(&mut **tx)
    .await
}

/// A sender's secrets.
async fn open(
    tx: &mut Transaction,
    secrets: &Secrets,
    sender: SenderId,
    provider: Provider,
) -> Result<WebhookSecrets, Refused> {
    let found: Option<(Channel, Vec<u8>)> = sqlx::query_as("select channel, credentials from sender where id = $1")
        .bind(sender.0)
        .fetch_optional(&mut **tx)
        .await?;
    let (_, sealed) = found
        .filter(|(channel, _)| *channel == provider.channel())
        .ok_or(Refused::Aside("there is no such sender for the provider"))?;
    let opened = secrets
        .open(&sealed, sender.0)
        .map_err(|_| Refused::Aside("the sender's credentials cannot be opened"))?;
    std::str::from_utf8(&opened)
        .ok()
        .and_then(|json| WebhookSecrets::parse(provider, json).ok())
        .ok_or(Refused::Aside("the sender's credentials hold no secret for webhooks"))
}

/// Where a provider was told to send webhooks of a sender, without a query.
#[must_use]
pub fn public_address(public_url: &str, provider: Provider, sender: SenderId) -> String {
    format!("{}/webhooks/{provider}/{sender}", public_url.trim_end_matches('/'))
}

/// Postgres' code and constraint, and not its sentence: that may quote what the request says.
fn reason_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            let constraint = database
                .constraint()
                .map(|name| format!(", {name}"))
                .unwrap_or_default();
            format!("PostgreSQL refused ({code}{constraint})")
        }
        _ => "the database's answer was not understood".to_owned(),
    }
}
