//! What Redis and Postgres hold for all processes together: the queue, the lanes, who is paused, the books.
//!
//! Several processes may answer with these; they agree, so rules take `max by (…)` of them. A process that has not
//! looked, or whose last look failed, leaves them out: an old figure would look like a calm one.

use std::{
    collections::HashMap,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use carillon_jobs::Kind;
use prometheus::{Gauge, IntGauge, Registry, Result, proto::MetricFamily};

use crate::{
    inbox::webhook,
    ledger::LastAudit,
    metrics::{
        grid::{Grid, Label, gauge, gauges, seconds},
        sends::channels,
    },
    queue::{Backlog, DeadReason},
    scheduler::status::Waits,
};

/// Where a job of the queue lies.
const PLACES: [&str; 3] = ["ready", "scheduled", "running"];
/// The states of broadcasts somebody should be working on.
pub(super) const STATES: [&str; 5] = ["scheduled", "queued", "planning", "sending", "compliance_review"];
/// What the look compares; see `crate::fleet`.
const CHECKS: [&str; 3] = ["holds_are_accounts", "accounts_are_entries", "holds_are_lanes"];

/// One channel's lanes and senders.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelSeen {
    /// Lanes with messages left.
    pub lanes: i64,
    /// Messages left on them.
    pub waiting: i64,
    /// Lanes a worker holds.
    pub held: i64,
    /// Lanes whose worker's lease has run out.
    pub abandoned: i64,
    /// Lanes that rest because nothing gets through to the provider.
    pub resting: i64,
    /// For how long the oldest lane that may go waits while no worker is at any lane of its shop.
    pub oldest_due_secs: f64,
    /// Senders that wait for a person.
    pub senders_paused: i64,
    /// Messages of the last 24 hours' broadcasts of which nobody knows whether they arrived.
    pub unknown: i64,
}

/// Everything one look found.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The kinds, in the order of [`Kind::ALL`].
    pub kinds: Vec<Backlog>,
    /// Kinds nobody may begin.
    pub kinds_paused: Vec<Kind>,
    /// The channels, in the order of [`Channel::ALL`].
    pub channels: Vec<ChannelSeen>,
    /// Broadcasts by state, in the order of [`STATES`].
    pub broadcasts: [i64; 5],
    /// For how long the oldest broadcast waits to be planned with nobody at it.
    pub unplanned_secs: f64,
    /// For how long the oldest paid top-up order that is due waits for its tokens.
    pub top_up_overdue_secs: f64,
    /// Webhooks that wait, and those put aside.
    pub webhooks: webhook::Backlog,
    /// Dead jobs nobody has dealt with.
    pub dead: HashMap<(Kind, DeadReason), i64>,
    /// How long periods of schedules have waited, in the order of [`Kind::ALL`].
    pub periods: Vec<Waits>,
    /// Receipts that wait for the result of their send, and those of the last 24 hours that found none.
    pub receipts: [i64; 2],
    /// Tokens by which the books are off, in the order of [`CHECKS`].
    pub drift: [i64; 3],
    /// What the newest kept audit found; none before the first.
    pub audit: Option<LastAudit>,
    /// Bytes Redis uses, and may use; 0: as much as there is.
    pub redis_bytes: (u64, u64),
    /// Seconds since 1970.
    pub at_secs: i64,
}

struct Fleet {
    registry: Registry,
    jobs: Grid<IntGauge>,
    job_oldest: Grid<Gauge>,
    job_abandoned: Grid<IntGauge>,
    kind_paused: Grid<IntGauge>,
    dead: Grid<IntGauge>,
    lanes: Grid<IntGauge>,
    lanes_held: Grid<IntGauge>,
    lanes_abandoned: Grid<IntGauge>,
    lanes_resting: Grid<IntGauge>,
    lane_oldest: Grid<Gauge>,
    waiting: Grid<IntGauge>,
    senders_paused: Grid<IntGauge>,
    unknown: Grid<IntGauge>,
    broadcasts: Grid<IntGauge>,
    unplanned: Gauge,
    top_up_oldest: Gauge,
    webhooks: Grid<IntGauge>,
    webhook_oldest: Gauge,
    unrung: Grid<Gauge>,
    undone: Grid<Gauge>,
    receipts: Grid<IntGauge>,
    drift: Grid<IntGauge>,
    audit_broken: IntGauge,
    audit_off: IntGauge,
    audit_at: IntGauge,
    redis_used: IntGauge,
    redis_max: IntGauge,
    seen_at: IntGauge,
}

static FLEET: LazyLock<Option<Fleet>> = LazyLock::new(|| Fleet::new().ok());
/// Whether the last look succeeded.
static SEEN: AtomicBool = AtomicBool::new(false);

