//! What Redis and Postgres hold for all processes together, looked at for `/metrics`.
//!
//! The scheduler looks every few seconds, asked or not, and says aloud when the books are off; the web process looks
//! when somebody reads its `/metrics`, because on many platforms it is the only process that can be reached. It reads
//! only, in a handful of queries over what is under way, never over what has ended: its cost does not grow with history.
//!
//! The books of every shop that is sending are compared on every look, each comparison exact because it is one
//! statement and so one moment:
//! - `holds_are_accounts`: what a shop's open holds set aside is what its account says is held, in both buckets
//! - `accounts_are_entries`: its balances are those its newest ledger entry left
//! - `holds_are_lanes`: what a hold still sets aside is the price of the messages that have not ended
//!
//! That is not the audit: closed holds, captures and receipts are only proved by `carillon audit`, and of that the newest
//! kept report is told.
//!
//! `series` holds the figures, this file fills them in.

mod series;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use carillon_jobs::Kind;
use tokio::sync::Mutex;

use crate::{
    app::App,
    channel::Channel,
    db::PgPool,
    inbox::webhook,
    ledger,
    metrics::parts::{self, Surroundings},
    pause,
    queue::{DeadReason, Queue, QueueError},
    scheduler::status,
};

#[cfg(test)]
pub(crate) use series::every_series;
pub use series::{ChannelSeen, Seen, series};

use series::{STATES, show};

/// How often the scheduler looks.
const EVERY: Duration = Duration::from_secs(15);
/// Two readers within this time get one look's answer.
const FRESH: Duration = Duration::from_secs(5);
/// How long a look may take; a reader waits for it.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long Redis and Postgres get to answer.
const PART_LIMIT: Duration = Duration::from_secs(1);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Postgres did not answer.
    #[error("{}", crate::db::describe(.0))]
    Db(#[from] sqlx::Error),
    /// Redis did not answer.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The parts could not be built.
    #[error(transparent)]
    App(#[from] crate::app::AppError),
    /// It took too long.
    #[error("no answer within {} s", LOOK_LIMIT.as_secs())]
    Late,
}

/// Looks again and again until the process is told to stop, and says once when the books are off.
pub async fn watch(app: App) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = [0; 3];
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            // An outage is told by the scheduler's other loop.
            seen = look_and_show(&app) => if let Ok(seen) = seen {
                tell_drift(&mut told, seen.drift);
            }
        }
    }
}

fn tell_drift(told: &mut [i64; 3], drift: [i64; 3]) {
    if drift != *told && drift != [0; 3] {
        let [holds_are_accounts, accounts_are_entries, holds_are_lanes] = drift;
        tracing::error!(
            holds_are_accounts,
            accounts_are_entries,
            holds_are_lanes,
            "The books are off by so many tokens; `carillon audit` names the rows"
        );
    }
    *told = drift;
}

/// Looks for a reader of `/metrics`, unless somebody just did.
pub async fn look_for_reader(app: &App) {
    static LOOKED: Mutex<Option<Instant>> = Mutex::const_new(None);
    let mut looked = LOOKED.lock().await;
    if looked.is_some_and(|looked| looked.elapsed() < FRESH) {
        return;
    }
    if let Err(error) = look_and_show(app).await {
        tracing::debug!(%error, "The fleet could not be looked at");
    }
    *looked = Some(Instant::now());
}

async fn look_and_show(app: &App) -> Result<Seen, FleetError> {
    let seen = tokio::time::timeout(LOOK_LIMIT, look(app))
        .await
        .unwrap_or(Err(FleetError::Late));
    show(seen.as_ref().ok());
    seen
}

/// Looks once.
pub async fn look(app: &App) -> Result<Seen, FleetError> {
    let queue: Queue = app.queue()?;
    let db = &app.db;
    let kinds = queue.backlogs().await?;
    Ok(Seen {
        kinds_paused: pause::kinds(db, Kind::ALL).await?,
        kinds,
        redis_bytes: queue.memory().await?,
        channels: channels(db).await?,
        dead: dead(db).await?,
        top_up_overdue_secs: top_up_overdue_secs(db).await?,
        webhooks: webhook::backlog(db).await?,
        receipts: receipts(db).await?,
        drift: drift(db).await?,
        audit: ledger::last(db).await?,
        periods: status::waits(db, &app.config.scheduler.schedules).await?,
        ..broadcasts(db).await?
    })
}

