//! The loop that carries dead jobs from Redis to Postgres.
//!
//! A job that dies goes into a hash in Redis first, in the same step that ends its claim, and leaves it only when its
//! row is committed: with Postgres away nothing is lost, it only waits. Every worker runs this loop; the reference makes
//! a row written twice one row.

use std::{sync::Arc, time::Duration};

use redis::{RedisError, Value};
use ring::digest::{Context, SHA256};
use tokio_util::sync::CancellationToken;

use super::{DeadReason, QueueError, dead::Record, dead_record::KEPT_BYTES, engine::Engine};

use crate::db::PgPool;

/// Records carried in one step; each is at most 64 KiB and a line.
const STEP: u32 = 50;
/// How much of an oversized text is read at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// How often to look for what another worker left behind.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until `finish` is cancelled.
pub(crate) async fn run(engine: Arc<Engine>, pool: PgPool, finish: CancellationToken) {
    let mut failing = false;
    loop {
        let carried = tokio::select! {
            () = finish.cancelled() => return,
            carried = carry(&engine, &pool) => carried,
        };
        match &carried {
            Ok(_) if failing => {
                failing = false;
                tracing::info!("dead jobs are written to Postgres again");
            }
            Err(QueueError::Database(error)) if !failing => {
                failing = true;
                tracing::warn!(
                    error = kind_of(error),
                    "dead jobs cannot be written to Postgres; they wait in Redis"
                );
            }
            // Redis being away is told by the other loops.
            Ok(_) | Err(_) => {}
        }
        if matches!(carried, Ok(count) if count > 0) {
            continue;
        }
        tokio::select! {
            () = finish.cancelled() => return,
            () = engine.died.notified(), if !failing => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Without its detail, which may quote a value.
fn kind_of(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::PoolTimedOut => "no connection in time",
        sqlx::Error::Io(_) => "connection lost",
        sqlx::Error::Database(_) => "refused by the server",
        _ => "not available",
    }
}

/// Carries some, and says how many.
async fn carry(engine: &Engine, pool: &PgPool) -> Result<u64, QueueError> {
    let mut command = redis::cmd("HRANDFIELD");
    command.arg(&engine.store.dead).arg(STEP).arg("WITHVALUES");
    let reply = engine.store.redis.send(&command).await?;
    let pending: Vec<(String, Vec<u8>)> = redis::from_redis_value(reply).map_err(RedisError::from)?;
    let (mut records, mut parked) = (Vec::with_capacity(pending.len()), Vec::new());
    for (reference, bytes) in &pending {
        let place = format!("{}:{reference}", engine.store.dead);
        let record = match read_parked(engine, &place, bytes).await? {
            Some(record) => {
                parked.push(place);
                Some(record)
            }
            None => Record::from_bytes(bytes),
        };
        // Bytes that are neither were put there by somebody else; without them the hash can be emptied.
        if let Some(record) = record {
            records.push((reference.as_str(), record));
        } else {
            tracing::error!("an unreadable record was found among the dead jobs in Redis and is dropped");
        }
    }
    if pending.is_empty() {
        return Ok(0);
    }
    write(pool, &records).await?;
    let references: Vec<&str> = pending.iter().map(|(reference, _)| reference.as_str()).collect();
    let mut pipeline = redis::pipe();
    pipeline.hdel(&engine.store.dead, references);
    if !parked.is_empty() {
        pipeline.unlink(parked);
    }
    engine.store.redis.pipeline(&pipeline).await?;
    Ok(pending.len() as u64)
}

/// A text that was too long to claim lies in a key of its own; it is read in pieces and never held whole.
async fn read_parked(engine: &Engine, parked: &str, bytes: &[u8]) -> Result<Option<Record>, QueueError> {
    let mark = std::str::from_utf8(bytes).unwrap_or_default();
    let mut words = mark.split(' ');
    let (Some("P"), Some(kind), Some(at)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let at_ms: u64 = at.parse().unwrap_or(0);
    let (mut raw, mut length, mut hash) = (Vec::new(), 0_usize, Context::new(&SHA256));
    loop {
        let mut command = redis::cmd("GETRANGE");
        command.arg(parked).arg(length).arg(length + CHUNK_BYTES - 1);
        let Value::BulkString(chunk) = engine.store.redis.send(&command).await? else {
            break;
        };
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        length += chunk.len();
        let room = KEPT_BYTES.saturating_sub(raw.len());
        raw.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    let error = carillon_jobs::ContractError::TooLarge {
        length,
        limit: carillon_jobs::MAX_TEXT_BYTES,
    };
    Ok(Some(Record {
        kind: kind.to_owned(),
        job_id: None,
        reason: DeadReason::Malformed,
        error: error.to_string(),
        attempts: 0,
        crashes: 0,
        snoozes: 0,
        first_ms: at_ms,
        died_ms: at_ms,
        raw_length: length as u64,
        raw_sha256: hash.finish().as_ref().to_vec(),
        raw,
    }))
}

/// Writes rows in one statement, so that a flood of dead jobs is carried as fast as it comes.
async fn write(pool: &PgPool, records: &[(&str, Record)]) -> Result<(), sqlx::Error> {
    fn column<'a, T>(records: &'a [(&str, Record)], field: impl Fn(&'a Record) -> T) -> Vec<T> {
        records.iter().map(|(_, record)| field(record)).collect()
    }
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let wide = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let references: Vec<&str> = records.iter().map(|(reference, _)| *reference).collect();
    sqlx::query(
        "insert into dead_job (reference, kind, job_id, reason, error, attempts, crashes, snoozes, \
             raw, raw_length, raw_sha256, first_at, died_at) \
         select reference, kind, job_id, reason::dead_reason, error, attempts, crashes, snoozes, \
             raw, raw_length, raw_sha256, to_timestamp(first_ms / 1000.0), to_timestamp(died_ms / 1000.0) \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::int[], \
             $9::bytea[], $10::bigint[], $11::bytea[], $12::bigint[], $13::bigint[]) \
             as dead (reference, kind, job_id, reason, error, attempts, crashes, snoozes, \
             raw, raw_length, raw_sha256, first_ms, died_ms) \
         on conflict (reference) do nothing",
    )
    .bind(references)
    .bind(column(records, |record| record.kind.as_str()))
    .bind(column(records, |record| record.job_id.as_deref()))
    .bind(column(records, |record| record.reason.name()))
    .bind(column(records, |record| record.error.as_str()))
    .bind(column(records, |record| count(record.attempts)))
    .bind(column(records, |record| count(record.crashes)))
    .bind(column(records, |record| count(record.snoozes)))
    .bind(column(records, |record| record.raw.as_slice()))
    .bind(column(records, |record| wide(record.raw_length)))
    .bind(column(records, |record| record.raw_sha256.as_slice()))
    .bind(column(records, |record| wide(record.first_ms)))
    .bind(column(records, |record| wide(record.died_ms)))
    .execute(pool)
    .await?;
    Ok(())
}
