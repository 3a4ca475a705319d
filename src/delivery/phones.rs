//! Phone numbers that are stored in another form than the one they have had since `migrations/0026_sms.sql`.
//!
//! Why it exists: one person under two spellings would get a text message twice, and a STOP would close one of the two. Whoever
//! writes an address now writes the one form; what was stored before is brought into it here, a few at a time.
//!
//! It must never hold a lock for longer than a moment, and never let an address be open that was closed in either form.

use crate::db::{self, PgPool};

/// Addresses in one short transaction, and transactions of one call.
const STEP: i32 = 25;
const STEPS: u32 = 8;

/// Brings the next addresses into the one form, and says how many. Anybody may call it, any number at once; when nothing is left it asks
/// one question of an empty table.
///
/// # Errors
/// Only the database's.
pub async fn normalise(pool: &PgPool) -> sqlx::Result<u64> {
    db::in_steps(pool, "select normalise_phones($1)", STEP, STEPS).await
}