/// Whether Redis and Postgres answer this process, and its connections.
pub async fn look_at_parts(app: &App) {
    let mut redis = app.redis.clone();
    let ping = async {
        let ping = redis::cmd("PING");
        match ping.exec_async(&mut redis).await {
            // A connection that broke while nobody used it says so once, whether or not Redis is back by now.
            Err(_) => ping.exec_async(&mut redis).await.is_ok(),
            Ok(()) => true,
        }
    };
    let select = async { sqlx::query("select 1").execute(&app.db).await.is_ok() };
    let (redis_up, postgres_up) = tokio::join!(
        tokio::time::timeout(PART_LIMIT, ping),
        tokio::time::timeout(PART_LIMIT, select)
    );
    let (open, idle) = app.db.open_and_idle();
    parts::note(Surroundings {
        redis_up: redis_up.unwrap_or(false),
        postgres_up: postgres_up.unwrap_or(false),
        connections: (open - idle, idle, app.config.database.pool_size(app.process)),
    });
}

#[derive(sqlx::FromRow)]
struct LaneRow {
    channel: Channel,
    lanes: i64,
    waiting: i64,
    held: i64,
    abandoned: i64,
    resting: i64,
    oldest_due_secs: f64,
}

/// A lane behind others of its own shop is not overdue: of one shop only a few are worked on at once.
async fn channels(db: &PgPool) -> sqlx::Result<Vec<ChannelSeen>> {
    let mut seen = vec![ChannelSeen::default(); Channel::ALL.len()];
    let lanes: Vec<LaneRow> = sqlx::query_as(
        "select channel, count(*) as lanes, sum(remaining)::bigint as waiting,
                count(*) filter (where lease_until > now()) as held, count(*) filter (where lease_until <= now()) as abandoned,
                count(*) filter (where strikes > 0) as resting,
                coalesce(max(extract(epoch from now() - due_at)) filter (where may_go and not shop_at_work), 0)
                    ::float8 as oldest_due_secs
           from (select l.channel, l.remaining, l.lease_until, l.due_at, l.strikes,
                        coalesce(bool_or(l.lease_until > now()) over (partition by l.shop_id), false) as shop_at_work,
                        lane_is_due(l, b) and not sending_is_paused(l.shop_id)
                            and (b.state = 'cancelled' or b.deadline_at <= now() or s.state <> 'paused') as may_go
                   from lane l
                   join broadcast b on b.id = l.broadcast_id and b.state in ('sending', 'cancelled')
                   join sender s on s.id = l.sender_id
                  where l.remaining > 0) x
          group by channel",
    )
    .fetch_all(db)
    .await?;
    for row in lanes {
        if let Some(one) = seen.get_mut(row.channel as usize) {
            one.lanes = row.lanes;
            one.waiting = row.waiting;
            one.held = row.held;
            one.abandoned = row.abandoned;
            one.resting = row.resting;
            one.oldest_due_secs = row.oldest_due_secs.max(0.0);
        }
    }
    let paused: Vec<(Channel, i64)> =
        sqlx::query_as("select channel, count(*) from sender where state = 'paused' group by channel")
            .fetch_all(db)
            .await?;
    for (channel, count) in paused {
        if let Some(one) = seen.get_mut(channel as usize) {
            one.senders_paused = count;
        }
    }
    let unknown: Vec<(Channel, i64)> = sqlx::query_as(
        "select channel, sum(n)::bigint from tally
          where broadcast_id >= broadcast_id_floor(now() - interval '24 hours') and stage = 'send'
            and outcome = 'unknown' and channel is not null
          group by channel",
    )
    .fetch_all(db)
    .await?;
    for (channel, count) in unknown {
        if let Some(one) = seen.get_mut(channel as usize) {
            one.unknown = count;
        }
    }
    Ok(seen)
}

