//! `carillon jobs dead|show|retry|delete`: reading dead jobs, and replaying or deleting exactly those that were named.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carillon_jobs::Kind;
use serde_json::{Value, json};

use super::{
    CliError, need_schema, plain, say, span,
    table::{self, Align},
};
use crate::{
    app::App,
    queue::{
        DeadReason,
        dead::{self, DeadFilter, DeadJob},
    },
};

/// A dry run shows so many of the jobs it would touch.
const SHOWN: u32 = 20;
/// How much of an error a list shows, in characters.
const ERROR_CHARS: usize = 70;

/// Which dead jobs, by what they are.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Filter {
    /// Of this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// Dead for this reason: malformed, exhausted, poison or rejected
    #[arg(long, value_parser = reason)]
    reason: Option<DeadReason>,
    /// Whose error contains this text, whatever its case
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// That died within this time: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "SPAN", value_parser = span::parse)]
    since: Option<Duration>,
    /// That died longer ago than this: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "SPAN", value_parser = span::parse)]
    older_than: Option<Duration>,
}

impl Filter {
    fn narrows(&self) -> bool {
        let Self {
            kind,
            reason,
            contains,
            since,
            older_than,
        } = self;
        kind.is_some() || reason.is_some() || contains.is_some() || since.is_some() || older_than.is_some()
    }

    fn rows(&self, replayed_too: bool) -> DeadFilter {
        DeadFilter {
            ids: None,
            kind: self.kind.map(|kind| kind.name().to_owned()),
            reason: self.reason,
            error_contains: self.contains.clone(),
            older_than: self.older_than,
            within: self.since,
            replayed_too,
        }
    }
}

/// List dead jobs
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Also those that were retried already
    #[arg(long)]
    retried: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only those with a smaller number, to page on
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
    /// One JSON array of objects, without the jobs' texts
    #[arg(long)]
    json: bool,
}

/// Show one dead job
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Its number, from `carillon jobs dead`
    id: i64,
    /// One JSON object; `raw` is the text, or `raw_base64` where it is not UTF-8
    #[arg(long)]
    json: bool,
}

/// Which dead jobs to act on: by number, by filter, or all.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Their numbers, from `carillon jobs dead`
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// Every dead job
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Also those that were retried already
    #[arg(long)]
    retried: bool,
    /// Change nothing, only show which jobs it would be
    #[arg(long)]
    dry_run: bool,
}

impl Which {
    /// Exactly one way of saying which.
    pub(super) fn check(&self, verb: &str) -> Result<(), CliError> {
        let said = [!self.ids.is_empty(), self.all, self.filter.narrows()];
        match said.iter().filter(|said| **said).count() {
            1 => Ok(()),
            0 => Err(CliError::Wrong(format!(
                "say which dead jobs to {verb}: their numbers (`carillon jobs dead` shows them), a filter such as \
                 --kind, --reason, --contains or --since, or --all"
            ))),
            _ => Err(CliError::Wrong(
                "numbers, filters and --all exclude each other: give one of them".to_owned(),
            )),
        }
    }

    /// The rows that are meant, every number checked. `again`: whether one that was retried already may be meant.
    async fn rows(&self, app: &App, again: bool) -> Result<DeadFilter, CliError> {
        let mut rows = self.filter.rows(again);
        if self.ids.is_empty() {
            return Ok(rows);
        }
        for id in &self.ids {
            let job = dead::get(&app.db, *id).await?.ok_or_else(|| nobody(*id))?;
            if let Some(at) = job.replayed_at.filter(|_| !again) {
                return Err(CliError::Wrong(format!(
                    "dead job {id} was retried at {}: add --retried to do it again",
                    plain::moment(at)
                )));
            }
        }
        rows.ids = Some(self.ids.clone());
        Ok(rows)
    }
}

/// Queue dead jobs again
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "carillon jobs retry <ID>... [OPTIONS]\n       carillon jobs retry <--all|FILTER...> [OPTIONS]"
)]
pub(super) struct Retry {
    #[command(flatten)]
    pub(super) which: Which,
    /// One JSON object: {"retried": …, "cut": …}, or {"dry_run": true, "count": …, "newest": [at most 20 ids]}
    #[arg(long)]
    json: bool,
}

