//! `carillon broadcast review`: broadcasts whose text message waits for a person, and the person's decision.

use carillon_jobs::BroadcastId;
use serde_json::json;

use super::{One, moved, ring, say_json};
use crate::{
    app::App,
    broadcast::compliance::{self, ReviewError},
    cli::{
        CliError, plain, say,
        table::{self, Align},
    },
    db,
};

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Show what waits: which link or number is not registered, and in which text
    List {
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Let one go on as it is
    Clear(Decision),
    /// End one: nothing leaves, nothing was held
    Reject(Decision),
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Decision {
    /// The broadcast's id
    #[arg(value_name = "ID")]
    id: BroadcastId,
    /// Who decides; it stands in the operators' log
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl From<ReviewError> for CliError {
    fn from(error: ReviewError) -> Self {
        match error {
            ReviewError::Database(cause) => Self::Failed(db::describe(&cause)),
            ReviewError::NotWaiting(_) => {
                Self::Wrong(format!("{error}: `carillon broadcast review list` shows what does"))
            }
            ReviewError::Identity(_) | ReviewError::Text => Self::Wrong(format!("{error}; nothing was decided")),
        }
    }
}

pub(super) async fn run(app: &App, command: Command) -> Result<(), CliError> {
    match command {
        Command::List { json } => list(app, json).await,
        Command::Clear(Decision { id, by, reason, json }) => {
            let state = compliance::clear(&app.db, &app.config.broadcast, id, &by, &reason).await?;
            ring(app, id).await;
            moved(&One { id, json }, state)
        }
        Command::Reject(Decision { id, by, reason, json }) => {
            let state = compliance::reject(&app.db, id, &by, &reason).await?;
            moved(&One { id, json }, state)
        }
    }
}

async fn list(app: &App, as_json: bool) -> Result<(), CliError> {
    let reviews = compliance::reviews(&app.db, &app.config.broadcast)
        .await
        .map_err(|error| CliError::Failed(db::describe(&error)))?;
    if as_json {
        return say_json(&json!(reviews));
    }
    if reviews.is_empty() {
        return say("no broadcast waits for a review");
    }
    let heads = [
        ("broadcast", Align::Left),
        ("shop", Align::Left),
        ("state", Align::Left),
        ("since", Align::Left),
        ("found", Align::Left),
        ("text", Align::Left),
    ];
    let rows = reviews.iter().map(|review| {
        vec![
            review.broadcast.to_string(),
            plain::cell(&review.shop_name, 20),
            review.state.to_string(),
            plain::moment_or_dash(Some(review.asked_at)),
            plain::cell(&review.findings.join(", "), 80),
            plain::cell(&review.text, 80),
        ]
    });
    table::print(&heads, rows.collect())?;
    say(
        "next: carillon broadcast review clear|reject ID --by NAME --reason TEXT, or register it: carillon sender sms register",
    )
}
