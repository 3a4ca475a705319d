//! The end of planning: a whole plan is refused, or its cost is held and its lanes open, in one transaction.
//!
//! Why it exists: up to here nothing is promised to anybody. What is promised now, tokens and LINE's quota, is promised for the
//! whole plan or not at all.
//!
//! It must never hold tokens for a plan that is not complete, and never open what LINE would not take.

use carillon_jobs::BroadcastId;

use super::{
    config::BroadcastConfig,
    line_quota::Known,
    plan::{Advance, PlanError, Turn},
    problem::{Problem, Problems},
    state::BroadcastState,
};
use crate::db::{self, PgConnection, PgPool};

const REASON_CHARS: usize = 500;

/// Everybody is planned: refuses an empty audience, else holds the cost and opens the lanes.
pub(super) async fn finish(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    turn: &Turn,
    known: Known,
) -> Result<Advance, PlanError> {
    analyze(pool, config, broadcast).await?;
    let mut tx = db::begin(pool).await?;
    let planned: Option<i64> = sqlx::query_scalar(
        "select planned_customers from broadcast where id = $1 and plan_epoch = $2 and state = 'planning' for update",
    )
    .bind(broadcast.0)
    .bind(turn.epoch)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(planned) = planned else {
        return Ok(Advance::Again);
    };
    // The shop before its account, in this order everywhere: a shop that is being suspended has its row and wants the account.
    sqlx::query(
        "update shop set planning_broadcast = null, planning_lease_until = null
          where id = $1 and planning_broadcast = $2",
    )
    .bind(turn.route.shop.0)
    .bind(broadcast.0)
    .execute(&mut *tx)
    .await?;
    let advance = match planned {
        0 => {
            let problem = Problem::new("empty_audience", "audience", "holds nobody: choose another one");
            fail(&mut tx, broadcast, &problem.into()).await?;
            Advance::Again
        }
        _ => open(&mut tx, broadcast, turn.epoch, known).await?,
    };
    tx.commit().await?;
    Ok(advance)
}

async fn open(tx: &mut PgConnection, broadcast: BroadcastId, epoch: i32, known: Known) -> Result<Advance, PlanError> {
    // Before the tokens, whose rows are locked last everywhere.
    if let Some(problem) = reserve_line(tx, broadcast, known).await? {
        fail(tx, broadcast, &problem.into()).await?;
        return Ok(Advance::Again);
    }
    let answer: String = sqlx::query_scalar("select open_broadcast($1, $2)")
        .bind(broadcast.0)
        .bind(epoch)
        .fetch_one(&mut *tx)
        .await?;
    if answer != "opened" {
        sqlx::query("delete from line_reservation where broadcast_id = $1")
            .bind(broadcast.0)
            .execute(&mut *tx)
            .await?;
    }
    // Whatever it waited for, it waits no more; why it failed has been written by then.
    sqlx::query(
        "update broadcast set plan_lease_until = null, state_reason = case when state <> 'failed' then null else state_reason end
          where id = $1",
    )
    .bind(broadcast.0)
    .execute(tx)
    .await?;
    match answer.as_str() {
        "opened" => Ok(Advance::Opened),
        "completed" => Ok(Advance::NothingToDo(BroadcastState::Completed)),
        // Failed with its reason; the next call deletes the plan.
        "short" | "over_budget" | "stale" => Ok(Advance::Again),
        _ => Err(PlanError::UnknownAnswer(answer)),
    }
}

/// Reserves the plan's LINE messages; the problem when LINE would not take them all, or says nothing.
async fn reserve_line(
    tx: &mut PgConnection,
    broadcast: BroadcastId,
    known: Known,
) -> Result<Option<Problem>, sqlx::Error> {
    let planned: Option<i64> = sqlx::query_scalar(
        "select planned from broadcast_channel where broadcast_id = $1 and channel = 'line' and planned > 0",
    )
    .bind(broadcast.0)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(planned) = planned else { return Ok(None) };
    if known == Known::Never {
        let problem = "is not known: LINE does not say what is left of it. Nothing was sent; send it again later";
        return Ok(Some(Problem::new("line_quota_unknown", "line", problem)));
    }
    let missing: i64 = sqlx::query_scalar("select reserve_line_quota($1, $2)")
        .bind(broadcast.0)
        .bind(known == Known::Checked)
        .fetch_one(tx)
        .await?;
    Ok((missing > 0).then(|| {
        let problem = format!(
            "has {planned} messages and LINE lets this account send {} more this month: {missing} are missing; \
             a larger plan of LINE's or fewer customers help",
            planned - missing
        );
        Problem::new("line_quota_short", "line", problem)
    }))
}

/// Ends a broadcast that cannot be planned. What was planned of it is deleted by later calls.
pub(super) async fn fail(
    tx: &mut PgConnection,
    broadcast: BroadcastId,
    problems: &Problems,
) -> Result<(), sqlx::Error> {
    let reason: String = problems.to_string().chars().take(REASON_CHARS).collect();
    sqlx::query(
        "update broadcast set state = 'failed', state_reason = $2, purge = state = 'planning', finished_at = now(),
                plan_lease_until = null
          where id = $1",
    )
    .bind(broadcast.0)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// Refreshes the statistics of the partition when this plan is a large part of what they know: without any, a
/// statement that names a broadcast reads all of it.
async fn analyze(pool: &PgPool, config: &BroadcastConfig, broadcast: BroadcastId) -> Result<(), sqlx::Error> {
    let stale: Option<String> = sqlx::query_scalar(
        "select p.relname::text
           from (select coalesce(sum(planned), 0)::bigint as planned from broadcast_channel where broadcast_id = $1) n,
                pg_class p
          where p.oid = to_regclass('delivery' || to_char(broadcast_id_time($1) at time zone 'UTC', '_YYYY_MM'))
            and n.planned >= $2 and n.planned * 5 > p.reltuples",
    )
    .bind(broadcast.0)
    .bind(config.analyze_messages)
    .fetch_optional(pool)
    .await?;
    if let Some(table) = stale {
        let mut tx = db::begin(pool).await?;
        // Which broadcasts are large is all anybody wants to know: a small sample, a tenth of the time.
        sqlx::query("select set_config('default_statistics_target', '10', true)")
            .execute(&mut *tx)
            .await?;
        // The name is `delivery_` and digits, from the catalogue. Only the key is ever searched by.
        let analyze = format!("analyze (skip_locked) {table} (broadcast_id, channel, customer_id)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(analyze)).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}
