//! What became of a broadcast, from its counters.
//!
//! Why it exists: the page and the command a merchant watches while a million messages leave. It reads a handful of
//! small rows in one snapshot, so that watching costs nothing and the figures agree with each other.
//!
//! It must never count deliveries or results: whoever writes those keeps the counters.

use std::collections::BTreeMap;

use carillon_jobs::{BroadcastId, ShopId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, types::Uuid};

use super::{control::ControlError, routing::Mode, state::BroadcastState};
use crate::{
    channel::Channel,
    db::{self, PgConnection, PgPool},
};

/// A broadcast and its figures at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which.
    pub id: BroadcastId,
    /// Whose.
    pub shop: ShopId,
    /// What the merchant calls it.
    pub name: String,
    /// `marketing` or `test`.
    pub purpose: String,
    /// How its channels work together.
    pub mode: Mode,
    /// Where it is.
    pub state: BroadcastState,
    /// Why it failed or waits.
    pub reason: Option<String>,
    /// Where it goes on when it is paused.
    pub resume_state: Option<BroadcastState>,
    /// When it is to leave, for scheduled ones.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When sending began.
    pub sending_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When what has not left expires.
    pub deadline_at: Option<DateTime<Utc>>,
    /// Seconds from the start of sending to its end, or to now.
    pub sending_secs: Option<f64>,
    /// Customers of the audience planned so far.
    pub customers: i64,
    /// Customers who get nothing, by reason.
    pub skipped_customers: BTreeMap<String, i64>,
    /// Its channels in their order.
    pub channels: Vec<ChannelReport>,
    /// All channels together.
    pub total: Outcomes,
    /// Its tokens.
    pub tokens: Tokens,
}

/// How many messages ended how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Messages planned.
    pub planned: i64,
    /// Taken by the provider.
    pub accepted: i64,
    /// Of those, known to have arrived.
    pub delivered: i64,
    /// Of those, known to have been seen.
    pub read: i64,
    /// Refused, by error class.
    pub failed: BTreeMap<String, i64>,
    /// Not sent after all, by reason.
    pub skipped: BTreeMap<String, i64>,
    /// Nobody knows, by reason.
    pub unknown: BTreeMap<String, i64>,
    /// Cancelled before they left.
    pub cancelled: i64,
    /// Too late to leave.
    pub expired: i64,
    /// Not ended yet.
    pub left: i64,
}

/// One channel.
#[derive(Debug, Clone, Serialize)]
pub struct ChannelReport {
    /// The channel.
    pub channel: Channel,
    /// The name of its sender.
    pub sender: String,
    /// Whether the sender is connected, paused or disconnected, and why.
    pub sender_state: String,
    /// Tokens a message.
    pub tokens_each: i32,
    /// Until when its messages wait because of the shop's quiet hours; none: it is not quiet now, or nothing waits.
    pub quiet_until: Option<DateTime<Utc>>,
    /// How its messages ended.
    #[serde(flatten)]
    pub outcomes: Outcomes,
}

/// The tokens of a broadcast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct Tokens {
    /// What the whole plan costs.
    pub cost: i64,
    /// What was missing when planning ended.
    pub missing: Option<i64>,
    /// The most it may cost.
    pub budget: Option<i64>,
    /// Set aside when sending began.
    pub held: i64,
    /// Of that, not decided yet.
    pub open: i64,
    /// Spent.
    pub captured: i64,
    /// Given back.
    pub released: i64,
    /// Given back after they were spent.
    pub refunded: i64,
    /// What the shop can spend now.
    pub available: i64,
}

#[derive(FromRow)]
struct Head {
    shop_id: Uuid,
    name: String,
    purpose: String,
    mode: Mode,
    state: BroadcastState,
    state_reason: Option<String>,
    resume_state: Option<BroadcastState>,
    scheduled_at: Option<DateTime<Utc>>,
    sending_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    deadline_at: Option<DateTime<Utc>>,
    sending_secs: Option<f64>,
    planned_customers: i64,
    #[sqlx(flatten)]
    tokens: Tokens,
}

#[derive(FromRow)]
struct Count {
    stage: String,
    channel: Option<Channel>,
    outcome: String,
    reason: Option<String>,
    n: i64,
}

