//! Looks at the run several times a second: for which providers messages wait that could be sent, and whether work of
//! somebody who has gone waits for a new owner.
//! It must never change anything, and a database that is away is no sample: the last one stays true.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::Row as _;

use super::{provider::Provider, told::Sample, town::Town};

const LOOK: Duration = Duration::from_millis(200);
/// Work that nobody takes over for so long is written down with everything around it.
const REMARKABLE_MS: u64 = 3_000;

/// All samples of a run.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<Vec<Sample>>>);

impl Samples {
    /// Samples until it is dropped. What waits remarkably long for a new owner is written down in `log`.
    pub async fn collect(&self, town: &Town, log: &Path) {
        loop {
            if let Ok(sample) = look(town).await {
                if sample.abandoned_ms > REMARKABLE_MS {
                    let _ = write_down(town, log, &sample).await;
                }
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
        "select coalesce(array_agg(distinct s.name) filter (where l.remaining > 0 and s.state = 'connected'), '{}') as waiting,
                coalesce((select max(extract(epoch from now() - greatest(c.lease_until, d.due_at))) * 1000 from slice c
                            join broadcast o on o.id = c.broadcast_id and o.state = 'sending'
                            join lane d on d.broadcast_id = c.broadcast_id and d.channel = c.channel and d.due_at < now()
                           where c.state = 'sending' and c.lease_until < now()), 0)::bigint as abandoned_ms
           from lane l join broadcast b on b.id = l.broadcast_id and b.state = 'sending' join sender s on s.id = l.sender_id",
    )
    .fetch_one(&town.pool)
    .await?;
    let waiting: Vec<String> = row.try_get("waiting")?;
    Ok(Sample {
        at_ms: town.clock.now_ms(),
        waiting: waiting.iter().filter_map(|name| Provider::of_sender(name)).collect(),
        abandoned_ms: u64::try_from(row.try_get::<i64, _>("abandoned_ms")?).unwrap_or(0),
    })
}

/// The slice that waits the longest, and all lanes of its shop.
async fn write_down(town: &Town, log: &Path, sample: &Sample) -> sqlx::Result<()> {
    let story: String = sqlx::query_scalar(
        "select jsonb_build_object('now', now(), 'slice', to_jsonb(c), 'lanes', (select jsonb_agg(m) from lane m
                    join broadcast b on b.id = m.broadcast_id and b.state = 'sending'
                   where m.shop_id = o.shop_id and m.remaining > 0))::text
           from (select broadcast_id, channel, slice_no, epoch, lane_epoch, lease_until, remaining, cardinality(in_flight) as in_flight
                   from slice where state = 'sending' order by lease_until limit 1) c
           join broadcast o on o.id = c.broadcast_id",
    )
    .fetch_one(&town.pool)
    .await?;
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    writeln!(file, "{} ms: {story}", sample.at_ms)?;
    Ok(())
}
