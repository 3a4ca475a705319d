//! Broadcasts that keep coming: each shop has a few going at any time and begins the next when one ends. What the nth of
//! a shop is like follows from the seed; when it begins is up to the run.
//! It must never judge: it only sends as a frontend does, with the SQL functions and a bell.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AGAIN, millis, rest};
use crate::{dice::Dice, notes::Fact, town::Town};

/// Broadcasts a shop has going at once.
const TRACKS: u64 = 2;

/// What a shop does with a broadcast besides sending it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whim {
    Nothing,
    /// Sends it for later.
    Later {
        in_ms: u64,
    },
    /// Pauses it after a while, and resumes it.
    Pause {
        after_ms: u64,
        for_ms: u64,
    },
    /// Cancels it after a while.
    Cancel {
        after_ms: u64,
    },
}

/// Modes and channels. Which of two providers has a text message is up to the shop.
const MIXES: [(&str, &[&str]); 12] = [
    ("priority_single", &["app", "line", "email"]),
    ("priority_single", &["line", "email"]),
    ("priority_single", &["line"]),
    ("priority_single", &["messenger", "whatsapp", "sms"]),
    ("priority_single", &["whatsapp", "line", "messenger"]),
    ("priority_single", &["sms", "email"]),
    EVERYWHERE,
    ("app_plus_one", &["app", "line"]),
    ("app_plus_one", &["app", "email"]),
    ("app_plus_one", &["app", "messenger"]),
    ("app_plus_one", &["app", "whatsapp"]),
    ("app_plus_one", &["app", "sms"]),
];
/// Whoever is anywhere gets it, and of everywhere somebody does.
const EVERYWHERE: (&str, &[&str]) = (
    "priority_single",
    &["messenger", "whatsapp", "line", "sms", "app", "email"],
);

/// What one broadcast is like.
struct Brief {
    size: u64,
    mode: &'static str,
    channels: &'static [&'static str],
    personal: bool,
    whim: Whim,
    rest_ms: u64,
}

impl Brief {
    fn of(dice: &mut Dice, sizes: &[u64]) -> Self {
        let (mode, channels) = dice.pick(&MIXES);
        let after_ms = dice.between(200, 5_000);
        let whim = match dice.between(1, 100) {
            1..=10 => Whim::Cancel { after_ms },
            11..=25 => Whim::Pause {
                after_ms,
                for_ms: dice.between(500, 6_000),
            },
            26..=35 => Whim::Later {
                in_ms: dice.between(500, 4_000),
            },
            _ => Whim::Nothing,
        };
        Self {
            size: dice.pick(sizes),
            mode,
            channels,
            personal: dice.chance(60),
            whim,
            rest_ms: dice.between(0, 1_000),
        }
    }

    /// A shop's first one, so that a run of any length has messages for every provider: to everybody, and sent as it is.
    fn first(self, sizes: &[u64]) -> Self {
        let (mode, channels) = EVERYWHERE;
        Self {
            size: sizes.iter().copied().max().unwrap_or(self.size),
            mode,
            channels,
            whim: Whim::Nothing,
            ..self
        }
    }
}

/// Brings broadcasts until told to stop.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    let mut tracks = tokio::task::JoinSet::new();
    for shop in 0..town.shops.len() {
        for track in 0..TRACKS {
            let (town, stop) = (town.clone(), stop.clone());
            tracks.spawn(async move {
                // Whatever is being waited for: the end of the run ends it, and what is paused is let go of later.
                stop.run_until_cancelled(bring(&town, shop, track)).await;
            });
        }
    }
    tracks.join_all().await;
}

