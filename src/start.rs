//! What must hold before a process works: PostgreSQL and Redis answer and fit this program.
//!
//! Who is away is waited for, with one line in the log: a platform that restarts what ends would otherwise make an outage a
//! crash loop, and count it against us. What no waiting mends is refused at once, in a sentence that says what to do: a
//! schema that is not migrated or too new, a Redis that evicts or is too old, credentials nobody accepts.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    app::{App, AppError, schema_advice},
    db::{self, SchemaState},
    prices::{self, PublishError},
    queue::{self, QueueError},
};

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns when both answer and fit, or with the first reason why they never will.
pub async fn check(app: &App) -> Result<(), AppError> {
    tokio::try_join!(redis(app), postgres(app))?;
    publish_prices(app).await?;
    tracing::info!(
        process = app.process.name(),
        db.connections = app.config.database.pool_size(app.process),
        "Ready to start"
    );
    Ok(())
}

async fn redis(app: &App) -> Result<(), AppError> {
    let mut told = false;
    loop {
        let mut connection = app.redis.clone();
        let error = match timeout(PATIENCE, queue::check_server(&mut connection)).await {
            Ok(Ok(_)) => break,
            Ok(Err(error @ (QueueError::Evicts { .. } | QueueError::TooOld { .. }))) => {
                return Err(AppError::RedisUnfit(error));
            }
            Ok(Err(error)) if error.is_refusal() => {
                return Err(AppError::Refused(format!(
                    "{error}: Redis refuses these credentials; look at REDIS_URL and at the user's permissions"
                )));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if !told {
            told = true;
            tracing::warn!(error, "Redis does not answer yet; waiting for it");
        }
        sleep(PAUSE).await;
    }
    if told {
        tracing::info!("Redis answers");
    }
    Ok(())
}

async fn postgres(app: &App) -> Result<(), AppError> {
    let mut told = false;
    loop {
        let error = match timeout(PATIENCE, db::check_schema(&app.db)).await {
            Ok(Ok(SchemaState::UpToDate)) => break,
            Ok(Ok(SchemaState::Ahead(versions))) => {
                tracing::info!(?versions, "The database is migrated for a newer program; going on");
                break;
            }
            Ok(Ok(state @ (SchemaState::Behind(_) | SchemaState::Outgrown(_) | SchemaState::Changed(_)))) => {
                return Err(AppError::Schema(schema_advice(&state)));
            }
            Ok(Err(error)) => match db::refusal(&error) {
                Some(advice) => return Err(AppError::Refused(advice)),
                None => db::describe(&error),
            },
            Err(_) => "no answer in time".to_owned(),
        };
        if !told {
            told = true;
            tracing::warn!(error, "PostgreSQL does not answer yet; waiting for it");
        }
        sleep(PAUSE).await;
    }
    if told {
        tracing::info!("PostgreSQL answers");
    }
    Ok(())
}

/// A process prices with what its program knows; the database must say the same before it works.
async fn publish_prices(app: &App) -> Result<(), AppError> {
    let mut told = false;
    loop {
        let error = match timeout(PATIENCE, prices::publish(&app.db, &app.config.prices.tables)).await {
            Ok(Ok(published)) => {
                if !published.unknown_versions.is_empty() {
                    let versions = published.unknown_versions;
                    tracing::info!(
                        ?versions,
                        "A newer program has published price tables this one does not know"
                    );
                }
                return Ok(());
            }
            Ok(Err(PublishError::Refused(problem))) => return Err(AppError::Refused(problem)),
            Ok(Err(PublishError::Database(error))) => match db::refusal(&error) {
                Some(advice) => return Err(AppError::Refused(advice)),
                None => db::describe(&error),
            },
            Err(_) => "no answer in time".to_owned(),
        };
        if !told {
            told = true;
            tracing::warn!(error, "Prices cannot be published yet; trying again");
        }
        sleep(PAUSE).await;
    }
}
