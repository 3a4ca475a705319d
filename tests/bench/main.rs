//! Benchmarks: `bin/bench SUBJECT`, or `cargo bench --bench carillon -- SUBJECT` with the services' addresses in the
//! environment. People read standard error; the last line on standard output is one JSON object with a `ratio`.
//!
//! What is ours and what it is held against are measured in turn, in one run on one machine, because figures from
//! different moments of a shared machine say nothing about each other.
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

mod audit;
mod bed;
mod broadcast;
mod fairness;
mod floor;
mod garbage;
mod ingest;
mod metrics;
mod plan;
mod queue;
mod refill;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`; the rest is ours.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let subject = arguments.next();
    let arguments: Vec<String> = arguments.collect();
    match subject.as_deref() {
        Some("audit") => audit::run(&arguments),
        Some("plan") => plan::run(&arguments),
        Some("garbage") => garbage::run(&arguments),
        Some("queue") => queue::run(&arguments),
        Some("refill") => refill::run(&arguments),
        Some("metrics") => metrics::run(&arguments),
        Some("ingest") => ingest::run(&arguments),
        Some("broadcast") => return broadcast::run(&arguments),
        Some("fairness") => return fairness::run(&arguments),
        // Only for `broadcast` and `fairness`, which start it.
        Some("sandbox") => bed::serve(),
        // Only for `ingest`, which starts it.
        Some("bare-webhooks") => ingest::serve_bare(),
        // `cargo test --all-targets` runs this binary without arguments.
        None => return ExitCode::SUCCESS,
        Some(other) => {
            eprintln!(
                "there is no benchmark `{other}`; there are: audit, broadcast, fairness, garbage, ingest, metrics, plan, queue, refill"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
