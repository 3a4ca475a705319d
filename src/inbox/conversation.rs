//! Conversations as an operator looks at them: a list by what they are, and one with its messages.
//!
//! Why it exists: the pages of the inbox come from elsewhere; this is what a person asks when something in it looks wrong.
//!
//! It must never change anything.

use std::fmt;

use carillon_jobs::{CustomerId, SenderId, ShopId};
use chrono::{DateTime, Utc};
use sqlx::types::{Json, Uuid};

use super::Ad;
use crate::db::PgPool;

/// Which conversations. Everything given narrows.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a box a person ticks.
pub struct ConversationFilter {
    /// Only of this shop.
    pub shop: Option<ShopId>,
    /// Only on this sender.
    pub sender: Option<SenderId>,
    /// Only of this customer.
    pub customer: Option<CustomerId>,
    /// Only those that show as unread.
    pub unread: bool,
    /// Only starred ones.
    pub starred: bool,
    /// The archive instead of the general list.
    pub archived: bool,
    /// Only those with a phone number.
    pub has_phone: bool,
    /// Only those that came from an advertisement.
    pub from_ad: bool,
    /// Only those nobody has.
    pub unassigned: bool,
}

/// A conversation in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
#[allow(clippy::struct_excessive_bools)] // Each is a column.
pub struct ConversationRow {
    /// Its id.
    pub id: i64,
    /// Whose customer.
    pub shop_id: Uuid,
    /// On which sender.
    pub sender_id: Uuid,
    /// The sender's channel.
    pub channel: String,
    /// With whom.
    pub customer_id: i64,
    /// `social`, `store` or `order`.
    pub kind: String,
    /// The order's number; empty unless it is about one.
    pub order_number: String,
    /// What is shown as unread.
    pub unread: i32,
    /// To follow up.
    pub starred: bool,
    /// In the archive.
    pub archived: bool,
    /// The customer left a phone number.
    pub has_phone: bool,
    /// It came from an advertisement.
    pub from_ad: bool,
    /// Who has it, by the frontend's id.
    pub assigned_to: Option<String>,
    /// When it was last written in.
    pub last_message_at: Option<DateTime<Utc>>,
    /// When the customer last wrote.
    pub last_inbound_at: Option<DateTime<Utc>>,
}

/// A message of a conversation.
#[derive(Clone, sqlx::FromRow)]
pub struct MessageRow {
    /// Its id.
    pub id: i64,
    /// `in` from the customer, `out` from the shop.
    pub direction: String,
    /// When it was written.
    pub sent_at: DateTime<Utc>,
    /// Its text; personal.
    pub text: Option<String>,
    /// What is attached: `[{"kind", "label"?, …}]`.
    pub attachments: Json<Vec<serde_json::Value>>,
    /// Phone numbers in it; personal.
    pub phones: Vec<String>,
    /// When it was last changed.
    pub edited_at: Option<DateTime<Utc>>,
    /// When it was taken back.
    pub unsent_at: Option<DateTime<Utc>>,
    /// Attachments that are kept, that wait to be fetched, that are lost.
    pub media: Vec<i64>,
}

impl fmt::Debug for MessageRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageRow({} {} at {})", self.id, self.direction, self.sent_at)
    }
}

const ROW: &str = "
    select t.id, t.shop_id, t.sender_id, s.channel::text as channel, t.customer_id, t.kind, t.order_number,
           greatest(t.unread, t.marked_unread::int) as unread, t.starred, t.archived, t.has_phone, t.from_ad,
           f.external_id as assigned_to, t.last_message_at, t.last_inbound_at
      from conversation t join sender s on s.id = t.sender_id left join staff f on f.id = t.assigned_staff_id";

/// Conversations, the one written in last first.
pub async fn list(db: &PgPool, filter: &ConversationFilter, limit: i64) -> Result<Vec<ConversationRow>, sqlx::Error> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{ROW} where ($1::uuid is null or t.shop_id = $1) and ($2::uuid is null or t.sender_id = $2)
            and ($3::bigint is null or t.customer_id = $3) and (not $4 or t.unread > 0 or t.marked_unread)
            and (not $5 or t.starred) and t.archived = $6 and (not $7 or t.has_phone) and (not $8 or t.from_ad)
            and (not $9 or t.assigned_staff_id is null)
          order by t.last_message_at desc nulls last, t.id desc limit $10"
    )))
    .bind(filter.shop.map(|shop| shop.0))
    .bind(filter.sender.map(|sender| sender.0))
    .bind(filter.customer.map(|customer| customer.0))
    .bind(filter.unread)
    .bind(filter.starred)
    .bind(filter.archived)
    .bind(filter.has_phone)
    .bind(filter.from_ad)
    .bind(filter.unassigned)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// One conversation.
pub async fn get(db: &PgPool, id: i64) -> Result<Option<ConversationRow>, sqlx::Error> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{ROW} where t.id = $1")))
        .bind(id)
        .fetch_optional(db)
        .await
}

/// Its latest messages, in the order they were written.
pub async fn messages(db: &PgPool, id: i64, limit: i64) -> Result<Vec<MessageRow>, sqlx::Error> {
    sqlx::query_as(
        "select * from (
             select m.id, m.direction, m.sent_at, m.text, m.attachments, m.phones, m.edited_at, m.unsent_at,
                    (select array[count(*) filter (where d.state = 'stored'), count(*) filter (where d.state = 'pending'),
                                  count(*) filter (where d.state = 'failed')] from media d where d.message_id = m.id) as media
               from message m where m.conversation_id = $1 order by m.sent_at desc, m.id desc limit $2) newest
          order by sent_at, id",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// The advertisements it came from, newest first.
pub async fn ads(db: &PgPool, id: i64) -> Result<Vec<Ad>, sqlx::Error> {
    sqlx::query_as(
        "select referred_at, ad_id, title, url, reference from referral where conversation_id = $1
          order by referred_at desc, ad_id desc",
    )
    .bind(id)
    .fetch_all(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_nothing_of_what_was_written() {
        let message = MessageRow {
            id: 7,
            direction: "in".to_owned(),
            sent_at: DateTime::UNIX_EPOCH,
            text: Some("secret".to_owned()),
            attachments: Json(vec!["secret".into()]),
            phones: vec!["secret".to_owned()],
            edited_at: None,
            unsent_at: None,
            media: Vec::new(),
        };
        assert_eq!(format!("{message:?}"), "MessageRow(7 in at 1970-01-01 00:00:00 UTC)");
    }
}
