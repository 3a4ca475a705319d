//! Chaos: `bin/chaos`. Real processes work on broadcasts, refills, top-ups, schedules and webhooks that keep coming while they, Redis,
//! PostgreSQL and the providers are killed, frozen and made to misbehave; then everything is healed, and every message and
//! every token is accounted for.
//!
//! ```text
//! plan (pure) ─ faults ─┬─ fleet, services, town's sandbox      load ─ town
//!                       └─ told ─┐                              watch ─┐
//!                                └─ load, deliveries, charges, figures ┴─ outcome (pure) ─ report
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub
)]

mod accounts;
mod charges;
mod clock;
mod deliveries;
mod dice;
mod door;
mod faults;
mod figures;
mod fleet;
mod load;
mod notes;
mod options;
mod outcome;
mod plan;
mod provider;
mod quiet;
mod report;
mod services;
mod told;
mod town;
mod watch;

use std::{path::Path, process::ExitCode, sync::Arc};

use tokio_util::sync::CancellationToken;

use fleet::Fleet;
use load::{LOADS, Told};
use options::Options;
use outcome::Outcome;
use report::Report;
use services::Services;
use town::Town;
use watch::Samples;

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`; `cargo test --all-targets` runs this binary without a subject.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    if arguments.next().as_deref() != Some("run") {
        return ExitCode::SUCCESS;
    }
    let options = match Options::of(arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    let plan = plan::plan(options.seed, options.run_ms(), options.fleet);
    if options.plan {
        for fault in &plan {
            let (kind, target) = (fault.kind.name(), fault.target.to_string());
            println!(
                "{:>7.1} s  {kind:<22} {target:<12} for {:.1} s",
                secs(fault.at_ms),
                secs(fault.for_ms)
            );
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = runtime.block_on(async {
        tokio::select! {
            held = run(&options, &plan) => ExitCode::from(u8::from(!held)),
            // The processes end with their owner.
            _ = tokio::signal::ctrl_c() => ExitCode::from(130),
            () = terminated() => ExitCode::from(143),
        }
    });
    runtime.shutdown_background();
    code
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate()).unwrap().recv().await;
}

/// One run; true when every promise held.
async fn run(options: &Options, plan: &[plan::Fault]) -> bool {
    let logs = std::env::temp_dir().join(format!("carillon-chaos-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&logs).unwrap();
    // Large enough to meet faults, small enough to be over soon after the last one.
    let biggest = (options.run_ms() / 300).clamp(200, 1_200);
    eprintln!(
        "chaos: {} faults in {} min, a town of {} shops; logs in {}",
        plan.len(),
        options.minutes,
        town::SHOPS,
        logs.display()
    );
    let town = Arc::new(Town::build(Services::of_environment(), options, biggest, &logs).await);
    let fleet = Arc::new(Fleet::start(
        options.fleet,
        town.door.ports(),
        town.env.clone(),
        logs.clone(),
        town.clock,
    ));
    let (samples, stop) = (Samples::default(), CancellationToken::new());
    let watching = {
        let (town, fleet, samples, log) = (town.clone(), fleet.clone(), samples.clone(), logs.join("abandoned.log"));
        tokio::spawn(async move { tokio::join!(samples.collect(&town, &log), fleet.look_after()) })
    };
    let loads: tokio::task::JoinSet<()> = LOADS.iter().map(|load| load.run(town.clone(), stop.clone())).collect();
    let faults = faults::carry_out(plan, &town, &fleet).await;
    town.clock.until(options.run_ms()).await;
    stop.cancel();
    loads.join_all().await;
    eprintln!("chaos: all healed; waiting for quiet");
    let (quiet_ms, not_quiet) = quiet::wait(&town, options.patience).await;
    watching.abort();
    fleet.end().await;

    let outcome = judge(&town, &fleet, &faults, not_quiet, &logs).await;
    let (samples, arrivals) = (samples.all(), town.arrivals());
    let report = Report {
        options,
        outcome: &outcome,
        faults: &faults,
        stalls: figures::stalls(&samples, &arrivals, &faults),
        stalls_by_provider: figures::stalls_by_provider(&samples, &arrivals, &faults),
        recoveries: figures::recoveries(&samples, &arrivals, &faults),
        abandoned: figures::abandoned(&samples, &faults),
        quiet_ms,
    };
    print!("{report}");
    let held = outcome.broken().is_empty();
    keep_or_remove(options, &town, &logs, &report, held);
    if options.json {
        println!("{}", report.json());
    }
    held
}

async fn judge(town: &Town, fleet: &Fleet, faults: &[told::Fault], not_quiet: Vec<String>, logs: &Path) -> Outcome {
    let mut outcome = Outcome {
        not_quiet,
        slowest_stop_ms: fleet.stops_ms().into_iter().max().unwrap_or(0),
        ..Outcome::default()
    };
    let arrivals = town.arrivals();
    let told = Told {
        faults,
        arrivals: &arrivals,
    };
    for load in LOADS {
        load.judge(town, &told, &mut outcome).await;
    }
    deliveries::dead_jobs(town, faults, &mut outcome).await;
    deliveries::audit(town, &mut outcome);
    for exit in fleet.exits() {
        outcome
            .exits
            .add(|| format!("{} at {:.1} s: {}", exit.name, secs(exit.at_ms), exit.status));
    }
    let (errors, panics) = Fleet::complaints(logs);
    for line in errors {
        outcome.errors.add(|| line);
    }
    for line in panics {
        outcome.panics.add(|| line);
    }
    outcome
}

/// Logs, report and database are evidence where a promise broke, and otherwise kept only when asked for.
fn keep_or_remove(options: &Options, town: &Town, logs: &Path, report: &Report<'_>, held: bool) {
    if held && !options.keep {
        let _ = std::fs::remove_dir_all(logs);
        return;
    }
    std::fs::write(logs.join("report.json"), report.json().to_string()).unwrap();
    let dump = logs.join("database.dump");
    let restore = if town.services.dump(&dump) {
        "; the database: pg_restore database.dump"
    } else {
        ""
    };
    println!("Logs and report: {}{restore}", logs.display());
}

/// Milliseconds as seconds, to print.
fn secs(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
