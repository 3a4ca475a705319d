//! What reports did to deliveries: each reported one is in the state its reports say, nobody's else moved, nothing that was proved to
//! have left is unknown any more, and what did not arrive after all was given back once.
//! It must never take a delivery's own word for what was reported of it.

use std::collections::BTreeMap;

use carillon::channel::Channel;
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    book::{Delivery, What},
    judge::Events,
};
use crate::{
    load::Told as Run,
    outcome::Once,
    provider::Provider,
    told::{Unknown, cause_of_unknown},
    town::Town,
};

/// States that a report moves a delivery to, each standing over those before it.
const STATES: [&str; 4] = ["accepted", "delivered", "read", "failed"];

#[derive(FromRow)]
struct Row {
    broadcast_id: Uuid,
    provider: String,
    customer_id: i64,
    state: String,
    is_cancelled: bool,
    settled_at: Option<DateTime<Utc>>,
    changed_at: Option<DateTime<Utc>>,
}

/// The last word of the reports on a delivery, and when it was taken.
type Said = BTreeMap<Delivery, (&'static str, u64)>;

fn said(events: &Events) -> Said {
    let rank = |state| STATES.iter().position(|other| *other == state);
    let mut said = Said::new();
    for told in events.values() {
        if let What::Report { of, state: Some(state) } = told.what {
            let at_ms = told.accepted_ms.unwrap_or(u64::MAX);
            let last = said.entry(of).or_insert((state, at_ms));
            if rank(state) > rank(last.0) {
                *last = (state, at_ms);
            }
        }
    }
    said
}

/// Holds every delivery against its reports.
pub(super) async fn judge(town: &Town, run: &Run<'_>, events: &Events) -> Once {
    let mut said = said(events);
    let mut once = Once {
        due: said.len() as u64,
        ..Once::default()
    };
    let rows: Vec<Row> = sqlx::query_as(
        "select d.broadcast_id, s.name as provider, d.customer_id, d.state::text as state, b.state = 'cancelled' as is_cancelled,
                d.settled_at, d.changed_at
           from delivery_with_state d join broadcast b on b.id = d.broadcast_id
           join address a on a.id = d.address_id join sender s on s.id = a.sender_id",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let mut back = BTreeMap::<(Uuid, Channel), Back>::new();
    for row in rows {
        let provider = Provider::of_sender(&row.provider).unwrap();
        let of = (row.broadcast_id, provider, row.customer_id);
        held(town, of, &row, said.remove(&of), &mut once);
        if row.state == "failed" && row.changed_at.is_some() {
            let back = back.entry((row.broadcast_id, provider.channel())).or_default();
            back.all += 1;
            back.may_be_unknown += i64::from(may_have_been_unknown(town, run, provider, &row));
        }
    }
    for (of, (state, _)) in said {
        once.missing.add(|| format!("{} is not {state}", which(of)));
    }
    refunds(town, back, &mut once).await;
    once
}

fn which((broadcast, provider, customer): Delivery) -> String {
    format!(
        "the message of broadcast {broadcast} on {} to customer {customer}",
        provider.name()
    )
}

fn held(town: &Town, of: Delivery, row: &Row, said: Option<(&'static str, u64)>, once: &mut Once) {
    match (said, row.changed_at) {
        (Some((state, at_ms)), changed_at) if state == row.state => {
            once.done += 1;
            // That it left says nothing new of what is known to have left.
            if let Some(changed_at) = changed_at {
                let took_ms = town.clock.of(changed_at).saturating_sub(at_ms);
                once.slowest_ms = once.slowest_ms.max(took_ms);
            }
        }
        (Some((state, _)), _) => once
            .missing
            .add(|| format!("{} is {} and not {state}", which(of), row.state)),
        (None, Some(_)) => once
            .undue
            .add(|| format!("{} is {}: nobody said so", which(of), row.state)),
        (None, None) => {}
    }
}

fn may_have_been_unknown(town: &Town, run: &Run<'_>, provider: Provider, row: &Row) -> bool {
    let cause = |reason| {
        let unknown = Unknown {
            provider,
            reason,
            at_ms: row.settled_at.map_or(0, |at| town.clock.of(at)),
            cancelled: row.is_cancelled,
            unread: false,
        };
        cause_of_unknown(run.faults, unknown)
    };
    cause("interrupted").or_else(|| cause("uncertain")).is_some()
}

/// Messages of a lane that did not arrive after all.
#[derive(Default)]
struct Back {
    all: i64,
    /// Of these at whose time a fault may have left the outcome unknown: those had cost nothing.
    may_be_unknown: i64,
}

/// What went back is the price of each message that did not arrive after all, but of those whose outcome nobody knew.
async fn refunds(town: &Town, mut back: BTreeMap<(Uuid, Channel), Back>, once: &mut Once) {
    let rows: Vec<(Uuid, Channel, i64, i64)> = sqlx::query_as(
        "select l.broadcast_id, l.channel, l.tokens::bigint,
                (select coalesce(sum(e.allowance + e.extra), 0)::bigint from ledger_entry e
                  where e.broadcast_id = l.broadcast_id and e.channel = l.channel and e.kind = 'refund')
           from lane l",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let (mut all, mut refunds) = (0, 0);
    for (broadcast, channel, price, refunded) in rows {
        let Back {
            all: came_back,
            may_be_unknown,
        } = back.remove(&(broadcast, channel)).unwrap_or_default();
        let paid = refunded / price.max(1);
        (all, refunds) = (all + came_back, refunds + paid);
        let what = || {
            format!(
                "broadcast {broadcast} on {channel}: {came_back} did not arrive, {refunded} tokens at {price} went back, \
                 and {may_be_unknown} may have cost nothing"
            )
        };
        if paid * price != refunded {
            once.undue.add(what);
        }
        match came_back - paid {
            ..0 => once.twice.add(what),
            unpaid if unpaid > may_be_unknown => once.missing.add(what),
            _ => {}
        }
    }
    once.counts = BTreeMap::from([
        ("did not arrive", u64::try_from(all).unwrap()),
        ("of them refunded", u64::try_from(refunds).unwrap()),
    ]);
}
