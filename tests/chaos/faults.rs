//! Makes the faults of the plan at their times, and heals each. Every fault is a task of its own, so they overlap as
//! planned whatever healing takes.
//! It must never leave anything broken behind: when `carry_out` returns all is whole.

use std::{sync::Arc, time::Duration};

use carillon_sandbox::{Fault as Rule, FaultKind, Port};

use super::{
    fleet::Fleet,
    plan::{Fault, Kind, Target},
    provider::Provider,
    told,
    town::Town,
};

/// Carries out the plan; returns what was done, in order of time.
pub async fn carry_out(plan: &[Fault], town: &Arc<Town>, fleet: &Arc<Fleet>) -> Vec<told::Fault> {
    let mut tasks = tokio::task::JoinSet::new();
    for fault in plan.iter().copied() {
        let (town, fleet) = (town.clone(), fleet.clone());
        tasks.spawn(async move {
            town.clock.until(fault.at_ms).await;
            let from_ms = town.clock.now_ms();
            let note = make(fault, &town, &fleet).await;
            let healed_ms = town.clock.now_ms();
            eprintln!(
                "{:>7.1} s  {:<22} {:<12} {}",
                super::secs(from_ms),
                fault.kind.name(),
                fault.target.to_string(),
                what_happened(healed_ms - from_ms, &note)
            );
            told::Fault {
                planned: fault,
                from_ms,
                healed_ms,
                note,
            }
        });
    }
    let mut told = tasks.join_all().await;
    told.sort_by_key(|fault| fault.from_ms);
    told
}

fn what_happened(took_ms: u64, note: &str) -> String {
    let took = if took_ms < 50 {
        String::new()
    } else {
        format!("for {:.1} s", super::secs(took_ms))
    };
    [took.as_str(), note]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(", ")
}

/// Makes one fault and heals it. Returns what the plan could not know.
async fn make(fault: Fault, town: &Town, fleet: &Fleet) -> String {
    let name = fault.target.to_string();
    let time = Duration::from_millis(fault.for_ms);
    match fault.kind {
        Kind::KillWorker | Kind::KillScheduler | Kind::KillWeb => fleet.kill(&name, time).await,
        Kind::StopWorker => fleet.stop(&name).await,
        Kind::FreezeWorker => fleet.freeze(&name, time).await,
        Kind::KillRedis => crash(town, "redis", time).await,
        Kind::CrashPostgres => crash(town, "postgres", time).await,
        Kind::FlushRedis => return redis(town, &[&["FLUSHALL"]]).await,
        Kind::CutRedisClients => {
            let who = if fault.dice.is_multiple_of(4) {
                "pubsub"
            } else {
                "normal"
            };
            let cut = redis(town, &[&["CLIENT", "KILL", "TYPE", who]]).await;
            return format!("{who} clients{}{cut}", if cut.is_empty() { "" } else { ": " });
        }
        Kind::DeleteRedisKey => return delete_a_key(town, fault.dice).await,
        Kind::ProviderRefuses => {
            let port = if fault.target == Target::Provider(Provider::Email) {
                Port::Smtp
            } else {
                Port::Http
            };
            town.providers().outage(port, time);
            tokio::time::sleep(time).await;
        }
        Kind::ProviderHangs
        | Kind::ProviderThrottles
        | Kind::ProviderResetsBefore
        | Kind::ProviderResetsAfter
        | Kind::ProviderFails => return trouble(fault, town, time).await,
    }
    String::new()
}

async fn crash(town: &Town, which: &'static str, down: Duration) {
    town.services.crash(which).await;
    tokio::time::sleep(down).await;
    town.services.bring_back(which).await;
}

/// A rule of the sandbox for as long as the fault lasts.
async fn trouble(fault: Fault, town: &Town, time: Duration) -> String {
    let Target::Provider(provider) = fault.target else {
        return "no provider".to_owned();
    };
    // A relay that says 451 has not taken the mail, or it lies, and against a lie there is no protection.
    let may_take = !(fault.kind == Kind::ProviderFails && provider == Provider::Email);
    let taken = may_take && fault.dice.is_multiple_of(2);
    let kind = match (fault.kind, taken) {
        (Kind::ProviderHangs, false) => FaultKind::Hang,
        (Kind::ProviderHangs, true) => FaultKind::HangAfter,
        (Kind::ProviderThrottles, _) => FaultKind::Throttled,
        (Kind::ProviderResetsBefore, _) => FaultKind::ResetBefore,
        (Kind::ProviderResetsAfter, _) => FaultKind::ResetAfter,
        (_, false) => FaultKind::ServerError,
        (_, true) => FaultKind::ServerErrorAfter,
    };
    let mut rule = Rule::new(provider.wire(), kind);
    match fault.kind {
        // Google asks for a minute of patience where it names no time; that would be the whole of a short run.
        Kind::ProviderThrottles if taken || provider == Provider::App => {
            rule = rule.retry_after_secs(1 + fault.dice % 3);
        }
        Kind::ProviderThrottles => {}
        // Not everybody: some get through beside those who do not.
        _ => rule = rule.probability(0.5),
    }
    let id = town.providers().set_fault(rule).unwrap();
    tokio::time::sleep(time).await;
    let hits = town
        .providers()
        .faults()
        .iter()
        .find(|rule| rule.id == id)
        .map_or(0, |rule| rule.hits);
    town.providers().clear_fault(id);
    format!(
        "{hits} requests{}",
        if kind == FaultKind::HangAfter || kind == FaultKind::ServerErrorAfter {
            ", taken all the same"
        } else {
            ""
        }
    )
}

/// Sends commands; Redis may be away for reasons of its own.
async fn redis(town: &Town, commands: &[&[&str]]) -> String {
    let Ok(mut connection) = town.services.redis().await else {
        return "redis was away".to_owned();
    };
    for words in commands {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        if let Err(error) = command.query_async::<redis::Value>(&mut connection).await {
            return error.category().to_owned();
        }
    }
    String::new()
}

async fn delete_a_key(town: &Town, dice: u64) -> String {
    let Ok(mut connection) = town.services.redis().await else {
        return "redis was away".to_owned();
    };
    let Ok(mut keys) = redis::cmd("KEYS")
        .arg("{carillon}:*")
        .query_async::<Vec<String>>(&mut connection)
        .await
    else {
        return "redis was away".to_owned();
    };
    keys.sort();
    let Some(key) = keys.get(usize::try_from(dice % keys.len().max(1) as u64).unwrap()) else {
        return "there was no key".to_owned();
    };
    redis(town, &[&["DEL", key]]).await;
    key.clone()
}
