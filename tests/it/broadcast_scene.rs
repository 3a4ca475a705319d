//! A shop of random people for broadcasts, and what a plan over them looks like.

use std::fmt::Write as _;

use carillon::db::PgPool;
use carillon::{
    broadcast::{
        self, Advance, BroadcastConfig, BroadcastState, Candidate, Mode, NewBroadcast, Place, Planner, Reach, plan,
    },
    channel::Channel::{self, App, Email, Line},
};
use carillon_jobs::{AddressId, BroadcastId, CustomerId, SenderId, ShopId};
use serde_json::json;
use sqlx::{AssertSqlSafe, Postgres};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use crate::scene::{one, run};

pub const CHANNELS: [Channel; 4] = [Channel::App, Channel::Line, Channel::Messenger, Channel::Email];

/// Runs SQL text for its one column.
pub async fn column<T>(pool: &PgPool, sql: &str) -> Vec<T>
where
    T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A shop with a sender of every channel of [`CHANNELS`]; app and email are the platform's.
pub struct Shop {
    pub id: ShopId,
    pub pool: PgPool,
    pub senders: Vec<(Channel, SenderId)>,
}

/// One address of a person to be made: its text (the same text twice makes twins), its state, hours since the last
/// inbound message.
#[derive(Debug, Clone)]
pub struct At {
    pub text: String,
    pub state: &'static str,
    pub inbound_hours: Option<u8>,
    /// Whether another, older address of the same channel is there, too.
    pub has_old: bool,
}

/// A person to be made; one optional address per channel of [`CHANNELS`].
#[derive(Debug, Clone)]
pub struct Person {
    pub opted_out: bool,
    pub tester: bool,
    pub tag: bool,
    pub addresses: Vec<Option<At>>,
}

/// An active address with its own text, as [`Person`] wants it.
#[expect(
    clippy::unnecessary_wraps,
    reason = "a person's addresses are optional, and this is one of them"
)]
pub fn at(text: impl Into<String>) -> Option<At> {
    Some(At {
        text: text.into(),
        state: "active",
        inbound_hours: Some(1),
        has_old: false,
    })
}

/// Somebody with these addresses, in the order app, line, messenger, email.
pub fn person(addresses: [Option<At>; 4]) -> Person {
    Person {
        opted_out: false,
        tester: false,
        tag: false,
        addresses: addresses.into(),
    }
}

pub async fn shop(pool: &PgPool, tokens: i64) -> Shop {
    let id = Uuid::now_v7();
    run(
        pool,
        &format!(
            "insert into shop (id, name, url, plan) values ('{id}', 'Tea', 'https://tea.example', 'core');
             select ledger_refill('{id}', '2999-11', {tokens})"
        ),
    )
    .await;
    let mut senders = Vec::new();
    for channel in CHANNELS {
        let platform = matches!(channel, Channel::App | Channel::Email);
        let owner = if platform { "null".to_owned() } else { format!("'{id}'") };
        run(
            pool,
            &format!(
                "insert into sender (id, shop_id, channel, name, is_primary, credentials)
                 values ('{}', {owner}, '{channel}', '{channel}', true, '') on conflict do nothing",
                Uuid::now_v7()
            ),
        )
        .await;
        let sql = format!("select id from sender where channel = '{channel}' and shop_id is not distinct from {owner}");
        senders.push((channel, SenderId(one(pool, &sql).await)));
    }
    Shop {
        id: ShopId(id),
        pool: pool.clone(),
        senders,
    }
}

impl Shop {
    pub fn sender(&self, channel: Channel) -> SenderId {
        self.senders.iter().find(|(of, _)| *of == channel).unwrap().1
    }

    /// Makes people, in this order of ids; returns the ids.
    pub async fn add(&self, people: &[Person]) -> Vec<i64> {
        let mut ids = Vec::new();
        let mut sql = String::new();
        for person in people {
            let insert = format!(
                "insert into customer (shop_id, opted_out, is_tester, tags) values ('{}', {}, {}, '{}') returning id",
                self.id,
                person.opted_out,
                person.tester,
                if person.tag { "{vip}" } else { "{}" }
            );
            let id: i64 = one(&self.pool, &insert).await;
            ids.push(id);
            for (channel, address) in CHANNELS.iter().zip(&person.addresses) {
                let Some(address) = address else { continue };
                let sender = self.sender(*channel);
                if address.has_old {
                    write!(sql, "select put_address('{sender}', {id}, 'old-{id}-{channel}');").unwrap();
                }
                let inbound = address
                    .inbound_hours
                    .map_or("null".to_owned(), |hours| format!("now() - interval '{hours} hours'"));
                write!(
                    sql,
                    "select put_address('{sender}', {id}, '{text}');
                     update address set state = '{}', last_inbound_at = {inbound}
                      where sender_id = '{sender}' and customer_id = {id} and address = '{text}';",
                    address.state,
                    text = address.text,
                )
                .unwrap();
            }
        }
        run(&self.pool, &sql).await;
        ids
    }

