//! Watching a broadcast: a bar on a terminal, a line now and then elsewhere, the report at the end.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use carillon_jobs::BroadcastId;

use super::{
    super::{
        CliError,
        table::{number, span},
    },
    say_json, show,
};
use crate::{
    app::App,
    broadcast::{self, BroadcastState, Report},
};

const LOOK: Duration = Duration::from_millis(500);
/// Where nobody sees a bar move, so often a line is written all the same.
const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR_COLUMNS: i64 = 30;

pub(super) async fn run(app: &App, id: BroadcastId, json: bool) -> Result<(), CliError> {
    let bar = io::stderr().is_terminal();
    let mut told: Option<(BroadcastState, Instant)> = None;
    let mut last = None;
    let report = loop {
        let report = broadcast::report(&app.db, id).await?;
        let line = progress(&report, rate(&mut last, &report));
        if bar {
            write!(io::stderr().lock(), "\r\x1b[K{line}")?;
        } else if told.is_none_or(|(state, at)| state != report.state || at.elapsed() > LINE_EVERY) {
            told = Some((report.state, Instant::now()));
            writeln!(io::stderr().lock(), "{line}")?;
        }
        if report.is_over() {
            break report;
        }
        tokio::time::sleep(LOOK).await;
    };
    if bar {
        writeln!(io::stderr().lock())?;
    }
    if json {
        say_json(&report)?;
    } else {
        show::report(&report)?;
    }
    match report.state {
        BroadcastState::Completed => Ok(()),
        state => Err(CliError::Failed(match report.reason {
            Some(reason) => format!("the broadcast is {state}: {reason}"),
            None => format!("the broadcast is {state}"),
        })),
    }
}

/// Messages a second, smoothed over a few looks so that the time left does not jump.
fn rate(last: &mut Option<(Instant, i64, f64)>, report: &Report) -> Option<f64> {
    let (now, ended) = (Instant::now(), report.total.ended());
    let Some((then, before, smooth)) = *last else {
        *last = Some((now, ended, 0.0));
        return None;
    };
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let fresh = (ended - before) as f64 / now.duration_since(then).as_secs_f64().max(0.001);
    let smooth = if smooth > 0.0 {
        0.7 * smooth + 0.3 * fresh
    } else {
        fresh
    };
    *last = Some((now, ended, smooth));
    Some(smooth).filter(|rate| *rate > 0.0)
}

fn progress(report: &Report, rate: Option<f64>) -> String {
    match report.state {
        BroadcastState::Sending | BroadcastState::Completed | BroadcastState::Cancelled | BroadcastState::Paused
            if report.sending_at.is_some() =>
        {
            let (ended, planned) = (report.total.ended(), report.total.planned);
            let full = usize::try_from(BAR_COLUMNS * ended / planned.max(1)).unwrap_or(0);
            let empty = usize::try_from(BAR_COLUMNS).unwrap_or(0).saturating_sub(full);
            let line = format!(
                "{:<9} {}{} {} of {}",
                report.state.as_str(),
                "█".repeat(full),
                "░".repeat(empty),
                number(ended),
                number(planned)
            );
            if let Some(rate) = rate.filter(|_| !report.is_over()) {
                #[allow(clippy::cast_precision_loss, reason = "a time for people")]
                let left = span(report.total.left as f64 / rate);
                return format!("{line}  {rate:.0}/s, {left} left");
            }
            line
        }
        BroadcastState::Planning => {
            let planned = number(report.customers);
            format!(
                "planning  {planned} customers, {} messages so far",
                number(report.total.planned)
            )
        }
        state => format!("{state}"),
    }
}
