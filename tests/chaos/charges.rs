//! What every message cost: whoever was accepted is charged the price once, nobody else is charged anything, and the ledger's entries
//! of a lane come to what its deliveries were charged.
//! It must never take the sum for the parts: one charged twice and one for nothing are two mistakes.

use uuid::Uuid;

use super::{outcome::Once, town::Town};

/// One delivery and its price.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// The state it ended in.
    pub state: &'a str,
    /// What stands on it.
    pub charged: i64,
    /// What a message of its lane costs.
    pub price: i64,
    /// It was proved to have arrived after nobody had known, and then it is free.
    pub may_be_free: bool,
}

/// Holds one delivery's charge against its state.
pub fn hold_against(once: &mut Once, charge: Charge<'_>, which: impl Fn() -> String) {
    let Charge {
        state, charged, price, ..
    } = charge;
    if !matches!(state, "accepted" | "delivered" | "read") {
        if charged != 0 {
            once.undue
                .add(|| format!("{} is {state} and was charged {charged} tokens", which()));
        }
        return;
    }
    if charged == 0 && charge.may_be_free {
        *once.counts.entry("free, as nobody had known").or_default() += 1;
        return;
    }
    once.due += 1;
    let what = || format!("{} is {state} and was charged {charged} tokens of {price}", which());
    match charged.cmp(&price) {
        std::cmp::Ordering::Less => once.missing.add(what),
        std::cmp::Ordering::Equal => {
            once.done += 1;
            *once.counts.entry("tokens").or_default() += price.unsigned_abs();
        }
        std::cmp::Ordering::Greater => once.twice.add(what),
    }
}

/// Holds the ledger's entries of each lane against its deliveries.
pub async fn lanes(town: &Town, once: &mut Once) {
    let wrong: Vec<(Uuid, String, i64, i64, i64)> = sqlx::query_as(
        "select * from (
            select l.broadcast_id, l.channel::text,
                   (select coalesce(-sum(e.allowance + e.extra), 0)::bigint from ledger_entry e
                     where e.broadcast_id = l.broadcast_id and e.channel = l.channel and e.kind = 'capture') as captured,
                   (select coalesce(sum(e.allowance + e.extra), 0)::bigint from ledger_entry e
                     where e.broadcast_id = l.broadcast_id and e.channel = l.channel and e.kind = 'refund') as refunded,
                   (select coalesce(sum(r.charged_tokens), 0)::bigint from delivery_result r
                     where r.broadcast_id = l.broadcast_id and r.channel = l.channel) as charged
              from lane l) s
          where captured - refunded <> charged",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    for (broadcast, channel, captured, refunded, charged) in wrong {
        once.undue.add(|| {
            format!("broadcast {broadcast} on {channel}: {captured} tokens captured, {refunded} given back, {charged} charged")
        });
    }
}