/// Reads a broadcast's figures.
///
/// # Errors
/// There is no such broadcast, or the database.
pub async fn report(pool: &PgPool, broadcast: BroadcastId) -> Result<Report, ControlError> {
    let mut tx = db::begin(pool).await?;
    sqlx::raw_sql("set transaction isolation level repeatable read, read only")
        .execute(&mut *tx)
        .await?;
    let head = head(&mut tx, broadcast)
        .await?
        .ok_or(ControlError::NotFound(broadcast))?;
    let mut channels = channels(&mut tx, broadcast).await?;
    let counts: Vec<Count> = sqlx::query_as(
        "select stage, channel, outcome::text as outcome, reason, n from tally where broadcast_id = $1 and n > 0",
    )
    .bind(broadcast.0)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let mut skipped_customers = BTreeMap::new();
    let mut total = Outcomes::default();
    for channel in &channels {
        total.planned += channel.outcomes.planned;
        total.left += channel.outcomes.planned;
    }
    for count in counts {
        if count.stage == "plan" {
            *skipped_customers.entry(count.reason.unwrap_or_default()).or_default() += count.n;
            continue;
        }
        if let Some(channel) = channels.iter_mut().find(|one| Some(one.channel) == count.channel) {
            channel.outcomes.add(&count);
        }
        total.add(&count);
    }
    Ok(Report {
        id: broadcast,
        shop: ShopId(head.shop_id),
        name: head.name,
        purpose: head.purpose,
        mode: head.mode,
        state: head.state,
        reason: head.state_reason,
        resume_state: head.resume_state,
        scheduled_at: head.scheduled_at,
        sending_at: head.sending_at,
        finished_at: head.finished_at,
        deadline_at: head.deadline_at,
        sending_secs: head.sending_secs,
        customers: head.planned_customers,
        skipped_customers,
        channels,
        total,
        tokens: head.tokens,
    })
}

async fn head(conn: &mut PgConnection, broadcast: BroadcastId) -> Result<Option<Head>, sqlx::Error> {
    sqlx::query_as(
        "select b.*, extract(epoch from coalesce(b.finished_at, now()) - b.sending_at)::float8 as sending_secs,
                b.cost_tokens as cost, b.missing_tokens as missing, b.budget_tokens as budget,
                coalesce(h.allowance + h.extra, 0) as held, coalesce(h.open_allowance + h.open_extra, 0) as open,
                coalesce(h.captured_allowance + h.captured_extra, 0) as captured, coalesce(h.released, 0) as released,
                coalesce(h.refunded_allowance + h.refunded_extra, 0) as refunded,
                coalesce(a.allowance - a.held_allowance + a.extra - a.held_extra, 0) as available
           from broadcast b
           left join token_hold h on h.broadcast_id = b.id
           left join token_account a on a.shop_id = b.shop_id
          where b.id = $1",
    )
    .bind(broadcast.0)
    .fetch_optional(conn)
    .await
}

/// Channel, sender's name and state, tokens a message, messages planned, and until when they sleep.
type ChannelRow = (Channel, String, String, i32, i64, Option<DateTime<Utc>>);

async fn channels(conn: &mut PgConnection, broadcast: BroadcastId) -> Result<Vec<ChannelReport>, sqlx::Error> {
    let rows: Vec<ChannelRow> = sqlx::query_as(
        "select c.channel, s.name, concat_ws(': ', s.state, s.state_reason), c.tokens, c.planned,
                (select quiet_until(now(), sh.time_zone, q.starts, q.ends)
                   from lane l
                   join broadcast b on b.id = l.broadcast_id and b.purpose <> 'test' and b.state = 'sending'
                   join shop sh on sh.id = l.shop_id
                   join quiet_hours q on q.shop_id = l.shop_id and q.channel = l.channel
                  where l.broadcast_id = c.broadcast_id and l.channel = c.channel and l.remaining > 0)
           from broadcast_channel c join sender s on s.id = c.sender_id where c.broadcast_id = $1 order by c.position",
    )
    .bind(broadcast.0)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(channel, sender, sender_state, tokens_each, planned, quiet_until)| {
            let outcomes = Outcomes {
                planned,
                left: planned,
                ..Outcomes::default()
            };
            ChannelReport {
                channel,
                sender,
                sender_state,
                tokens_each,
                quiet_until,
                outcomes,
            }
        })
        .collect())
}

impl Outcomes {
    fn add(&mut self, count: &Count) {
        self.left -= count.n;
        let by_reason = match count.outcome.as_str() {
            "failed" => &mut self.failed,
            "skipped" => &mut self.skipped,
            "unknown" => &mut self.unknown,
            "cancelled" => return self.cancelled += count.n,
            "expired" => return self.expired += count.n,
            outcome => {
                // What receipts make of an accepted message is more than accepted, never something else.
                self.accepted += count.n;
                self.delivered += if matches!(outcome, "delivered" | "read") {
                    count.n
                } else {
                    0
                };
                self.read += if outcome == "read" { count.n } else { 0 };
                return;
            }
        };
        *by_reason.entry(count.reason.clone().unwrap_or_default()).or_default() += count.n;
    }

    /// Messages whose sending has ended.
    #[must_use]
    pub const fn ended(&self) -> i64 {
        self.planned - self.left
    }
}

impl Report {
    /// Whether nothing more will be sent: completed, failed, or cancelled with everything given back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state.is_final() && self.finished_at.is_some()
    }
}
