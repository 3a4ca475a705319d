//! The `media-fetch` job: what is due is fetched, what belongs to nobody any more is deleted.
//!
//! Level-triggered: what is due is read from Postgres, so a job that comes twice, late or for nothing does no harm, and one that
//! never comes is rung again by `reconcile`. A file has a name of ours that does not change, so fetching it twice leaves one.
//!
//! It must never hold a transaction open while it asks somebody, and never let one file keep another from being fetched.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::MediaFetch;
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    MediaConfig, MediaStore, StoreError,
    fetch::{FetchError, Fetched, Fetcher, Source},
};
use crate::{
    channel::Channel,
    db::{self, PgPool, Presence},
    queue::{JobContext, JobError, Outcome},
    secret::Secrets,
};

/// How long a job rests when Postgres is away.
const DATABASE_REST: Duration = Duration::from_secs(3);
/// How long a job fetches before it goes to the tail of its queue.
const BUDGET: Duration = Duration::from_secs(20);
/// How long a file in hand is nobody else's, beyond the time it may take.
const LEASE_SLACK_SECS: f64 = 30.0;
/// The wait after the first try that failed, and the longest one, in seconds.
const AGAIN_SECS: (f64, f64) = (15.0, 3600.0);
/// Files deleted per look, and when one is tried again.
const DELETED: i64 = 100;
const DELETE_AGAIN_SECS: f64 = 300.0;

/// The parts the job needs; clones share them.
#[derive(Clone)]
pub struct MediaWork {
    db: PgPool,
    secrets: Arc<Secrets>,
    fetcher: Fetcher,
    store: MediaStore,
    config: MediaConfig,
    postgres: Arc<Presence>,
}

/// A file in hand. Without `Debug`: an address of a customer's file opens it.
#[derive(sqlx::FromRow)]
struct Due {
    id: i64,
    sender_id: Uuid,
    url: Option<String>,
    provider_id: Option<String>,
    attempts: i32,
    channel: String,
    credentials: Vec<u8>,
}

/// What opens files with a provider, of a sender's credentials.
#[derive(Deserialize)]
struct Opens {
    access_token: String,
}

/// What became of it.
enum Ending {
    Stored {
        size_bytes: i64,
        content_type: Option<String>,
    },
    Never(String),
    Later(String),
}

/// Whether a file waits to be fetched or deleted.
pub async fn has_due(db: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from media where due_at <= now()) or exists (select from media_to_delete where due_at <= now())")
        .fetch_one(db)
        .await
}

impl MediaWork {
    /// Builds the parts. Asks nobody.
    pub fn new(db: PgPool, secrets: Arc<Secrets>, config: &MediaConfig) -> Result<Self, String> {
        let fetcher = Fetcher::new(config)?;
        Ok(Self {
            store: MediaStore::new(fetcher.client(), config).map_err(|error| error.to_string())?,
            fetcher,
            db,
            secrets,
            config: config.clone(),
            postgres: Arc::default(),
        })
    }

    /// Fetches what is due, until nothing is or its turn is over.
    pub async fn run(&self, _: MediaFetch, context: &JobContext) -> Result<Outcome, JobError> {
        context.about_to("fetch what customers attached").await;
        match self.work(context).await {
            Err(error) if db::may_pass(&error) => {
                self.postgres.away(&db::describe(&error));
                Ok(Outcome::SnoozeFor { wait: DATABASE_REST })
            }
            Err(error) => Err(JobError::retry(db::describe(&error))),
            Ok(outcome) => {
                self.postgres.answered();
                Ok(outcome)
            }
        }
    }

    async fn work(&self, context: &JobContext) -> Result<Outcome, sqlx::Error> {
        let began_at = Instant::now();
        loop {
            if self.step().await? == 0 {
                return Ok(Outcome::Done);
            }
            if context.stop.is_cancelled() || context.lease.lost().is_cancelled() || began_at.elapsed() > BUDGET {
                return Ok(Outcome::Again);
            }
        }
    }

    /// Fetches or deletes some of what is due; how many files it had in hand.
    pub async fn step(&self) -> Result<usize, sqlx::Error> {
        let deleted = self.delete_unowned().await?;
        let given_up = self.give_up().await?;
        let due = self.take().await?;
        let taken = due.len();
        let mut endings = stream::iter(due)
            .map(async |due| {
                let ending = self.one(&due).await;
                (due, ending)
            })
            .buffer_unordered(self.config.in_flight);
        // Each as it ends: one that takes the worker down costs those beside it as little as can be.
        while let Some((due, ending)) = endings.next().await {
            self.settle(&due, ending).await?;
        }
        Ok(deleted + given_up + taken)
    }