    /// The message and audience of most tests.
    pub fn new_broadcast(&self, mode: Mode, channels: &[Channel]) -> NewBroadcast {
        NewBroadcast {
            shop: self.id,
            name: "Sale".to_owned(),
            mode,
            channels: channels.iter().map(|channel| (*channel, None)).collect(),
            content: json!({"text": "Tea is cheap today"}),
            audience: carillon::broadcast::Audience::All,
            budget_tokens: None,
            at: None,
            deadline_hours: None,
        }
    }

    /// The same people as the database knows them, for the oracle: who is in the audience, in order.
    pub async fn candidates(&self, channels: &[Channel], tag: bool) -> Vec<Candidate> {
        let condition = if tag { "and 'vip' = any (tags)" } else { "" };
        let sql = format!(
            "select (id, opted_out)::text from customer where shop_id = '{}' and not is_tester {condition} order by id",
            self.id
        );
        let mut candidates = Vec::new();
        for row in column::<String>(&self.pool, &sql).await {
            let (id, opted_out) = row.trim_matches(['(', ')']).split_once(',').unwrap();
            let mut places = Vec::new();
            for channel in channels {
                places.push(self.place(id.parse().unwrap(), *channel).await);
            }
            let customer = CustomerId(id.parse().unwrap());
            candidates.push(Candidate {
                customer,
                opted_out: opted_out == "t",
                capped: false,
                places,
            });
        }
        candidates
    }

    async fn place(&self, customer: i64, channel: Channel) -> Option<Place> {
        let row: Option<(i64, Option<i64>, String, bool)> = sqlx::query_as(
            "select id, twin_of, state, coalesce(last_inbound_at > now() - interval '24 hours', false)
               from address where sender_id = $1 and customer_id = $2 and is_current",
        )
        .bind(self.sender(channel).0)
        .bind(customer)
        .fetch_optional(&self.pool)
        .await
        .unwrap();
        let (address, twin_of, state, recent) = row?;
        let reach = match state.as_str() {
            "opted_out" => Reach::OptedOut,
            "suppressed" => Reach::Suppressed,
            _ if channel == Channel::Messenger && !recent => Reach::WindowClosed,
            _ => Reach::Open,
        };
        Some(Place {
            address: AddressId(address),
            twin_of: twin_of.map(AddressId),
            reach,
        })
    }
}

/// Settings for small plans: `chunk` customers at a time.
pub fn config(chunk: u32) -> BroadcastConfig {
    BroadcastConfig {
        chunk_customers: chunk,
        slice_size: 3,
        ..BroadcastConfig::built_in().unwrap()
    }
}

pub fn planner(pool: &PgPool, config: &BroadcastConfig) -> Planner {
    Planner::new(pool.clone(), config.clone())
}

/// Plans until there is nothing more to do at once.
pub async fn advance_fully(planner: &Planner, broadcast: BroadcastId) -> Advance {
    for _ in 0..10_000 {
        match planner.advance(broadcast, &CancellationToken::new()).await.unwrap() {
            plan::Advance::Again => {}
            done => return done,
        }
    }
    panic!("planning does not end");
}

/// `customer channel address` of everything planned, sorted.
pub async fn deliveries(pool: &PgPool, broadcast: BroadcastId) -> Vec<String> {
    let sql = format!(
        "select concat_ws(' ', customer_id, channel, address_id) from delivery
          where broadcast_id = '{broadcast}' order by customer_id, channel"
    );
    column(pool, &sql).await
}

/// `customer reason` of everybody skipped, sorted.
pub async fn skipped(pool: &PgPool, broadcast: BroadcastId) -> Vec<String> {
    let sql = format!(
        "select concat_ws(' ', customer_id, reason) from skipped_customer where broadcast_id = '{broadcast}' order by customer_id"
    );
    column(pool, &sql).await
}

