//! Everything an operator can set, read once at the start and checked whole.
//!
//! The embedded `config/default.toml` is the schema and holds every default. Over it go the file named in `CARILLON_CONFIG`,
//! then `CARILLON__SECTION__KEY` from the environment, then the variables that platforms set. Every mistake is reported at once,
//! each with where it came from and what to do, so that a deploy does not fail once per typing error.
//! The value of a secret is never printed: not in an error, not by `carillon config check`, not by `Debug`.
//!
//! To add a section: its struct derives `Deserialize` and implements [`Section`] in the module it configures; then one line in
//! `sections!` below, and its keys in `config/default.toml`.

mod document;
mod problem;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, path::PathBuf};

use serde::de::DeserializeOwned;

pub use document::Origin;
pub use problem::{ConfigErrors, Problem, Report};
pub use sections::{DatabaseConfig, LogConfig, LogFormat, RedisConfig, SecretConfig, WebConfig};
pub use show::Effective;

use document::Document;

/// The embedded document: the schema and the defaults.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// One table of the configuration.
pub trait Section: DeserializeOwned {
    /// Reports values that have the right type and still make no sense. The types were checked before.
    fn check(&self, _report: &mut Report<'_>) {}
}

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// The whole configuration, valid by construction.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl Config {
            fn from_document(document: &mut Document) -> Option<Self> {
                // Every section is read before any is missed, so that all mistakes are found.
                $(let $name = document.section::<$kind>(stringify!($name));)*
                Some(Self { $($name: $name?,)* })
            }
        }
    };
}

sections! {
    /// PostgreSQL: where it is, how many connections each process may hold.
    database: DatabaseConfig,
    /// Redis: where it is, under which prefix.
    redis: RedisConfig,
    /// The web process.
    web: WebConfig,
    /// Keys that seal credentials and sign links.
    secret: SecretConfig,
    /// The job queue and the workers on it.
    queue: crate::queue::QueueConfig,
    /// Rates and how they give way.
    limit: crate::limit::LimitConfig,
    /// The providers.
    channel: crate::channel::ChannelConfig,
    /// Plans, token costs and block prices.
    prices: crate::prices::PricesConfig,
    /// Monthly refills.
    refill: crate::ledger::refill::RefillConfig,
    /// Planning: who gets what on which channel.
    broadcast: crate::broadcast::BroadcastConfig,
    /// Sending: how lanes and slices are worked through.
    delivery: crate::delivery::DeliveryConfig,
    /// What frontends are told, and for how long.
    events: crate::event::EventsConfig,
    /// Top-up orders: when their tokens arrive.
    top_up: crate::top_up::TopUpConfig,
    /// Webhooks: how much is taken at once, how long it is kept.
    webhook: crate::inbox::webhook::WebhookConfig,
    /// What customers attach: where it is kept.
    media: crate::inbox::media::MediaConfig,
    /// Schedules, and who looks at them.
    scheduler: crate::scheduler::SchedulerConfig,
    /// What is logged, and how.
    log: LogConfig,
    /// Who may read `/metrics`, and where.
    metrics: crate::metrics::MetricsConfig,
    /// Where traces go.
    otel: crate::telemetry::OtelConfig,
}

/// What the configuration is read from, taken from the process once; tests make their own.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that `CARILLON_CONFIG` names.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

impl Sources {
    /// This process's environment.
    #[must_use]
    pub fn of_process() -> Self {
        // A variable that is not UTF-8 cannot be one of ours.
        Self::of(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// The given environment, from which `CARILLON_CONFIG` is followed too.
    pub fn of<N: Into<String>, V: Into<String>>(env: impl IntoIterator<Item = (N, V)>) -> Self {
        let env: BTreeMap<String, String> = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let file = env
            .get("CARILLON_CONFIG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Self { file, env }
    }
}

/// A valid configuration, and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every key in the order of the default document, secrets hidden.
    pub values: Vec<Effective>,
}

impl Config {
    /// Reads and checks everything.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let mut document = Document::new(DEFAULT)?;
        document.overlay(sources);
        let config = Self::from_document(&mut document);
        let values = document.effective();
        let problems = document.into_problems();
        match config {
            Some(mut config) if problems.is_empty() => {
                config.broadcast.prices = config.prices.tables.clone();
                config
                    .broadcast
                    .sms_sender_name
                    .clone_from(&config.channel.sms.sender_name);
                Ok(Loaded { config, values })
            }
            _ => Err(ConfigErrors(problems)),
        }
    }
}
