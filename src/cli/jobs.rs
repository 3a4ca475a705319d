//! `carillon jobs`: what waits in the queue and why, which jobs are dead, and bringing those back.
//!
//! It must never replay or delete more than was asked for: which jobs is always said, `--all` included.

use carillon_jobs::Kind;
use serde_json::{Value, json};

use super::{
    CliError, dead_jobs, explain, plain, say,
    table::{self, Align},
};
use crate::{app::App, pause};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show each kind: jobs ready, scheduled and running, whether it is paused, how old the first ready one is
    List {
        /// One JSON array: [{"kind": …, "ready": …, "scheduled": …, "running": …, "paused": …, "oldest_at": …}, …]
        #[arg(long)]
        json: bool,
    },
    /// Say where a job, a broadcast or one delivery is, and why it has not left yet
    Explain(explain::Args),
    /// List dead jobs, the newest first
    Dead(dead_jobs::List),
    /// Show one dead job: its text, its last error, what it has been through
    Show(dead_jobs::Show),
    /// Queue dead jobs again as they were first pushed, their attempts at nought
    Retry(dead_jobs::Retry),
    /// Delete dead jobs for good
    Delete(dead_jobs::Delete),
}

/// Refuses what can be seen to be wrong without looking at anything.
pub(super) fn check(args: &Args) -> Result<(), CliError> {
    match args {
        Args::Retry(dead_jobs::Retry { which, .. }) => which.check("retry"),
        Args::Delete(dead_jobs::Delete { which, .. }) => which.check("delete"),
        Args::List { .. } | Args::Explain(_) | Args::Dead(_) | Args::Show(_) => Ok(()),
    }
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    match args {
        Args::List { json } => list(&app, json).await,
        Args::Explain(args) => explain::run(&app, args).await,
        Args::Dead(args) => dead_jobs::list(&app, args).await,
        Args::Show(args) => dead_jobs::show(&app, args).await,
        Args::Retry(args) => dead_jobs::retry(&app, args).await,
        Args::Delete(args) => dead_jobs::delete(&app, args).await,
    }
}

async fn list(app: &App, as_json: bool) -> Result<(), CliError> {
    let queue = app.queue()?;
    // Postgres away: what lies in the queue can be shown all the same.
    let paused = pause::kinds(&app.db, Kind::ALL).await.ok();
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for depth in queue.depths().await? {
        let oldest = queue.oldest_ready(depth.kind).await?;
        let is_paused = paused.as_ref().map(|kinds| kinds.contains(&depth.kind));
        objects.push(json!({
            "kind": depth.kind.name(), "ready": depth.ready, "scheduled": depth.delayed, "running": depth.running,
            "paused": is_paused, "oldest_at": oldest,
        }));
        rows.push(vec![
            depth.kind.to_string(),
            depth.ready.to_string(),
            depth.delayed.to_string(),
            depth.running.to_string(),
            match is_paused {
                Some(true) => "paused",
                Some(false) => "-",
                None => "not known",
            }
            .to_owned(),
            plain::moment_or_dash(oldest),
        ]);
    }
    if as_json {
        return say(&Value::Array(objects).to_string());
    }
    let heads = [
        ("kind", Align::Left),
        ("ready", Align::Right),
        ("scheduled", Align::Right),
        ("running", Align::Right),
        ("paused", Align::Left),
        ("oldest", Align::Left),
    ];
    table::print(&heads, rows)
}
