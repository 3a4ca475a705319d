//! Deletes what is left of a plan that will never be sent.
//!
//! Why it exists: a plan that was cancelled, or that failed for want of tokens, may have a million rows; they go in
//! steps, so that no transaction is long.
//!
//! It must never touch a broadcast that is, or may become, open for sending.

use carillon_jobs::BroadcastId;

use super::config::BroadcastConfig;
use crate::db::{self, PgPool};

/// Deletes up to `purge_rows` rows. Returns whether that was the end.
pub(super) async fn purge_step(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
) -> Result<bool, sqlx::Error> {
    let mut tx = db::begin(pool).await?;
    // These states have no way out, so the check holds for as long as we like. The lock keeps two purges of one plan
    // apart: of two that delete the same rows the second deletes none, and would take that for the end. The bell of
    // whoever works on it is out, so nobody needs to ring for more of them.
    let dead: bool = sqlx::query(
        "update broadcast b set rung_at = now() where b.id = $1 and b.purge and b.state in ('cancelled', 'failed')
            and not exists (select from lane l where l.broadcast_id = b.id)",
    )
    .bind(broadcast.0)
    .execute(&mut *tx)
    .await?
    .rows_affected()
        > 0;
    if !dead {
        return Ok(true);
    }
    for delete in [
        "delete from delivery where broadcast_id = $1
            and ctid = any (array(select ctid from delivery where broadcast_id = $1 limit $2))",
        "delete from skipped_customer where broadcast_id = $1
            and ctid = any (array(select ctid from skipped_customer where broadcast_id = $1 limit $2))",
        "delete from slice where broadcast_id = $1
            and ctid = any (array(select ctid from slice where broadcast_id = $1 limit $2))",
    ] {
        let deleted = sqlx::query(delete)
            .bind(broadcast.0)
            .bind(config.purge_rows)
            .execute(&mut *tx)
            .await?;
        if deleted.rows_affected() > 0 {
            tx.commit().await?;
            return Ok(false);
        }
    }
    // Counters say what rows say: none. What the plan would have cost stays on the broadcast.
    sqlx::query("delete from tally where broadcast_id = $1")
        .bind(broadcast.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query("update broadcast_channel set planned = 0 where broadcast_id = $1")
        .bind(broadcast.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query("update broadcast set purge = false where id = $1")
        .bind(broadcast.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}
