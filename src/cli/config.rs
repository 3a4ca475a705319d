//! `carillon config`: what is in force and why, and keys. Needs neither PostgreSQL nor Redis.

use serde_json::json;

use super::{CliError, load_config, say};
use crate::{config::Effective, secret};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show every value and where it comes from (secrets hidden), or everything that is wrong (exit code 2)
    Check {
        /// One JSON object: {"key": {"value": …, "origin": …}, …}
        #[arg(long)]
        json: bool,
    },
    /// Make a key for secret.keys
    #[command(
        after_help = "First key:   export CARILLON__SECRET__KEYS=$(carillon config new-key)\n\
                            Change keys: put a new one in front and keep the old: NEW,OLD"
    )]
    NewKey {
        /// The key's name: 1 to 16 small letters and digits, different for every key
        #[arg(long, default_value = "k1")]
        name: String,
    },
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    match args {
        Args::Check { json } => check(*json),
        Args::NewKey { name } => {
            let wrong = |_| {
                CliError::Wrong(format!(
                    "\"{name}\" is no name for a key: use 1 to 16 small letters and digits, as in k2"
                ))
            };
            say(&secret::new_key(name).map_err(wrong)?)
        }
    }
}

fn check(as_json: bool) -> Result<(), CliError> {
    let loaded = load_config()?;
    if as_json {
        let entry = |value: &Effective| {
            (
                value.key.clone(),
                json!({"value": value.value, "origin": value.origin.to_string()}),
            )
        };
        let all: serde_json::Map<String, serde_json::Value> = loaded.values.iter().map(entry).collect();
        return say(&serde_json::Value::Object(all).to_string());
    }
    let key_width = loaded.values.iter().map(|value| value.key.len()).max().unwrap_or(0);
    let value_width = loaded
        .values
        .iter()
        .map(|value| value.value.chars().count())
        .max()
        .unwrap_or(0)
        .min(50);
    for value in &loaded.values {
        say(&format!(
            "{:key_width$}  {:value_width$}  {}",
            value.key, value.value, value.origin
        ))?;
    }
    Ok(())
}
