//! `carillon pause`, `resume` and `paused`: stopping a kind of job, a shop, a sender or everything, and seeing what is stopped.
//!
//! Nothing is ever lost by it: what is paused waits where it is, and every pause says who made it, when and why.

use std::fmt::Write as _;

use carillon_jobs::{Kind, SenderId, ShopId};
use chrono::Utc;
use serde_json::{Value, json};

use super::{CliError, complain, need_schema, plain, say, table};
use crate::{
    app::App,
    pause::{self, Moved, Pause, Scope},
    reconcile,
};

const REASON_CHARS: usize = 200;
const NAME_CHARS: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Stop {
    /// Begin no job of any kind and send nothing
    Everything(Why),
    /// Begin no job of one kind; pausing `broadcast-send` also ends the turns under way
    Kind {
        /// The kind of job
        kind: Kind,
        #[command(flatten)]
        why: Why,
    },
    /// Plan and send nothing for one shop
    Shop {
        /// The shop's id
        id: ShopId,
        #[command(flatten)]
        why: Why,
    },
    /// Send nothing from one account
    Sender {
        /// The sender's id
        id: SenderId,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// Why, for whoever finds it later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum GoOn {
    /// End the pause of everything; narrower pauses stay
    Everything(Who),
    /// Let jobs of a kind begin again
    Kind {
        /// The kind of job
        kind: Kind,
        #[command(flatten)]
        who: Who,
    },
    /// Plan and send for a shop again
    Shop {
        /// The shop's id
        id: ShopId,
        #[command(flatten)]
        who: Who,
    },
    /// Send from an account again; its waiting messages leave within seconds
    Sender {
        /// The sender's id
        id: SenderId,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// Who asks for it; the name of this account if not given
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// One JSON object: {"scope": …, "of": …, "paused": …, "changed": …}
    #[arg(long)]
    json: bool,
}

/// Show what is paused
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

impl Who {
    fn name(&self) -> Result<String, CliError> {
        asking(self.by.as_deref())
    }
}

/// Who asks: the name given, or that of this account.
pub(super) fn asking(by: Option<&str>) -> Result<String, CliError> {
    let login = || {
        std::env::var("USER")
            .or_else(|_| std::env::var("LOGNAME"))
            .ok()
            .filter(|name| !name.trim().is_empty())
    };
    let name = by.map(str::to_owned).or_else(login);
    said("--by", &name.unwrap_or_else(|| "an operator".to_owned()), NAME_CHARS)
}

fn said(option: &str, text: &str, most: usize) -> Result<String, CliError> {
    let text = plain::cell(text.trim(), most);
    if text.is_empty() {
        return Err(CliError::Wrong(format!("{option} is empty")));
    }
    Ok(text)
}

pub(super) async fn pause(app: App, what: Stop) -> Result<(), CliError> {
    let (scope, why) = match what {
        Stop::Everything(why) => (Scope::Everything, why),
        Stop::Kind { kind, why } => (Scope::Kind(kind), why),
        Stop::Shop { id, why } => (Scope::Shop(id), why),
        Stop::Sender { id, why } => (Scope::Sender(id), why),
    };
    let (reason, by) = (said("--reason", &why.reason, REASON_CHARS)?, why.who.name()?);
    need_schema(&app).await?;
    let moved = pause::pause(&app.db, scope, &reason, &by).await?;
    let name = named(scope);
    tell(scope, moved, why.who.json, true, || match moved {
        Moved::Already => format!("{name} was paused already; `carillon paused` says by whom and why"),
        _ => format!(
            "{name} is paused: nothing that has not begun begins; `carillon resume {}` lets it go on",
            call(scope)
        ),
    })
}

pub(super) async fn resume(app: App, what: GoOn) -> Result<(), CliError> {
    let (scope, who) = match what {
        GoOn::Everything(who) => (Scope::Everything, who),
        GoOn::Kind { kind, who } => (Scope::Kind(kind), who),
        GoOn::Shop { id, who } => (Scope::Shop(id), who),
        GoOn::Sender { id, who } => (Scope::Sender(id), who),
    };
    let by = who.name()?;
    need_schema(&app).await?;
    let mut moved = pause::resume(&app.db, scope, &by).await?;
    // A sender that was never paused may rest because nothing gets through: a person who says it works has it tried at once.
    let mut probes = 0;
    if let (Moved::Already, Scope::Sender(sender)) = (moved, scope) {
        probes = pause::probe(&app.db, sender).await?;
        if probes > 0 {
            moved = Moved::Done;
        }
    }
    if moved == Moved::Done {
        // The scheduler would ring within seconds; ringing here saves them.
        if let Err(error) = reconcile::look(&app.db, &app.queue()?, &app.config.delivery).await {
            complain(&format!(
                "{error}; the scheduler rings for what waits when that is over"
            ));
        }
    }
    let rest = pause::in_force(&app.db).await?;
    let name = named(scope);
    tell(scope, moved, who.json, false, || {
        let mut text = match moved {
            Moved::Already => format!("{name} was not paused"),
            _ if probes > 0 => format!("{name} was not paused; one message probes it now instead of later"),
            _ => format!("{name} goes on"),
        };
        if !rest.is_empty() {
            // Who resumes a sender of a shop that is paused must not wonder why nothing happens.
            let _ = write!(
                text,
                "; {} in force: `carillon paused`",
                count(rest.len() as u64, "other pause is", "other pauses are")
            );
        }
        text
    })
}

fn tell(scope: Scope, moved: Moved, as_json: bool, paused: bool, text: impl Fn() -> String) -> Result<(), CliError> {
    match (moved, scope.of()) {
        (Moved::Missing, of) => {
            let which = of.unwrap_or_default();
            let hint = match scope {
                Scope::Sender(_) => ": `carillon sender list` shows them",
                Scope::Everything | Scope::Kind(_) | Scope::Shop(_) => "",
            };
            Err(CliError::Wrong(format!("there is no {} {which}{hint}", scope.name())))
        }
        (Moved::Disconnected, of) => Err(CliError::Wrong(format!(
            "sender {} is disconnected: it sends nothing until it is connected again",
            of.unwrap_or_default()
        ))),
        (Moved::Done | Moved::Already, of) if as_json => say(&json!({
            "scope": scope.name(), "of": of, "paused": paused, "changed": moved == Moved::Done,
        })
        .to_string()),
        (Moved::Done | Moved::Already, _) => say(&text()),
    }
}

/// How the command line names it.
fn call(scope: Scope) -> String {
    scope
        .of()
        .map_or_else(|| scope.name().to_owned(), |of| format!("{} {of}", scope.name()))
}

fn named(scope: Scope) -> String {
    match scope {
        Scope::Kind(kind) => kind.to_string(),
        Scope::Everything | Scope::Shop(_) | Scope::Sender(_) => call(scope),
    }
}

pub(super) async fn list(app: App, args: List) -> Result<(), CliError> {
    need_schema(&app).await?;
    let pauses = pause::in_force(&app.db).await?;
    let jobs = waiting_jobs(&app).await;
    if args.json {
        let all = pauses.iter().map(|pause| {
            json!({
                "scope": pause.scope, "of": pause.of, "title": pause.title, "reason": pause.reason,
                "paused_by": pause.paused_by, "paused_at": pause.paused_at, "jobs": jobs_behind(pause, jobs.as_deref()),
                "broadcasts": pause.broadcasts, "messages": pause.messages, "first_deadline": pause.first_deadline,
            })
        });
        return say(&Value::Array(all.collect()).to_string());
    }
    if pauses.is_empty() {
        return say("nothing is paused");
    }
    for (place, pause) in pauses.iter().enumerate() {
        if place > 0 {
            say("")?;
        }
        block(pause, jobs_behind(pause, jobs.as_deref()))
            .iter()
            .try_for_each(|line| say(line))?;
    }
    Ok(())
}

fn block(pause: &Pause, jobs: Option<u64>) -> Vec<String> {
    let of = plain::cell(pause.of.as_deref().unwrap_or(""), 60);
    let what = format!("{} {of}", pause.scope).trim_end().to_owned();
    let title = pause
        .title
        .as_deref()
        .map(|title| format!("  {}", plain::cell(title, NAME_CHARS)));
    let secs = (Utc::now() - pause.paused_at).as_seconds_f64().max(0.0);
    let mut behind = vec![
        count(pause.broadcasts.unsigned_abs(), "broadcast", "broadcasts"),
        count(pause.messages.unsigned_abs(), "message", "messages"),
    ];
    if let Some(jobs) = jobs {
        behind.push(count(jobs, "job in the queue", "jobs in the queue"));
    }
    let mut lines = vec![
        format!("{what}{}", title.unwrap_or_default()),
        format!(
            "  since    {} ({}) by {}",
            plain::moment(pause.paused_at),
            table::span(secs),
            plain::cell(&pause.paused_by, NAME_CHARS)
        ),
        format!("  why      {}", plain::cell(&pause.reason, REASON_CHARS)),
        format!("  waiting  {}", behind.join(", ")),
    ];
    if let Some(at) = pause.first_deadline {
        lines.push(format!(
            "  until    {}: the first deadline of what waits",
            plain::moment(at)
        ));
    }
    lines.push(format!("  go on    carillon resume {what}"));
    lines
}

/// Jobs in the queue by kind; `None` when Redis is away.
async fn waiting_jobs(app: &App) -> Option<Vec<(Kind, u64)>> {
    let depths = app.queue().ok()?.depths().await.ok()?;
    Some(
        depths
            .iter()
            .map(|depth| (depth.kind, depth.ready + depth.delayed))
            .collect(),
    )
}

fn jobs_behind(pause: &Pause, jobs: Option<&[(Kind, u64)]>) -> Option<u64> {
    let of = pause.of.as_deref();
    let counts = |kind: Kind| match pause.scope.as_str() {
        "everything" => true,
        "kind" => of == Some(kind.name()),
        _ => false,
    };
    matches!(pause.scope.as_str(), "everything" | "kind").then_some(())?;
    Some(jobs?.iter().filter(|(kind, _)| counts(*kind)).map(|(_, n)| n).sum())
}

fn count(n: u64, one: &str, many: &str) -> String {
    let number = table::number(i64::try_from(n).unwrap_or(i64::MAX));
    format!("{number} {}", if n == 1 { one } else { many })
}
