//! Events become conversations and messages.

use carillon_jobs::SenderId;

use crate::{channel::webhook::WebhookEvent, db::Transaction};

/// Applies events of one sender, each once however often it is told.
///
/// # Errors
/// Postgres refused; the transaction is of no use any more.
pub async fn apply(_tx: &mut Transaction, _sender: SenderId, _events: &[WebhookEvent]) -> Result<(), sqlx::Error> {
    Ok(())
}
