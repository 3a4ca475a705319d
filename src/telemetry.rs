//! Logs: one subscriber for the process, for a person or for a collector, always on standard error so that what a command
//! prints on standard output stays clean.
//!
//! Log lines carry ids and never bodies, phones, addresses, tokens or secrets.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.filter cannot be read: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody set one up before.
    #[error("logging was set up twice in one process")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Reads a filter such as `info,carillon::queue=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text)
}

/// Sets up logging for the whole process; once.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    use std::io::{IsTerminal as _, stderr};
    let registry = tracing_subscriber::registry().with(filter(&config.filter)?);
    match config.format {
        LogFormat::Human => {
            let layer = fmt::layer()
                .with_writer(stderr)
                .with_ansi(stderr().is_terminal())
                .with_target(false);
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false);
            registry.with(layer.with_writer(stderr)).try_init()?;
        }
    }
    Ok(())
}
