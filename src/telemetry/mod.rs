//! Logs and traces: one subscriber for the process.
//!
//! Logs are for a person or for a collector, always on standard error so that what a command prints on standard output stays
//! clean. Traces leave only where `[otel]` names a collector; `export` sends them, `trace` takes them up and hands them on.
//!
//! Log lines and spans carry ids and never bodies, phones, addresses, tokens or secrets. Log lines are not exported.

mod export;
mod trace;

use tokio::runtime::Handle;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

pub use export::{OtelConfig, Traces};
pub use trace::{continues, failed, here, note};

use crate::{
    app::ProcessKind,
    config::{LogConfig, LogFormat},
};

/// Why logging or tracing could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.filter cannot be read: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody set one up before.
    #[error("logging was set up twice in one process")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// Spans cannot be exported with these settings.
    #[error("otel: {0}")]
    Export(String),
}

/// Reads a filter such as `info,carillon::queue=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text)
}

/// Sets up logging, and tracing where it is wanted, for the whole process; once. Spans are sent on `runtime`.
///
/// # Errors
/// Nothing is set up then.
pub fn init(
    log: &LogConfig,
    otel: &OtelConfig,
    process: ProcessKind,
    runtime: &Handle,
) -> Result<Traces, TelemetryError> {
    let wanted = filter(&log.filter)?;
    let Some((traces, spans)) = export::start(otel, process, runtime)? else {
        // One filter for everything is the cheapest: what it leaves out costs next to nothing.
        registry().with(lines(log.format)).with(wanted).try_init()?;
        return Ok(Traces::none());
    };
    // A span may be wanted by the collector and not in the log: each has a filter of its own.
    let layers: Vec<BoxedLayer> = vec![lines(log.format).with_filter(wanted).boxed(), spans];
    registry().with(layers).try_init()?;
    Ok(traces)
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn lines(format: LogFormat) -> BoxedLayer {
    use std::io::{IsTerminal as _, stderr};
    match format {
        LogFormat::Human => fmt::layer()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(stderr)
            .boxed(),
    }
}