/// The state of a broadcast and its reason.
pub async fn state(pool: &PgPool, broadcast: BroadcastId) -> String {
    one(
        pool,
        &format!("select concat_ws(': ', state, state_reason) from broadcast where id = '{broadcast}'"),
    )
    .await
}

/// Everything counters say is what rows say, and slices cover each delivery once.
pub async fn assert_adds_up(pool: &PgPool, broadcast: BroadcastId) {
    let wrong: Vec<String> = column(
        pool,
        &format!(
            "select 'planned ' || channel from broadcast_channel c where broadcast_id = '{broadcast}'
                and planned <> (select count(*) from delivery d where d.broadcast_id = c.broadcast_id and d.channel = c.channel)
             union all
             select 'slice ' || channel || slice_no from slice s where broadcast_id = '{broadcast}'
                and (planned <> remaining or planned <> (select count(*) from delivery d where d.broadcast_id = s.broadcast_id
                     and d.channel = s.channel and d.customer_id between first_customer and last_customer))
             union all
             select 'slices of ' || channel from (select channel, sum(planned) as n, max(slice_no) as last, count(*) as slices
                     from slice where broadcast_id = '{broadcast}' group by channel) s
              where n <> (select count(*) from delivery d where d.broadcast_id = '{broadcast}' and d.channel = s.channel)
                 or last <> slices
             union all
             select 'tally ' || coalesce(t.reason, s.reason) from
                (select reason, n from tally where broadcast_id = '{broadcast}' and stage = 'plan') t
                full join (select reason, count(*) as n from skipped_customer where broadcast_id = '{broadcast}' group by 1) s
                  using (reason) where t.n is distinct from s.n
             union all
             select 'customers' from broadcast where id = '{broadcast}' and planned_customers <>
                (select count(*) from (select customer_id from delivery where broadcast_id = '{broadcast}'
                    union select customer_id from skipped_customer where broadcast_id = '{broadcast}') x)"
        ),
    )
    .await;
    assert!(wrong.is_empty(), "{wrong:?}");
}

pub const ALL: [Channel; 3] = [App, Line, Email];

/// Two in three have LINE, one in three the app, one in four a mailbox that every other one shares.
pub fn people(n: usize) -> Vec<Person> {
    (0..n)
        .map(|i| {
            let app = (i % 3 == 0).then(|| at(format!("app{i}"))).flatten();
            let line = (i % 3 != 2).then(|| at(format!("line{i}"))).flatten();
            let mail = (i % 4 == 0).then(|| at(format!("mail{}", i / 8))).flatten();
            person([app, line, None, mail])
        })
        .collect()
}

pub async fn sent(shop: &Shop, config: &BroadcastConfig, mode: Mode, channels: &[Channel]) -> BroadcastId {
    let id = broadcast::create(&shop.pool, config, &shop.new_broadcast(mode, channels))
        .await
        .unwrap();
    assert_eq!(broadcast::send(&shop.pool, id).await.unwrap(), BroadcastState::Queued);
    id
}

/// Plans one chunk a call.
pub fn stepping(chunk: u32) -> BroadcastConfig {
    BroadcastConfig {
        plan_budget_secs: 0.0,
        ..config(chunk)
    }
}

pub async fn step(planner: &Planner, broadcast: BroadcastId) -> Advance {
    planner.advance(broadcast, &CancellationToken::new()).await.unwrap()
}

pub async fn rows_left(shop: &Shop, broadcast: BroadcastId) -> i64 {
    let sql = format!(
        "select (select count(*) from delivery where broadcast_id = '{broadcast}')
              + (select count(*) from skipped_customer where broadcast_id = '{broadcast}')
              + (select count(*) from slice where broadcast_id = '{broadcast}')
              + (select count(*) from tally where broadcast_id = '{broadcast}')
              + (select count(*) from lane where broadcast_id = '{broadcast}')
              + (select count(*) from token_hold where broadcast_id = '{broadcast}')
              + (select sum(planned)::bigint from broadcast_channel where broadcast_id = '{broadcast}')"
    );
    one(&shop.pool, &sql).await
}

pub async fn held(shop: &Shop) -> i64 {
    let sql = format!(
        "select held_allowance + held_extra from token_account where shop_id = '{}'",
        shop.id
    );
    one(&shop.pool, &sql).await
}
