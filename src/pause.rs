//! Pauses: a person stops a kind of job, a shop, a sender or everything, and lets it go on.
//!
//! The truth is the table `pause` in Postgres, with who, why and since when. Workers look at it at least twice a second, so that
//! what has not begun stops within about a second; Redis knows nothing of it and may be lost at any moment.
//!
//! It must never end or forget work: what is paused waits where it is, and goes on from there.

use carillon_jobs::{Kind, SenderId, ShopId};
use chrono::{DateTime, Utc};
use sqlx::FromRow;

use crate::db::PgPool;

/// What is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// No job of any kind begins, and nothing is sent.
    Everything,
    /// No job of this kind begins. `broadcast-send`: nothing is sent either.
    Kind(Kind),
    /// Nothing is planned or sent for this shop.
    Shop(ShopId),
    /// Nothing is sent from this account.
    Sender(SenderId),
}

impl Scope {
    /// Its name in SQL and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Kind(_) => "kind",
            Self::Shop(_) => "shop",
            Self::Sender(_) => "sender",
        }
    }

    /// Which one: the kind's name or the id. `None`: everything.
    #[must_use]
    pub fn of(&self) -> Option<String> {
        match self {
            Self::Everything => None,
            Self::Kind(kind) => Some(kind.name().to_owned()),
            Self::Shop(shop) => Some(shop.to_string()),
            Self::Sender(sender) => Some(sender.to_string()),
        }
    }
}

/// What became of asking for a pause or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It did.
    Done,
    /// It was so already.
    Already,
    /// There is no such shop or sender.
    Missing,
    /// The sender's account is gone; it sends nothing.
    Disconnected,
}

/// A pause in force, and what waits behind it.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Pause {
    /// `everything`, `kind`, `shop` or `sender`.
    pub scope: String,
    /// The kind, the shop's or the sender's id.
    pub of: Option<String>,
    /// What people call it: the shop's name, the sender's channel and name.
    pub title: Option<String>,
    /// Why.
    pub reason: String,
    /// Who.
    pub paused_by: String,
    /// Since when.
    pub paused_at: DateTime<Utc>,
    /// Broadcasts that would go on without it, those that wait for planning included.
    pub broadcasts: i64,
    /// Planned messages that wait.
    pub messages: i64,
    /// When the first of them are given up: the nearest deadline of a broadcast that waits.
    pub first_deadline: Option<DateTime<Utc>>,
}

/// Stops it. What has begun is not called back.
pub async fn pause(db: &PgPool, scope: Scope, reason: &str, by: &str) -> sqlx::Result<Moved> {
    let answer: String = sqlx::query_scalar("select pause_work($1, $2, $3, $4)")
        .bind(scope.name())
        .bind(scope.of())
        .bind(reason)
        .bind(by)
        .fetch_one(db)
        .await?;
    Ok(moved(&answer))
}

/// Lets the lanes of a sender probe at once that rest because nothing gets through to its provider; how many did. The caller rings.
pub async fn probe(db: &PgPool, sender: SenderId) -> sqlx::Result<i64> {
    sqlx::query_scalar("select probe_sender($1)")
        .bind(sender.0)
        .fetch_one(db)
        .await
}

/// Lets it go on where it was. The caller rings, or the scheduler does within seconds.
pub async fn resume(db: &PgPool, scope: Scope, by: &str) -> sqlx::Result<Moved> {
    let answer: String = sqlx::query_scalar("select resume_work($1, $2, $3)")
        .bind(scope.name())
        .bind(scope.of())
        .bind(by)
        .fetch_one(db)
        .await?;
    Ok(moved(&answer))
}

fn moved(answer: &str) -> Moved {
    match answer {
        "paused" | "resumed" => Moved::Done,
        "missing" => Moved::Missing,
        "disconnected" => Moved::Disconnected,
        _ => Moved::Already,
    }
}

/// Every pause in force, the widest and then the oldest first.
pub async fn in_force(db: &PgPool) -> sqlx::Result<Vec<Pause>> {
    sqlx::query_as(
        "select p.scope, coalesce(p.kind, p.shop_id::text, p.sender_id::text) as of,
                coalesce(sh.name, se.channel || ' ' || se.name) as title, p.reason, p.paused_by, p.paused_at,
                w.broadcasts, w.messages, w.first_deadline
           from pause p
           left join shop sh on sh.id = p.shop_id
           left join sender se on se.id = p.sender_id
           cross join lateral (
                select count(distinct b.id) as broadcasts, coalesce(sum(l.remaining), 0)::bigint as messages,
                       min(b.deadline_at) as first_deadline
                  from broadcast b left join lane l on l.broadcast_id = b.id and l.remaining > 0
                 where (p.scope in ('everything', 'shop') or p.kind = 'broadcast-send' or p.scope = 'sender')
                   and (p.shop_id is null or b.shop_id = p.shop_id)
                   and (p.sender_id is null or l.sender_id = p.sender_id)
                   and (b.state in ('queued', 'planning') or (b.state = 'sending' and l.remaining > 0))) w
          where p.resumed_at is null
          order by array_position(array['everything', 'kind', 'shop', 'sender'], p.scope), p.paused_at, p.id",
    )
    .fetch_all(db)
    .await
}

/// The names of the kinds nobody may claim; all of `known` when everything is paused.
pub async fn kinds(db: &PgPool, known: &[Kind]) -> sqlx::Result<Vec<Kind>> {
    let rows: Vec<(String, Option<String>)> =
        sqlx::query_as("select scope, kind from pause where resumed_at is null and scope in ('everything', 'kind')")
            .fetch_all(db)
            .await?;
    let paused = |kind: &&Kind| {
        rows.iter()
            .any(|(scope, name)| scope == "everything" || name.as_deref() == Some(kind.name()))
    };
    Ok(known.iter().filter(paused).copied().collect())
}

/// Whether this shop's broadcasts are stopped, alone or together with others.
pub async fn stops(db: &PgPool, shop: ShopId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select sending_is_paused($1)")
        .bind(shop.0)
        .fetch_one(db)
        .await
}
