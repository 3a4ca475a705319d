//! The parts of a process, built once from a valid configuration and handed to whatever runs.
//!
//! Building connects to nothing, so a process that starts while Redis or PostgreSQL is away stays up and resumes by itself.
//! What a process does refuse to start with is said by [`crate::start`].

use std::{sync::Arc, time::Duration};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    broadcast::{BroadcastWork, LineQuota, Planner},
    channel::Channels,
    clock::Clock,
    config::{Config, RedisConfig},
    db::{self, DbError, PgPool, SchemaState},
    delivery::Delivery,
    inbox::{ingest::IngestWork, media::MediaWork},
    ledger::refill::RefillWork,
    limit::Limits,
    queue::{Queue, QueueConfig, QueueError, RedisConn},
    secret::{SecretError, Secrets},
    top_up::TopUpWork,
};

/// What runs in this process; decides how many connections it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessKind {
    /// Serves pages and takes in webhooks.
    Web,
    /// Works on jobs.
    Worker,
    /// Turns due periods into jobs.
    Scheduler,
    /// An operator's command.
    Command,
}

impl ProcessKind {
    /// Its name in logs and in PostgreSQL's list of connections.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::Command => "command",
        }
    }
}

/// Why the parts could not be built, or a process may not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database's address, or the database itself.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Redis' address. It is not shown: it may hold a password.
    #[error("redis.url cannot be used: {0}")]
    RedisUrl(String),
    /// Keys.
    #[error("secret.keys: {0}")]
    Secret(#[from] SecretError),
    /// A Redis that would lose work, or is too old.
    #[error("{0}; then start again")]
    RedisUnfit(QueueError),
    /// Redis or PostgreSQL answers, and will not have us.
    #[error("{0}")]
    Refused(String),
    /// The schema is not the one this program needs.
    #[error("{0}")]
    Schema(String),
    /// Settings of the channels that cannot work together.
    #[error("{0}")]
    Channels(#[from] crate::channel::ChannelsError),
    /// Settings of media that cannot work.
    #[error("media: {0}")]
    Media(String),
    /// Listening, signals and other things of the operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The parts. Clones share them.
#[derive(Clone)]
pub struct App {
    /// What runs here.
    pub process: ProcessKind,
    /// The configuration.
    pub config: Arc<Config>,
    /// PostgreSQL.
    pub db: PgPool,
    /// Redis, for ordinary commands; reconnects by itself. A command that blocks needs a connection of its own.
    pub redis: ConnectionManager,
    /// Keys.
    pub secrets: Arc<Secrets>,
    /// The time.
    pub clock: Clock,
    /// Cancelled when the process is told to stop.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Builds the parts for one process. Connects to nothing; must be called inside a tokio runtime.
    pub fn for_process(process: ProcessKind, config: Config) -> Result<Self, AppError> {
        Ok(Self {
            process,
            db: db::pool(&config.database, process)?,
            redis: redis_connection(&config.redis)?,
            secrets: Arc::new(Secrets::new(&config.secret.keys)?),
            clock: Clock::system(),
            stop: CancellationToken::new(),
            config: Arc::new(config),
        })
    }

    /// The job queue's settings, with what `[redis]` says about keys and patience.
    #[must_use]
    pub fn queue_config(&self) -> QueueConfig {
        self.config.queue.clone().on(&self.config.redis)
    }

    /// The job queue's connection.
    pub fn queue_conn(&self) -> Result<RedisConn, AppError> {
        RedisConn::connect(self.config.redis.url.expose(), &self.queue_config())
            .map_err(|error| AppError::RedisUrl(error.to_string()))
    }

    /// Rings for work.
    pub fn queue(&self) -> Result<Queue, AppError> {
        Ok(Queue::new(self.queue_conn()?, &self.queue_config()))
    }

    /// What sends.
    pub fn delivery(&self) -> Result<Delivery, AppError> {
        let config = &self.config;
        let limits = Limits::new(self.redis.clone(), &config.redis.hash_tag(), config.limit.clone());
        Ok(Delivery {
            db: self.db.clone(),
            channels: Arc::new(Channels::new(&config.channel)?.reached_at(&config.web.public_url)),
            channel_config: config.channel.clone(),
            limits,
            limit_config: config.limit.clone(),
            secrets: self.secrets.clone(),
            config: config.delivery.clone(),
            slice_size: config.broadcast.slice_size,
            public_url: config.web.public_url.clone(),
        })
    }

    /// What asks LINE how much its accounts may still send.
    pub fn line_quota(&self) -> Result<LineQuota, AppError> {
        Ok(LineQuota {
            db: self.db.clone(),
            channels: Arc::new(Channels::new(&self.config.channel)?),
            secrets: self.secrets.clone(),
        })
    }

    /// What works on `broadcast-send` jobs.
    pub fn broadcast_work(&self) -> Result<BroadcastWork, AppError> {
        Ok(BroadcastWork {
            db: self.db.clone(),
            queue: self.queue()?,
            planner: Planner::new(self.db.clone(), self.config.broadcast.clone()).asking(self.line_quota()?),
            delivery: self.delivery()?,
            slots: self.config.queue.concurrency,
            postgres: Arc::default(),
        })
    }

    /// What works on `monthly-token-refill` jobs.
    #[must_use]
    pub fn refill_work(&self) -> RefillWork {
        RefillWork {
            db: self.db.clone(),
            config: self.config.refill,
            postgres: Arc::default(),
        }
    }

    /// What works on `media-fetch` jobs.
    pub fn media_work(&self) -> Result<MediaWork, AppError> {
        MediaWork::new(self.db.clone(), self.secrets.clone(), &self.config.media).map_err(AppError::Media)
    }

    /// What works on `webhook-ingest` jobs.
    #[must_use]
    pub fn ingest_work(&self) -> IngestWork {
        IngestWork {
            db: self.db.clone(),
            secrets: self.secrets.clone(),
            public_url: self.config.web.public_url.clone(),
            postgres: Arc::default(),
        }
    }

    /// What works on `top-up-settlement` jobs.
    #[must_use]
    pub fn top_up_work(&self) -> TopUpWork {
        TopUpWork {
            db: self.db.clone(),
            postgres: Arc::default(),
        }
    }
}

/// What a person does about a schema that does not fit.
#[must_use]
pub fn schema_advice(state: &SchemaState) -> String {
    match state {
        SchemaState::UpToDate => "the schema is up to date".to_owned(),
        SchemaState::Ahead(versions) => {
            format!("the database is migrated for a newer program (versions {versions:?})")
        }
        SchemaState::Behind(versions) => {
            format!("the database lacks migrations {versions:?}: run `carillon migrate` first")
        }
        SchemaState::Outgrown(versions) => {
            format!(
                "a newer program has taken away what this one needs (migrations {versions:?}): start that release or a newer one"
            )
        }
        SchemaState::Changed(versions) => {
            format!(
                "migrations {versions:?} were applied with another text or only half: restore their files, or the database, and look before you go on"
            )
        }
    }
}

/// A connection for ordinary commands that connects when it is first used and again whenever it was lost.
pub fn redis_connection(config: &RedisConfig) -> Result<ConnectionManager, AppError> {
    let client = redis_client(config)?;
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(config.connect_timeout_ms)))
        .set_response_timeout(Some(Duration::from_millis(config.response_timeout_ms)))
        // Callers have their own patience; the manager must not add its own on top of it.
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(500));
    ConnectionManager::new_lazy_with_config(client, settings).map_err(|error| redis_url_error(&error))
}

/// A client for connections of another kind (blocking, subscribed).
pub fn redis_client(config: &RedisConfig) -> Result<redis::Client, AppError> {
    redis::Client::open(config.url.expose()).map_err(|error| redis_url_error(&error))
}

fn redis_url_error(error: &redis::RedisError) -> AppError {
    // Its category only: the full text may quote the address.
    AppError::RedisUrl(error.category().to_owned())
}