/// Delete dead jobs
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "carillon jobs delete <ID>... [OPTIONS]\n       carillon jobs delete <--all|FILTER...> [OPTIONS]"
)]
pub(super) struct Delete {
    #[command(flatten)]
    pub(super) which: Which,
    /// One JSON object: {"deleted": …}, or {"dry_run": true, "count": …, "newest": [at most 20 ids]}
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(app: &App, args: List) -> Result<(), CliError> {
    need_schema(app).await?;
    let filter = args.filter.rows(args.retried);
    let jobs = dead::list(&app.db, &filter, args.before, args.limit).await?;
    if args.json {
        return say(&Value::Array(jobs.iter().map(summary).collect()).to_string());
    }
    print(&jobs)?;
    let all = dead::count(&app.db, &filter).await?;
    match jobs.last() {
        None => say("no dead jobs"),
        Some(last) if all > jobs.len() as u64 => {
            say(&format!("{} of {all}; the next ones: --before {}", jobs.len(), last.id))
        }
        Some(_) => Ok(()),
    }
}

pub(super) async fn show(app: &App, args: Show) -> Result<(), CliError> {
    need_schema(app).await?;
    let job = dead::get(&app.db, args.id).await?.ok_or_else(|| nobody(args.id))?;
    if args.json {
        return say(&whole(&job).to_string());
    }
    let kept = if job.is_whole() {
        format!("{} bytes", job.raw_length)
    } else {
        format!(
            "the first {} of {} bytes; it cannot be retried",
            job.raw.len(),
            job.raw_length
        )
    };
    for (head, text) in [
        ("kind", plain::cell(&job.kind, 80)),
        ("job id", plain::cell(job.job_id.as_deref().unwrap_or("-"), 128)),
        ("reason", job.reason.name().to_owned()),
        (
            "attempts",
            format!(
                "{} failed, {} crashed, {} snoozed",
                job.attempts, job.crashes, job.snoozes
            ),
        ),
        ("first run", plain::moment(job.first_at)),
        ("died", plain::moment(job.died_at)),
        ("retried", plain::moment_or_dash(job.replayed_at)),
        ("sha-256", hex(&job.raw_sha256)),
        ("text", kept),
    ] {
        say(&format!("{head:<10} {text}"))?;
    }
    say(&format!("\nerror:\n{}", plain::block(&job.error)))?;
    say(&format!(
        "\ntext:\n{}",
        plain::block(&String::from_utf8_lossy(&job.raw))
    ))?;
    say(&format!("\n{}", next_step(&job)))
}

/// What a person can do about it.
fn next_step(job: &DeadJob) -> String {
    let id = job.id;
    match (job.is_whole(), job.replayed_at) {
        (false, _) => format!("let its producer ring again, then: carillon jobs delete {id}"),
        (true, Some(_)) => {
            format!("again: carillon jobs retry {id} --retried; done with it: carillon jobs delete {id}")
        }
        (true, None) => {
            format!("cause mended: carillon jobs retry {id}; not wanted any more: carillon jobs delete {id}")
        }
    }
}

pub(super) async fn retry(app: &App, args: Retry) -> Result<(), CliError> {
    need_schema(app).await?;
    let rows = args.which.rows(app, args.which.retried).await?;
    if args.which.dry_run {
        return dry_run(app, &rows, "retry", args.json).await;
    }
    let done = dead::replay(&app.db, &app.queue()?, &rows).await?;
    if args.json {
        say(&json!({"retried": done.pushed, "cut": done.cut}).to_string())?;
    } else {
        say(&format!("{} queued again", jobs(done.pushed)))?;
    }
    if done.cut > 0 {
        return Err(CliError::Failed(format!(
            "{} left alone: only the first 64 KiB of the text were kept; let the producer ring again",
            jobs(done.cut)
        )));
    }
    Ok(())
}

pub(super) async fn delete(app: &App, args: Delete) -> Result<(), CliError> {
    need_schema(app).await?;
    // Whoever names a job by its number means it, retried or not.
    let again = args.which.retried || !args.which.ids.is_empty();
    let rows = args.which.rows(app, again).await?;
    if args.which.dry_run {
        return dry_run(app, &rows, "delete", args.json).await;
    }
    let deleted = dead::delete(&app.db, &rows).await?;
    if args.json {
        return say(&json!({"deleted": deleted}).to_string());
    }
    say(&format!("{} deleted", jobs(deleted)))
}

async fn dry_run(app: &App, rows: &DeadFilter, verb: &str, as_json: bool) -> Result<(), CliError> {
    let count = dead::count(&app.db, rows).await?;
    let first = dead::list(&app.db, rows, None, SHOWN).await?;
    if as_json {
        let newest: Vec<i64> = first.iter().map(|job| job.id).collect();
        return say(&json!({"dry_run": true, "count": count, "newest": newest}).to_string());
    }
    print(&first)?;
    let more = count.saturating_sub(first.len() as u64);
    if more > 0 {
        say(&format!("… and {more} more"))?;
    }
    say(&format!("would {verb} {}; nothing was changed", jobs(count)))
}

fn print(jobs: &[DeadJob]) -> Result<(), CliError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.to_string(),
                plain::moment(job.died_at),
                plain::cell(&job.kind, 40),
                job.reason.name().to_owned(),
                job.attempts.to_string(),
                plain::cell(&job.error, ERROR_CHARS),
            ]
        })
        .collect();
    let heads = [
        ("id", Align::Right),
        ("died", Align::Left),
        ("kind", Align::Left),
        ("reason", Align::Left),
        ("attempts", Align::Right),
        ("error", Align::Left),
    ];
    table::print(&heads, rows)
}

pub(super) fn summary(job: &DeadJob) -> Value {
    json!({
        "id": job.id, "kind": job.kind, "job_id": job.job_id, "reason": job.reason, "error": job.error,
        "attempts": job.attempts, "crashes": job.crashes, "snoozes": job.snoozes, "first_at": job.first_at,
        "died_at": job.died_at, "retried_at": job.replayed_at, "raw_bytes": job.raw_length,
        "raw_sha256": hex(&job.raw_sha256), "whole": job.is_whole(),
    })
}

fn whole(job: &DeadJob) -> Value {
    let mut value = summary(job);
    let (name, raw) = match std::str::from_utf8(&job.raw) {
        Ok(text) => ("raw", text.to_owned()),
        Err(_) => ("raw_base64", STANDARD.encode(&job.raw)),
    };
    if let Some(fields) = value.as_object_mut() {
        fields.insert(name.to_owned(), raw.into());
    }
    value
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
}

fn jobs(count: u64) -> String {
    if count == 1 {
        "1 job".to_owned()
    } else {
        format!("{count} jobs")
    }
}

fn nobody(id: i64) -> CliError {
    CliError::Wrong(format!("there is no dead job {id}: `carillon jobs dead` lists them"))
}

fn reason(name: &str) -> Result<DeadReason, String> {
    let known = || DeadReason::ALL.iter().map(|reason| reason.name());
    let found = DeadReason::ALL.iter().copied().find(|reason| reason.name() == name);
    found.ok_or_else(|| format!("reasons are {}", known().collect::<Vec<_>>().join(", ")))
}
