//! One chunk of planning: up to `chunk_customers` customers, one transaction, with its checkpoint.
//!
//! Why it exists: planning survives being killed between any two chunks. Deliveries, slices, skipped customers,
//! counters and the cursor are one commit; a planner that lost its lease, or a broadcast that was paused or cancelled
//! meanwhile, writes nothing.
//!
//! It must never hold tokens or open anything for sending.

use carillon_jobs::BroadcastId;
use sqlx::{Postgres, QueryBuilder, Row};

use super::{
    config::BroadcastConfig,
    routing_sql::{Part, Route},
};
use crate::db::{self, PgConnection, PgPool};

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Planned and committed; there may be more.
    More,
    /// Planned and committed; that was the last one.
    Last,
    /// Nothing was written: the broadcast is not `planning` any more, or not ours.
    Lost,
}

/// Plans the next chunk of a broadcast under a planner's epoch.
pub(super) async fn plan_chunk(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    epoch: i32,
    route: &Route,
) -> Result<Chunk, sqlx::Error> {
    let mut tx = db::begin(pool).await?;
    let Some(after) = lock(&mut tx, broadcast, epoch).await? else {
        return Ok(Chunk::Lost);
    };
    let (upto, members) = reach(&mut tx, config, route, after).await?;
    if let Some(upto) = upto {
        write(&mut tx, config, broadcast, route, after, upto).await?;
    }
    tx.commit().await?;
    Ok(if members < i64::from(config.chunk_customers) {
        Chunk::Last
    } else {
        Chunk::More
    })
}

/// Locks the broadcast against pause and cancel for the length of this chunk, and returns the checkpoint.
async fn lock(tx: &mut PgConnection, broadcast: BroadcastId, epoch: i32) -> Result<Option<i64>, sqlx::Error> {
    // A fresh partition has no statistics and must never be read whole; the setting ends with the transaction.
    sqlx::query_scalar(
        "select b.plan_cursor
           from broadcast b join shop s on s.id = b.shop_id, set_config('enable_seqscan', 'off', true)
          where b.id = $1 and b.plan_epoch = $2 and b.state = 'planning' and s.planning_broadcast = b.id
            for update of b",
    )
    .bind(broadcast.0)
    .bind(epoch)
    .fetch_optional(tx)
    .await
}

/// The last customer of the chunk, and how many are in it.
async fn reach(
    tx: &mut PgConnection,
    config: &BroadcastConfig,
    route: &Route,
    after: i64,
) -> Result<(Option<i64>, i64), sqlx::Error> {
    let mut query = QueryBuilder::new("select max(id), count(*) from (select c.id from customer c where ");
    route.push_members(&mut query);
    query.push(" and c.id > ").push_bind(after);
    query
        .push(" order by c.id limit ")
        .push_bind(i64::from(config.chunk_customers))
        .push(") members");
    // Planned for these very values: a generic plan does not know how short the range is.
    let row = query.build().persistent(false).fetch_one(tx).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn write(
    tx: &mut PgConnection,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    route: &Route,
    after: i64,
    upto: i64,
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new("");
    route.push_routed(&mut query, Part::Chunk { broadcast, after, upto });
    push_deliveries(&mut query, config, broadcast);
    push_skipped(&mut query, broadcast);
    query.push(
        " update broadcast
             set planned_customers = planned_customers + (select count(*) from base), plan_cursor = ",
    );
    query.push_bind(upto);
    query
        .push(", plan_lease_until = now() + interval '1 second' * ")
        .push_bind(config.plan_lease_secs);
    query.push(" where id = ").push_bind(broadcast.0);
    query.build().persistent(false).execute(tx).await?;
    Ok(())
}

/// Members of a slice are numbered in the order they are stored in, so that a slice is a few neighbouring pages.
fn push_deliveries(query: &mut QueryBuilder<Postgres>, config: &BroadcastConfig, broadcast: BroadcastId) {
    query.push(
        ", numbered as materialized (
            select *, row_number() over (partition by channel order by customer_id) - 1 as place from picks)
         , written as (
            insert into delivery (broadcast_id, channel, customer_id, address_id, twin_of) select ",
    );
    query.push_bind(broadcast.0).push(
        ", channel, customer_id, address_id, twin_of from numbered)
         , cut as (
            select channel, place / ",
    );
    query.push_bind(i64::from(config.slice_size)).push(
        " as part, min(customer_id) as first, max(customer_id) as last, count(*)::int as n
              from numbered group by 1, 2)
         , sliced as (
            insert into slice (broadcast_id, channel, slice_no, first_customer, last_customer, planned, remaining)
            select b.broadcast_id, b.channel, b.slices + 1 + cut.part, cut.first, cut.last, cut.n, cut.n
              from (select bc.broadcast_id, bc.channel, coalesce((select max(s.slice_no) from slice s
                        where s.broadcast_id = bc.broadcast_id and s.channel = bc.channel), 0) as slices
                      from broadcast_channel bc where bc.broadcast_id = ",
    );
    query.push_bind(broadcast.0).push(
        ") b join cut on cut.channel = b.channel)
         , counted as (
            update broadcast_channel b set planned = b.planned + c.n
              from (select channel, sum(n) as n from cut group by 1) c
             where b.channel = c.channel and b.broadcast_id = ",
    );
    query.push_bind(broadcast.0).push(")");
}

fn push_skipped(query: &mut QueryBuilder<Postgres>, broadcast: BroadcastId) {
    query.push(
        ", skipped as (
            insert into skipped_customer (broadcast_id, customer_id, reason) select ",
    );
    query.push_bind(broadcast.0).push(
        ", customer_id, reason from skips returning reason)
         , tallied as (
            insert into tally (broadcast_id, stage, outcome, reason, n) select ",
    );
    query.push_bind(broadcast.0).push(
        ", 'plan', 'skipped'::delivery_state, reason, count(*) from skipped group by reason
            on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n)",
    );
}
