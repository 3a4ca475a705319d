//! Whether a stored account is connected as it has to be: its credentials opened, its provider asked, its shop's pages counted.
//!
//! Why it exists: an operator on the command line and a merchant in the console ask the same question and get the same findings.
//!
//! It must never hold a transaction while a provider is asked.

use carillon_jobs::SenderId;
use sqlx::FromRow;

use super::Delivery;
use crate::channel::{Channel, Checked, Expected, Finding, FindingState, Sender};

/// The most Facebook pages a shop connects: 1 primary and 9 more. The database refuses another one (`page_limit`).
pub const PAGES: i64 = 10;

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There is none.
    #[error("there is no sender {0}")]
    NoSender(SenderId),
    /// Nothing is asked of this channel's provider.
    #[error("of {0} accounts nothing is asked: a test message shows whether they work")]
    NoCheck(Channel),
    /// The credentials cannot be opened or read; never holds a value.
    #[error("{0}")]
    Credentials(String),
    /// The database.
    #[error("{}", crate::db::describe(.0))]
    Database(#[from] sqlx::Error),
}

#[derive(FromRow)]
struct Row {
    channel: Channel,
    credentials: Vec<u8>,
    is_primary: bool,
    pages: i64,
}

/// Checks one account; `mend`: sets right what the provider lets us set right.
///
/// # Errors
/// There is nothing to check, or it cannot be read. What the provider refuses is a finding.
pub async fn check(delivery: &Delivery, id: SenderId, mend: bool) -> Result<Checked, ConnectionError> {
    let row: Option<Row> = sqlx::query_as(
        "select s.channel, s.credentials, s.is_primary,
                (select count(*) from sender o where o.shop_id = s.shop_id and o.channel = 'messenger' and o.state <> 'disconnected')
                    as pages
           from sender s where s.id = $1",
    )
    .bind(id.0)
    .fetch_optional(&delivery.db)
    .await?;
    let row = row.ok_or(ConnectionError::NoSender(id))?;
    let opened = delivery.secrets.open(&row.credentials, id.0);
    let json = opened.map_err(|error| ConnectionError::Credentials(format!("credentials: {error}")))?;
    let json =
        String::from_utf8(json).map_err(|_| ConnectionError::Credentials("credentials: not a text".to_owned()))?;
    let sender = Sender::parse(id, row.channel, &json)
        .map_err(|error| ConnectionError::Credentials(format!("credentials: {error}")))?;
    let webhook_url = format!(
        "{}/webhooks/{}/{id}",
        delivery.public_url.trim_end_matches('/'),
        row.channel
    );
    let expected = Expected {
        webhook_url: Some(&webhook_url),
        mend,
    };
    let checked = delivery.channels.check(&sender, expected).await;
    let mut checked = checked.ok_or(ConnectionError::NoCheck(row.channel))?;
    if row.channel == Channel::Messenger {
        checked.findings.push(pages(row.pages, row.is_primary));
    }
    Ok(checked)
}

/// How many pages the shop has, and which of them this one is.
fn pages(count: i64, is_primary: bool) -> Finding {
    let (zh, en) = if is_primary {
        ("主要", "the primary page")
    } else {
        ("次要", "a secondary page")
    };
    Finding {
        id: "pages",
        state: FindingState::Good,
        zh: format!("這是{zh}粉絲專頁；商店已連結 {count} 個，最多 {PAGES} 個（1 個主要、9 個次要）。"),
        en: format!("This is {en}; the shop has connected {count} of at most {PAGES} (1 primary, 9 secondary)."),
    }
}
