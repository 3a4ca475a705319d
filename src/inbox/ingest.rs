//! The `webhook-ingest` job: a stored request becomes events, and these are applied.
//!
//! Level-triggered: what is still to be done is a row of `webhook_pending`, so a job that comes twice, late or for nothing does
//! no harm. A small request costs two round trips: one reads it, one applies its events and takes the row away. Many events are
//! applied in transactions of at most [`BATCH`], the last of which takes the row away; each event counts once, so what a crash
//! cuts off is simply done again.
//!
//! One that cannot be read is put aside at once, one that cannot be applied after [`ATTEMPTS`] tries, one that takes its worker
//! down as well: none of them keeps another waiting. It must never call anybody while a transaction is open, and never put
//! what a request says into a reason, a log or a job's error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{WebhookId, WebhookIngest};

use super::{
    Applied, Batch, InboxError,
    webhook::{
        route::{self, RouteError},
        work,
    },
};
use crate::{
    db::{self, PgPool, Presence},
    metrics::webhooks as figures,
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
    Aside(String),
    /// Postgres.
    #[error("{}", reason_of(.0))]
    Database(#[from] sqlx::Error),
}

impl From<InboxError> for Refused {
    fn from(error: InboxError) -> Self {
        match error {
            InboxError::Db(error) => Self::Database(error),
        }
    }
}

impl From<RouteError> for Refused {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Database(error) => Self::Database(error),
            other => Self::Aside(other.to_string()),
        }
    }
}

impl IngestWork {
    /// Works through the webhook named, or all that wait longer than they should.
    pub async fn run(&self, args: WebhookIngest, context: &JobContext) -> Result<Outcome, JobError> {
        let done = match args.webhook_id {
            Some(id) => self.one(id, context).await,
            None => self.overdue(context).await.map(Ok),
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
            work::count(&self.db, id).await?;
        }
        if self.ingest(id, suspect, context).await? || work::exists(&self.db, id).await? {
            // Or done before, in somebody's hands, put aside.
            return Ok(Ok(Outcome::Done));
        }
        // A bell for what was never stored is somebody's mistake, and worth being seen among the dead jobs.
        Ok(Err(JobError::dead(format!(
            "there is no webhook {id}: it rang before its commit, or for another database"
        ))))
    }

    async fn overdue(&self, context: &JobContext) -> sqlx::Result<Outcome> {
        context.about_to("work through webhooks that wait").await;
        let began_at = Instant::now();
        loop {
            let taken = work::take_overdue(&self.db).await?;
            if taken.is_empty() {
                return Ok(Outcome::Done);
            }
            for id in taken {
                if stopped(context) {
                    return Ok(Outcome::Again);
                }
                self.ingest(id, true, context).await?;
            }
            if began_at.elapsed() > BUDGET {
                return Ok(Outcome::Again);
            }
        }
    }

    /// Works one through; false when there is nothing to take. An error is Postgres being away: whatever else happens is
    /// written on the row.
    async fn ingest(&self, id: WebhookId, counted: bool, context: &JobContext) -> sqlx::Result<bool> {
        match self.try_one(id, context).await {
            Ok(found) => return Ok(found),
            Err(Refused::Database(error)) if db::may_pass(&error) => return Err(error),
            Err(refused @ Refused::Aside(_)) => {
                let reason = refused.to_string();
                tracing::warn!(webhook.id = %id, reason, "A webhook is put aside");
                work::put_aside(&self.db, id, &reason).await?;
            }
            Err(refused @ Refused::Database(_)) => {
                let reason = refused.to_string();
                tracing::warn!(webhook.id = %id, reason, "A webhook cannot be applied");
                work::put_off(&self.db, id, &reason, counted, ATTEMPTS).await?;
            }
        }
        Ok(true)
    }

    async fn try_one(&self, id: WebhookId, context: &JobContext) -> Result<bool, Refused> {
        let Some(taken) = work::take(&self.db, id).await? else {
            return Ok(false);
        };
        if taken.attempts > ATTEMPTS {
            let reason = "it took down its worker, or ran out of time, again and again";
            return Err(Refused::Aside(reason.to_owned()));
        }
        let read = route::read(&self.secrets, &self.public_url, &taken)?;
        if let Some(query) = read.without_secret(&taken) {
            work::believe(&self.db, id, &query).await?;
        }
        let provider = read.provider;
        let routed = if read.only_of_addressed() {
            route::all_to_addressed(read)
        } else {
            route::by_account(&self.db, &self.secrets, &self.public_url, &taken, read).await?
        };
        let (batches, lost) = (routed.batches(BATCH), routed.lost);
        // Bounded ones: a thousand events of one request keep nobody's conversation locked for long.
        for (nr, (sender, events)) in batches.iter().enumerate() {
            if nr > 0 && stopped(context) {
                return Ok(true);
            }
            let is_last = nr + 1 == batches.len() && lost == 0;
            let batch = Batch {
                sender: *sender,
                events,
                webhook: Some((id, is_last)),
            };
            let Some(applied) = super::apply(&self.db, batch).await? else {
                // Somebody else has it, or has done it meanwhile.
                return Ok(true);
            };
            figures::applied(provider, told(events.len(), applied));
        }
        if lost > 0 {
            return Err(Refused::Aside(format!(
                "{lost} events are of accounts that no sender has"
            )));
        }
        if batches.is_empty() {
            work::done(&self.db, id).await?;
        }
        figures::waited(taken.waited_secs);
        Ok(true)
    }
}

fn stopped(context: &JobContext) -> bool {
    context.stop.is_cancelled() || context.lease.lost().is_cancelled()
}

fn told(told: usize, applied: Applied) -> figures::Events {
    figures::Events {
        told,
        new: applied.new,
        unknown: applied.unknown,
    }
}

/// Postgres' code and constraint, and not its sentence: that may quote what the request says.
fn reason_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let constraint = database
                .constraint()
                .map(|name| format!(", {name}"))
                .unwrap_or_default();
            format!("PostgreSQL refused ({code}{constraint})")
        }
        _ => "the database's answer was not understood".to_owned(),
    }
}