async fn bring(town: &Town, shop: usize, track: u64) {
    for n in 0_u64.. {
        let mut dice = Dice::of(town.seed, &[2, shop as u64, track, n]);
        let mut brief = Brief::of(&mut dice, &town.sizes);
        if (track, n) == (0, 0) {
            brief = brief.first(&town.sizes);
        }
        let id = begin(town, town.shops[shop], &format!("s{shop}t{track}n{n}"), &brief).await;
        match brief.whim {
            Whim::Nothing | Whim::Later { .. } => {}
            Whim::Pause { after_ms, for_ms } => {
                rest(after_ms).await;
                tell(town, "pause_broadcast", id).await;
                rest(for_ms).await;
                tell(town, "resume_broadcast", id).await;
                ring(town, id).await;
            }
            Whim::Cancel { after_ms } => {
                rest(after_ms).await;
                tell(town, "cancel_broadcast", id).await;
            }
        }
        while !ended(town, id).await.unwrap_or(false) {
            tokio::time::sleep(AGAIN).await;
        }
        rest(brief.rest_ms).await;
    }
}

/// Sends one; tries until Postgres has said yes. A yes that was lost on the way leaves a broadcast nobody knows of, which
/// is sent like any other: each try has a name of its own.
async fn begin(town: &Town, shop: Uuid, name: &str, brief: &Brief) -> Uuid {
    for attempt in 0_u64.. {
        match draft_and_send(town, shop, &format!("{name}a{attempt}"), brief).await {
            Ok(id) => {
                town.notes.add(Fact::Begun, &id);
                ring(town, id).await;
                return id;
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    unreachable!("it is tried for ever")
}

async fn draft_and_send(town: &Town, shop: Uuid, name: &str, brief: &Brief) -> sqlx::Result<Uuid> {
    let greeting = if brief.personal { "{first_name} 您好，" } else { "" };
    // The name between the signs tells afterwards which broadcast a message belongs to. With dots between its numbers it would be an
    // address, which no text message may carry that nobody registered.
    let content = json!({
        "text": format!("{greeting}週年慶 #{name}#"), "subject": "週年慶", "title": "週年慶",
        "fallbacks": {"first_name": "您"},
    });
    let mut tx = town.pool.begin().await?;
    let id: Uuid = sqlx::query_scalar("select draft_broadcast($1, $2, $3, $4::text[]::channel[], $5, $6)")
        .bind(shop)
        .bind(name)
        .bind(brief.mode)
        .bind(brief.channels)
        .bind(content)
        .bind(json!({ "tag": format!("n{}", brief.size) }))
        .fetch_one(&mut *tx)
        .await?;
    if let Whim::Later { in_ms } = brief.whim {
        sqlx::query("update broadcast set scheduled_at = now() + $2 * interval '1 millisecond' where id = $1")
            .bind(id)
            .bind(millis(in_ms))
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("select send_broadcast($1)")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(id)
}

async fn ring(town: &Town, id: Uuid) {
    super::ring(town, "broadcast-send", json!({ "broadcast_id": id })).await;
}

/// Calls one of the functions that move a broadcast, until Postgres has answered.
async fn tell(town: &Town, function: &'static str, id: Uuid) {
    let sql = format!("select {function}($1)");
    while sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
        .bind(id)
        .execute(&town.pool)
        .await
        .is_err()
    {
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ended(town: &Town, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar("select finished_at is not null and not purge from broadcast where id = $1")
        .bind(id)
        .fetch_one(&town.pool)
        .await
}

/// Resumes whatever the end of the run caught paused.
pub(super) async fn let_go(town: &Town) -> sqlx::Result<()> {
    sqlx::query("select resume_broadcast(id) from broadcast where state = 'paused'")
        .execute(&town.pool)
        .await?;
    Ok(())
}

/// Broadcasts that have not ended, and senders somebody would have to see to.
pub(super) async fn left(town: &Town) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('broadcast %s (%s) is %s%s, %s of %s messages left%s', b.id, b.name, b.state,
                       coalesce(' (' || b.state_reason || ')', ''), coalesce(sum(l.remaining), 0), coalesce(sum(l.planned), 0),
                       case when b.purge then ', its rows are being cleared away' else '' end)
           from broadcast b left join lane l on l.broadcast_id = b.id
          where b.finished_at is null or b.purge
          group by b.id
         union all
         select format('the sender %s (%s) is %s: %s', id, channel, state, state_reason) from sender where state <> 'connected'",
    )
    .fetch_all(&town.pool)
    .await
}