impl Fleet {
    #[allow(clippy::too_many_lines, reason = "a table, an entry a series")]
    fn new() -> Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let kind_names: Vec<&'static str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let channel_names = channels();
        let reason_names: Vec<&'static str> = DeadReason::ALL.iter().map(|reason| reason.name()).collect();
        let kind = || Label("kind", &kind_names);
        let channel = || Label("channel", &channel_names);
        // Lanes are the work of this one kind; the label joins them with the queue's series.
        let lane_kind = || Label("kind", &["broadcast-send"]);
        let unplanned = Gauge::new(
            "carillon_broadcast_oldest_unplanned_seconds",
            "For how long the oldest broadcast waits to be planned with nobody at it.",
        )?;
        registry.register(Box::new(unplanned.clone()))?;
        let top_up_oldest = Gauge::new(
            "carillon_top_up_oldest_due_seconds",
            "For how long the oldest paid top-up order that is due waits for its tokens.",
        )?;
        registry.register(Box::new(top_up_oldest.clone()))?;
        let webhook_oldest = Gauge::new(
            "carillon_webhook_oldest_seconds",
            "For how long the oldest webhook waits to be worked through.",
        )?;
        registry.register(Box::new(webhook_oldest.clone()))?;
        Ok(Self {
            jobs: gauges(
                r,
                "carillon_queue_jobs",
                "Jobs in the queue.",
                &[kind(), Label("place", &PLACES)],
            )?,
            job_oldest: seconds(
                r,
                "carillon_queue_oldest_due_seconds",
                "For how long the oldest job that may run has waited; 0 where its producer left no trace of the time.",
                &[kind()],
            )?,
            job_abandoned: gauges(
                r,
                "carillon_queue_leases_abandoned",
                "Jobs whose lease has run out and that no worker has taken over.",
                &[kind()],
            )?,
            kind_paused: gauges(
                r,
                "carillon_kind_paused",
                "1: nobody may begin jobs of this kind.",
                &[kind()],
            )?,
            dead: gauges(
                r,
                "carillon_dead_jobs",
                "Dead jobs that were neither retried nor deleted.",
                &[kind(), Label("reason", &reason_names)],
            )?,
            lanes: gauges(r, "carillon_lanes", "Lanes with messages left.", &[channel()])?,
            lanes_held: gauges(r, "carillon_lanes_held", "Lanes a worker holds now.", &[channel()])?,
            lanes_abandoned: gauges(
                r,
                "carillon_lanes_abandoned",
                "Lanes whose worker's lease has run out and that nobody has taken over.",
                &[channel()],
            )?,
            lanes_resting: gauges(
                r,
                "carillon_lanes_resting",
                "Lanes that rest because nothing gets through to the provider; one message probes each.",
                &[channel()],
            )?,
            lane_oldest: seconds(
                r,
                "carillon_lane_oldest_due_seconds",
                "For how long the oldest lane that may go waits while no worker is at any lane of its shop.",
                &[lane_kind(), channel()],
            )?,
            waiting: gauges(
                r,
                "carillon_messages_waiting",
                "Messages of broadcasts under way that have not ended.",
                &[channel()],
            )?,
            senders_paused: gauges(
                r,
                "carillon_senders_paused",
                "Senders that wait for a person.",
                &[channel()],
            )?,
            unknown: gauges(
                r,
                "carillon_unknown_messages",
                "Messages of broadcasts made in the last 24 hours of which nobody knows whether they arrived.",
                &[channel()],
            )?,
            broadcasts: gauges(
                r,
                "carillon_broadcasts",
                "Broadcasts under way.",
                &[Label("state", &STATES)],
            )?,
            unplanned,
            top_up_oldest,
            webhooks: gauges(
                r,
                "carillon_webhooks",
                "Webhooks that wait to be worked through, and those put aside for a person.",
                &[Label("state", &["stored", "failed"])],
            )?,
            webhook_oldest,
            unrung: seconds(
                r,
                "carillon_schedule_oldest_unrung_seconds",
                "For how long the oldest period that came due has waited with nobody having rung for it.",
                &[kind()],
            )?,
            undone: seconds(
                r,
                "carillon_schedule_oldest_undone_seconds",
                "For how long the work of the oldest period that was rung for has not ended.",
                &[kind()],
            )?,
            receipts: gauges(
                r,
                "carillon_receipts",
                "Receipts that wait for the result of their send; unmatched: those of the last 24 hours that found none.",
                &[Label("state", &["waiting", "unmatched"])],
            )?,
            drift: gauges(
                r,
                "carillon_ledger_drift_tokens",
                "Tokens by which the books of shops that are sending are off; `carillon audit` proves all of them.",
                &[Label("check", &CHECKS)],
            )?,
            audit_broken: gauge(
                r,
                "carillon_audit_broken",
                "Comparisons that failed in the newest kept audit.",
            )?,
            audit_off: gauge(
                r,
                "carillon_audit_off",
                "By how much they failed, in all: tokens, deliveries or rows.",
            )?,
            audit_at: gauge(
                r,
                "carillon_audit_timestamp_seconds",
                "Of when the newest kept audit is; 0: there is none.",
            )?,
            redis_used: gauge(r, "carillon_redis_used_bytes", "Memory Redis uses.")?,
            redis_max: gauge(
                r,
                "carillon_redis_max_bytes",
                "Memory Redis may use; 0: no limit of its own.",
            )?,
            seen_at: gauge(
                r,
                "carillon_fleet_seen_timestamp_seconds",
                "When this process last looked at Redis and Postgres.",
            )?,
            registry,
        })
    }

    fn show(&self, seen: &Seen) {
        for (row, kind) in seen.kinds.iter().enumerate() {
            let depth = &kind.depth;
            for (column, jobs) in [depth.ready, depth.delayed, depth.running].into_iter().enumerate() {
                set(&self.jobs, row, column, whole(jobs));
            }
            set_secs(&self.job_oldest, row, 0, kind.oldest_due_secs);
            set(&self.job_abandoned, row, 0, whole(kind.abandoned));
        }
        for kind in Kind::ALL {
            set(
                &self.kind_paused,
                *kind as usize,
                0,
                seen.kinds_paused.contains(kind).into(),
            );
            for (column, reason) in DeadReason::ALL.iter().enumerate() {
                let count = seen.dead.get(&(*kind, *reason)).copied().unwrap_or(0);
                set(&self.dead, *kind as usize, column, count);
            }
        }
        for (row, channel) in seen.channels.iter().enumerate() {
            set(&self.lanes, row, 0, channel.lanes);
            set(&self.lanes_held, row, 0, channel.held);
            set(&self.lanes_abandoned, row, 0, channel.abandoned);
            set(&self.lanes_resting, row, 0, channel.resting);
            set_secs(&self.lane_oldest, 0, row, channel.oldest_due_secs);
            set(&self.waiting, row, 0, channel.waiting);
            set(&self.senders_paused, row, 0, channel.senders_paused);
            set(&self.unknown, row, 0, channel.unknown);
        }
        for (row, count) in seen.broadcasts.into_iter().enumerate() {
            set(&self.broadcasts, row, 0, count);
        }
        self.unplanned.set(seen.unplanned_secs);
        self.top_up_oldest.set(seen.top_up_overdue_secs);
        set(&self.webhooks, 0, 0, seen.webhooks.waiting);
        set(&self.webhooks, 1, 0, seen.webhooks.failed);
        self.webhook_oldest.set(seen.webhooks.oldest_secs);
        for (row, waits) in seen.periods.iter().enumerate() {
            set_secs(&self.unrung, row, 0, waits.unrung_secs);
            set_secs(&self.undone, row, 0, waits.undone_secs);
        }
        for (row, count) in seen.receipts.into_iter().enumerate() {
            set(&self.receipts, row, 0, count);
        }
        for (row, tokens) in seen.drift.into_iter().enumerate() {
            set(&self.drift, row, 0, tokens);
        }
        self.audit_broken.set(seen.audit.map_or(0, |audit| audit.broken));
        self.audit_off.set(seen.audit.map_or(0, |audit| audit.off_by));
        self.audit_at
            .set(seen.audit.map_or(0, |audit| audit.taken_at.timestamp()));
        self.redis_used.set(whole(seen.redis_bytes.0));
        self.redis_max.set(whole(seen.redis_bytes.1));
        self.seen_at.set(seen.at_secs);
    }
}

fn set(grid: &Grid<IntGauge>, row: usize, column: usize, value: i64) {
    if let Some(gauge) = grid.at(row, column) {
        gauge.set(value);
    }
}

fn set_secs(grid: &Grid<Gauge>, row: usize, column: usize, value: f64) {
    if let Some(gauge) = grid.at(row, column) {
        gauge.set(value);
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Shows what a look found; `None`: it failed, and nothing is shown until one succeeds.
pub(super) fn show(seen: Option<&Seen>) {
    if let (Some(fleet), Some(seen)) = (FLEET.as_ref(), seen) {
        fleet.show(seen);
    }
    SEEN.store(seen.is_some(), Ordering::Release);
}

/// The series of the last look; none where nobody looked, or the look failed.
#[must_use]
pub fn series() -> Vec<MetricFamily> {
    match FLEET.as_ref() {
        Some(fleet) if SEEN.load(Ordering::Acquire) => fleet.registry.gather(),
        _ => Vec::new(),
    }
}

/// Every series, looked at or not.
#[cfg(test)]
pub(crate) fn every_series() -> Vec<MetricFamily> {
    Fleet::new().map(|fleet| fleet.registry.gather()).unwrap_or_default()
}
