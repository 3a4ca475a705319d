//! The pure parts of `bin/chaos`: the fault plan, the causes, the figures and the verdict. What they judge is judged here,
//! because a harness that cannot find anything wrong would be green for ever.

// Only the pure parts, and not all of each, are used here.
#[allow(dead_code)]
#[path = "../chaos/charges.rs"]
mod charges;
#[allow(dead_code)]
#[path = "../chaos/dice.rs"]
mod dice;
#[allow(dead_code)]
#[path = "../chaos/figures.rs"]
mod figures;
#[allow(dead_code)]
#[path = "../chaos/outcome.rs"]
mod outcome;
#[allow(dead_code)]
#[path = "../chaos/plan.rs"]
mod plan;
#[allow(dead_code)]
#[path = "../chaos/provider.rs"]
mod provider;
#[allow(dead_code)]
#[path = "../chaos/told.rs"]
mod told;

use std::collections::{BTreeMap, BTreeSet};

use self::{
    charges::{Charge, hold_against},
    figures::{abandoned, recoveries, stalls},
    outcome::{Because, Once, Outcome, ProviderCount, Wrong},
    plan::{Fault, Kind, Size, Target, plan},
    provider::Provider,
    told::{Arrival, Sample, Unknown, cause_of_death, cause_of_unknown},
};

const FLEET: Size = Size {
    workers: 3,
    schedulers: 2,
    webs: 2,
};
const TEN_MINUTES_MS: u64 = 600_000;

#[test]
fn the_same_seed_makes_the_same_faults_and_another_makes_others() {
    for seed in 0..50 {
        assert_eq!(plan(seed, TEN_MINUTES_MS, FLEET), plan(seed, TEN_MINUTES_MS, FLEET));
        assert_ne!(plan(seed, TEN_MINUTES_MS, FLEET), plan(seed + 1, TEN_MINUTES_MS, FLEET));
    }
}

#[test]
fn a_plan_of_any_seed_and_length_is_in_order_over_in_time_and_never_hits_a_target_twice_at_once() {
    for seed in 0..200 {
        let run_ms = 12_000 + seed * 3_000;
        let faults = plan(seed, run_ms, FLEET);
        assert!(!faults.is_empty(), "seed {seed}");
        assert!(faults.is_sorted_by_key(|fault| fault.at_ms));
        for (n, fault) in faults.iter().enumerate() {
            assert!(fault.at_ms + fault.for_ms <= run_ms, "seed {seed}: {fault:?}");
            for earlier in &faults[..n] {
                let over = earlier.at_ms + earlier.for_ms <= fault.at_ms;
                assert!(
                    over || !at_once(earlier.target, fault.target),
                    "seed {seed}: {earlier:?}, {fault:?}"
                );
            }
        }
    }
}

/// A fault on every provider but the mail relay is one on each of them.
fn at_once(one: Target, other: Target) -> bool {
    let http = |target| matches!(target, Target::Provider(provider) if provider != Provider::Email);
    one == other || (one == Target::Http && http(other)) || (other == Target::Http && http(one))
}

#[test]
fn ten_minutes_of_any_seed_have_every_kind_of_fault_on_every_target() {
    for seed in 0..20 {
        let faults = plan(seed, TEN_MINUTES_MS, FLEET);
        let kinds: BTreeSet<Kind> = faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, Kind::ALL.into(), "seed {seed}");
        let targets: BTreeSet<Target> = faults.iter().map(|fault| fault.target).collect();
        assert!((1..=3).all(|worker| targets.contains(&Target::Worker(worker))));
        assert!((1..=2).all(|scheduler| targets.contains(&Target::Scheduler(scheduler))));
        assert!((1..=2).all(|web| targets.contains(&Target::Web(web))));
    }
    let hour = 6 * TEN_MINUTES_MS;
    for seed in 0..4 {
        let faults = plan(seed, hour, FLEET);
        let on = |provider| {
            faults
                .iter()
                .filter(move |fault| fault.target == Target::Provider(provider))
        };
        for provider in Provider::ALL {
            let kinds: BTreeSet<Kind> = on(provider).map(|fault| fault.kind).collect();
            assert!(kinds.len() >= 5, "seed {seed}: {provider:?} has {kinds:?}");
        }
        assert!(faults.iter().any(|fault| fault.target == Target::Http), "seed {seed}");
    }
}

fn told(kind: Kind, target: Target, from_ms: u64, healed_ms: u64) -> told::Fault {
    told::Fault {
        planned: Fault {
            at_ms: from_ms,
            kind,
            target,
            for_ms: healed_ms - from_ms,
            dice: 0,
        },
        from_ms,
        healed_ms,
        note: String::new(),
    }
}

