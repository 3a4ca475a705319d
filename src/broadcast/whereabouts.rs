//! Where a broadcast, its lanes or one of its deliveries is: the rows that decide it, in one snapshot each. Reads only.
//!
//! Why it exists: at three in the morning somebody asks why a message has not left. The facts are here, the sentences are
//! made of them by `carillon jobs explain`. It must never lock a row or count deliveries.

use std::time::Duration;

use carillon_jobs::BroadcastId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, types::Uuid};

use super::BroadcastState;
use crate::{
    channel::Channel,
    db::PgPool,
    delivery::{DeliveryState, senders::SenderState},
};

/// What decides whether a broadcast moves.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct BroadcastFacts {
    /// Its id.
    pub id: Uuid,
    /// Its shop.
    pub shop_id: Uuid,
    /// The shop's name.
    pub shop: String,
    /// Whether the shop is `active` or `suspended`.
    pub shop_state: String,
    /// A person has paused the shop.
    pub shop_paused: bool,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: BroadcastState,
    /// Why it failed or waits.
    pub state_reason: Option<String>,
    /// Where it goes on when it is paused.
    pub resume_state: Option<BroadcastState>,
    /// When it is to leave.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When it was sent off.
    pub queued_at: Option<DateTime<Utc>>,
    /// When sending began.
    pub sending_at: Option<DateTime<Utc>>,
    /// When what has not left expires.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Customers up to this one are planned.
    pub plan_cursor: i64,
    /// Customers planned so far.
    pub planned_customers: i64,
    /// Until when a planner holds it.
    pub plan_lease_until: Option<DateTime<Utc>>,
    /// The broadcast of its shop that is being planned now, if it is another one.
    pub planning_before: Option<Uuid>,
    /// When a bell was last rung for planning.
    pub rung_at: Option<DateTime<Utc>>,
    /// Postgres' clock.
    pub now: DateTime<Utc>,
}

/// What decides whether a lane moves.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct LaneFacts {
    /// Its sender.
    pub sender_id: Uuid,
    /// The sender's name.
    pub sender: String,
    /// Whether the sender sends.
    pub sender_state: SenderState,
    /// Why it does not.
    pub sender_reason: Option<String>,
    /// Its own rate.
    pub rate_per_sec: Option<f64>,
    /// The channel.
    pub channel: Channel,
    /// Messages planned.
    pub planned: i64,
    /// Messages that have not ended.
    pub remaining: i64,
    /// Not before then.
    pub due_at: DateTime<Utc>,
    /// Until when a worker holds it.
    pub lease_until: Option<DateTime<Utc>>,
    /// Failing windows in a row.
    pub strikes: i32,
    /// A bell is out for it since then.
    pub rung_at: Option<DateTime<Utc>>,
    /// When a worker last took it.
    pub served_at: Option<DateTime<Utc>>,
    /// Until when it is a quiet time on the shop's clock; none: it is not, or the shop has no quiet hours there.
    pub quiet_until: Option<DateTime<Utc>>,
    /// Whether it may be worked on now.
    pub due: bool,
    /// Lanes of the same shop, this one aside, that are held or rung for.
    pub busy_beside: i64,
    /// Messages of all broadcasts that wait for this sender.
    pub waiting_on_sender: i64,
}

/// The slice a delivery is in.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct SliceFacts {
    /// Its number.
    pub slice_no: i32,
    /// Slices before it that have not ended.
    pub before: i64,
    /// `planned` or `sending`.
    pub state: String,
    /// Messages of it that have not ended.
    pub remaining: i32,
    /// Not before then.
    pub due_at: DateTime<Utc>,
    /// Until when a worker holds it.
    pub lease_until: Option<DateTime<Utc>>,
    /// The number of the intent in flight.
    pub intent_no: i32,
    /// How often that intent was repeated.
    pub repeats: i32,
    /// When the intent was first begun.
    pub first_attempt_at: Option<DateTime<Utc>>,
    /// Whether the delivery is part of that intent.
    pub in_flight: bool,
}

/// One delivery.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct DeliveryFacts {
    /// Its channel.
    pub channel: Channel,
    /// Where it is.
    pub state: DeliveryState,
    /// Error class, or why it was skipped or is unknown.
    pub reason: Option<String>,
    /// The provider's code.
    pub code: Option<String>,
    /// The provider's id of the message.
    pub provider_id: Option<String>,
    /// Tokens charged for it.
    pub charged_tokens: i32,
    /// When sending it ended.
    pub settled_at: Option<DateTime<Utc>>,
    /// When a receipt last changed it.
    pub changed_at: Option<DateTime<Utc>>,
    /// Its slice, while sending it has not ended.
    #[sqlx(skip)]
    pub slice: Option<SliceFacts>,
}

