//! Every event that was taken held against the rows it must have left, one by one; every report of a mail against its delivery,
//! and the tokens that went back against both.
//! It must never count by totals where a row can be named.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    book::{Told, What},
    moved,
};
use crate::{
    load::Told as Run,
    outcome::{Once, Outcome},
    town::Town,
};

/// Everything that was told, by sender and key.
pub(super) type Events = BTreeMap<(Uuid, String), Told>;
/// Sender, person, kind, order.
type Thread = (Uuid, String, String, String);

/// What came of all webhooks.
pub(in crate::load) async fn judge(town: &Town, run: &Run<'_>, outcome: &mut Outcome) {
    let (events, counts) = (town.book.events(), town.book.counts());
    let mut once = Once {
        due: events.values().filter(|told| told.accepted_ms.is_some()).count() as u64,
        ..Once::default()
    };
    for what in counts.wrong {
        once.undue.add(|| what);
    }
    for (key, told) in &events {
        if told.accepted_ms.is_none() {
            once.missing
                .add(|| format!("{} {key:?} was never taken", told.what.kind()));
        }
    }
    recorded(town, &events, &mut once).await;
    messages(town, &events, &mut once).await;
    unread(town, &events, &mut once).await;
    standings(town, &events, &mut once).await;
    put_aside(town, &mut once).await;
    once.counts = BTreeMap::from([
        ("posted", counts.posted),
        ("accepted", counts.accepted),
        ("duplicates", counts.duplicates),
        ("applied", once.done),
        ("lost", once.due.saturating_sub(once.done)),
        ("forged turned away", counts.turned_away),
    ]);
    outcome.once.insert("webhooks", once);
    outcome.once.insert("receipts", moved::judge(town, run, &events).await);
}

/// Each event was noted once: as many of a sender and a kind as were told of it.
async fn recorded(town: &Town, events: &Events, once: &mut Once) {
    let rows: Vec<(Uuid, String, i64)> =
        sqlx::query_as("select sender_id, kind, count(*) from webhook_event group by 1, 2")
            .fetch_all(&town.pool)
            .await
            .unwrap();
    let mut told = BTreeMap::<(Uuid, &str), u64>::new();
    for ((sender, _), event) in events {
        *told.entry((*sender, event.what.kind())).or_default() += 1;
    }
    for (sender, kind, n) in &rows {
        let (n, told) = (
            u64::try_from(*n).unwrap(),
            told.remove(&(*sender, kind.as_str())).unwrap_or(0),
        );
        once.done += n.min(told);
        let what = || format!("{n} of {told} {kind} of sender {sender} were noted");
        match n.cmp(&told) {
            Ordering::Less => once.missing.add(what),
            Ordering::Equal => {}
            Ordering::Greater => once.twice.add(what),
        }
    }
    for ((sender, kind), n) in told {
        once.missing
            .add(|| format!("none of {n} {kind} of sender {sender} was noted"));
    }
}

#[derive(FromRow)]
struct Message {
    sender_id: Uuid,
    provider_id: String,
    direction: Option<String>,
    is_unsent: bool,
    kind: Option<String>,
    order_number: Option<String>,
    who: Option<String>,
    stored_at: DateTime<Utc>,
}

/// Whose a conversation is: the customer's id at the shop front, or the address on the sender.
const WHO: &str = "coalesce(u.external_id, (select a.address from address a where a.sender_id = c.sender_id
                                              and a.customer_id = c.customer_id order by a.id limit 1))";

/// Messages that were taken back.
fn unsent(events: &Events) -> BTreeSet<(Uuid, &str)> {
    let taken_back = events.iter().filter_map(|((sender, _), told)| match &told.what {
        What::Unsent { message_id } => Some((*sender, message_id.as_str())),
        _ => None,
    });
    taken_back.collect()
}

