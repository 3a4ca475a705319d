//! `carillon web`, `worker` and `scheduler`: the long-running processes and how they are told to stop.

use std::{sync::Once, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::{
    app::{App, AppError, ProcessKind},
    fleet, scheduler, start, web, worker,
};

/// Platforms kill a process about 30 s after SIGTERM. One that hangs ends itself before; what it held is then recovered as
/// after a kill.
const STOP_LIMIT: Duration = Duration::from_secs(24);
const EXIT_HUNG: i32 = 1;

pub(super) async fn run(app: App) -> Result<(), CliError> {
    stop_on_signals(&app.stop)?;
    if app.process != ProcessKind::Web {
        // Ends with the process: while it stops, its figures still tell.
        tokio::spawn(web::metrics::serve(app.clone()));
    }
    match app.process {
        ProcessKind::Web => serve(app).await?,
        ProcessKind::Worker => after_check(app, worker::run).await?,
        ProcessKind::Scheduler => after_check(app, schedule).await?,
        ProcessKind::Command => {}
    }
    tracing::info!("Stopped");
    Ok(())
}

/// Web listens from the first moment, whoever is away: a platform gives it a minute, and `/readyz` says what is missing.
async fn serve(app: App) -> Result<(), AppError> {
    let checked = app.clone();
    let refused = async move {
        match start::check(&checked).await {
            Ok(()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    tokio::select! {
        ended = web::run(app) => ended,
        refused = refused => refused,
    }
}

/// Figures are looked at beside the ringing, never before it: bells must not wait for them. Ends with the process.
async fn schedule(app: App) -> Result<(), AppError> {
    tokio::spawn(fleet::watch(app.clone()));
    scheduler::run(app).await
}

/// The others have nothing to do before PostgreSQL and Redis are there.
async fn after_check<F>(app: App, run: impl FnOnce(App) -> F) -> Result<(), AppError>
where
    F: Future<Output = Result<(), AppError>>,
{
    tokio::select! {
        () = app.stop.cancelled() => return Ok(()),
        checked = start::check(&app) => checked?,
    }
    run(app).await
}

/// SIGTERM and Ctrl-C ask the process to stop; several are one.
pub(crate) fn stop_on_signals(stop: &CancellationToken) -> Result<(), AppError> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|source| AppError::System {
            what: "cannot listen for signals".to_owned(),
            source,
        })?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if !stop.is_cancelled() {
                    tracing::info!("Told to stop: finishing what runs, starting nothing new");
                }
                end_by_force_after_limit();
                stop.cancel();
            }
        });
    }
    Ok(())
}

/// A thread of its own, so that it works even when every thread of the runtime is stuck.
fn end_by_force_after_limit() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(STOP_LIMIT);
            super::complain(
                "error: still not stopped; ending at once, what was in flight is recovered as after a kill",
            );
            std::process::exit(EXIT_HUNG);
        });
    });
}
