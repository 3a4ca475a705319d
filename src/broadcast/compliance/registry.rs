//! Who a text message sender is, and which links and numbers it has registered with the carriers.
//!
//! Every change stands in the operators' log. It must never register more than was written down: one link or one number at a time.

use carillon_jobs::SenderId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Uuid;

use crate::{channel::Contacts, db::PgPool};

/// A text message sender with what is recorded of it.
#[derive(Debug, Clone, Serialize)]
pub struct Registry {
    /// The sender.
    pub sender: Uuid,
    /// Its name here.
    pub name: String,
    /// Its shop's name; none: the platform's.
    pub shop: Option<String>,
    /// The registered name, who recorded it and when; none: it may not send.
    pub identity: Option<Identity>,
    /// Links and numbers it has registered.
    pub registered: Vec<Registration>,
}

/// A recorded identity.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// The registered name.
    pub approved_name: String,
    /// Who recorded it.
    pub recorded_by: String,
    /// When.
    pub recorded_at: DateTime<Utc>,
}

/// One registered link or number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Registration {
    /// `link` or `phone`.
    pub kind: String,
    /// Host and path, or the number.
    pub value: String,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No such sender, or it sends no text messages.
    #[error("sender_not_found: there is no text message sender {0}")]
    NoSender(SenderId),
    /// Not one link or number.
    #[error("value_invalid: write one link, such as shop.example/sale, or one phone number, such as 0912345678")]
    Value,
    /// A text is missing or too long.
    #[error("text_invalid: give a name, who records it (at most 60 characters each) and why (at most 300)")]
    Text,
    /// Postgres failed or is away.
    #[error("the database could not be used: {0}")]
    Database(sqlx::Error),
}

/// Whether the database refused what somebody typed.
pub(super) fn is_text_refused(error: &sqlx::Error) -> bool {
    let constraint = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::constraint);
    matches!(
        constraint,
        Some("operator_action_names_its_actor" | "operator_action_has_a_reason" | "sms_identity_has_a_name")
    )
}

fn refused(sender: SenderId, error: sqlx::Error) -> RegistryError {
    let no_data = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == "P0002");
    match error {
        _ if no_data => RegistryError::NoSender(sender),
        error if is_text_refused(&error) => RegistryError::Text,
        error => RegistryError::Database(error),
    }
}

/// Records who a sender is, as the carriers were told.
///
/// # Errors
/// No such sender, or a text that cannot stand in the log.
pub async fn identity(
    pool: &PgPool,
    sender: SenderId,
    name: &str,
    by: &str,
    reason: &str,
) -> Result<(), RegistryError> {
    sqlx::query("select record_sms_identity($1, $2, $3, $4)")
        .bind(sender.0)
        .bind(name.trim())
        .bind(by.trim())
        .bind(reason.trim())
        .execute(pool)
        .await
        .map_err(|error| refused(sender, error))?;
    Ok(())
}

/// Reads one link or one number as it is registered: what a merchant's text is held against.
///
/// # Errors
/// It is neither, or more than one.
pub fn registration(text: &str) -> Result<Registration, RegistryError> {
    let found = Contacts::only(text).ok_or(RegistryError::Value)?;
    let (kind, value) = match (found.links.into_iter().next(), found.phones.into_iter().next()) {
        (Some(link), _) => ("link", link),
        (None, Some(phone)) => ("phone", phone),
        (None, None) => return Err(RegistryError::Value),
    };
    Ok(Registration {
        kind: kind.to_owned(),
        value,
    })
}

/// Records that a link or number is registered. False: it was already.
///
/// # Errors
/// No such sender, or a text that cannot stand in the log.
pub async fn register(
    pool: &PgPool,
    sender: SenderId,
    one: &Registration,
    by: &str,
    reason: &str,
) -> Result<bool, RegistryError> {
    change(pool, sender, one, true, by, reason).await
}

/// Records that a link or number is no longer registered. False: it was not.
///
/// # Errors
/// No such sender, or a text that cannot stand in the log.
pub async fn unregister(
    pool: &PgPool,
    sender: SenderId,
    one: &Registration,
    by: &str,
    reason: &str,
) -> Result<bool, RegistryError> {
    change(pool, sender, one, false, by, reason).await
}

async fn change(
    pool: &PgPool,
    sender: SenderId,
    one: &Registration,
    is_registered: bool,
    by: &str,
    reason: &str,
) -> Result<bool, RegistryError> {
    // The log's line holds the value, too.
    if reason.trim().is_empty() || reason.chars().count() > 280 || one.value.chars().count() > 1_000 {
        return Err(RegistryError::Text);
    }
    sqlx::query_scalar("select register_sms($1, $2, $3, $4, $5, $6)")
        .bind(sender.0)
        .bind(&one.kind)
        .bind(&one.value)
        .bind(is_registered)
        .bind(by.trim())
        .bind(reason.trim())
        .fetch_one(pool)
        .await
        .map_err(|error| refused(sender, error))
}

/// Every text message sender with what is recorded of it.
///
/// # Errors
/// Only the database's.
pub async fn registries(pool: &PgPool) -> Result<Vec<Registry>, sqlx::Error> {
    type Row = (
        Uuid,
        String,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<DateTime<Utc>>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select s.id, s.name, sh.name, i.approved_name, i.recorded_by, i.recorded_at
           from sender s left join shop sh on sh.id = s.shop_id left join sms_identity i on i.sender_id = s.id
          where s.channel = 'sms' order by s.id",
    )
    .fetch_all(pool)
    .await?;
    let mut all = Vec::with_capacity(rows.len());
    for (sender, name, shop, approved_name, recorded_by, recorded_at) in rows {
        let identity = match (approved_name, recorded_by, recorded_at) {
            (Some(approved_name), Some(recorded_by), Some(recorded_at)) => Some(Identity {
                approved_name,
                recorded_by,
                recorded_at,
            }),
            _ => None,
        };
        let registered =
            sqlx::query_as("select kind, value from sms_registration where sender_id = $1 order by kind, value")
                .bind(sender)
                .fetch_all(pool)
                .await?;
        all.push(Registry {
            sender,
            name,
            shop,
            identity,
            registered,
        });
    }
    Ok(all)
}
