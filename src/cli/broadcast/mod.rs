//! `carillon broadcast`: everything a person does with a broadcast.
//!
//! Why it exists: the whole life of a broadcast from a terminal, for people (tables) and for scripts (`--json`: one
//! object on one line). A wrong call changes nothing, names the field and says what to do.
//!
//! It must never do itself what `crate::broadcast` does: it reads arguments and shows results.

mod compose;
mod preview;
mod review;
mod show;
mod watch;

use carillon_jobs::BroadcastId;
use serde_json::json;

use super::{CliError, complain, need_schema, say};
use crate::{
    app::App,
    broadcast::{self, BroadcastState, ControlError, CreateError, PreviewSetup, ResendOutcome},
    channel::Channel,
    db, reconcile,
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Say who would get what and what it would cost, without doing it
    #[command(after_help = "With an ID: a stored broadcast. Without: one described by the same options as `create`.")]
    Estimate(EstimateArgs),
    /// Show what customers will read on each channel, rendered by the code that sends
    #[command(after_help = preview::HELP)]
    Preview(One),
    /// Store a draft
    Create(CreateArgs),
    /// Send a draft: now, or at its time
    Send(One),
    /// Send a broadcast's message once to an address of your own; costs what any message costs
    Test(TestArgs),
    /// Show what became of a broadcast
    Show(One),
    /// Show its progress until it is over
    #[command(after_help = "Exit code: 0 when it completed, 1 when it failed or was cancelled.")]
    Watch(One),
    /// Hold one, or all, where they are; takes effect within a second
    Pause(PauseArgs),
    /// Let a paused one go on: sends exactly the rest
    Resume(One),
    /// End it: what has not left never will, and its tokens come back
    Cancel(One),
    /// Broadcasts whose text message waits for a person: list them, clear or reject one
    #[command(subcommand)]
    Review(review::Command),
    /// Make a new draft to those whom an ended one did not reach
    Resend(ResendArgs),
}

