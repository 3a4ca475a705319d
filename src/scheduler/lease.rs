//! Which scheduler looks at the schedules: a row with a lease and a term.
//!
//! It only saves the others the work. It must never be what makes a period run once: that is the period's own row, so a
//! leader that was frozen and comes back, or two of them, do no harm. Schedulers with different lists, as in the middle of
//! a release, do not lead each other: a leader that does not know a schedule would keep it from everybody.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Uuid;

use crate::db::PgPool;

/// One scheduler's claim to lead those with its list.
#[derive(Debug, Clone)]
pub struct Leader {
    holder: Uuid,
    list: String,
    lease: Duration,
}

/// Who leads, as the row says.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Leading {
    /// The scheduler, new at each start.
    pub holder: Uuid,
    /// How many have led, this one included.
    pub term: i64,
    /// Until when.
    pub lease_until: DateTime<Utc>,
    /// Whether that is still ahead.
    pub in_force: bool,
}

impl Leader {
    /// A scheduler that has just started, with the list of this fingerprint.
    #[must_use]
    pub fn new(list: &str, lease: Duration) -> Self {
        Self {
            holder: Uuid::now_v7(),
            list: list.to_owned(),
            lease,
        }
    }

    /// Takes or renews the lead; the term, or `None` while another one leads.
    pub async fn lead(&self, db: &PgPool) -> sqlx::Result<Option<i64>> {
        // A lease that reaches further than any can was written under a clock that was ahead and has been put back.
        sqlx::query_scalar(
            "insert into scheduler_lease as l (list, holder, term, lease_until)
             values ($1, $2, 1, now() + $3 * interval '1 second')
             on conflict (list) do update
                set holder = excluded.holder, lease_until = excluded.lease_until,
                    term = l.term + (l.holder <> excluded.holder)::int
              where l.holder = excluded.holder or l.lease_until <= now() or l.lease_until > excluded.lease_until + interval '1 minute'
             returning term",
        )
        .bind(&self.list)
        .bind(self.holder)
        .bind(self.lease.as_secs_f64())
        .fetch_optional(db)
        .await
    }

    /// Lets the next one lead at once.
    pub async fn leave(&self, db: &PgPool) -> sqlx::Result<()> {
        sqlx::query("update scheduler_lease set lease_until = now() where list = $1 and holder = $2")
            .bind(&self.list)
            .bind(self.holder)
            .execute(db)
            .await?;
        // Lists of releases long gone.
        sqlx::query("delete from scheduler_lease where lease_until < now() - interval '30 days'")
            .execute(db)
            .await?;
        Ok(())
    }
}

/// Who leads the schedulers with this list.
pub async fn leading(db: &PgPool, list: &str) -> sqlx::Result<Option<Leading>> {
    sqlx::query_as(
        "select holder, term, lease_until, lease_until > now() as in_force from scheduler_lease where list = $1",
    )
    .bind(list)
    .fetch_optional(db)
    .await
}