    /// Gives up on files that were taken as often as may be and whose last try nobody lived to end; how many.
    async fn give_up(&self) -> Result<usize, sqlx::Error> {
        let gone = sqlx::query(
            "update media set state = 'failed', due_at = null, reason = 'it took down its worker, or ran out of time, again and again'
              where id in (select id from media where due_at <= now() and attempts >= $1 order by due_at limit $2 for update skip locked)",
        )
        .bind(self.config.attempts)
        .bind(DELETED)
        .execute(&self.db)
        .await?;
        Ok(usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX))
    }

    /// Takes as many as are fetched at once, so that none waits in hand.
    async fn take(&self) -> Result<Vec<Due>, sqlx::Error> {
        sqlx::query_as(
            "with taken as (
                 update media set attempts = attempts + 1, due_at = now() + $2 * interval '1 second'
                  where id in (select id from media where due_at <= now() order by due_at limit $1 for update skip locked)
                 returning id, sender_id, url, provider_id, attempts
             )
             select t.*, s.channel::text as channel, s.credentials from taken t join sender s on s.id = t.sender_id",
        )
        .bind(i64::try_from(self.config.in_flight).unwrap_or(i64::MAX))
        .bind(self.config.timeout().as_secs_f64() * 3.0 + LEASE_SLACK_SECS)
        .fetch_all(&self.db)
        .await
    }

    async fn one(&self, due: &Due) -> Ending {
        let fetched = match self.fetch(due).await {
            Ok(fetched) => fetched,
            Err(FetchError::Never(why)) => return Ending::Never(why.to_owned()),
            Err(FetchError::Later(why)) => return Ending::Later(why),
        };
        let size_bytes = i64::try_from(fetched.bytes.len()).unwrap_or(i64::MAX);
        match self.store.put(&name_of(due), fetched.bytes).await {
            Ok(()) => Ending::Stored {
                size_bytes,
                content_type: fetched.content_type,
            },
            Err(error) => {
                complain(&error);
                Ending::Later(error.to_string())
            }
        }
    }

    async fn fetch(&self, due: &Due) -> Result<Fetched, FetchError> {
        if let Some(url) = &due.url {
            return self.fetcher.fetch(Source::Url(url)).await;
        }
        // A person may still enter or mend them.
        let later = |()| FetchError::Later("the sender's credentials hold no usable access_token".to_owned());
        let credentials = self
            .secrets
            .open(&due.credentials, due.sender_id)
            .map_err(|_| later(()))?;
        let opens: Opens = serde_json::from_slice(&credentials).map_err(|_| later(()))?;
        let channel: Channel = due.channel.parse().map_err(|_| later(()))?;
        let source = Source::Provider {
            channel,
            id: due.provider_id.as_deref().unwrap_or_default(),
            access_token: &opens.access_token,
        };
        self.fetcher.fetch(source).await
    }

    /// Written only while the file is still this worker's, and still somebody's: its message may have been taken back or erased.
    async fn settle(&self, due: &Due, ending: Ending) -> Result<(), sqlx::Error> {
        let later_secs = AGAIN_SECS.1.min(AGAIN_SECS.0 * 2_f64.powi(due.attempts - 1));
        let (state, reason, size_bytes, content_type) = match ending {
            Ending::Stored {
                size_bytes,
                content_type,
            } => ("stored", None, Some(size_bytes), content_type),
            Ending::Later(why) if due.attempts < self.config.attempts => ("pending", Some(why), None, None),
            Ending::Never(why) | Ending::Later(why) => ("failed", Some(why), None, None),
        };
        let stored = (state == "stored").then(|| name_of(due));
        let kept = sqlx::query(
            "update media set state = $3, reason = $4, size_bytes = $5, content_type = $6, stored_as = $7,
                    due_at = case when $3 = 'pending' then now() + $8 * interval '1 second' end
              where id = $1 and attempts = $2 and state = 'pending'",
        )
        .bind(due.id)
        .bind(due.attempts)
        .bind(state)
        .bind(reason)
        .bind(size_bytes)
        .bind(content_type)
        .bind(&stored)
        .bind(later_secs)
        .execute(&self.db)
        .await?;
        if let (0, Some(name)) = (kept.rows_affected(), stored) {
            // Somebody else has it in hand by now, or nobody wants it any more: then it must not stay.
            sqlx::query(
                "insert into media_to_delete (stored_as) select $1 where not exists (select from media where id = $2)
                 on conflict do nothing",
            )
            .bind(name)
            .bind(due.id)
            .execute(&self.db)
            .await?;
        }
        Ok(())
    }

    /// Deletes files whose message is gone; how many.
    async fn delete_unowned(&self) -> Result<usize, sqlx::Error> {
        // Put off while in hand, so that a store that is away is asked now and then and not all the time.
        let names: Vec<String> = sqlx::query_scalar(
            "update media_to_delete set due_at = now() + $2 * interval '1 second'
              where stored_as in (select stored_as from media_to_delete where due_at <= now() order by due_at limit $1 for update skip locked)
             returning stored_as",
        )
            .bind(DELETED).bind(DELETE_AGAIN_SECS)
            .fetch_all(&self.db)
            .await?;
        let mut deleted = Vec::new();
        for name in names {
            match self.store.delete(&name).await {
                Ok(()) => deleted.push(name),
                Err(error) => {
                    complain(&error);
                    break;
                }
            }
        }
        sqlx::query("delete from media_to_delete where stored_as = any ($1)")
            .bind(&deleted)
            .execute(&self.db)
            .await?;
        Ok(deleted.len())
    }
}

fn complain(error: &StoreError) {
    tracing::error!(%error, "What customers attached cannot be kept or deleted; it is tried again");
}

/// A name nobody outside chooses, and the same at every try.
fn name_of(due: &Due) -> String {
    format!("{}/{}", due.sender_id, due.id)
}
