//! `carillon audit`: proves tokens and deliveries against each other and shows what was proved.
//!
//! Exit code 0 means every check held, 1 that at least one did not. It changes nothing it looks at; what it finds is for a
//! person.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use carillon_jobs::ShopId;
use thiserror::Error;

use super::{CliError, need_schema, process::stop_on_signals, table::number};
use crate::{
    app::App,
    db::PgPool,
    ledger::{self, AuditError, CheckReport, Report},
};

/// Proves that balances, ledger entries, holds, deliveries and counters agree, all in one snapshot of the database, and
/// names the first rows that do not. Safe while everything runs. Exit code: 0 everything agrees, 1 something does not.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Look at one shop only.
    #[arg(long, value_name = "ID")]
    pub shop: Option<ShopId>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Keep the result as the daily audit does: it is what /metrics shows from then on.
    #[arg(long, conflicts_with = "shop")]
    pub keep: bool,
    /// Go on until Ctrl-C: a line each time everything agrees, the table when it does not. Ends like the last audit did.
    #[arg(long)]
    pub watch: bool,
    /// With --watch: seconds from the end of one audit to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
}

/// Why there was nothing to show.
#[derive(Debug, Error)]
pub enum Error {
    /// The audit itself failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Standard output is gone.
    #[error("the report could not be written")]
    Output(#[from] io::Error),
    /// The report could not be put into JSON.
    #[error("the report could not be encoded")]
    Encoding(#[from] serde_json::Error),
}

/// Audits and prints the report to standard output.
pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    if let Some(shop) = args.shop {
        let known: bool = sqlx::query_scalar("select exists (select from shop where id = $1)")
            .bind(shop.0)
            .fetch_one(&app.db)
            .await?;
        if !known {
            return Err(CliError::Wrong(format!("there is no shop {shop}")));
        }
    }
    let proved = if args.watch {
        watch(&app, &args).await
    } else {
        report(&app.db, &args).await
    };
    if proved.map_err(|error| CliError::Failed(error.to_string()))? {
        Ok(())
    } else {
        Err(CliError::Failed(
            "the audit found drift; nothing was changed".to_owned(),
        ))
    }
}

async fn report(pool: &PgPool, args: &Args) -> Result<bool, Error> {
    let report = ledger::audit(pool, args.shop).await?;
    if args.keep {
        ledger::keep(pool, &report, None).await?;
    }
    print(|out| {
        if args.json {
            json(out, &report)
        } else {
            table(out, &report).map_err(Error::from)
        }
    })?;
    Ok(report.is_clean())
}

/// Audits again and again until told to stop; whether the last audit that got to its end found everything in order.
async fn watch(app: &App, args: &Args) -> Result<bool, Error> {
    stop_on_signals(&app.stop).map_err(|error| io::Error::other(error.to_string()))?;
    let mut clean = true;
    loop {
        let started = Instant::now();
        let report = match ledger::audit_until(&app.db, args.shop, &app.stop).await {
            Err(AuditError::Stopped) => return Ok(clean),
            report => report?,
        };
        if args.keep {
            ledger::keep(&app.db, &report, None).await?;
        }
        clean = report.is_clean();
        print(|out| {
            if args.json {
                json(out, &report)
            } else if clean {
                Ok(line(out, &report, started.elapsed())?)
            } else {
                Ok(table(out, &report)?)
            }
        })?;
        tokio::select! {
            () = app.stop.cancelled() => return Ok(clean),
            () = tokio::time::sleep(Duration::from_secs(args.every)) => {}
        }
    }
}

fn print(write: impl FnOnce(&mut io::StdoutLock<'static>) -> Result<(), Error>) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| Ok(out.flush()?)) {
        // A reader that went away (`| head`) is no error; the exit code still tells.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// That everything agreed, on one line.
fn line(out: &mut impl Write, report: &Report, took: Duration) -> io::Result<()> {
    writeln!(
        out,
        "{}  everything agrees: {} checks, {} comparisons, {:.1} s",
        report.taken_at.format("%Y-%m-%d %H:%M:%S UTC"),
        report.checks.len(),
        number(report.checks.iter().map(|check| check.examined).sum()),
        took.as_secs_f64()
    )
}

/// The report as one JSON object on one line, with `clean` first.
pub fn json(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    #[derive(serde::Serialize)]
    struct Whole<'a> {
        clean: bool,
        #[serde(flatten)]
        report: &'a Report,
    }
    serde_json::to_writer(
        &mut *out,
        &Whole {
            clean: report.is_clean(),
            report,
        },
    )?;
    Ok(writeln!(out)?)
}

/// The report as a table, the first broken rows under their check.
pub fn table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let scope = report
        .shop
        .map_or_else(|| "the whole database".to_owned(), |shop| format!("shop {shop}"));
    writeln!(
        out,
        "Audit of {scope} as of {}\n",
        report.taken_at.format("%Y-%m-%d %H:%M:%S UTC")
    )?;
    let width = |text: fn(&CheckReport) -> usize| report.checks.iter().map(text).max().unwrap_or(0);
    let name_width = width(|check| check.name.len());
    let count_width = width(|check| number(check.examined).len()).max("compared".len());
    writeln!(
        out,
        "    {:<name_width$}  {:>count_width$}  proves",
        "check", "compared"
    )?;
    for check in &report.checks {
        let mark = if check.broken == 0 { "ok" } else { "!!" };
        let examined = number(check.examined);
        writeln!(
            out,
            " {mark} {:<name_width$}  {examined:>count_width$}  {}",
            check.name, check.proves
        )?;
        if check.broken > 0 {
            broken(out, check)?;
        }
    }
    let failed = report.checks.iter().filter(|check| check.broken > 0).count();
    if failed == 0 {
        let compared = number(report.checks.iter().map(|check| check.examined).sum());
        writeln!(
            out,
            "\nEverything agrees: {} checks, {compared} comparisons.",
            report.checks.len()
        )
    } else {
        writeln!(out, "\nDRIFT: {failed} of {} checks do not hold.", report.checks.len())
    }
}

fn broken(out: &mut impl Write, check: &CheckReport) -> io::Result<()> {
    writeln!(
        out,
        "      {} broken, off by {} in all:",
        number(check.broken),
        number(check.off)
    )?;
    for drift in &check.first {
        write!(
            out,
            "      · {}: is {}, must be {} (off by {})",
            drift.what,
            drift.actual,
            drift.expected,
            number(drift.off)
        )?;
        if let Some(broadcast) = drift.broadcast_id {
            write!(out, "  broadcast {broadcast}")?;
        }
        if let Some(shop) = drift.shop_id {
            write!(out, "  shop {shop}")?;
        }
        writeln!(out)?;
    }
    let more = check.broken - i64::try_from(check.first.len()).unwrap_or(0);
    if more > 0 {
        writeln!(out, "      · and {} more", number(more))?;
    }
    Ok(())
}