#[test]
fn only_a_fault_that_can_have_done_it_is_a_cause() {
    let faults = [
        told(Kind::KillWorker, Target::Worker(1), 10_000, 11_000),
        told(Kind::ProviderHangs, Target::Provider(Provider::Email), 20_000, 25_000),
        told(Kind::ProviderRefuses, Target::Http, 100_000, 101_000),
        told(Kind::StopWorker, Target::Worker(1), 200_000, 206_000),
        told(Kind::StopWorker, Target::Worker(2), 300_000, 316_000),
    ];
    let unknown = |provider, reason, at_ms| Unknown {
        provider,
        reason,
        at_ms,
        cancelled: false,
        unread: false,
    };
    let cause = |provider, reason, at_ms| cause_of_unknown(&faults, unknown(provider, reason, at_ms));
    assert_eq!(cause(Provider::App, "interrupted", 30_000), Some("kill_worker"));
    assert_eq!(cause(Provider::Twilio, "interrupted", 30_000), Some("kill_worker"));
    assert_eq!(cause(Provider::App, "interrupted", 9_999), None, "before the fault");
    assert_eq!(cause(Provider::App, "interrupted", 80_000), None, "long after it");
    assert_eq!(
        cause(Provider::App, "interrupted", 207_000),
        None,
        "it brought home what was out"
    );
    assert_eq!(cause(Provider::App, "interrupted", 320_000), Some("stop_worker"));
    assert_eq!(cause(Provider::Email, "uncertain", 26_000), Some("provider_hangs"));
    assert_eq!(cause(Provider::App, "uncertain", 26_000), None, "another provider hung");
    assert_eq!(
        cause(Provider::Messenger, "uncertain", 102_000),
        Some("provider_refuses")
    );
    assert_eq!(
        cause(Provider::Email, "uncertain", 102_000),
        None,
        "it has another port"
    );
    assert_eq!(
        cause(Provider::Line, "key_expired", 26_000),
        None,
        "no run lasts that long"
    );
    for provider in [Provider::Line, Provider::Mitake] {
        let why = "it is repeated under its key";
        assert_eq!(cause(provider, "interrupted", 30_000), None, "{why}");
        assert_eq!(cause(provider, "uncertain", 102_000), None, "{why}");
    }
    let with = |provider, reason, cancelled, unread| {
        let unknown = Unknown {
            cancelled,
            unread,
            ..unknown(provider, reason, 80_000)
        };
        cause_of_unknown(&faults, unknown)
    };
    let cancelled = Some("cancelled by the shop");
    assert_eq!(with(Provider::App, "interrupted", true, false), cancelled);
    assert_eq!(with(Provider::Mitake, "interrupted", true, false), cancelled);
    assert_eq!(with(Provider::Mitake, "uncertain", true, true), None);
    assert!(
        with(Provider::Whatsapp, "uncertain", false, true).is_some(),
        "nobody read it"
    );
    assert_eq!(with(Provider::Whatsapp, "interrupted", false, true), None);

    let kills = [(1, 10_000), (2, 20_000), (3, 30_000)]
        .map(|(worker, at_ms)| told(Kind::KillWorker, Target::Worker(worker), at_ms, at_ms + 1));
    assert!(cause_of_death(&kills, "poison", 3, 5_000, 40_000).is_some());
    assert!(
        cause_of_death(&kills, "poison", 3, 15_000, 40_000).is_none(),
        "only two in its life"
    );
    assert!(cause_of_death(&kills, "exhausted", 0, 5_000, 40_000).is_none());
    assert!(cause_of_death(&kills, "malformed", 0, 5_000, 40_000).is_none());
}

/// Breaks one promise.
type Break<'a> = &'a dyn Fn(&mut Outcome);

#[test]
fn every_broken_promise_is_noticed() {
    let clean = || Outcome {
        providers: BTreeMap::from([(
            "line",
            ProviderCount {
                planned: 1,
                received: 1,
                most_to_one: 1,
                ..ProviderCount::default()
            },
        )]),
        once: BTreeMap::from([(
            "refills",
            Once {
                due: 1,
                done: 1,
                ..Once::default()
            },
        )]),
        audited: 1,
        ..Outcome::default()
    };
    assert!(clean().broken().is_empty(), "{:?}", clean().broken());
    let one = || {
        let mut wrong = Wrong::default();
        wrong.add(|| "it".to_owned());
        wrong
    };
    let nameless = || BTreeMap::from([(Because::default(), 1)]);
    let breaks: [Break<'_>; 20] = [
        &|outcome| outcome.providers.clear(),
        &|outcome| _ = outcome.providers.insert("twilio", ProviderCount::default()),
        &|outcome| outcome.audited = 0,
        &|outcome| outcome.not_quiet.push("it".to_owned()),
        &|outcome| outcome.lost = one(),
        &|outcome| outcome.providers.entry("line").or_default().duplicates = 1,
        &|outcome| outcome.providers.entry("line").or_default().most_to_one = 2,
        &|outcome| outcome.unaccounted = one(),
        &|outcome| outcome.once.clear(),
        &|outcome| outcome.once.entry("refills").or_default().due = 0,
        &|outcome| outcome.once.entry("refills").or_default().twice = one(),
        &|outcome| outcome.once.entry("refills").or_default().missing = one(),
        &|outcome| outcome.once.entry("refills").or_default().undue = one(),
        &|outcome| outcome.unknown = nameless(),
        &|outcome| outcome.failed = nameless(),
        &|outcome| outcome.dead = nameless(),
        &|outcome| outcome.drift = one(),
        &|outcome| outcome.exits = one(),
        &|outcome| outcome.panics = one(),
        &|outcome| outcome.slowest_stop_ms = 25_001,
    ];
    for (n, break_it) in breaks.iter().enumerate() {
        let mut outcome = clean();
        break_it(&mut outcome);
        assert_eq!(outcome.broken().len(), 1, "promise {n}: {:?}", outcome.broken());
    }
    let mut explained = clean();
    let because = Because {
        cause: Some("kill_worker".to_owned()),
        ..Because::default()
    };
    explained.unknown = BTreeMap::from([(because, 9)]);
    assert!(explained.broken().is_empty());
}

