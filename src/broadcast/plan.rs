//! Planning: from `scheduled` or `queued` to `sending`, resumable at any moment.
//!
//! Why it exists: a job says "look at this broadcast"; `advance` reads where it is and does what is next, for a few
//! seconds. Chunks are planned one transaction each under a lease with a fencing epoch; when all are, one last
//! transaction (`open_broadcast`) holds the whole cost and opens the lanes, or fails with the tokens that are missing.
//! Running it twice, late or on two workers at once is harmless.
//!
//! One planning at a time per shop: two plans of one shop must see each other's deliveries.
//!
//! It must never hold tokens for a plan that is not complete.

use std::time::{Duration, Instant};

use carillon_jobs::{BroadcastId, ShopId};
use chrono::{DateTime, Utc};
use sqlx::types::Uuid;
use tokio_util::sync::CancellationToken;

use super::{
    chunk::{Chunk, plan_chunk},
    compliance,
    config::BroadcastConfig,
    line_quota::{ASK_AGAIN, Known, LineQuota},
    open::{fail, finish},
    problem::Problems,
    purge::purge_step,
    routing_sql::Route,
    state::BroadcastState,
    stored,
    turn::{ChunkTurns, take_shop},
};
use crate::{
    channel::Channel,
    db::{self, PgConnection, PgPool},
};

/// What came of one call of [`Planner::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// There is more to do: call again soon.
    Again,
    /// Nothing to do before this time.
    WaitUntil(DateTime<Utc>),
    /// Its shop is planning another one, or is paused. Nobody waits for that: whoever ends it rings for the next.
    NotItsTurn,
    /// Planning ended with this call: tokens are held and the lanes are open.
    Opened,
    /// There is nothing to plan: it waits for a person (a draft, paused, in review), its lanes are the work (sending,
    /// or cancelled while sending), or it is over and nothing of its plan is left to delete.
    NothingToDo(BroadcastState),
    /// There is no such broadcast.
    Missing,
}

/// Why a call of [`Planner::advance`] did not get through. Calling again later is right.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Postgres failed or is away.
    #[error("planning could not reach or use the database: {0}")]
    Database(#[from] sqlx::Error),
    /// `open_broadcast` gave an answer this program does not know: it is older than the schema.
    #[error("opening the broadcast answered `{0}`, which this version does not know")]
    UnknownAnswer(String),
}

/// Plans broadcasts; clones share the pool.
#[derive(Debug, Clone)]
pub struct Planner {
    /// Postgres.
    pub db: PgPool,
    /// How large chunks, slices and turns are.
    pub config: BroadcastConfig,
    /// Whose chunk is next, in this process.
    pub chunks: ChunkTurns,
    /// What LINE lets its accounts send; none: nobody asks, and nothing is reserved.
    pub line_quota: Option<LineQuota>,
}

impl Planner {
    /// A planner on this pool; its clones take turns with it.
    #[must_use]
    pub fn new(db: PgPool, config: BroadcastConfig) -> Self {
        let chunks = ChunkTurns::new(&db);
        Self {
            db,
            config,
            chunks,
            line_quota: None,
        }
    }

    /// The same, asking LINE before a broadcast opens.
    #[must_use]
    pub fn asking(mut self, line_quota: LineQuota) -> Self {
        self.line_quota = Some(line_quota);
        self
    }

