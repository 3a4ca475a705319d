//! `carillon migrate`: the release step, safe to run twice and from two places at once.

use super::{CliError, say};
use crate::{
    app::{App, ProcessKind, schema_advice},
    db::{self, DbError, SchemaState},
    event,
    prices::{self, PublishError, Published},
};

/// Bring the database's schema and prices up to this program's.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Migrations only go forward and are safe while the old program still runs.\n\
                        Exit code: 0 when the schema is up to date (or --check finds it so), 1 when not."
)]
pub(super) struct Args {
    /// Change nothing, only say whether the schema is up to date
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    if args.check {
        let state = db::check_schema(&app.db)
            .await
            .map_err(|error| CliError::Failed(DbError::from(error).to_string()))?;
        let advice = schema_advice(&state);
        return match state {
            SchemaState::UpToDate | SchemaState::Ahead(_) => say(&advice),
            SchemaState::Behind(_) | SchemaState::Outgrown(_) | SchemaState::Changed(_) => {
                Err(CliError::Failed(advice))
            }
        };
    }
    // A big table may take its time; the limits are for ordinary work.
    let mut config = app.config.database.clone();
    config.statement_timeout_secs = 0;
    config.idle_in_transaction_timeout_secs = 0;
    let pool = db::pool(&config, ProcessKind::Command)?;
    let applied = db::migrate(&pool).await?;
    let state = db::check_schema(&pool).await.map_err(DbError::from)?;
    let published = match state {
        SchemaState::Outgrown(_) => Published::default(),
        _ => prices::publish(&pool, &app.config.prices.tables).await?,
    };
    if matches!(state, SchemaState::UpToDate | SchemaState::Ahead(_)) {
        event::publish_settings(&pool, &app.config.events)
            .await
            .map_err(DbError::from)?;
    }
    pool.close().await;
    // A release that goes back too far ends here, before its processes start.
    if let SchemaState::Outgrown(_) = state {
        return Err(CliError::Failed(schema_advice(&state)));
    }
    match applied.as_slice() {
        [] => say("the schema was up to date")?,
        versions => say(&format!("applied {} migration(s): {versions:?}", versions.len()))?,
    }
    match published.versions.as_slice() {
        [] => Ok(()),
        versions => say(&format!(
            "published {} price table(s): {}",
            versions.len(),
            versions.join(", ")
        )),
    }
}

impl From<PublishError> for CliError {
    fn from(error: PublishError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<DbError> for CliError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Url => Self::Wrong(error.to_string()),
            DbError::Database(error) => error.into(),
            DbError::Migrate(_) => Self::Failed(error.to_string()),
        }
    }
}
