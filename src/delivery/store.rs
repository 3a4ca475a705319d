//! The delivery pipeline's calls to Postgres: one round trip and one transaction each (`migrations/0006_send.sql`).
//!
//! Nothing here may be called while a provider is being waited for inside a transaction: there is no way to, since
//! every call begins and ends its own.

use std::time::Duration;

use carillon_jobs::{BroadcastId, SenderId, ShopId};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, types::Uuid};

use crate::{
    channel::{self, Channel},
    db::PgPool,
};

/// What a lane's worker is to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneMode {
    /// Send.
    Send,
    /// The broadcast was cancelled: end the rest as `cancelled`.
    DrainCancelled,
    /// The deadline has passed: end the rest as `expired`.
    DrainExpired,
}

/// A lane whose lease is ours.
#[derive(Debug, Clone)]
pub struct TakenLane {
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// The sender.
    pub sender: SenderId,
    /// The sender's channel.
    pub channel: Channel,
    /// Fencing number of this lease.
    pub epoch: i32,
    /// What to do.
    pub mode: LaneMode,
    /// Failing windows in a row so far.
    pub strikes: u32,
    /// Deliveries left on it.
    pub remaining: u64,
    /// Whose broadcast it is.
    pub shop: ShopId,
    /// The sender belongs to the platform: shops take turns on it.
    pub shared: bool,
    /// Other shops that wait for a place on the same shared sender.
    pub rivals: u32,
}

/// How many lanes may be in the ready list or at work at once.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// Of one shop.
    pub per_shop: u32,
    /// Of all shops on one sender of the platform.
    pub per_sender: u32,
    /// After which a bell that nobody answered holds no place any more.
    pub bell_stale: Duration,
}

/// Which lanes to ring for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ringing {
    /// All.
    Everybody,
    /// Those of a shop.
    Shop(ShopId),
    /// Those of the broadcast's shop and, where a turn on this sender has ended, those that want the sender.
    Beside(BroadcastId, Option<SenderId>),
}

/// A slice whose lease is ours, its first intent committed.
#[derive(Debug, FromRow)]
pub struct ClaimedSlice {
    /// Its number within (broadcast, channel).
    pub slice_no: i32,
    /// Fencing number of this claim.
    pub epoch: i32,
    /// Number of the intent; a repeat has the number it had. Negative: its members are sent to one by one, whatever the
    /// channel can do.
    pub intent_no: i32,
    /// How often this intent has been repeated.
    pub repeats: i32,
    /// Customers of the intent, ascending.
    pub in_flight: Vec<i64>,
    /// Every member without a result, ascending; the five lists are parallel.
    pub customers: Vec<i64>,
    /// Their addresses' ids.
    pub address_ids: Vec<i64>,
    /// Their addresses.
    pub addresses: Vec<String>,
    /// Their first names, as they are now.
    pub first_names: Vec<String>,
    /// Their last names.
    pub last_names: Vec<String>,
}

/// Whether the multicast to the members of an intent was refused.
pub(super) const fn one_by_one(intent_no: i32) -> bool {
    intent_no < 0
}

impl ClaimedSlice {
    /// Where a customer stands in the parallel lists.
    pub(super) fn place(&self, customer: i64) -> Option<usize> {
        self.customers.binary_search(&customer).ok()
    }
}

#[derive(FromRow)]
struct TurnRow {
    channel: Channel,
    epoch: i32,
    mode: String,
    strikes: i32,
    remaining: i64,
    shop_id: Uuid,
    shared: bool,
    rivals: i32,
}

/// Takes the lane's lease for a turn, if there is something to do on it now and, on a shared sender, it was rung for.
pub async fn take_lane(
    db: &PgPool,
    broadcast: BroadcastId,
    sender: SenderId,
    lease: Duration,
) -> sqlx::Result<Option<TakenLane>> {
    let row: Option<TurnRow> = sqlx::query_as(
        "select channel, epoch, mode, strikes, remaining, shop_id, shared, rivals from begin_turn($1, $2, $3)",
    )
    .bind(broadcast.0)
    .bind(sender.0)
    .bind(lease.as_secs_f64())
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| TakenLane {
        broadcast,
        sender,
        channel: row.channel,
        epoch: row.epoch,
        mode: match row.mode.as_str() {
            "cancelled" => LaneMode::DrainCancelled,
            "expired" => LaneMode::DrainExpired,
            _ => LaneMode::Send,
        },
        strikes: u32::try_from(row.strikes).unwrap_or(0),
        remaining: u64::try_from(row.remaining).unwrap_or(0),
        shop: ShopId(row.shop_id),
        shared: row.shared,
        rivals: u32::try_from(row.rivals).unwrap_or(0),
    }))
}

/// Extends the leases of a turn: its lane's and its slices'. False when the lane is no longer ours.
pub async fn renew_lane(db: &PgPool, lane: &TakenLane, lease: Duration) -> sqlx::Result<bool> {
    sqlx::query_scalar("select renew_lane($1, $2, $3, $4)")
        .bind(lane.broadcast.0)
        .bind(lane.sender.0)
        .bind(lane.epoch)
        .bind(lease.as_secs_f64())
        .fetch_one(db)
        .await
}

