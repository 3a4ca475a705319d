//! `carillon schedule`: what is done by the calendar, how far it is, what comes next and what was missed; and a period rung
//! by hand.
//!
//! It must never ring for a period whose work is under way, done or not yet due, unless that was asked for in so many words.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    CliError, complain, need_schema, plain, say,
    table::{self, Align},
};
use crate::{
    app::App,
    reconcile::ReconcileError,
    scheduler::{
        Schedule,
        ask::{self, Ask, Hindrance},
        calendar::{Due, Every, Period},
        lease,
        status::{self, PeriodRow, Progress},
    },
};

const NAME_CHARS: usize = 60;
/// Missed periods shown of each schedule.
const MISSED: usize = 20;
/// Unfinished periods shown.
const OPEN: i64 = 20;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show every schedule: its last and its next period, and what has not ended
    List {
        /// One JSON object: {"leader": …, "schedules": [{"name": …, "last": …, "next": …, "open": …}, …], "open": […]}
        #[arg(long)]
        json: bool,
    },
    /// Show what comes next, and what was missed and becomes of it
    Preview(Preview),
    /// Ring for one period now
    Run(Run),
}

#[derive(Debug, clap::Args)]
pub(super) struct Preview {
    /// Only this schedule
    name: Option<String>,
    /// How many periods of each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// As if it were this time, with its offset: 2026-12-01T09:00:00+08:00
    #[arg(long, value_name = "TIME", value_parser = super::enqueue::time)]
    at: Option<DateTime<Utc>>,
    /// One JSON array: [{"name": …, "missed": [{"period": …, "due_at": …, "becomes": …}, …], "next": [{"period": …, "due_at": …}, …]}, …]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        carillon schedule run daily-audit 2026-11-22\n  \
        carillon schedule run monthly-refill 2026-11 --again\n\n\
        Exit code 2: nothing was rung, and what stands against it; 1: something went wrong on the way.")]
pub(super) struct Run {
    /// The schedule; `carillon schedule list` shows them
    name: String,
    /// The period: 2026-11, 2026-W47, 2026-11-22 or 2026-11-22T05, as the schedule calls them
    period: String,
    /// Also when it was rung for or done before; its work finds what there is still to do
    #[arg(long)]
    again: bool,
    /// Also when it is not due yet, or was due before the schedule began
    #[arg(long)]
    force: bool,
    /// Who asks for it; the name of this account if not given
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// One JSON object: {"schedule": …, "period": …, "rung": …}
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    match args {
        Args::List { json } => list(&app, json).await,
        Args::Preview(args) => preview(&app, args).await,
        Args::Run(args) => run_one(&app, args).await,
    }
}

async fn list(app: &App, as_json: bool) -> Result<(), CliError> {
    let schedules = &app.config.scheduler.schedules;
    let now = status::now(&app.db).await?;
    let progress = status::progress(&app.db).await?;
    let newest = status::newest(&app.db).await?;
    let open = status::open(&app.db, OPEN).await?;
    let leading = lease::leading(&app.db, schedules.fingerprint())
        .await?
        .filter(|leading| leading.in_force);
    let next = |schedule: &Schedule| schedule.rhythm.next(now, 1).into_iter().next();
    if as_json {
        let one = |schedule: &Schedule| {
            let last = newest.get(&schedule.name);
            json!({
                "name": schedule.name, "every": schedule.rhythm.every.name(), "zone": schedule.rhythm.zone.name(),
                "kind": schedule.kind.name(), "catch_up": schedule.catch_up.name(), "last": last,
                "next": next(schedule).as_ref().map(as_object), "open": progress.get(&schedule.name).map_or(0, |p| p.open),
                "looked_until": progress.get(&schedule.name).map(|p| p.looked_until),
            })
        };
        let leader =
            leading.map(|leading| json!({"id": leading.holder, "term": leading.term, "until": leading.lease_until}));
        let all: Vec<Value> = schedules.all().iter().map(one).collect();
        return say(&json!({"leader": leader, "schedules": all, "open": open}).to_string());
    }
    if schedules.all().is_empty() {
        say("there are no schedules: config/schedule.toml says how to write one")?;
    } else {
        let rows = schedules.all().iter().map(|schedule| {
            let last = newest.get(&schedule.name);
            vec![
                schedule.name.clone(),
                when(schedule),
                schedule.kind.to_string(),
                schedule.catch_up.name().to_owned(),
                last.map_or_else(|| "-".to_owned(), |row| format!("{} {}", row.period, row.state)),
                next(schedule).map_or_else(|| "-".to_owned(), |period| period.name.clone()),
                next(schedule).map_or_else(|| "-".to_owned(), |period| local(schedule, period.due_at)),
                progress
                    .get(&schedule.name)
                    .map_or(0, |progress| progress.open)
                    .to_string(),
            ]
        });
        let heads = ["schedule", "due", "rings", "catch up", "last", "next", "at"].map(|head| (head, Align::Left));
        let heads: Vec<(&str, Align)> = heads.into_iter().chain([("open", Align::Right)]).collect();
        table::print(&heads, rows.collect())?;
    }
    unfinished(&open)?;
    match leading {
        Some(leading) => say(&format!(
            "\nscheduler {} looks at them, term {}",
            leading.holder, leading.term
        )),
        None => say("\nno scheduler looks at them now: is one running, of this release?"),
    }
}

/// Periods whose work has not ended, wherever they come from.
fn unfinished(open: &[PeriodRow]) -> Result<(), CliError> {
    if open.is_empty() {
        return Ok(());
    }
    say("\nnot ended yet")?;
    let rows = open.iter().map(|row| {
        vec![
            plain::cell(&row.schedule, NAME_CHARS),
            plain::cell(&row.period, NAME_CHARS),
            row.state.clone(),
            plain::moment(row.due_at),
            plain::moment_or_dash(row.rung_at),
            row.rings.to_string(),
            plain::cell(row.asked_by.as_deref().unwrap_or("-"), NAME_CHARS),
        ]
    });
    let heads = [
        ("schedule", Align::Left),
        ("period", Align::Left),
        ("state", Align::Left),
        ("due", Align::Left),
        ("last bell", Align::Left),
        ("bells", Align::Right),
        ("asked for by", Align::Left),
    ];
    table::print(&heads, rows.collect())
}

async fn preview(app: &App, args: Preview) -> Result<(), CliError> {
    let now = match args.at {
        Some(at) => at,
        None => status::now(&app.db).await?,
    };
    let chosen: Vec<&Schedule> = match &args.name {
        Some(name) => vec![known(app, name)?],
        None => app.config.scheduler.schedules.all().iter().collect(),
    };
    let progress = status::progress(&app.db).await?;
    let mut objects = Vec::new();
    for (place, schedule) in chosen.iter().enumerate() {
        let missed = missed(app, schedule, progress.get(&schedule.name), now).await?;
        let next = schedule.rhythm.next(now, args.count.into());
        if args.json {
            objects.push(json!({
                "name": schedule.name, "next": next.iter().map(as_object).collect::<Vec<_>>(),
                "missed": missed.iter().map(|(period, becomes)| json!({"period": period.name, "due_at": period.due_at, "becomes": becomes}))
                    .collect::<Vec<_>>(),
            }));
            continue;
        }
        if place > 0 {
            say("")?;
        }
        say(&format!(
            "{}  {} {}, rings {}",
            schedule.name,
            when(schedule),
            schedule.rhythm.zone,
            schedule.kind
        ))?;
        let behind = missed
            .into_iter()
            .map(|(period, becomes)| (period, format!("missed, will be {becomes}")));
        let ahead = next.into_iter().map(|period| (period, String::new()));
        let rows = behind.chain(ahead).map(|(period, note)| {
            let at = local(schedule, period.due_at);
            vec![period.name, at, plain::moment(period.due_at), note]
        });
        let heads = ["period", "due", "in UTC", ""].map(|head| (head, Align::Left));
        table::print(&heads, rows.collect())?;
    }
    if args.json {
        return say(&Value::Array(objects).to_string());
    }
    if chosen.is_empty() {
        return say("there are no schedules: config/schedule.toml says how to write one");
    }
    Ok(())
}

/// What no scheduler has looked at yet, and what the next one will do about it.
async fn missed(
    app: &App,
    schedule: &Schedule,
    progress: Option<&Progress>,
    now: DateTime<Utc>,
) -> Result<Vec<(Period, &'static str)>, CliError> {
    let Some(progress) = progress else {
        return Ok(Vec::new());
    };
    let found: Due = schedule.rhythm.due_between(progress.looked_until, now, MISSED);
    let names: Vec<&str> = found.periods.iter().map(|period| period.name.as_str()).collect();
    // What was rung by hand meanwhile is not rung again.
    let known = status::known(&app.db, &schedule.name, &names).await?;
    let chosen = schedule.catch_up.choose(&found, schedule.grace, now);
    let fate = chosen.into_iter().map(|rung| if rung { "rung" } else { "skipped" });
    let missed = found.periods.into_iter().zip(fate);
    Ok(missed.filter(|(period, _)| !known.contains(&period.name)).collect())
}

async fn run_one(app: &App, args: Run) -> Result<(), CliError> {
    let schedule = known(app, &args.name)?;
    let Some(period) = schedule.rhythm.named(&args.period) else {
        return Err(CliError::Wrong(format!(
            "\"{}\" is no period of {}: it is due every {}, and its periods are called as {}",
            plain::cell(&args.period, NAME_CHARS),
            schedule.name,
            schedule.rhythm.every.name(),
            schedule.rhythm.every.example(),
        )));
    };
    let by = super::pause::asking(args.by.as_deref())?;
    let asked = Ask {
        by: &by,
        again: args.again,
        force: args.force,
    };
    if let Some(hindrance) = ask::ask(&app.db, schedule, &period, &asked).await? {
        return Err(CliError::Wrong(against(schedule, &period, &hindrance)));
    }
    let rung = match ask::ring(&app.db, &app.queue()?, schedule, &period).await {
        Ok(()) => true,
        Err(error @ ReconcileError::Queue(_)) => {
            complain(&format!("{error}; the scheduler rings for it when that is over"));
            false
        }
        Err(ReconcileError::Db(error)) => return Err(error.into()),
    };
    if args.json {
        return say(&json!({"schedule": schedule.name, "period": period.name, "rung": rung}).to_string());
    }
    if rung {
        say(&format!("rang {} for {} {}", schedule.kind, schedule.name, period.name))?;
    }
    Ok(())
}

/// Why nothing was rung, and what would.
fn against(schedule: &Schedule, period: &Period, hindrance: &Hindrance) -> String {
    let what = format!("{} {}", schedule.name, period.name);
    match hindrance {
        Hindrance::Future => format!(
            "{what} is not due before {}; --force rings for it now",
            local(schedule, period.due_at)
        ),
        Hindrance::BeforeItBegan { began_at } => format!(
            "{what} was due at {}, before this schedule was first seen ({}); --force rings for it all the same",
            local(schedule, period.due_at),
            local(schedule, *began_at)
        ),
        Hindrance::UnderWay { since } => format!(
            "{what} was rung for at {} and has not ended: `carillon jobs explain schedule/{}/{}` says where it is; --again rings once more",
            local(schedule, *since),
            schedule.name,
            period.name
        ),
        Hindrance::Done { at } => format!("{what} was done at {}; --again does it once more", local(schedule, *at)),
    }
}

fn known<'a>(app: &'a App, name: &str) -> Result<&'a Schedule, CliError> {
    let schedules = &app.config.scheduler.schedules;
    schedules.get(name).ok_or_else(|| {
        let names: Vec<&str> = schedules.all().iter().map(|schedule| schedule.name.as_str()).collect();
        let there = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        CliError::Wrong(format!(
            "there is no schedule \"{}\"; there are: {there}",
            plain::cell(name, NAME_CHARS)
        ))
    })
}

/// When it is due, in words: `month, day 31, 00:00`.
fn when(schedule: &Schedule) -> String {
    let at = schedule.rhythm.at.format("%H:%M");
    match schedule.rhythm.every {
        Every::Month { day } => format!("month, day {day}, {at}"),
        Every::Week { weekday } => format!("week, {weekday}, {at}"),
        Every::Day => format!("day, {at}"),
        Every::Hour => format!("hour, minute {}", schedule.rhythm.at.format("%M")),
    }
}

/// A moment on the schedule's clocks.
fn local(schedule: &Schedule, at: DateTime<Utc>) -> String {
    at.with_timezone(&schedule.rhythm.zone)
        .format("%Y-%m-%d %H:%M %:z")
        .to_string()
}

fn as_object(period: &Period) -> Value {
    json!({"period": period.name, "due_at": period.due_at})
}
