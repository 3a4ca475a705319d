//! Looks at the run several times a second: on which channels messages wait that could be sent, and whether work of
//! somebody who has gone waits for a new owner.
//! It must never change anything, and a database that is away is no sample: the last one stays true.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::Row as _;

use super::{told::Sample, town::Town};

const LOOK: Duration = Duration::from_millis(200);

/// All samples of a run.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<Vec<Sample>>>);

impl Samples {
    /// Samples until it is dropped.
    pub async fn collect(&self, town: &Town) {
        loop {
            if let Ok(sample) = look(town).await {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What there is.
    pub fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn look(town: &Town) -> sqlx::Result<Sample> {
    let row = sqlx::query(
        "select coalesce(array_agg(distinct l.channel) filter (where l.remaining > 0 and s.state = 'connected'), '{}') as waiting,
                coalesce((select max(extract(epoch from now() - greatest(c.lease_until, d.due_at))) * 1000 from slice c
                            join broadcast o on o.id = c.broadcast_id and o.state = 'sending'
                            join lane d on d.broadcast_id = c.broadcast_id and d.channel = c.channel and d.due_at < now()
                           where c.state = 'sending' and c.lease_until < now()), 0)::bigint as abandoned_ms
           from lane l join broadcast b on b.id = l.broadcast_id and b.state = 'sending' join sender s on s.id = l.sender_id",
    )
    .fetch_one(&town.pool)
    .await?;
    Ok(Sample {
        at_ms: town.clock.now_ms(),
        waiting: row.try_get("waiting")?,
        abandoned_ms: u64::try_from(row.try_get::<i64, _>("abandoned_ms")?).unwrap_or(0),
    })
}
