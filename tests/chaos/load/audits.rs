//! Audits in the middle of it all: the books must be in order at every moment, not only when everything is quiet.
//! It must never count on a bell: a bare one is gone with Redis, so it rings again until the report is kept.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{AGAIN, rest};
use crate::{dice::Dice, outcome::Outcome, town::Town};

/// What the periods are called; no schedule has one of that year.
const NAME: &str = "2000-chaos-";
/// How long one waits for a report before it rings again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for one audit after the other until told to stop.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    stop.run_until_cancelled(bring(&town)).await;
}

async fn bring(town: &Town) {
    for n in 0_u64.. {
        rest(Dice::of(town.seed, &[6, n]).between(2_000, 10_000)).await;
        let period = format!("{NAME}{n}");
        loop {
            super::ring(town, "audit", json!({ "period": period })).await;
            let kept = async {
                while !is_kept(town, &period).await.unwrap_or(false) {
                    tokio::time::sleep(AGAIN).await;
                }
            };
            if tokio::time::timeout(PATIENCE, kept).await.is_ok() {
                break;
            }
        }
    }
}

async fn is_kept(town: &Town, period: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from audit_report where period = $1)")
        .bind(period)
        .fetch_one(&town.pool)
        .await
}

/// Every audit of the run found the books in order.
pub(super) async fn judge(town: &Town, outcome: &mut Outcome) {
    let reports: Vec<(String, i64, i64, String)> = sqlx::query_as(
        "select period, examined, broken, jsonb_path_query_array(checks, '$[*] ? (@.broken > 0)')::text
           from audit_report where starts_with(period, $1) order by id",
    )
    .bind(NAME)
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let once = outcome.once.entry("audits").or_default();
    for (period, examined, broken, checks) in reports {
        once.due += 1;
        once.done += 1;
        *once.counts.entry("comparisons").or_default() += u64::try_from(examined).unwrap();
        if broken > 0 {
            outcome.drift.add(|| format!("in the audit {period}: {checks}"));
        }
    }
}
