//! What really happened: each fault with the time at which it was healed, each message a provider took, each look at what
//! waited; and which fault is the cause of something that was found afterwards.
//! It must never be guessed from the plan: healing takes the time it takes. Nor may a cause be made up: without a fault
//! that can have done it there is none.

use super::{
    plan::{self, Kind, Target},
    provider::Provider,
};

/// How long after it was healed a fault may still show in an answer that was lost: as long as a request may take.
const ANSWER_MS: u64 = 20_000;
/// And in work that was interrupted: leases of 15 s, and what the lane waits for on top (a pause, a 429, a rest).
const LEASE_MS: u64 = 60_000;
/// For so long a worker that is told to stop waits for what is out.
const DRAIN_MS: u64 = 15_000;

/// A fault that was made.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What was planned.
    pub planned: plan::Fault,
    /// When it began, in the run's time.
    pub from_ms: u64,
    /// When everything it broke was whole again.
    pub healed_ms: u64,
    /// What the plan left to the run: which key, how many connections.
    pub note: String,
}

impl Fault {
    /// Whether it was in force at some time of these.
    pub fn in_force(&self, from_ms: u64, to_ms: u64) -> bool {
        self.from_ms <= to_ms && self.healed_ms >= from_ms
    }

    /// Whether it keeps this provider from answering as it should.
    fn troubles(&self, provider: Provider) -> bool {
        match self.planned.target {
            Target::Http => provider.is_http(),
            Target::Provider(hit) => hit == provider,
            Target::Worker(_) | Target::Scheduler(_) | Target::Web(_) | Target::Redis | Target::Postgres => false,
        }
    }

    /// Whether it takes work out of the hands of whoever is at it.
    fn interrupts(&self) -> bool {
        match self.planned.kind {
            Kind::KillWorker
            | Kind::FreezeWorker
            | Kind::KillRedis
            | Kind::FlushRedis
            | Kind::CutRedisClients
            | Kind::DeleteRedisKey
            | Kind::CrashPostgres => true,
            // Who is told to stop brings home what is out; only what has not come by then is left.
            Kind::StopWorker => self.healed_ms.saturating_sub(self.from_ms) >= DRAIN_MS,
            Kind::KillScheduler
            | Kind::KillWeb
            | Kind::ProviderHangs
            | Kind::ProviderRefuses
            | Kind::ProviderThrottles
            | Kind::ProviderResetsBefore
            | Kind::ProviderResetsAfter
            | Kind::ProviderFails => false,
        }
    }

    fn name(&self) -> &'static str {
        self.planned.kind.name()
    }
}

/// One message a provider took.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When, in the run's time.
    pub at_ms: u64,
    /// Which.
    pub provider: Provider,
    /// To whom.
    pub recipient: String,
    /// What a person would have read.
    pub text: String,
}

/// One look at what waits.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When.
    pub at_ms: u64,
    /// Providers with messages that wait in lanes that may be sent.
    pub waiting: Vec<Provider>,
    /// For how long the lease of a slice has been over, and its lane due, and nobody has taken it over; milliseconds.
    pub abandoned_ms: u64,
}

/// A delivery of which nobody knows whether it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Unknown<'a> {
    /// Over whose wire it went.
    pub provider: Provider,
    /// Why it is unknown, by its row.
    pub reason: &'a str,
    /// When it was settled.
    pub at_ms: u64,
    /// Its broadcast was cancelled.
    pub cancelled: bool,
    /// An answer about its recipient came when nobody read it any more, by the provider's own count.
    pub unread: bool,
}

/// Why a delivery is `unknown`; none when neither a fault nor an unread answer explains it.
pub fn cause_of_unknown(faults: &[Fault], unknown: Unknown<'_>) -> Option<&'static str> {
    let Unknown {
        provider,
        reason,
        at_ms,
        cancelled,
        unread,
    } = unknown;
    let last = |after_ms: u64, did: &dyn Fn(&Fault) -> bool| {
        let could = |fault: &&Fault| fault.from_ms <= at_ms && at_ms <= fault.healed_ms + after_ms && did(fault);
        faults.iter().rev().find(could).map(Fault::name)
    };
    match reason {
        // What is repeated under its key is never left unknown, but where nothing may be repeated any more.
        _ if provider.has_keys() => (cancelled && reason == "interrupted").then_some("cancelled by the shop"),
        "interrupted" => last(LEASE_MS, &Fault::interrupts).or(cancelled.then_some("cancelled by the shop")),
        "uncertain" => last(ANSWER_MS, &|fault| fault.troubles(provider))
            // A request that a frozen process could not read the answer of in time.
            .or_else(|| last(ANSWER_MS, &|fault| fault.planned.kind == Kind::FreezeWorker))
            // A machine that is too busy to read in time.
            .or(unread.then_some("its answer was not read in time")),
        _ => None,
    }
}

/// Why a job that lived from then to then is dead; none when the faults do not explain it.
pub fn cause_of_death(
    faults: &[Fault],
    reason: &str,
    crashes: u64,
    first_ms: u64,
    died_ms: u64,
) -> Option<&'static str> {
    let met = |did: &dyn Fn(&Fault) -> bool| {
        let lived = faults
            .iter()
            .filter(|fault| fault.in_force(first_ms.saturating_sub(1_000), died_ms));
        lived.filter(|fault| did(fault)).count() as u64
    };
    let takes_leases = |fault: &Fault| {
        matches!(
            fault.planned.kind,
            Kind::KillWorker | Kind::StopWorker | Kind::FreezeWorker | Kind::KillRedis
        )
    };
    let breaks_calls = |fault: &Fault| matches!(fault.planned.kind, Kind::CrashPostgres | Kind::KillRedis);
    match reason {
        "poison" => (met(&takes_leases) >= crashes.max(1)).then_some("killed with its workers each time"),
        "exhausted" => (met(&breaks_calls) > 0).then_some("PostgreSQL or Redis was down at its attempts"),
        _ => None,
    }
}
