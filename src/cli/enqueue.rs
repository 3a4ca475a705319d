//! `carillon enqueue`: rings for work by hand, as a frontend would, with the contract checked before anything is pushed.

use std::{
    fs::File,
    io::{self, Read},
};

use carillon_jobs::{ContractError, Envelope, Kind, MAX_TEXT_BYTES};
use chrono::{DateTime, Utc};
use serde_json::{Value, json, value::RawValue};

use super::{CliError, complain, say, table};
use crate::{app::App, queue::Rung};

/// Queue one job, checked against its contract
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        carillon enqueue broadcast-send '{\"broadcast_id\": \"0197a1b2-…\"}'\n  \
        carillon enqueue broadcast-send @args.json --run-at 2026-12-01T09:00:00+08:00\n  \
        echo '{\"broadcast_id\": \"0197a1b2-…\"}' | carillon enqueue broadcast-send -\n\n\
        Prints the job's id. Exit code 2: the job breaks the contract and nothing was queued; 1: Redis did not take it.")]
pub(super) struct Args {
    /// Show the kinds of jobs and how they are run
    #[arg(long, conflicts_with_all = ["kind", "payload", "run_at", "unique", "max_attempts", "id"])]
    list: bool,
    /// The kind of job; --list shows them
    #[arg(required_unless_present = "list")]
    kind: Option<Kind>,
    /// The payload (what stands under `args`): a JSON object, @FILE, or - for standard input
    #[arg(value_name = "JSON|@FILE|-", required_unless_present = "list")]
    payload: Option<String>,
    /// Run not before this time, with its offset: 2026-12-01T09:00:00+08:00
    #[arg(long, value_name = "TIME", value_parser = time)]
    run_at: Option<DateTime<Utc>>,
    /// Queue nothing while a job with this key waits
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// Attempts before the job is dead, in place of its kind's
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// The job's id, for logs and lists; one is made up without it
    #[arg(long)]
    id: Option<String>,
    /// One JSON object: {"queued": true, "kind": …, "id": …}
    #[arg(long)]
    json: bool,
}

/// What is to be done, everything about it checked.
pub(super) enum Task {
    /// Show the kinds.
    List { json: bool },
    /// Queue this job.
    Ring { envelope: Box<Envelope>, json: bool },
}

/// Reads and checks the call. Touches neither Redis nor PostgreSQL, and needs no configuration.
pub(super) fn read(args: Args) -> Result<Task, CliError> {
    let (Some(kind), Some(source)) = (args.kind, &args.payload) else {
        return Ok(Task::List { json: args.json });
    };
    let text = payload_text(source)?;
    let raw: &RawValue = serde_json::from_slice(&text)
        .map_err(|error| CliError::Wrong(format!("the payload is not JSON: {}", in_words(&error))))?;
    let mut job = json!({});
    let mut set = |field: &str, value: Option<Value>| {
        if let (Some(value), Some(fields)) = (value, job.as_object_mut()) {
            fields.insert(field.to_owned(), value);
        }
    };
    set("id", args.id.map(Value::from));
    set("run_at", args.run_at.map(|at| at.to_rfc3339().into()));
    set("max_attempts", args.max_attempts.map(Value::from));
    set("unique", args.unique.map(Value::from));
    // The payload goes in as it was typed, so that the contract sees a field that was given twice.
    let options = job.to_string();
    let comma = if options == "{}" { "" } else { "," };
    let whole = format!(
        "{}{comma}\"args\":{}}}",
        options.strip_suffix('}').unwrap_or_default(),
        raw.get()
    );
    let envelope = Envelope::parse(kind, whole.as_bytes()).map_err(|error| refused(kind, &text, &error))?;
    Ok(Task::Ring {
        envelope: Box::new(envelope),
        json: args.json,
    })
}

/// The payload's text, never more of it than a job may hold.
fn payload_text(source: &str) -> Result<Vec<u8>, CliError> {
    let limit = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX);
    let read = |from: &mut dyn Read| {
        let mut text = Vec::new();
        from.take(limit + 1).read_to_end(&mut text).map(|_| text)
    };
    let text = match source.strip_prefix('@') {
        Some(path) => File::open(path)
            .and_then(|mut file| read(&mut file))
            .map_err(|error| CliError::Wrong(format!("{path} cannot be read: {error}")))?,
        None if source == "-" => read(&mut io::stdin().lock())
            .map_err(|error| CliError::Wrong(format!("standard input cannot be read: {error}")))?,
        None => source.as_bytes().to_vec(),
    };
    if text.len() > MAX_TEXT_BYTES {
        return Err(CliError::Wrong(format!(
            "the payload is longer than {MAX_TEXT_BYTES} bytes: a job carries ids, not data"
        )));
    }
    Ok(text)
}

fn in_words(error: &serde_json::Error) -> String {
    if error.is_eof() && error.line() <= 1 && error.column() == 0 {
        "it is empty".to_owned()
    } else {
        error.to_string()
    }
}

fn refused(kind: Kind, text: &[u8], error: &ContractError) -> CliError {
    let whole_job = serde_json::from_slice::<Value>(text).is_ok_and(|value| value.get("args").is_some());
    let hint = if whole_job {
        "\nGive only what stands under `args`; id, run_at, max_attempts and unique are options of this command."
    } else {
        ""
    };
    let said = error.to_string();
    // The field is named; the place would be one in the text of the whole job, which nobody typed.
    let said = said.split(" at line ").next().unwrap_or_default();
    CliError::Wrong(format!("{kind}: {said}{hint}"))
}

/// A time as the options of commands take it.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| "write a time with its offset, as in 2026-12-01T09:00:00+08:00".to_owned())
}

/// The kinds and their policies.
pub(super) fn list(as_json: bool) -> Result<(), CliError> {
    if as_json {
        let kinds = Kind::ALL.iter().map(|kind| {
            let policy = kind.policy();
            json!({"kind": kind.name(), "max_attempts": policy.max_attempts, "lease_secs": policy.lease_secs,
                   "timeout_secs": policy.timeout_secs, "priority": policy.priority,
                   "reserved_slots": policy.reserved_slots})
        });
        return say(&Value::Array(kinds.collect()).to_string());
    }
    let rows: Vec<Vec<String>> = Kind::ALL
        .iter()
        .map(|kind| {
            let policy = kind.policy();
            vec![
                kind.to_string(),
                policy.max_attempts.to_string(),
                format!("{} s", policy.lease_secs),
                format!("{} s", policy.timeout_secs),
                policy.priority.to_string(),
            ]
        })
        .collect();
    let heads = [
        ("kind", table::Align::Left),
        ("attempts", table::Align::Right),
        ("lease", table::Align::Right),
        ("time limit", table::Align::Right),
        ("priority", table::Align::Right),
    ];
    table::print(&heads, rows)
}

pub(super) async fn ring(app: App, mut envelope: Envelope, as_json: bool) -> Result<(), CliError> {
    let kind = envelope.job.kind();
    envelope.traceparent = super::trace_to_hand_on();
    let rung = app.queue()?.ring(envelope).await?;
    if as_json {
        return say(&match rung {
            Rung::Queued { id } => json!({"queued": true, "kind": kind.name(), "id": id}).to_string(),
            Rung::AlreadyWaiting => json!({"queued": false, "kind": kind.name()}).to_string(),
        });
    }
    match rung {
        Rung::Queued { id } => say(&id),
        Rung::AlreadyWaiting => {
            complain("nothing was queued: a job with this unique key already waits");
            Ok(())
        }
    }
}