async fn broadcasts(db: &PgPool) -> sqlx::Result<Seen> {
    let mut seen = Seen::default();
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select state, count(*) from broadcast where state in ('scheduled', 'queued', 'planning', 'sending') group by state
         union all
         select b.state, count(*) from compliance_review r join broadcast b on b.id = r.broadcast_id
          where r.decision is null and b.state = 'compliance_review' group by b.state",
    )
    .fetch_all(db)
    .await?;
    for (place, count) in STATES.iter().zip(&mut seen.broadcasts) {
        *count = rows
            .iter()
            .find(|(state, _)| state == place)
            .map_or(0, |(_, count)| *count);
    }
    (seen.unplanned_secs, seen.at_secs) = sqlx::query_as(
        "select coalesce(max(extract(epoch from now() - queued_at))
                    filter (where plan_lease_until is null or plan_lease_until <= now()), 0)::float8,
                extract(epoch from now())::bigint
           from broadcast where state in ('queued', 'planning')",
    )
    .fetch_one(db)
    .await?;
    Ok(seen)
}

/// By the time it was promised for, not by that of the next try: one that was put off is late all the same.
async fn top_up_overdue_secs(db: &PgPool) -> sqlx::Result<f64> {
    sqlx::query_scalar(
        "select greatest(coalesce(extract(epoch from now() - min(credit_at)), 0), 0)::float8 from top_up_order where state = 'charged'",
    )
    .fetch_one(db)
    .await
}

async fn receipts(db: &PgPool) -> sqlx::Result<[i64; 2]> {
    let (waiting, unmatched) = sqlx::query_as(
        "select (select count(*) from pending_receipt where due_at is not null),
                (select count(*) from pending_receipt where due_at is null and received_at > now() - interval '24 hours')",
    )
    .fetch_one(db)
    .await?;
    Ok([waiting, unmatched])
}

async fn dead(db: &PgPool) -> sqlx::Result<HashMap<(Kind, DeadReason), i64>> {
    let rows: Vec<(String, DeadReason, i64)> =
        sqlx::query_as("select kind, reason, count(*) from dead_job where replayed_at is null group by kind, reason")
            .fetch_all(db)
            .await?;
    // A kind only a newer program knows has no series here; the newer one counts it.
    Ok(rows
        .into_iter()
        .filter_map(|(kind, reason, count)| Some(((kind.parse().ok()?, reason), count)))
        .collect())
}

/// Tokens by which the books of shops that are sending are off, one comparison a statement.
async fn drift(db: &PgPool) -> sqlx::Result<[i64; 3]> {
    let holds_are_accounts = sqlx::query_scalar(
        "with open as (select shop_id, sum(open_allowance) as allowance, sum(open_extra) as extra
                         from token_hold where state = 'open' group by shop_id),
              held as (select shop_id, held_allowance as allowance, held_extra as extra from token_account
                        where held_allowance <> 0 or held_extra <> 0)
         select coalesce(sum(abs(coalesce(o.allowance, 0) - coalesce(h.allowance, 0))
                           + abs(coalesce(o.extra, 0) - coalesce(h.extra, 0))), 0)::bigint
           from open o full join held h using (shop_id)",
    )
    .fetch_one(db)
    .await?;
    let accounts_are_entries = sqlx::query_scalar(
        "select coalesce(sum(abs(a.allowance - e.allowance_after) + abs(a.extra - e.extra_after)
                           + abs(a.held_allowance - e.held_allowance_after) + abs(a.held_extra - e.held_extra_after)), 0)::bigint
           from (select distinct shop_id from token_hold where state = 'open') h
           join token_account a using (shop_id)
           join lateral (select * from ledger_entry l where l.shop_id = a.shop_id order by l.id desc limit 1) e on true",
    )
    .fetch_one(db)
    .await?;
    let holds_are_lanes = sqlx::query_scalar(
        "select coalesce(sum(abs(h.open_allowance + h.open_extra - coalesce(l.tokens, 0))), 0)::bigint
           from token_hold h
           left join lateral (select sum(remaining * tokens) as tokens from lane where lane.broadcast_id = h.broadcast_id) l on true
          where h.state = 'open'",
    )
    .fetch_one(db)
    .await?;
    Ok([holds_are_accounts, accounts_are_entries, holds_are_lanes])
}
