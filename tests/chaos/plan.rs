//! The fault plan: what breaks when, for how long. A pure function of the seed, the minutes and the size of the fleet,
//! so that whoever has seen a run go wrong can make the same trouble again.
//! It must never ask what is going on: what a fault meets is the run's business.

use super::{dice::Dice, provider::Provider};

/// Nothing breaks before this: the fleet gets to its feet.
const BEGIN_MS: u64 = 2_500;
/// Everything is whole again this long before the end.
const END_MS: u64 = 1_500;
/// Between the beginnings of two faults.
const GAP_MS: (u64, u64) = (1_000, 5_500);
/// And of two kills of web processes, which have a rhythm of their own: what else a seed does has not changed since they came.
const WEB_GAP_MS: (u64, u64) = (3_000, 12_000);

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL, then the same name again.
    KillWorker,
    /// SIGTERM, then the same name again.
    StopWorker,
    /// SIGSTOP until long after its leases, then SIGCONT.
    FreezeWorker,
    /// SIGKILL, then the same name again.
    KillScheduler,
    /// SIGKILL, then the same name again.
    KillWeb,
    /// SIGKILL, and back after a while.
    KillRedis,
    /// FLUSHALL.
    FlushRedis,
    /// CLIENT KILL on everybody, or on the subscribers.
    CutRedisClients,
    /// DEL of one key of the product.
    DeleteRedisKey,
    /// SIGKILL of the postmaster, which is harsher than `pg_ctl -m immediate`, and back after a while.
    CrashPostgres,
    /// No answer; the message is taken or not.
    ProviderHangs,
    /// Nobody listens, and open connections are cut.
    ProviderRefuses,
    /// 429, or 451 for mail.
    ProviderThrottles,
    /// The connection is reset before the message is taken.
    ProviderResetsBefore,
    /// The connection is reset after the message is taken.
    ProviderResetsAfter,
    /// 500, though the message may be taken; 451 for mail, which says that it is not.
    ProviderFails,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::KillWorker,
        Self::StopWorker,
        Self::FreezeWorker,
        Self::KillScheduler,
        Self::KillWeb,
        Self::KillRedis,
        Self::FlushRedis,
        Self::CutRedisClients,
        Self::DeleteRedisKey,
        Self::CrashPostgres,
        Self::ProviderHangs,
        Self::ProviderRefuses,
        Self::ProviderThrottles,
        Self::ProviderResetsBefore,
        Self::ProviderResetsAfter,
        Self::ProviderFails,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillWorker => "kill_worker",
            Self::StopWorker => "stop_worker",
            Self::FreezeWorker => "freeze_worker",
            Self::KillScheduler => "kill_scheduler",
            Self::KillWeb => "kill_web",
            Self::KillRedis => "kill_redis",
            Self::FlushRedis => "flush_redis",
            Self::CutRedisClients => "cut_redis_clients",
            Self::DeleteRedisKey => "delete_redis_key",
            Self::CrashPostgres => "crash_postgres",
            Self::ProviderHangs => "provider_hangs",
            Self::ProviderRefuses => "provider_refuses",
            Self::ProviderThrottles => "provider_throttles",
            Self::ProviderResetsBefore => "provider_resets_before",
            Self::ProviderResetsAfter => "provider_resets_after",
            Self::ProviderFails => "provider_fails",
        }
    }

    /// How often it comes before every other kind has come too; never: it has a rhythm of its own.
    const fn weight(self) -> usize {
        match self {
            Self::KillWorker => 3,
            Self::StopWorker => 2,
            Self::KillWeb => 0,
            _ => 1,
        }
    }

    /// How long it lasts, in milliseconds; the second is shortened where the plan ends.
    const fn lasts_ms(self) -> (u64, u64) {
        match self {
            Self::KillWorker | Self::KillScheduler | Self::KillWeb => (0, 3_000),
            // What a stop takes is up to the worker; this keeps other faults off it meanwhile.
            Self::StopWorker => (0, 500),
            // Leases last 15 s.
            Self::FreezeWorker => (16_500, 22_000),
            Self::KillRedis => (0, 20_000),
            Self::FlushRedis | Self::CutRedisClients | Self::DeleteRedisKey => (0, 0),
            Self::CrashPostgres => (0, 4_000),
            Self::ProviderHangs | Self::ProviderRefuses | Self::ProviderThrottles | Self::ProviderFails => {
                (1_000, 6_000)
            }
            Self::ProviderResetsBefore | Self::ProviderResetsAfter => (500, 4_000),
        }
    }

    /// What it can hit.
    fn targets(self, fleet: Size) -> Vec<Target> {
        match self {
            Self::KillWorker | Self::StopWorker | Self::FreezeWorker => {
                (1..=fleet.workers).map(Target::Worker).collect()
            }
            Self::KillScheduler => (1..=fleet.schedulers).map(Target::Scheduler).collect(),
            Self::KillWeb => (1..=fleet.webs).map(Target::Web).collect(),
            Self::KillRedis | Self::FlushRedis | Self::CutRedisClients | Self::DeleteRedisKey => vec![Target::Redis],
            Self::CrashPostgres => vec![Target::Postgres],
            // All simulations but the mail relay's share a port.
            Self::ProviderRefuses => vec![Target::Http, Target::Provider(Provider::Email)],
            Self::ProviderHangs
            | Self::ProviderThrottles
            | Self::ProviderResetsBefore
            | Self::ProviderResetsAfter
            | Self::ProviderFails => Provider::ALL.map(Target::Provider).into(),
        }
    }
}

