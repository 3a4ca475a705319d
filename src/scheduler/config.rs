//! Section `[scheduler]`: which schedules there are, and how long a scheduler that fell silent leads.

use std::time::Duration;

use serde::Deserialize;

use super::list::ScheduleList;
use crate::config::{Report, Section};

/// `[scheduler]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerConfig {
    /// The list of schedules: a file, or empty for the built-in one.
    #[serde(rename = "schedule_file")]
    pub schedules: ScheduleList,
    /// How long the others wait for the scheduler that looks at the schedules.
    pub lease_secs: u64,
    /// How long a bell may go unanswered before it is rung again; each further one waits twice as long, up to ten minutes.
    pub bell_stale_secs: u64,
}

impl SchedulerConfig {
    /// How long the others wait for the scheduler that looks at the schedules.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_secs)
    }

    /// How long the first bell may go unanswered.
    #[must_use]
    pub fn bell_stale(&self) -> Duration {
        Duration::from_secs(self.bell_stale_secs)
    }
}

impl Section for SchedulerConfig {
    fn check(&self, report: &mut Report<'_>) {
        // It is renewed with every look, every two seconds.
        report.range("lease_secs", self.lease_secs, 5..=300);
        report.range("bell_stale_secs", self.bell_stale_secs, 1..=600);
    }
}