/// Each message has one row, in the right conversation, and is taken back where that was told.
async fn messages(town: &Town, events: &Events, once: &mut Once) {
    let sql = format!(
        "select m.sender_id, m.provider_id, m.direction, m.unsent_at is not null as is_unsent, c.kind, c.order_number, {WHO} as who,
                m.stored_at
           from message m left join conversation c on c.id = m.conversation_id left join customer u on u.id = c.customer_id"
    );
    let rows: Vec<Message> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(&town.pool)
        .await
        .unwrap();
    let mut rows: BTreeMap<(Uuid, String), Message> = rows
        .into_iter()
        .map(|row| ((row.sender_id, row.provider_id.clone()), row))
        .collect();
    let unsent = unsent(events);
    for ((sender, _), told) in events {
        let What::Message {
            who,
            thread,
            order,
            message_id,
            is_inbound,
        } = &told.what
        else {
            continue;
        };
        let Some(row) = rows.remove(&(*sender, message_id.clone())) else {
            once.missing.add(|| format!("message {message_id} is not there"));
            continue;
        };
        let direction = if *is_inbound { "in" } else { "out" };
        let is_right = row.direction.as_deref() == Some(direction)
            && row.kind.as_deref() == Some(*thread)
            && row.order_number.as_deref() == Some(order.as_str())
            && row.who.as_deref() == Some(who.as_str())
            && row.is_unsent == unsent.contains(&(*sender, message_id));
        if !is_right {
            once.undue
                .add(|| format!("message {message_id} is not where, or not as, it was told"));
        }
        if let Some(at_ms) = told.accepted_ms {
            let took_ms = town.clock.of(row.stored_at).saturating_sub(at_ms);
            once.slowest_ms = once.slowest_ms.max(took_ms);
        }
    }
    for (_, id) in rows.into_keys() {
        once.undue.add(|| format!("nobody told message {id}"));
    }
}

/// Nobody has read anything, so unread is what was written and not taken back.
async fn unread(town: &Town, events: &Events, once: &mut Once) {
    let unsent = unsent(events);
    let mut written = BTreeMap::<Thread, i32>::new();
    for ((sender, _), told) in events {
        let What::Message {
            who,
            thread,
            order,
            message_id,
            is_inbound,
        } = &told.what
        else {
            continue;
        };
        let thread = (*sender, who.clone(), (*thread).to_owned(), order.clone());
        let counts = *is_inbound && !unsent.contains(&(*sender, message_id));
        *written.entry(thread).or_default() += i32::from(counts);
    }
    let sql = format!(
        "select c.sender_id, coalesce({WHO}, ''), c.kind, c.order_number, c.unread
           from conversation c join customer u on u.id = c.customer_id"
    );
    let rows: Vec<(Uuid, String, String, String, i32)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(&town.pool)
        .await
        .unwrap();
    for (sender, who, kind, order, unread) in rows {
        let what = format!("conversation ({kind}) of sender {sender}");
        match written.remove(&(sender, who, kind, order)) {
            Some(told) if told == unread => {}
            Some(told) if told < unread => once
                .twice
                .add(|| format!("a {what} has {unread} unread messages, {told} were written")),
            Some(told) => once
                .missing
                .add(|| format!("a {what} has {unread} unread messages, {told} were written")),
            None => once.undue.add(|| format!("a {what} is a second one, or nobody's")),
        }
    }
    for (sender, _, kind, _) in written.into_keys() {
        once.missing
            .add(|| format!("a conversation ({kind}) of sender {sender} is not there"));
    }
}

/// Who follows, and who has left, by the last that was told of each.
async fn standings(town: &Town, events: &Events, once: &mut Once) {
    let rows: Vec<(Uuid, String, String)> = sqlx::query_as(
        "select a.sender_id, a.address, a.state from address a join sender s on s.id = a.sender_id and s.channel = 'line'",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    let states: BTreeMap<(Uuid, String), String> = rows
        .into_iter()
        .map(|(sender, address, state)| ((sender, address), state))
        .collect();
    let mut last = BTreeMap::<(Uuid, &str), (i64, bool)>::new();
    for ((sender, _), told) in events {
        if let What::Standing { who, follows, at_ms } = &told.what {
            let last = last.entry((*sender, who)).or_insert((*at_ms, *follows));
            *last = (*last).max((*at_ms, *follows));
        }
    }
    for ((sender, who), (_, follows)) in last {
        let state = states.get(&(sender, who.to_owned())).map(String::as_str);
        let wrong = match state {
            Some(state) => state != if follows { "active" } else { "suppressed" },
            // Who left and was never known is nobody.
            None => follows,
        };
        if wrong {
            once.undue.add(|| {
                format!("somebody's last word to sender {sender} was follows = {follows}, the address is {state:?}")
            });
        }
    }
}

/// Webhooks that were put aside or are not done, and receipts that found no delivery.
async fn put_aside(town: &Town, once: &mut Once) {
    let rows: Vec<String> = sqlx::query_scalar(
        "select format('webhook %s is %s: %s', webhook_id, case when failed_at is null then 'pending' else 'put aside' end, reason)
           from webhook_pending
         union all
         select format('a receipt of broadcast %s found no delivery', broadcast_id) from pending_receipt",
    )
    .fetch_all(&town.pool)
    .await
    .unwrap();
    for what in rows {
        once.missing.add(|| what);
    }
}
