//! What LINE still lets an account send this month: asked, kept, reserved.
//!
//! Why it exists: LINE refuses what goes beyond an account's plan, in the middle of a broadcast. So it is asked before a broadcast
//! starts, and a broadcast that does not fit is refused with the number that is missing. What was let start is reserved until
//! LINE's own figure holds it, so that two broadcasts never share what is left. Only messages to many are counted; replies are not.
//!
//! What is done when LINE does not answer: its last word counts for `KNOWN_FOR`, with the time of it shown wherever the figure is.
//! Without one the broadcast waits, already planned, and LINE is asked again; after `PATIENCE` it fails, and nothing has left. Where
//! LINE refuses the account itself there is nothing to protect: no message can leave before a person has looked, so the broadcast
//! opens, its other channels go, and the lane waits with the sender paused.
//!
//! It must never be asked while a transaction is open.

use std::{sync::Arc, time::Duration};

use carillon_jobs::{BroadcastId, SenderId};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use sqlx::FromRow;

use super::{create::NewBroadcast, routing_sql::Route};
use crate::{
    channel::{Channel, Channels, ErrorClass},
    db::{PgConnection, PgPool},
    delivery::senders,
    prices::Prices,
    secret::Secrets,
};

/// How long LINE's last word counts when it says nothing.
const KNOWN_FOR: Duration = Duration::from_hours(24);
/// How long a planned broadcast waits for LINE's first word.
const PATIENCE: Duration = Duration::from_mins(10);
/// When it is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Asks LINE and keeps what it says; clones share the parts.
#[derive(Clone)]
pub struct LineQuota {
    /// Postgres.
    pub db: PgPool,
    /// The providers.
    pub channels: Arc<Channels>,
    /// Opens the senders' credentials.
    pub secrets: Arc<Secrets>,
}

impl std::fmt::Debug for LineQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineQuota")
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// LINE answered, and its figures are kept.
    Answered,
    /// LINE refuses the account, or its credentials cannot be used: a person has to look.
    Refused(String),
    /// No answer for this long, or none as promised.
    Silent(Duration),
}

/// What a broadcast may do about its LINE messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Figures are known: they decide.
    Checked,
    /// There is nothing to ask, or nobody who would take a message.
    Unchecked,
    /// Nothing is known yet.
    NotYet,
    /// Nothing was known for too long.
    Never,
}

/// An account's month as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct QuotaView {
    /// Messages of the month; none: no limit, or nothing is known.
    pub may_send: Option<i64>,
    /// Counted by LINE; none: nothing is known.
    pub used: Option<i64>,
    /// Promised to broadcasts that are under way.
    pub reserved: i64,
    /// When LINE said so.
    pub read_at: Option<DateTime<Utc>>,
    /// Since when LINE does not answer.
    pub failing_since: Option<DateTime<Utc>>,
    /// What it said instead.
    pub failure: Option<String>,
}

impl QuotaView {
    /// Messages that can still be sent; none: no limit, or nothing is known.
    #[must_use]
    pub fn left(&self) -> Option<i64> {
        Some((self.may_send? - self.used? - self.reserved).max(0))
    }
}

/// What an estimate says of LINE's own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineEstimate {
    /// The account.
    pub sender: SenderId,
    /// Its plan, by its limit; none: no plan has this limit.
    pub plan: Option<String>,
    /// What is known of its month.
    #[serde(flatten)]
    pub quota: QuotaView,
    /// Messages it can still send; none: no limit, or nothing is known.
    pub left: Option<i64>,
    /// How many messages of this broadcast do not fit; 0: all do, as far as is known.
    pub missing: i64,
    /// What LINE charges the shop for this broadcast beyond the plan, in thousandths of a TWD before tax; none: not known.
    pub charge_milli_twd: Option<u64>,
}