/// What is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A worker, from 1.
    Worker(usize),
    /// A scheduler, from 1.
    Scheduler(usize),
    /// A web process, from 1.
    Web(usize),
    /// Redis.
    Redis,
    /// PostgreSQL.
    Postgres,
    /// A provider.
    Provider(Provider),
    /// Every provider that is spoken to over HTTP, at once.
    Http,
}

impl Target {
    /// Whether one fault on each would be two on the same thing.
    fn meets(self, other: Self) -> bool {
        let both = [self, other];
        let over_http = both
            .iter()
            .any(|target| matches!(target, Self::Provider(provider) if provider.is_http()));
        self == other || (both.contains(&Self::Http) && over_http)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Worker(number) => write!(f, "worker.{number}"),
            Self::Scheduler(number) => write!(f, "scheduler.{number}"),
            Self::Web(number) => write!(f, "web.{number}"),
            Self::Redis => f.write_str("redis"),
            Self::Postgres => f.write_str("postgres"),
            Self::Provider(provider) => f.write_str(provider.name()),
            Self::Http => f.write_str("http"),
        }
    }
}

/// How large the fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Workers.
    pub workers: usize,
    /// Schedulers.
    pub schedulers: usize,
    /// Web processes.
    pub webs: usize,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, in milliseconds from the beginning of the run.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
    /// To whom.
    pub target: Target,
    /// For how long; a killed process stays down as long.
    pub for_ms: u64,
    /// Decides what only the run can know the choices of: which key, which half.
    pub dice: u64,
}

/// The plan of a run of `run_ms` milliseconds, in order of time.
///
/// Every kind comes up before any comes again, but that web processes are killed beside it all. Faults overlap, but never two on the same target.
pub fn plan(seed: u64, run_ms: u64, fleet: Size) -> Vec<Fault> {
    let mut dice = Dice::of(seed, &[1]);
    let end_ms = run_ms.saturating_sub(END_MS);
    let mut faults: Vec<Fault> = Vec::new();
    let mut deck: Vec<Kind> = Vec::new();
    let kinds = Kind::ALL.iter().filter(|kind| kind.weight() > 0).count();
    let mut at_ms = BEGIN_MS;
    while at_ms < end_ms {
        if deck.is_empty() {
            deck = Kind::ALL.iter().flat_map(|kind| vec![*kind; kind.weight()]).collect();
            dice.shuffle(&mut deck);
        }
        // The first card that can be played now; the others keep their turn.
        let played = (0..deck.len()).find_map(|card| {
            let fault = fit(&mut dice, deck[card], at_ms, end_ms, fleet, &faults)?;
            Some((card, fault))
        });
        match played {
            Some((card, fault)) => {
                deck.remove(card);
                faults.push(fault);
            }
            // What is left is too long for what is left of the run.
            None if deck.len() < kinds => deck.clear(),
            None => {}
        }
        at_ms += dice.between(GAP_MS.0, GAP_MS.1);
    }
    let mut dice = Dice::of(seed, &[9]);
    let mut at_ms = BEGIN_MS + dice.between(0, WEB_GAP_MS.1 / 2);
    while at_ms < end_ms {
        let fault = fit(&mut dice, Kind::KillWeb, at_ms, end_ms, fleet, &faults);
        faults.extend(fault);
        at_ms += dice.between(WEB_GAP_MS.0, WEB_GAP_MS.1);
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

/// The fault of this kind at this time, if a target of it is free and it can be over in time.
fn fit(dice: &mut Dice, kind: Kind, at_ms: u64, end_ms: u64, fleet: Size, so_far: &[Fault]) -> Option<Fault> {
    let (shortest, longest) = kind.lasts_ms();
    let longest = longest.min(end_ms.checked_sub(at_ms + shortest)? + shortest);
    // The shorter of two: long outages come, but a run is not made of them.
    let for_ms = dice.between(shortest, longest).min(dice.between(shortest, longest));
    let free = |target: &Target| {
        so_far
            .iter()
            .all(|other| !other.target.meets(*target) || other.at_ms + other.for_ms + 500 <= at_ms)
    };
    let targets: Vec<Target> = kind.targets(fleet).into_iter().filter(free).collect();
    if targets.is_empty() {
        return None;
    }
    Some(Fault {
        at_ms,
        kind,
        target: dice.pick(&targets),
        for_ms,
        dice: dice.next(),
    })
}
