//! Whose turn it is to plan: of each shop one broadcast at a time, and of each process a few chunks at once.
//!
//! Why it exists: a shop that opens three hundred broadcasts, or fifty shops that open one each at the same minute, must leave
//! connections and processors for the shop that sends to ten. A chunk is the unit: it is a second's work at most.
//!
//! It must never make a small plan wait for large ones: a broadcast's first chunk, which is all that a small one has, goes at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_jobs::{BroadcastId, ShopId};
use sqlx::types::Uuid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::BroadcastConfig;
use crate::db::{PgConnection, PgPool};

/// Chunks of one process that are planned at once, in the order they were asked for.
#[derive(Debug, Clone)]
pub struct ChunkTurns(Arc<Semaphore>);

/// The right to plan one chunk; over when dropped.
pub(super) struct ChunkTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ChunkTurns {
    /// As many at once as half of the pool has connections.
    fn at_once(db: &PgPool) -> usize {
        (db.most() as usize / 2).max(1)
    }

    pub(super) fn new(db: &PgPool) -> Self {
        Self(Arc::new(Semaphore::new(Self::at_once(db))))
    }

    /// Waits for the next turn, at most until then; the first chunk of a broadcast goes at once.
    pub(super) async fn next(&self, first: bool, until: Instant) -> Option<ChunkTurn> {
        if first {
            return Some(ChunkTurn { _permit: None });
        }
        let permit = tokio::time::timeout_at(until.into(), Arc::clone(&self.0).acquire_owned()).await;
        Some(ChunkTurn {
            _permit: Some(permit.ok()?.ok()?),
        })
    }
}

/// Makes this broadcast the one its shop is planning. False when there is another.
pub(super) async fn take_shop(
    tx: &mut PgConnection,
    config: &BroadcastConfig,
    shop: ShopId,
    broadcast: BroadcastId,
) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query(
        "update shop set planning_broadcast = $2, planning_lease_until = now() + interval '1 second' * $3
          where id = $1
            and (planning_broadcast is null or planning_broadcast = $2 or planning_lease_until <= now()
                 or not exists (select from broadcast b where b.id = planning_broadcast and b.state = 'planning'))",
    )
    .bind(shop.0)
    .bind(broadcast.0)
    .bind(config.shop_lease_secs)
    .execute(tx)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Marks and returns the broadcasts to ring for (`plans_to_ring`): of the shop of one broadcast, or of all.
pub async fn to_ring(
    pool: &PgPool,
    beside: Option<BroadcastId>,
    bell_stale: Duration,
) -> Result<Vec<BroadcastId>, sqlx::Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select plans_to_ring((select shop_id from broadcast where id = $1), $2)
          where $1 is null or exists (select from broadcast where id = $1)",
    )
    .bind(beside.map(|broadcast| broadcast.0))
    .bind(bell_stale.as_secs_f64())
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BroadcastId).collect())
}