impl LineQuota {
    /// Asks LINE about an account and keeps the answer.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn ask(&self, sender: SenderId) -> Result<Asked, sqlx::Error> {
        let account = match senders::open(&self.db, &self.secrets, sender).await? {
            None => return Ok(Asked::Refused("there is no such sender".to_owned())),
            Some(Err(problem)) => return Ok(Asked::Refused(problem)),
            Some(Ok(account)) => account,
        };
        let (asked_at, sent): (DateTime<Utc>, serde_json::Value) =
            sqlx::query_as("select asked_at, sent from line_before_asking($1)")
                .bind(sender.0)
                .fetch_one(&self.db)
                .await?;
        match self.channels.line_quota(&account).await {
            Ok(reading) => {
                sqlx::query("select line_quota_read($1, $2, $3, $4, $5)")
                    .bind(sender.0)
                    .bind(reading.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)))
                    .bind(i64::try_from(reading.used).unwrap_or(i64::MAX))
                    .bind(asked_at)
                    .bind(sent)
                    .execute(&self.db)
                    .await?;
                Ok(Asked::Answered)
            }
            Err(refusal) => {
                let failure = format!("{}: {}", refusal.class, refusal.code);
                let secs: f64 = sqlx::query_scalar("select line_quota_failed($1, $2)")
                    .bind(sender.0)
                    .bind(&failure)
                    .fetch_one(&self.db)
                    .await?;
                Ok(match refusal.class {
                    ErrorClass::Credentials | ErrorClass::Content | ErrorClass::Recipient | ErrorClass::Quota => {
                        Asked::Refused(failure)
                    }
                    ErrorClass::Throttled | ErrorClass::Unreachable | ErrorClass::Uncertain => {
                        Asked::Silent(Duration::try_from_secs_f64(secs).unwrap_or_default())
                    }
                })
            }
        }
    }

    /// Asks for a plan that is about to open.
    pub(super) async fn known_for(&self, route: &Route) -> Result<Known, sqlx::Error> {
        let Some(leg) = route.legs.iter().find(|leg| leg.channel == Channel::Line) else {
            return Ok(Known::Unchecked);
        };
        let silent = match self.ask(leg.sender).await? {
            Asked::Answered => return Ok(Known::Checked),
            Asked::Refused(problem) => {
                tracing::warn!(sender.id = %leg.sender, problem, "LINE's quota was not asked; its lane will wait for a person");
                return Ok(Known::Unchecked);
            }
            Asked::Silent(silent) => silent,
        };
        let remembered: bool = sqlx::query_scalar(
            "select coalesce((select read_at > now() - interval '1 second' * $2 from line_quota where sender_id = $1), false)",
        )
        .bind(leg.sender.0)
        .bind(KNOWN_FOR.as_secs_f64())
        .fetch_one(&self.db)
        .await?;
        Ok(match (remembered, silent < PATIENCE) {
            (true, _) => Known::Checked,
            (false, true) => Known::NotYet,
            (false, false) => Known::Never,
        })
    }

    /// Asks about the LINE account of a broadcast somebody wants to make, so that its estimate is of now. What LINE does not answer
    /// is said by the estimate itself.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn ask_for_new(&self, new: &NewBroadcast) -> Result<(), sqlx::Error> {
        let Some((_, named)) = new.channels.iter().find(|(channel, _)| *channel == Channel::Line) else {
            return Ok(());
        };
        let sender: Option<sqlx::types::Uuid> = sqlx::query_scalar(
            "select id from sender where channel = 'line' and state <> 'disconnected'
                and case when $2::uuid is null then is_primary and (shop_id = $1 or shop_id is null) else id = $2 end
              order by shop_id nulls last limit 1",
        )
        .bind(new.shop.0)
        .bind(named.map(|sender| sender.0))
        .fetch_optional(&self.db)
        .await?;
        self.ask_if(sender).await
    }

    /// The same for a stored broadcast.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn ask_for_stored(&self, broadcast: BroadcastId) -> Result<(), sqlx::Error> {
        let sender = sqlx::query_scalar(
            "select c.sender_id from broadcast_channel c join sender s on s.id = c.sender_id
              where c.broadcast_id = $1 and c.channel = 'line' and s.channel = 'line' and s.state <> 'disconnected'",
        )
        .bind(broadcast.0)
        .fetch_optional(&self.db)
        .await?;
        self.ask_if(sender).await
    }

    async fn ask_if(&self, sender: Option<sqlx::types::Uuid>) -> Result<(), sqlx::Error> {
        if let Some(sender) = sender {
            self.ask(SenderId(sender)).await?;
        }
        Ok(())
    }
}