    /// Does what is next for a broadcast, for at most about `plan_budget_secs`, and stops between two chunks when told
    /// to.
    ///
    /// # Errors
    /// Only for the database; what is wrong with the broadcast itself ends as state `failed` with its reason.
    pub async fn advance(&self, broadcast: BroadcastId, halt: &CancellationToken) -> Result<Advance, PlanError> {
        // Asked first and without a lock: a shop that opens three hundred broadcasts at once rings for each of them.
        let row: Option<(BroadcastState, bool, Option<DateTime<Utc>>, bool)> = sqlx::query_as(
            "select b.state, b.purge, case when b.scheduled_at > now() then b.scheduled_at end,
                    sending_is_paused(b.shop_id) or (sh.planning_broadcast <> b.id and sh.planning_lease_until > now()
                        and exists (select from broadcast o where o.id = sh.planning_broadcast and o.state = 'planning'))
               from broadcast b join shop sh on sh.id = b.shop_id where b.id = $1",
        )
        .bind(broadcast.0)
        .fetch_optional(&self.db)
        .await?;
        let Some((state, purge, waits_for, others_turn)) = row else {
            return Ok(Advance::Missing);
        };
        match (state, waits_for) {
            (BroadcastState::Queued | BroadcastState::Planning, _) if others_turn => Ok(Advance::NotItsTurn),
            (BroadcastState::Scheduled, Some(time)) => {
                compliance::look_ahead(&self.db, &self.config, broadcast).await?;
                Ok(Advance::WaitUntil(time))
            }
            (BroadcastState::Scheduled, None) => {
                sqlx::query("select send_broadcast($1)")
                    .bind(broadcast.0)
                    .execute(&self.db)
                    .await?;
                if others_turn {
                    return Ok(Advance::NotItsTurn);
                }
                self.plan(broadcast, halt).await
            }
            (BroadcastState::Queued | BroadcastState::Planning, _) => self.plan(broadcast, halt).await,
            (BroadcastState::Cancelled | BroadcastState::Failed, _) if purge => {
                self.purge(broadcast, state, halt).await
            }
            _ => Ok(Advance::NothingToDo(state)),
        }
    }

    async fn plan(&self, broadcast: BroadcastId, halt: &CancellationToken) -> Result<Advance, PlanError> {
        let turn_ends = self.turn_ends();
        let turn = match begin(&self.db, &self.config, broadcast).await? {
            Begin::Mine(turn) => turn,
            Begin::Instead(advance) => return Ok(advance),
        };
        let mut first = turn.is_new;
        loop {
            let Some(_chunk_turn) = self.chunks.next(first, turn_ends).await else {
                leave(&self.db, broadcast, turn.epoch).await?;
                return Ok(Advance::Again);
            };
            first = false;
            match plan_chunk(&self.db, &self.config, broadcast, turn.epoch, &turn.route).await? {
                Chunk::Last => return self.finish(broadcast, &turn).await,
                Chunk::More
                    if Instant::now() < turn_ends
                        && !halt.is_cancelled()
                        && !crate::pause::stops(&self.db, turn.route.shop).await? => {}
                // Lost: paused, cancelled, or another planner's; the next call sees which.
                Chunk::More | Chunk::Lost => {
                    leave(&self.db, broadcast, turn.epoch).await?;
                    return Ok(Advance::Again);
                }
            }
        }
    }

    /// Everybody is planned: what LINE lets its account send is asked, with no transaction open, and then the broadcast opens.
    async fn finish(&self, broadcast: BroadcastId, turn: &Turn) -> Result<Advance, PlanError> {
        let known = match &self.line_quota {
            Some(quota) => quota.known_for(&turn.route).await?,
            None => Known::Unchecked,
        };
        if known == Known::NotYet {
            let again: Option<DateTime<Utc>> = sqlx::query_scalar(
                "update broadcast set plan_lease_until = null, rung_at = now(),
                        state_reason = 'line_quota: LINE does not say yet what is left of its quota; it is asked again'
                  where id = $1 and plan_epoch = $2 returning now() + interval '1 second' * $3",
            )
            .bind(broadcast.0)
            .bind(turn.epoch)
            .bind(ASK_AGAIN.as_secs_f64())
            .fetch_optional(&self.db)
            .await?;
            return Ok(again.map_or(Advance::Again, Advance::WaitUntil));
        }
        finish(&self.db, &self.config, broadcast, turn, known).await
    }

    async fn purge(
        &self,
        broadcast: BroadcastId,
        state: BroadcastState,
        halt: &CancellationToken,
    ) -> Result<Advance, PlanError> {
        let turn_ends = self.turn_ends();
        while Instant::now() < turn_ends && !halt.is_cancelled() {
            if purge_step(&self.db, &self.config, broadcast).await? {
                return Ok(Advance::NothingToDo(state));
            }
        }
        Ok(Advance::Again)
    }

    fn turn_ends(&self) -> Instant {
        Instant::now() + Duration::from_secs_f64(self.config.plan_budget_secs)
    }
}

/// A planner's right to a broadcast.
pub(super) struct Turn {
    pub(super) epoch: i32,
    /// Nothing of it is planned yet.
    is_new: bool,
    pub(super) route: Route,
}

enum Begin {
    Mine(Box<Turn>),
    Instead(Advance),
}