#[test]
fn whoever_was_accepted_is_charged_once_and_nobody_else_is() {
    let judged = |state, charged, may_be_free| {
        let mut once = Once::default();
        let charge = Charge {
            state,
            charged,
            price: 5,
            may_be_free,
        };
        hold_against(&mut once, charge, || "it".to_owned());
        [
            once.due,
            once.done,
            once.twice.count,
            once.missing.count,
            once.undue.count,
        ]
    };
    for state in ["accepted", "delivered", "read"] {
        assert_eq!(judged(state, 5, false), [1, 1, 0, 0, 0], "{state}");
        assert_eq!(judged(state, 10, false), [1, 0, 1, 0, 0], "{state}");
        assert_eq!(judged(state, 4, false), [1, 0, 0, 1, 0], "{state}");
        assert_eq!(judged(state, 0, false), [1, 0, 0, 1, 0], "{state}");
        assert_eq!(judged(state, 0, true), [0; 5], "{state}, proved after nobody knew");
        assert_eq!(judged(state, 10, true), [1, 0, 1, 0, 0], "{state}");
    }
    for state in ["unknown", "failed", "skipped", "cancelled", "expired", "queued"] {
        assert_eq!(judged(state, 0, false), [0; 5], "{state}");
        assert_eq!(judged(state, 5, false), [0, 0, 0, 0, 1], "{state}");
    }
}

fn arrival(at_ms: u64, provider: Provider) -> Arrival {
    Arrival {
        at_ms,
        provider,
        recipient: String::new(),
        text: String::new(),
    }
}

fn sample(at_ms: u64, waiting: &[Provider]) -> Sample {
    Sample {
        at_ms,
        waiting: waiting.to_vec(),
        abandoned_ms: 0,
    }
}

#[test]
fn a_stall_is_counted_while_something_waits_and_recovery_on_the_channel_that_was_hit() {
    let line = [Provider::Line];
    let samples = [
        sample(0, &line),
        sample(5_000, &line),
        sample(6_000, &[]),
        sample(20_000, &line),
        sample(21_000, &line),
    ];
    let arrivals = [
        arrival(1_000, Provider::Line),
        arrival(4_500, Provider::Email),
        arrival(5_500, Provider::Line),
    ];
    let faults = [
        told(Kind::ProviderHangs, Target::Provider(Provider::Line), 1_500, 4_000),
        told(Kind::ProviderHangs, Target::Provider(Provider::App), 1_500, 4_000),
    ];
    let (whole, healthy) = stalls(&samples, &arrivals, &faults);
    assert_eq!(
        (whole.from_ms, whole.ms),
        (1_000, 3_500),
        "nothing waited from 6 s to 20 s"
    );
    assert_eq!(whole.faults.len(), 2);
    assert_eq!((healthy.from_ms, healthy.ms), (0, 1_000));
    let hangs = &recoveries(&samples, &arrivals, &faults)[0];
    assert_eq!((hangs.faults, hangs.idle), (2, 1), "nothing waited for the app");
    assert_eq!(hangs.longest_ms, 1_500, "the mail at 4.5 s shows nothing of LINE");
}

#[test]
fn abandoned_work_is_timed_without_the_time_in_which_nobody_could_take_it() {
    let late = |at_ms, abandoned_ms| Sample {
        at_ms,
        waiting: Vec::new(),
        abandoned_ms,
    };
    let samples = [late(10_000, 3_000), late(30_000, 9_000), late(40_000, 0)];
    let faults = [told(Kind::KillRedis, Target::Redis, 22_000, 29_500)];
    let longest = abandoned(&samples, &faults);
    assert_eq!((longest.from_ms, longest.ms), (7_000, 3_000));
    let longest = abandoned(&samples, &[]);
    assert_eq!((longest.from_ms, longest.ms), (21_000, 9_000));
}