/// One broadcast.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The broadcast's id
    #[arg(value_name = "ID")]
    id: BroadcastId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// The broadcast's id
    #[arg(value_name = "ID", required_unless_present = "all")]
    id: Option<BroadcastId>,
    /// Every broadcast on its way, each by itself: the first thing to do after restoring a database, before workers start
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct EstimateArgs {
    /// A stored broadcast's id
    #[arg(value_name = "ID", conflicts_with = "shop")]
    id: Option<BroadcastId>,
    #[command(flatten)]
    new: compose::Options,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    new: compose::Options,
    /// Send it at once, or at its time
    #[arg(long)]
    send: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// The broadcast's id
    #[arg(value_name = "ID")]
    id: BroadcastId,
    /// One of its channels
    #[arg(long)]
    channel: Channel,
    /// Where to: a mail address, a LINE user id, a device token
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResendArgs {
    /// The ended broadcast's id
    #[arg(value_name = "ID")]
    id: BroadcastId,
    /// Whose messages ended how: failed, unknown, expired, cancelled
    #[arg(long, value_delimiter = ',', default_value = "failed,unknown")]
    outcomes: Vec<ResendOutcome>,
    /// Send it at once
    #[arg(long)]
    send: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: App, command: Command) -> Result<(), CliError> {
    need_schema(&app).await?;
    let (db, config) = (&app.db, &app.config.broadcast);
    match command {
        Command::Estimate(args) => {
            let asks = app.line_quota()?;
            let estimate = if let Some(id) = args.id {
                asks.ask_for_stored(id).await?;
                broadcast::estimate_stored(db, config, id).await?
            } else {
                let new = args.new.into_broadcast(db, config).await?;
                asks.ask_for_new(&new).await?;
                broadcast::estimate_new(db, config, &new).await?
            };
            if args.json {
                say_json(&estimate)
            } else {
                show::estimate(&estimate)
            }
        }
        Command::Preview(one) => {
            let setup = PreviewSetup {
                config,
                secrets: &app.secrets,
                public_url: &app.config.web.public_url,
            };
            let preview = broadcast::preview_stored(db, setup, one.id).await?;
            if one.json {
                say_json(&preview)
            } else {
                preview::print(&preview)
            }
        }
        Command::Create(args) => {
            let id = broadcast::create(db, config, &args.new.into_broadcast(db, config).await?).await?;
            made(&app, id, args.send, args.json).await
        }
        Command::Resend(args) => {
            let id = broadcast::resend(db, config, args.id, &args.outcomes).await?;
            made(&app, id, args.send, args.json).await
        }
        Command::Test(args) => {
            let id = broadcast::test_send(db, config, args.id, args.channel, &args.to).await?;
            made(&app, id, true, args.json).await
        }
        Command::Send(one) => {
            let state = broadcast::send(db, one.id).await?;
            ring(&app, one.id).await;
            moved(&one, state)
        }
        Command::Pause(PauseArgs { id: Some(id), json, .. }) => {
            let state = broadcast::pause(db, id).await?;
            moved(&One { id, json }, state)
        }
        Command::Pause(PauseArgs { id: None, json, .. }) => {
            let paused = broadcast::pause_all(db).await?;
            if json {
                return say_json(&json!({ "paused": paused }));
            }
            paused
                .iter()
                .try_for_each(|id| say(&format!("broadcast {id} is paused")))?;
            if paused.is_empty() {
                return say("no broadcast is on its way");
            }
            say(&format!(
                "{} paused; each goes on with `carillon broadcast resume ID` or ends with `cancel ID`",
                paused.len()
            ))
        }
        Command::Resume(one) => {
            let state = broadcast::resume(db, one.id).await?;
            ring(&app, one.id).await;
            moved(&one, state)
        }
        Command::Cancel(one) => {
            let state = broadcast::cancel(db, one.id).await?;
            ring(&app, one.id).await;
            moved(&one, state)
        }
        Command::Show(one) => {
            let report = broadcast::report(db, one.id).await?;
            if one.json {
                say_json(&report)
            } else {
                show::report(&report)
            }
        }
        Command::Review(command) => review::run(&app, command).await,
        Command::Watch(one) => watch::run(&app, one.id, one.json).await,
    }
}

/// Says what was made, after sending it if that was asked.
async fn made(app: &App, id: BroadcastId, send: bool, json: bool) -> Result<(), CliError> {
    let mut state = BroadcastState::Draft;
    if send {
        state = broadcast::send(&app.db, id).await?;
        ring(app, id).await;
    }
    if json {
        return say_json(&json!({ "id": id, "state": state }));
    }
    say(&format!("broadcast {id} is {state}"))?;
    if send {
        say(&format!("next: carillon broadcast watch {id}"))
    } else {
        say(&format!(
            "next: carillon broadcast estimate {id}, carillon broadcast preview {id}, then carillon broadcast send {id}"
        ))
    }
}

fn moved(one: &One, state: BroadcastState) -> Result<(), CliError> {
    if one.json {
        return say_json(&json!({ "id": one.id, "state": state }));
    }
    say(&format!("broadcast {} is {state}", one.id))
}

/// The bell. What is true is in Postgres by now, so a Redis that is away only costs seconds.
async fn ring(app: &App, broadcast: BroadcastId) {
    let rung = match app.queue() {
        Ok(queue) => reconcile::ring_within(&queue, broadcast, None, super::trace_to_hand_on())
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = rung {
        complain(&format!(
            "note: workers could not be told at once, the scheduler will within seconds ({error})"
        ));
    }
}

fn say_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
    say(&text)
}

impl From<CreateError> for CliError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Refused(problems) => {
                let lines: Vec<String> = problems.0.iter().map(|one| format!("  {one}")).collect();
                Self::Wrong(format!("nothing was done, because:\n{}", lines.join("\n")))
            }
            CreateError::Database(error) => Self::Failed(db::describe(&error)),
        }
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotFound(_) | ControlError::WrongState { .. } => Self::Wrong(error.to_string()),
            ControlError::Database(error) => Self::Failed(db::describe(&error)),
        }
    }
}