/// Takes the leases of broadcast and shop; checks the broadcast when its planning begins.
async fn begin(pool: &PgPool, config: &BroadcastConfig, broadcast: BroadcastId) -> Result<Begin, PlanError> {
    let mut tx = db::begin(pool).await?;
    let row: Option<(BroadcastState, Uuid, Option<DateTime<Utc>>)> = sqlx::query_as(
        "select state, shop_id, case when plan_lease_until > now() then plan_lease_until end
           from broadcast where id = $1 for update",
    )
    .bind(broadcast.0)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((state, shop, leased)) = row else {
        return Ok(Begin::Instead(Advance::Missing));
    };
    if !matches!(state, BroadcastState::Queued | BroadcastState::Planning) {
        return Ok(Begin::Instead(Advance::Again));
    }
    if let Some(until) = leased {
        return Ok(Begin::Instead(Advance::WaitUntil(until)));
    }
    let Some(stored) = stored::read(&mut tx, broadcast).await? else {
        return Ok(Begin::Instead(Advance::Missing));
    };
    let checked = match stored.check(&config.prices) {
        Ok(plannable) => {
            let shop = plannable.route.shop;
            let problem = stored::audience_problem(&mut tx, shop, &plannable.route.audience).await?;
            problem.map_or(Ok(plannable), |problem| Err(Problems::from(problem)))
        }
        Err(problems) => Err(problems),
    };
    let plannable = match checked {
        Ok(plannable) => plannable,
        Err(problems) => {
            fail(&mut tx, broadcast, &problems).await?;
            tx.commit().await?;
            // What was planned before the broadcast became invalid is purged by the next call.
            return Ok(Begin::Instead(Advance::Again));
        }
    };
    if state == BroadcastState::Queued && compliance::must_wait(&mut tx, config, broadcast, &stored).await? {
        tx.commit().await?;
        return Ok(Begin::Instead(Advance::NothingToDo(BroadcastState::ComplianceReview)));
    }
    if !take_shop(&mut tx, config, ShopId(shop), broadcast).await? {
        return Ok(Begin::Instead(Advance::NotItsTurn));
    }
    let is_priced_now = state == BroadcastState::Queued;
    if is_priced_now {
        set_prices(&mut tx, broadcast, &plannable.prices).await?;
    }
    let (epoch, is_new): (i32, bool) = sqlx::query_as(
        "update broadcast set state = 'planning', plan_epoch = plan_epoch + 1, rung_at = null,
                plan_lease_until = now() + interval '1 second' * $2,
                price_version = case when $3 then $4 else price_version end,
                -- What was looked through is what leaves, whatever the shop's address is changed to.
                shop_url = case when $3 then $5 else shop_url end
          where id = $1 returning plan_epoch, plan_cursor = 0",
    )
    .bind(broadcast.0)
    .bind(config.plan_lease_secs)
    .bind(is_priced_now)
    .bind(config.prices.token_costs_version_at(stored.day))
    .bind(&stored.shop_url)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Begin::Mine(Box::new(Turn {
        epoch,
        is_new,
        route: plannable.route,
    })))
}

/// The price is that of the day planning begins, whatever the row said.
async fn set_prices(
    tx: &mut PgConnection,
    broadcast: BroadcastId,
    prices: &[(Channel, u32)],
) -> Result<(), sqlx::Error> {
    let channels: Vec<&str> = prices.iter().map(|(channel, _)| channel.as_str()).collect();
    let tokens: Vec<i32> = prices
        .iter()
        .map(|(_, tokens)| i32::try_from(*tokens).unwrap_or(i32::MAX))
        .collect();
    sqlx::query(
        "update broadcast_channel b set tokens = p.tokens
           from unnest($2::text[]::channel[], $3::int[]) as p (channel, tokens)
          where b.broadcast_id = $1 and b.channel = p.channel and b.tokens <> p.tokens",
    )
    .bind(broadcast.0)
    .bind(channels)
    .bind(tokens)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives the broadcast back in the middle of planning. The shop stays ours: this job goes on soon, and its bell counts
/// as rung.
async fn leave(pool: &PgPool, broadcast: BroadcastId, epoch: i32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update broadcast set plan_lease_until = null, rung_at = now()
          where id = $1 and plan_epoch = $2",
    )
    .bind(broadcast.0)
    .bind(epoch)
    .execute(pool)
    .await?;
    Ok(())
}