/// Whether the broadcast still sends, and neither its sender nor its shop nor everything was paused. A disconnected sender
/// goes on: what is left on it is skipped.
pub async fn is_sending(db: &PgPool, lane: &TakenLane) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from broadcast where id = $1 and state = 'sending' and deadline_at > now())
            and exists (select from sender where id = $2 and state <> 'paused') and not sending_is_paused($3)",
    )
    .bind(lane.broadcast.0)
    .bind(lane.sender.0)
    .bind(lane.shop.0)
    .fetch_one(db)
    .await
}

/// Gives the lane back, due again after `wait` or when its first slice can be claimed, whichever is later. Returns
/// that time; `None` when the lane was no longer ours.
pub async fn leave_lane(
    db: &PgPool,
    lane: &TakenLane,
    wait: Duration,
    strikes: u32,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar("select leave_lane($1, $2, $3, $4, $5)")
        .bind(lane.broadcast.0)
        .bind(lane.sender.0)
        .bind(lane.epoch)
        .bind(wait.as_secs_f64())
        .bind(i32::try_from(strikes).unwrap_or(i32::MAX))
        .fetch_one(db)
        .await
}

/// Marks and returns the lanes to ring for, as many as there are places; `None` when there is no such broadcast.
pub async fn lanes_to_ring(
    db: &PgPool,
    ringing: Ringing,
    places: Places,
) -> sqlx::Result<Option<Vec<(BroadcastId, SenderId)>>> {
    let (shop, sender) = match ringing {
        Ringing::Everybody => (None, None),
        Ringing::Shop(shop) => (Some(shop.0), None),
        Ringing::Beside(broadcast, sender) => {
            let shop: Option<Uuid> = sqlx::query_scalar("select shop_id from broadcast where id = $1")
                .bind(broadcast.0)
                .fetch_optional(db)
                .await?;
            match shop {
                Some(shop) => (Some(shop), sender.map(|sender| sender.0)),
                None => return Ok(None),
            }
        }
    };
    let rows: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select broadcast_id, sender_id from lanes_to_ring($1, $2, $3, $4, $5)")
            .bind(shop)
            .bind(sender)
            .bind(i32::try_from(places.per_shop).unwrap_or(i32::MAX))
            .bind(i32::try_from(places.per_sender).unwrap_or(i32::MAX))
            .bind(places.bell_stale.as_secs_f64())
            .fetch_all(db)
            .await?;
    let lanes = rows
        .into_iter()
        .map(|(broadcast, sender)| (BroadcastId(broadcast), SenderId(sender)));
    Ok(Some(lanes.collect()))
}

/// Claims the lane's next slice and commits the intent to send its first `window` members.
///
/// No more than `most` members are read, where that is said; the others stay for another claim of the slice.
/// `key_life` is how long the provider remembers our keys, zero if it has none; `same_body`: who was renamed
/// since the first attempt cannot be repeated.
pub async fn claim_slice(
    db: &PgPool,
    lane: &TakenLane,
    (window, most): (u32, Option<u32>),
    lease: Duration,
    key_life: Duration,
    same_body: bool,
) -> sqlx::Result<Option<ClaimedSlice>> {
    let slice: Option<ClaimedSlice> = sqlx::query_as("select * from claim_slice($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(lane.broadcast.0)
        .bind(lane.channel)
        .bind(lane.epoch)
        .bind(i32::try_from(window).unwrap_or(i32::MAX))
        .bind(lease.as_secs_f64())
        .bind(key_life.as_secs_f64())
        .bind(same_body)
        .bind(most.map(|most| i32::try_from(most).unwrap_or(i32::MAX)))
        .fetch_optional(db)
        .await?;
    Ok(slice)
}

/// Ends one slice without sending; false when there is none left to end now.
pub async fn drain_slice(db: &PgPool, lane: &TakenLane, outcome: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select drain_slice($1, $2, $3::text::delivery_state)")
        .bind(lane.broadcast.0)
        .bind(lane.channel)
        .bind(outcome)
        .fetch_one(db)
        .await
}

/// Stops sending to addresses the provider calls dead. The next broadcast would find out again if this were lost.
pub async fn suppress_addresses(db: &PgPool, dead: &[(i64, String)]) -> sqlx::Result<()> {
    let (ids, codes): (Vec<i64>, Vec<&str>) = dead.iter().map(|(id, code)| (*id, code.as_str())).unzip();
    // Who said STOP to the provider itself has opted out; nobody else's word opens that address again.
    let states: Vec<&str> = codes
        .iter()
        .map(|code| {
            if channel::says_stop(code) {
                "opted_out"
            } else {
                "suppressed"
            }
        })
        .collect();
    sqlx::query(
        "select close_address(t.id, t.state, t.code) from unnest($1::bigint[], $2::text[], $3::text[]) as t (id, state, code)",
    )
    .bind(ids)
    .bind(states)
    .bind(codes)
    .execute(db)
    .await?;
    Ok(())
}

/// Pauses a sender until a person acts. `reason` names the class and the provider's code. False: it was not connected.
pub async fn pause_sender(db: &PgPool, sender: SenderId, reason: &str) -> sqlx::Result<bool> {
    let paused =
        sqlx::query("update sender set state = 'paused', state_reason = $2 where id = $1 and state = 'connected'")
            .bind(sender.0)
            .bind(reason)
            .execute(db)
            .await?;
    Ok(paused.rows_affected() > 0)
}
