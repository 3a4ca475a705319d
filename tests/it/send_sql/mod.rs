//! The delivery pipeline's SQL functions, one rule a test: what a crash, a race, a cancel or a change of mind leaves.

mod crash;
mod lane;
mod part;
mod quiet;
mod race;

mod stop;
mod unposted;

use std::time::{Duration, Instant};

use carillon::db::PgPool;
use uuid::Uuid;

use crate::scene::{Claim, one, settle};

/// How long LINE remembers a key, with the margin the product keeps.
const KEY_SECS: f64 = 82_800.0;

/// Settles these members as accepted and ends the claim.
async fn accept(pool: &PgPool, broadcast: Uuid, channel: &str, claim: &Claim, customers: &[i64]) -> String {
    settle(pool, broadcast, channel, claim, (customers, "accepted"), (None, None)).await
}

/// Waits until a session of this database waits for a lock.
async fn somebody_waits_for_a_lock(pool: &PgPool, sessions: i64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while one::<i64>(pool, waiting).await < sessions {
        assert!(Instant::now() < deadline, "nobody waits for a lock");
        tokio::task::yield_now().await;
    }
}
