//! The command line: the process types of the Procfile and the operator's commands, one file each.
//!
//! A wrong call or a wrong configuration says what is wrong and what to do, on one screen, with exit code 2, before anything has
//! happened. What fails later ends with exit code 1. Results go to standard output, logs and errors to standard error.
//!
//! To add a command: a file with its `Args` and `run`, one line in `Command`, one in `dispatch`.

pub mod audit;
mod broadcast;
mod config;
mod conversations;
mod dead_jobs;
mod enqueue;
mod explain;
mod jobs;
mod line;
mod migrate;
mod pause;
mod plain;
mod process;
mod schedule;
pub mod seed;
mod sender;
mod sender_sms;
mod shop;
mod span;
mod suppressions;
mod table;
mod tokens;
mod webhooks;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use carillon_jobs::TraceParent;
use clap::{Parser, Subcommand};
use tracing::{Instrument as _, Span};

use crate::{
    app::{App, AppError, ProcessKind, schema_advice},
    config::{Config, Effective, Loaded, Origin, Sources},
    db::{self, SchemaState},
    limit::LimitError,
    queue::QueueError,
    telemetry::{self, TelemetryError},
};

/// What may still run when a process ends is given this long.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

/// Messaging back office of an online-shop platform: broadcasts exact to the token, and one inbox.
#[derive(Debug, Parser)]
#[command(
    name = "carillon",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110,
    // One screen: that every command takes --help need not be listed.
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\nCommands:\n{subcommands}{after-help}",
    after_help = "Needs DATABASE_URL, REDIS_URL and CARILLON__SECRET__KEYS; every key is in config/default.toml.\n`carillon config check` says what is in force, or everything that is wrong at once."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the web: health, unsubscribe links, webhooks (any number of processes)
    Web,
    /// Work on jobs: plan and send broadcasts (any number of processes)
    Worker,
    /// Ring for what is due, and for work that lost its job (any number)
    Scheduler,
    /// Bring the database's schema up to this program's, before it starts
    Migrate(migrate::Args),
    /// Queue one job by hand, checked against its contract
    Enqueue(enqueue::Args),
    /// Look at the queue; read, retry and delete dead jobs
    #[command(subcommand)]
    Jobs(jobs::Args),
    /// Stop a kind of job, a shop, a sender or everything; what waits is kept
    #[command(subcommand)]
    Pause(pause::Stop),
    /// Let what was paused go on where it was
    #[command(subcommand)]
    Resume(pause::GoOn),
    /// Show what is paused: since when, by whom, why, and what waits behind it
    Paused(pause::List),
    /// What the calendar rings for: what comes next, what was missed
    #[command(subcommand)]
    Schedule(schedule::Args),
    /// Look at the accounts messages leave from
    #[command(subcommand)]
    Sender(sender::Args),
    /// Show how fast each sender may send, what its provider last refused, and what waits
    Limits(sender::LimitsArgs),
    /// A shop's own rules: how often one customer hears from it, when nobody is disturbed
    #[command(subcommand)]
    Shop(shop::Args),
    /// A shop's lists of whom it may not write to, in and out as CSV
    #[command(subcommand)]
    Suppressions(suppressions::Args),
    /// What LINE's plans cost, and what is left of an account's month
    #[command(subcommand)]
    Line(line::Args),
    /// Look at the inbox: conversations and their messages
    #[command(subcommand)]
    Conversations(conversations::Args),
    /// Prove tokens and deliveries against each other
    Audit(audit::Args),
    /// Make, estimate, send, watch, pause and cancel broadcasts
    #[command(subcommand)]
    Broadcast(Box<broadcast::Command>),
    /// A shop's tokens: balance, ledger, usage, export; top-up orders; corrections
    #[command(subcommand)]
    Tokens(tokens::Command),
    /// Look at what providers told us; work through it again
    #[command(subcommand)]
    Webhooks(webhooks::Args),
    /// Make a shop with customers to try things with
    Seed(seed::Args),
    /// Look at the configuration, make keys
    #[command(subcommand)]
    Config(config::Args),
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Called or configured in a way that cannot work: exit code 2. The text says what to do.
    #[error("{0}")]
    Wrong(String),
    /// Something went wrong on the way: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Wrong(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

