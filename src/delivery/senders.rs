//! Senders as an operator sees them: which there are, whether they send, and how fast they may.
//!
//! A sender is paused by a person ([`crate::pause`]), or by a worker whose provider refused its credentials or quota
//! ([`super::store::pause_sender`]). Nothing here may change what was planned: a paused sender's lanes wait, they do not end.

use carillon_jobs::{SenderId, ShopId};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, types::Uuid};

use crate::{
    channel::{Channel, Sender},
    db::PgPool,
    limit::{Call, LimitKey, PerSecond},
    secret::Secrets,
};

/// Whether a sender sends. Stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SenderState {
    /// It does.
    Connected,
    /// Its lanes wait until a person resumes it.
    Paused,
    /// Its account is gone; who was planned on it is skipped.
    Disconnected,
}

impl SenderState {
    /// The name in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Paused => "paused",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A sender, without its credentials.
#[derive(Debug, Clone, PartialEq)]
pub struct SenderOverview {
    /// Its id.
    pub id: SenderId,
    /// Its shop's id and name; `None`: it belongs to the platform.
    pub shop: Option<(ShopId, String)>,
    /// Its channel.
    pub channel: Channel,
    /// Its name.
    pub name: String,
    /// Whether broadcasts use it by default.
    pub is_primary: bool,
    /// Whether it sends.
    pub state: SenderState,
    /// Why it does not.
    pub reason: Option<String>,
    /// Its own rate, in place of the channel's.
    pub rate_per_sec: Option<f64>,
    /// Messages of broadcasts under way that wait for it.
    pub waiting: i64,
    /// Lanes of it that rest because nothing gets through to its provider.
    pub resting: i64,
    /// When the first of them probes with one message.
    pub probes_at: Option<DateTime<Utc>>,
}

/// Which senders. Fields that are `None` do not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SenderFilter {
    /// Those with these ids.
    pub ids: Option<Vec<SenderId>>,
    /// Of this shop.
    pub shop: Option<ShopId>,
    /// On this channel.
    pub channel: Option<Channel>,
    /// In this state.
    pub state: Option<SenderState>,
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    shop_id: Option<Uuid>,
    shop_name: Option<String>,
    channel: Channel,
    name: String,
    is_primary: bool,
    state: SenderState,
    state_reason: Option<String>,
    rate_per_sec: Option<f64>,
    waiting: i64,
    resting: i64,
    probes_at: Option<DateTime<Utc>>,
}

/// The senders that match: the platform's first, then shop by shop.
pub async fn list(db: &PgPool, filter: &SenderFilter) -> sqlx::Result<Vec<SenderOverview>> {
    let ids: Option<Vec<Uuid>> = filter.ids.as_ref().map(|ids| ids.iter().map(|id| id.0).collect());
    let rows: Vec<Row> = sqlx::query_as(
        "select s.id, s.shop_id, sh.name as shop_name, s.channel, s.name, s.is_primary, s.state, s.state_reason,
                s.rate_per_sec, coalesce(w.waiting, 0)::bigint as waiting, coalesce(w.resting, 0) as resting, w.probes_at
           from sender s
           left join shop sh on sh.id = s.shop_id
           left join (select sender_id, sum(remaining) as waiting, count(*) filter (where strikes > 0) as resting,
                             min(due_at) filter (where strikes > 0) as probes_at
                        from lane where remaining > 0 group by sender_id) w
                  on w.sender_id = s.id
          where ($1::uuid[] is null or s.id = any($1)) and ($2::uuid is null or s.shop_id = $2)
            and ($3::channel is null or s.channel = $3) and ($4::text is null or s.state = $4)
          order by sh.name nulls first, s.shop_id, s.channel, not s.is_primary, s.name, s.id",
    )
    .bind(ids)
    .bind(filter.shop.map(|shop| shop.0))
    .bind(filter.channel)
    .bind(filter.state)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(overview).collect())
}

/// Opens a sender's credentials. `None`: there is no such sender. The inner error says why its account cannot be used, never
/// a secret.
///
/// # Errors
/// Only the database's.
pub async fn open(db: &PgPool, secrets: &Secrets, id: SenderId) -> sqlx::Result<Option<Result<Sender, String>>> {
    let row: Option<(Channel, Vec<u8>)> = sqlx::query_as("select channel, credentials from sender where id = $1")
        .bind(id.0)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(channel, sealed)| {
        let plain = secrets
            .open(&sealed, id.0)
            .map_err(|error| format!("credentials: {error}"))?;
        let text = String::from_utf8(plain).map_err(|_| "credentials: not a text".to_owned())?;
        Sender::parse(id, channel, &text).map_err(|error| format!("credentials: {error}"))
    }))
}

fn overview(row: Row) -> SenderOverview {
    SenderOverview {
        id: SenderId(row.id),
        shop: row.shop_id.map(ShopId).zip(row.shop_name),
        channel: row.channel,
        name: row.name,
        is_primary: row.is_primary,
        state: row.state,
        reason: row.state_reason,
        rate_per_sec: row.rate_per_sec,
        waiting: row.waiting,
        resting: row.resting,
        probes_at: row.probes_at,
    }
}

/// The buckets a sender on this channel counts against: LINE counts multicasts apart.
#[must_use]
pub fn calls(channel: Channel) -> &'static [Call] {
    match channel {
        Channel::Line => &[Call::Single, Call::Multicast],
        Channel::App | Channel::Messenger | Channel::Whatsapp | Channel::Sms | Channel::Email => &[Call::Single],
    }
}

impl super::Delivery {
    /// The bucket of one kind of request and the rate that applies: the sender's own, else the provider's published
    /// one. LINE counts multicasts apart, so a sender's own rate speaks of single requests.
    #[must_use]
    pub fn limit_key(&self, sender: SenderId, channel: Channel, call: Call, own: Option<f64>) -> LimitKey {
        let limits = &self.limit_config;
        let own = own.and_then(|rate| PerSecond::try_from(rate).ok());
        let rate = match (channel, call) {
            (Channel::Line, Call::Multicast) => limits.line_multicast_per_sec,
            (Channel::Line, Call::Single) => own.unwrap_or(limits.line_push_per_sec),
            (Channel::App, _) => own.unwrap_or(limits.app_per_sec),
            (Channel::Messenger, _) => own.unwrap_or(limits.messenger_per_sec),
            (Channel::Whatsapp, _) => own.unwrap_or(limits.whatsapp_per_sec),
            (Channel::Sms, _) => own.unwrap_or(limits.sms_per_sec),
            (Channel::Email, _) => own.unwrap_or(limits.email_per_sec),
        };
        LimitKey {
            sender,
            call,
            rate,
            shop: None,
        }
    }
}