/// What is known of an account's month; none: it was never asked.
///
/// # Errors
/// Only the database's.
pub async fn quota_view(conn: &mut PgConnection, sender: SenderId) -> Result<Option<QuotaView>, sqlx::Error> {
    sqlx::query_as(
        "select may_send, used, line_reserved(sender_id) as reserved, read_at, failing_since, failure
           from line_quota where sender_id = $1",
    )
    .bind(sender.0)
    .fetch_optional(conn)
    .await
}

/// What an estimate says of the LINE account of a route, where it has one that was asked.
pub(super) async fn estimate(
    conn: &mut PgConnection,
    route: &Route,
    messages: i64,
    prices: &Prices,
    day: NaiveDate,
) -> Result<Option<LineEstimate>, sqlx::Error> {
    let Some(leg) = route.legs.iter().find(|leg| leg.channel == Channel::Line) else {
        return Ok(None);
    };
    let Some(quota) = quota_view(conn, leg.sender).await? else {
        return Ok(None);
    };
    Ok(Some(judge(leg.sender, quota, messages, prices, day)))
}

/// What figures mean for so many messages (pure).
fn judge(sender: SenderId, quota: QuotaView, messages: i64, prices: &Prices, day: NaiveDate) -> LineEstimate {
    let limit = quota.may_send.and_then(|limit| u64::try_from(limit).ok());
    let plans = quota.read_at.and(prices.line_plans_at(day));
    let plan = plans.and_then(|plans| plans.of_limit(limit));
    let taken = quota.used.map(|used| u64::try_from(used + quota.reserved).unwrap_or(0));
    let wanted = u64::try_from(messages).unwrap_or(0);
    LineEstimate {
        sender,
        plan: plan.map(|plan| plan.name.clone()),
        left: quota.left(),
        missing: quota.left().map_or(0, |left| (messages - left).max(0)),
        charge_milli_twd: plan
            .zip(taken)
            .and_then(|(plan, taken)| plan.added_milli_twd(taken, wanted)),
        quota,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{QuotaView, judge};
    use crate::prices::Prices;

    fn view(may_send: Option<i64>, used: i64, reserved: i64) -> QuotaView {
        QuotaView {
            may_send,
            used: Some(used),
            reserved,
            read_at: Some(chrono::Utc::now()),
            failing_since: None,
            failure: None,
        }
    }

    #[test]
    fn an_estimate_says_what_is_left_what_is_missing_and_what_line_charges() {
        let prices = Prices::embedded().unwrap();
        let day = "2026-11-22".parse().unwrap();
        // (limit, used, reserved, messages) → (plan, left, missing, thousandths of a TWD)
        for ((limit, used, reserved, messages), wanted) in [
            ((Some(200), 0, 0, 200), (Some("light"), Some(200), 0, Some(0))),
            ((Some(200), 150, 0, 51), (Some("light"), Some(50), 1, None)),
            ((Some(3_000), 2_000, 500, 500), (Some("medium"), Some(500), 0, Some(0))),
            ((Some(3_000), 2_000, 500, 600), (Some("medium"), Some(500), 100, None)),
            (
                (Some(6_000), 5_000, 0, 1_001),
                (Some("high"), Some(1_000), 1, Some(200)),
            ),
            (
                (Some(9_000), 5_000, 0, 3_000),
                (Some("high"), Some(4_000), 0, Some(2_000 * 200)),
            ),
            ((None, 7_000, 1_000, 10), (Some("high"), None, 0, Some(2_000))),
            ((Some(777), 777, 0, 1), (None, Some(0), 1, None)),
        ] {
            let sender = carillon_jobs::SenderId::new();
            let one = judge(sender, view(limit, used, reserved), messages, &prices, day);
            let got = (one.plan.as_deref(), one.left, one.missing, one.charge_milli_twd);
            assert_eq!(got, wanted, "{limit:?} {used} {reserved} {messages}");
        }
    }

    #[test]
    fn before_line_has_said_anything_nothing_is_said() {
        let prices = Prices::embedded().unwrap();
        let nothing = QuotaView {
            used: None,
            read_at: None,
            ..view(None, 0, 0)
        };
        let sender = carillon_jobs::SenderId::new();
        let one = judge(sender, nothing, 10, &prices, "2026-11-22".parse().unwrap());
        assert_eq!(
            (one.plan, one.left, one.missing, one.charge_milli_twd),
            (None, None, 0, None)
        );
    }
}
