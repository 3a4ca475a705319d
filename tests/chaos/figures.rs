//! Times: how long nothing arrived although messages waited, and how long after a fault was healed the next one did.
//! Pure: samples, arrivals and faults in, milliseconds out. It must never call a pause a stall when nothing waited.

use std::collections::BTreeMap;

use super::{
    plan::{Kind, Target},
    provider::Provider,
    told::{Arrival, Fault, Sample},
};

/// A time in which nothing was accepted although messages waited.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Stall {
    /// How long, in milliseconds.
    pub ms: u64,
    /// From when, in the run's time.
    pub from_ms: u64,
    /// The faults in force meanwhile.
    pub faults: Vec<String>,
}

/// How soon after faults of one kind were healed the next message was accepted.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Recovery {
    /// Of which kind.
    pub kind: &'static str,
    /// How many faults there were.
    pub faults: usize,
    /// Of these nothing waited when they were healed, so there was nothing to time.
    pub idle: usize,
    /// Half of the others took at most this long, in milliseconds.
    pub median_ms: u64,
    /// The longest.
    pub longest_ms: u64,
}

/// The longest stall over all providers, of the whole run and of the time in which nothing was broken.
pub fn stalls(samples: &[Sample], arrivals: &[Arrival], faults: &[Fault]) -> (Stall, Stall) {
    let times: Vec<u64> = arrivals.iter().map(|arrival| arrival.at_ms).collect();
    let waiting = spans(samples, |sample| !sample.waiting.is_empty());
    let mut whole = waiting.clone();
    for fault in faults {
        whole = whole
            .into_iter()
            .flat_map(|span| without(span, (fault.from_ms, fault.healed_ms)))
            .collect();
    }
    (longest(&waiting, &times, faults), longest(&whole, &times, faults))
}

/// The longest stall of each provider by itself.
pub fn stalls_by_provider(samples: &[Sample], arrivals: &[Arrival], faults: &[Fault]) -> BTreeMap<&'static str, Stall> {
    let of = |provider: Provider| {
        let times: Vec<u64> = arrivals
            .iter()
            .filter(|a| a.provider == provider)
            .map(|a| a.at_ms)
            .collect();
        let waiting = spans(samples, |sample| sample.waiting.contains(&provider));
        (provider.name(), longest(&waiting, &times, faults))
    };
    Provider::ALL.map(of).into()
}

/// The times in which something held, from the first sample that says so to the first that does not.
fn spans(samples: &[Sample], holds: impl Fn(&Sample) -> bool) -> Vec<(u64, u64)> {
    let mut spans = Vec::new();
    let mut since = None;
    for sample in samples {
        match (holds(sample), since) {
            (true, None) => since = Some(sample.at_ms),
            (false, Some(from)) => {
                spans.push((from, sample.at_ms));
                since = None;
            }
            _ => {}
        }
    }
    let end = samples.last().map(|sample| sample.at_ms);
    spans.extend(since.zip(end));
    spans
}

/// What is left of a span without another.
fn without((from, to): (u64, u64), (begin, end): (u64, u64)) -> Vec<(u64, u64)> {
    if end < from || begin > to {
        return vec![(from, to)];
    }
    [(from, begin), (end, to)]
        .into_iter()
        .filter(|(from, to)| from < to)
        .collect()
}

fn longest(spans: &[(u64, u64)], times: &[u64], faults: &[Fault]) -> Stall {
    let mut stall = Stall::default();
    for (from, to) in spans {
        let inside = &times[times.partition_point(|at| at <= from)..times.partition_point(|at| at < to)];
        let mut last = *from;
        for at in inside.iter().chain([to]) {
            if at - last > stall.ms {
                (stall.ms, stall.from_ms) = (at - last, last);
            }
            last = *at;
        }
    }
    if stall.ms > 0 {
        stall.faults = named(faults, stall.from_ms, stall.from_ms + stall.ms);
    }
    stall
}

/// The faults in force at some time of these.
fn named(faults: &[Fault], from_ms: u64, to_ms: u64) -> Vec<String> {
    let in_force = faults.iter().filter(|fault| fault.in_force(from_ms, to_ms));
    in_force
        .map(|fault| format!("{} {}", fault.planned.kind.name(), fault.planned.target))
        .collect()
}

/// The longest that work whose owner had gone waited for a new one after its lease was over. The time in which Redis or
/// PostgreSQL was away does not count: nobody can take anything over then.
pub fn abandoned(samples: &[Sample], faults: &[Fault]) -> Stall {
    let away = |fault: &&Fault| matches!(fault.planned.kind, Kind::KillRedis | Kind::CrashPostgres);
    let counted = |sample: &Sample| -> u64 {
        let mut spans = vec![(sample.at_ms.saturating_sub(sample.abandoned_ms), sample.at_ms)];
        for fault in faults.iter().filter(away) {
            spans = spans
                .into_iter()
                .flat_map(|span| without(span, (fault.from_ms, fault.healed_ms)))
                .collect();
        }
        spans.into_iter().map(|(from, to)| to - from).sum()
    };
    let Some(longest) = samples.iter().max_by_key(|sample| counted(sample)) else {
        return Stall::default();
    };
    let from_ms = longest.at_ms.saturating_sub(longest.abandoned_ms);
    Stall {
        ms: counted(longest),
        from_ms,
        faults: named(faults, from_ms, longest.at_ms),
    }
}

/// Recovery, kind by kind.
pub fn recoveries(samples: &[Sample], arrivals: &[Arrival], faults: &[Fault]) -> Vec<Recovery> {
    let of = |kind: Kind| {
        let of_kind: Vec<&Fault> = faults.iter().filter(|fault| fault.planned.kind == kind).collect();
        let mut took: Vec<u64> = of_kind
            .iter()
            .filter_map(|fault| recovery(samples, arrivals, fault))
            .collect();
        took.sort_unstable();
        let recovery = Recovery {
            kind: kind.name(),
            faults: of_kind.len(),
            idle: of_kind.len() - took.len(),
            median_ms: took.get(took.len() / 2).copied().unwrap_or(0),
            longest_ms: took.last().copied().unwrap_or(0),
        };
        (recovery.faults > 0).then_some(recovery)
    };
    Kind::ALL.into_iter().filter_map(of).collect()
}

/// From healed to the next message on what was hit; none when nothing waited there by then.
fn recovery(samples: &[Sample], arrivals: &[Arrival], fault: &Fault) -> Option<u64> {
    let hit = |provider: &Provider| match fault.planned.target {
        Target::Provider(hit) => hit == *provider,
        Target::Http => provider.is_http(),
        // Nothing leaves through it.
        Target::Web(_) => false,
        Target::Worker(_) | Target::Scheduler(_) | Target::Redis | Target::Postgres => true,
    };
    let next_look = samples.iter().find(|sample| sample.at_ms >= fault.healed_ms)?;
    next_look.waiting.iter().find(|provider| hit(provider))?;
    let first_later = arrivals.partition_point(|arrival| arrival.at_ms < fault.healed_ms);
    let next = arrivals[first_later..].iter().find(|arrival| hit(&arrival.provider))?;
    Some(next.at_ms - fault.healed_ms)
}
