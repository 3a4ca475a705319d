//! What a run is asked for on the command line.

use std::{fmt::Write as _, time::Duration};

use crate::plan::Size;

/// How `bin/chaos` is called; the script explains it.
pub const USAGE: &str =
    "options: --minutes M --seed S --workers W --schedulers N --webs N --quiet-secs N --json --keep --plan";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long things break, in minutes.
    pub minutes: f64,
    /// What plan and work follow from.
    pub seed: u64,
    /// How many processes.
    pub fleet: Size,
    /// How long to wait for quiet afterwards.
    pub patience: Duration,
    /// End with one JSON object.
    pub json: bool,
    /// Keep logs and database.
    pub keep: bool,
    /// Only print the plan.
    pub plan: bool,
}

impl Options {
    /// Reads the command line; what is wrong with it otherwise.
    pub fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            minutes: 3.0,
            seed: 1,
            fleet: Size {
                workers: 3,
                schedulers: 2,
                webs: 2,
            },
            // Somebody whose job was lost while it waited for PostgreSQL is looked for after three minutes.
            patience: Duration::from_mins(4),
            json: false,
            keep: false,
            plan: false,
        };
        while let Some(name) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse::<u32>().ok());
                value.ok_or_else(|| format!("{name} wants a whole number"))
            };
            match name.as_str() {
                "--seed" => options.seed = number()?.into(),
                "--workers" => options.fleet.workers = number()?.clamp(1, 50) as usize,
                "--schedulers" => options.fleet.schedulers = number()?.clamp(1, 10) as usize,
                "--webs" => options.fleet.webs = number()?.clamp(1, 5) as usize,
                "--quiet-secs" => options.patience = Duration::from_secs(number()?.into()),
                "--minutes" => {
                    let minutes = arguments.next().and_then(|value| value.parse::<f64>().ok());
                    let fit = minutes.filter(|minutes| (0.2..=1_440.0).contains(minutes));
                    options.minutes = fit.ok_or("--minutes wants a number from 0.2 to 1440")?;
                }
                "--json" => options.json = true,
                "--keep" => options.keep = true,
                "--plan" => options.plan = true,
                _ => return Err(format!("there is no option {name}; {USAGE}")),
            }
        }
        Ok(options)
    }

    /// How long things break, in milliseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 12 s and a day"
    )]
    pub fn run_ms(&self) -> u64 {
        (self.minutes * 60_000.0) as u64
    }

    /// The command that makes the same plan and the same work again.
    pub fn again(&self) -> String {
        let mut text = format!("bin/chaos --minutes {} --seed {}", self.minutes, self.seed);
        if self.fleet
            != (Size {
                workers: 3,
                schedulers: 2,
                webs: 2,
            })
        {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                " --workers {} --schedulers {} --webs {}",
                self.fleet.workers, self.fleet.schedulers, self.fleet.webs
            );
        }
        if cfg!(debug_assertions) {
            text.push_str(" --debug");
        }
        text
    }
}