/// One customer of a broadcast.
#[derive(Debug, Clone, Serialize)]
pub struct CustomerFacts {
    /// Whether the shop has such a customer now.
    pub exists: bool,
    /// Why the customer gets nothing, if planning said so.
    pub skipped: Option<String>,
    /// What the customer gets.
    pub deliveries: Vec<DeliveryFacts>,
}

/// The broadcast; `None`: there is none with this id.
pub async fn broadcast(db: &PgPool, id: BroadcastId) -> sqlx::Result<Option<BroadcastFacts>> {
    sqlx::query_as(
        "select b.id, b.shop_id, sh.name as shop, sh.state as shop_state,
                exists (select from pause p where p.resumed_at is null and p.shop_id = b.shop_id) as shop_paused, b.name, b.state, b.state_reason, b.resume_state,
                b.scheduled_at, b.queued_at, b.sending_at, b.deadline_at, b.finished_at, b.plan_cursor,
                b.planned_customers, b.plan_lease_until, b.rung_at, now() as now,
                case when sh.planning_lease_until > now() then nullif(sh.planning_broadcast, b.id) end as planning_before
           from broadcast b join shop sh on sh.id = b.shop_id where b.id = $1",
    )
    .bind(id.0)
    .fetch_optional(db)
    .await
}

/// Its lanes. `stale`: how long a bell is believed.
pub async fn lanes(db: &PgPool, id: BroadcastId, stale: Duration) -> sqlx::Result<Vec<LaneFacts>> {
    sqlx::query_as(
        "select l.sender_id, s.name as sender, s.state as sender_state, s.state_reason as sender_reason, s.rate_per_sec,
                l.channel, l.planned, l.remaining, l.due_at, l.lease_until, l.strikes, l.rung_at, l.served_at,
                (select quiet_until(now(), sh.time_zone, q.starts, q.ends) from shop sh
                   join quiet_hours q on q.shop_id = sh.id and q.channel = l.channel
                  where sh.id = l.shop_id and b.purpose <> 'test') as quiet_until,
                lane_is_due(l, b) as due,
                (select count(*) from lane o
                  where o.shop_id = l.shop_id and o.remaining > 0
                    and (o.broadcast_id, o.sender_id) <> (l.broadcast_id, l.sender_id)
                    and (o.lease_until > now() or o.rung_at > now() - $2 * interval '1 second')) as busy_beside,
                (select coalesce(sum(o.remaining), 0)::bigint from lane o
                  where o.sender_id = l.sender_id and o.remaining > 0) as waiting_on_sender
           from lane l join broadcast b on b.id = l.broadcast_id join sender s on s.id = l.sender_id
          where l.broadcast_id = $1 order by l.channel",
    )
    .bind(id.0)
    .bind(stale.as_secs_f64())
    .fetch_all(db)
    .await
}

/// One customer of it.
pub async fn customer(db: &PgPool, id: BroadcastId, customer: i64) -> sqlx::Result<CustomerFacts> {
    let (exists, skipped) = sqlx::query_as(
        "select exists (select from customer c join broadcast b on b.shop_id = c.shop_id where b.id = $1 and c.id = $2),
                (select reason from skipped_customer where broadcast_id = $1 and customer_id = $2)",
    )
    .bind(id.0)
    .bind(customer)
    .fetch_one(db)
    .await?;
    let mut deliveries: Vec<DeliveryFacts> = sqlx::query_as(
        "select channel, state, reason, code, provider_id, charged_tokens, settled_at, changed_at
           from delivery_with_state where broadcast_id = $1 and customer_id = $2 order by channel",
    )
    .bind(id.0)
    .bind(customer)
    .fetch_all(db)
    .await?;
    for delivery in deliveries.iter_mut().filter(|one| one.settled_at.is_none()) {
        delivery.slice = slice(db, id, delivery.channel, customer).await?;
    }
    Ok(CustomerFacts {
        exists,
        skipped,
        deliveries,
    })
}

async fn slice(db: &PgPool, id: BroadcastId, channel: Channel, customer: i64) -> sqlx::Result<Option<SliceFacts>> {
    sqlx::query_as(
        "select s.slice_no, s.state, s.remaining, s.due_at, s.lease_until, s.intent_no, s.repeats, s.first_attempt_at,
                coalesce($3 = any (s.in_flight), false) as in_flight,
                (select count(*) from slice b where b.broadcast_id = s.broadcast_id and b.channel = s.channel
                    and b.state <> 'settled' and b.slice_no < s.slice_no) as before
           from slice s
          where s.broadcast_id = $1 and s.channel = $2 and s.state <> 'settled'
            and $3 between s.first_customer and s.last_customer",
    )
    .bind(id.0)
    .bind(channel)
    .bind(customer)
    .fetch_optional(db)
    .await
}