impl From<AppError> for CliError {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Db(error) => error.into(),
            AppError::RedisUrl(_)
            | AppError::RedisUnfit(_)
            | AppError::Refused(_)
            | AppError::Schema(_)
            | AppError::Channels(_)
            | AppError::Media(_)
            | AppError::Secret(_) => Self::Wrong(error.to_string()),
            AppError::System { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<QueueError> for CliError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Address | QueueError::Contract(_) | QueueError::Evicts { .. } | QueueError::TooOld { .. } => {
                Self::Wrong(error.to_string())
            }
            QueueError::Redis(_) | QueueError::Database(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<TelemetryError> for CliError {
    fn from(error: TelemetryError) -> Self {
        match error {
            TelemetryError::Filter(_) | TelemetryError::Export(_) => Self::Wrong(error.to_string()),
            TelemetryError::Twice(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<LimitError> for CliError {
    fn from(error: LimitError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<sqlx::Error> for CliError {
    fn from(error: sqlx::Error) -> Self {
        match db::refusal(&error) {
            Some(advice) => Self::Wrong(advice),
            None => Self::Failed(db::describe(&error)),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    // Before anything makes a TLS client: without a default provider some libraries panic, others choose another one.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        complain("error: another TLS provider was installed first");
        return ExitCode::from(1);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            error.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Web => with_app(ProcessKind::Web, process::run),
        Command::Worker => with_app(ProcessKind::Worker, process::run),
        Command::Scheduler => with_app(ProcessKind::Scheduler, process::run),
        Command::Migrate(args) => with_app(ProcessKind::Command, |app| migrate::run(app, args)),
        Command::Enqueue(args) => match enqueue::read(args)? {
            enqueue::Task::List { json } => enqueue::list(json),
            enqueue::Task::Ring { envelope, json } => {
                with_app(ProcessKind::Command, |app| enqueue::ring(app, *envelope, json))
            }
        },
        Command::Jobs(args) => {
            jobs::check(&args)?;
            with_app(ProcessKind::Command, |app| jobs::run(app, args))
        }
        Command::Pause(what) => with_app(ProcessKind::Command, |app| pause::pause(app, what)),
        Command::Resume(what) => with_app(ProcessKind::Command, |app| pause::resume(app, what)),
        Command::Paused(args) => with_app(ProcessKind::Command, |app| pause::list(app, args)),
        Command::Schedule(args) => with_app(ProcessKind::Command, |app| schedule::run(app, args)),
        Command::Sender(args) => with_app(ProcessKind::Command, |app| sender::run(app, args)),
        Command::Limits(args) => with_app(ProcessKind::Command, |app| sender::limits(app, args)),
        Command::Shop(args) => with_app(ProcessKind::Command, |app| shop::run(app, args)),
        Command::Suppressions(args) => with_app(ProcessKind::Command, |app| suppressions::run(app, args)),
        Command::Line(args) => with_app(ProcessKind::Command, |app| line::run(app, args)),
        Command::Conversations(args) => with_app(ProcessKind::Command, |app| conversations::run(app, args)),
        Command::Audit(args) => with_app(ProcessKind::Command, |app| audit::run(app, args)),
        Command::Broadcast(command) => with_app(ProcessKind::Command, |app| broadcast::run(app, *command)),
        Command::Tokens(command) => with_app(ProcessKind::Command, |app| tokens::run(app, command)),
        Command::Webhooks(args) => with_app(ProcessKind::Command, |app| webhooks::run(app, args)),
        Command::Seed(args) => with_app(ProcessKind::Command, |app| seed::run(app, args)),
        Command::Config(args) => config::run(&args),
    }
}

/// Reads the configuration, sets up logging, builds the parts and runs one command with them.
fn with_app<F, R>(process: ProcessKind, run: F) -> Result<(), CliError>
where
    F: FnOnce(App) -> R,
    R: Future<Output = Result<(), CliError>>,
{
    let Loaded { mut config, values } = load_config()?;
    let is_chosen = |value: &Effective| value.key == "log.filter" && value.origin != Origin::Default;
    if process == ProcessKind::Command && !values.iter().any(is_chosen) {
        // A person at a terminal asked for a result, not for the story of it.
        "warn".clone_into(&mut config.log.filter);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = telemetry::init(&config.log, &config.otel, process, runtime.handle())?;
    let span = command_span(process);
    let result = runtime.block_on(
        async {
            let app = App::for_process(process, config)?;
            run(app).await
        }
        .instrument(span),
    );
    traces.flush();
    runtime.shutdown_timeout(LEFT_BEHIND);
    result
}

/// A command is one piece of work, part of its caller's trace. A process of the Procfile is none: its jobs and requests are.
fn command_span(process: ProcessKind) -> Span {
    if process != ProcessKind::Command {
        return Span::none();
    }
    // The parser has taken it, so it is the name of a command.
    let name = std::env::args().nth(1).unwrap_or_default();
    let span = tracing::info_span!("command", command.name = name);
    telemetry::continues(&span, callers_trace());
    span
}

/// What other programs that trace leave in the environment.
fn callers_trace() -> Option<TraceParent> {
    std::env::var("TRACEPARENT").ok()?.parse().ok()
}

/// What a bell says about where it comes from: this command's span, or without traces of our own the caller's.
pub(super) fn trace_to_hand_on() -> Option<TraceParent> {
    telemetry::here().or_else(callers_trace)
}

/// Refuses to work on a database whose schema this program does not know.
pub(crate) async fn need_schema(app: &App) -> Result<(), CliError> {
    match db::check_schema(&app.db).await? {
        SchemaState::UpToDate | SchemaState::Ahead(_) => Ok(()),
        state @ (SchemaState::Behind(_) | SchemaState::Outgrown(_) | SchemaState::Changed(_)) => {
            Err(CliError::Wrong(schema_advice(&state)))
        }
    }
}

/// The configuration of this process, or everything that is wrong with it.
pub(crate) fn load_config() -> Result<Loaded, CliError> {
    Config::load(&Sources::of_process()).map_err(|errors| CliError::Wrong(errors.to_string()))
}

/// A line on standard output. A reader that went away (`| head`) is no error.
pub(crate) fn say(line: &str) -> Result<(), CliError> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A line on standard error, for which there is nobody to tell if it fails.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_call_is_told_on_one_screen() {
        for call in [
            &["carillon", "wrok"][..],
            &["carillon", "web", "--prot", "1"],
            &["carillon", "config"],
            &["carillon", "enqueue"],
            &["carillon", "jobs"],
            &["carillon", "jobs", "show"],
            &["carillon", "pause", "shop"],
            &["carillon", "resume", "sender", "line"],
            &["carillon", "tokens"],
            &["carillon", "tokens", "topup"],
            &["carillon", "tokens", "topup", "mark-charged"],
            &["carillon", "tokens", "balance"],
            &["carillon", "tokens", "adjust", "request"],
            &["carillon", "schedule"],
            &["carillon", "webhooks"],
            &["carillon", "webhooks", "replay"],
            &["carillon", "webhooks", "list", "--state", "lost"],
            &["carillon", "conversations", "show"],
            &["carillon", "schedule", "run", "daily-audit"],
            &["carillon", "line"],
            &["carillon", "shop"],
            &["carillon", "suppressions"],
            &["carillon", "suppressions", "import", "--shop", "x", "list.csv"],
            &["carillon", "shop", "cap"],
            &["carillon", "limits", "--channel", "fax"],
            &["carillon", "line", "plan", "--friends", "5"],
            &["carillon", "sender", "check"],
            &["carillon"],
        ] {
            let error = Cli::try_parse_from(call).unwrap_err();
            let text = error.to_string();
            assert!(text.lines().count() <= 30, "{text}");
            assert!(error.use_stderr(), "{call:?}");
        }
    }
}
