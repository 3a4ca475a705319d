//! This process: what it is, its memory, its connections, and whether Redis and Postgres answer it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntGauge, Registry, Result};

use super::{
    grid::{Grid, Label, counters, gauge, gauges},
    own,
};

const FOUND: [&str; 9] = [
    "due",
    "unplanned",
    "lanes",
    "finished",
    "refills",
    "top_ups",
    "webhooks",
    "media",
    "receipts",
];

pub(super) struct Parts {
    build: Grid<IntGauge>,
    redis_up: IntGauge,
    postgres_up: IntGauge,
    pool: Grid<IntGauge>,
    pool_max: IntGauge,
    memory: IntGauge,
    reconciled: Grid<IntCounter>,
    periods: Grid<IntCounter>,
}

impl Parts {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let parts = Self {
            build: gauges(
                registry,
                "carillon_build_info",
                "1, with the version of the program.",
                &[Label("version", &[env!("CARGO_PKG_VERSION")])],
            )?,
            redis_up: gauge(
                registry,
                "carillon_redis_up",
                "Whether Redis answered this process within 1 s.",
            )?,
            postgres_up: gauge(
                registry,
                "carillon_postgres_up",
                "Whether Postgres answered this process within 1 s, the wait for a free connection included.",
            )?,
            pool: gauges(
                registry,
                "carillon_postgres_connections",
                "Connections of this process to Postgres.",
                &[Label("state", &["used", "idle"])],
            )?,
            pool_max: gauge(
                registry,
                "carillon_postgres_connections_max",
                "Connections to Postgres this process may open.",
            )?,
            memory: gauge(registry, "process_resident_memory_bytes", "Memory of this process.")?,
            reconciled: counters(
                registry,
                "carillon_reconciled_total",
                "What this scheduler found in nobody's hands and rang for, or finished.",
                &[Label("found", &FOUND)],
            )?,
            periods: counters(
                registry,
                "carillon_schedule_periods_total",
                "Periods of schedules this scheduler skipped because they were missed, and bells it rang for periods.",
                &[Label("outcome", &["skipped", "rung"])],
            )?,
        };
        let started = gauge(
            registry,
            "process_start_time_seconds",
            "When this process began to count.",
        )?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(i64::try_from(now.as_secs()).unwrap_or(0));
        if let Some(build) = parts.build.at(0, 0) {
            build.set(1);
        }
        Ok(parts)
    }
}

/// What a look at this process' surroundings found.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Whether Redis answered.
    pub redis_up: bool,
    /// Whether Postgres answered.
    pub postgres_up: bool,
    /// Connections in use, lying idle, and the most there may be.
    pub connections: (u32, u32, u32),
}

/// Takes note of it, and of this process' memory.
pub fn note(seen: Surroundings) {
    let Some(parts) = own().map(|own| &own.parts) else {
        return;
    };
    parts.redis_up.set(seen.redis_up.into());
    parts.postgres_up.set(seen.postgres_up.into());
    let (used, idle, most) = seen.connections;
    for (column, count) in [(0, used), (1, idle)] {
        if let Some(gauge) = parts.pool.at(column, 0) {
            gauge.set(count.into());
        }
    }
    parts.pool_max.set(most.into());
    if let Some(bytes) = resident_bytes() {
        parts.memory.set(bytes);
    }
}

/// The scheduler found so much in nobody's hands, in the order of [`FOUND`].
pub fn reconciled(found: [usize; 9]) {
    let Some(parts) = own().map(|own| &own.parts) else {
        return;
    };
    for (place, count) in found.into_iter().enumerate() {
        if let Some(counter) = parts.reconciled.at(place, 0) {
            counter.inc_by(count as u64);
        }
    }
}

/// The scheduler left out so many missed periods, and rang so many bells for periods.
pub fn rang_periods(skipped: usize, rung: usize) {
    let Some(parts) = own().map(|own| &own.parts) else {
        return;
    };
    for (place, count) in [skipped, rung].into_iter().enumerate() {
        if let Some(counter) = parts.periods.at(place, 0) {
            counter.inc_by(count as u64);
        }
    }
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}
