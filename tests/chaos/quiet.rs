//! Waits until nothing is left to do: no load has work left, and no job waits or runs in Redis.
//! It must never wait for ever, and never say less than what is not quiet.

use std::time::{Duration, Instant};

use super::{load::LOADS, town::Town};

const LOOK: Duration = Duration::from_millis(250);

/// Waits at most so long; returns how long it took in milliseconds, and what was not quiet by then.
pub async fn wait(town: &Town, patience: Duration) -> (u64, Vec<String>) {
    let asked = Instant::now();
    loop {
        let left = left(town).await;
        if left.is_empty() || asked.elapsed() > patience {
            let took_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            return (took_ms, left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn left(town: &Town) -> Vec<String> {
    let mut left = Vec::new();
    for load in LOADS {
        // Once more: what was paused a moment before the end may only now be seen.
        let _ = load.let_go(town).await;
        match load.left(town).await {
            Ok(more) => left.extend(more),
            Err(error) => left.push(format!("PostgreSQL does not answer: {error}")),
        }
    }
    match jobs(town).await {
        Ok(more) => left.extend(more),
        Err(error) => left.push(format!("Redis does not answer: {}", error.category())),
    }
    left
}

/// Jobs that wait, run, or died and are not yet rows.
async fn jobs(town: &Town) -> redis::RedisResult<Vec<String>> {
    let mut connection = town.services.redis().await?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("{carillon}:*")
        .query_async(&mut connection)
        .await?;
    let mut left = Vec::new();
    for key in keys {
        let part = key.split(':').nth(1).unwrap_or_default();
        let count = match part {
            "ready" => "LLEN",
            "due" | "lease" => "ZCARD",
            "run" | "dead" => "HLEN",
            _ => continue,
        };
        // A parked text of the dead set is a string of its own.
        let Ok(n) = redis::cmd(count).arg(&key).query_async::<i64>(&mut connection).await else {
            continue;
        };
        if n > 0 {
            left.push(format!("{n} in Redis' {key}"));
        }
    }
    Ok(left)
}
