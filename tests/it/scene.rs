//! Sets a scene straight in SQL: a shop with tokens and customers, and a broadcast planned over them, one call each.

use std::fmt::Write as _;

use carillon::db::PgPool;
use sqlx::{AssertSqlSafe, Postgres, query_scalar};
use uuid::Uuid;

/// What a message costs on each channel of the scene: (channel, tokens).
pub(crate) const LINE: (&str, i32) = ("line", 5);
pub(crate) const APP: (&str, i32) = ("app", 1);

/// One shop with its customers.
pub(crate) struct Shop {
    pub(crate) id: Uuid,
    pub(crate) customers: Vec<i64>,
    pub(crate) pool: PgPool,
}

/// Runs SQL text for its effect.
pub(crate) async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Runs SQL text for its one value.
pub(crate) async fn one<T>(db: impl sqlx::PgExecutor<'_>, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres> + Send + Unpin,
{
    query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(db)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// A shop with `customers` customers, each with an address on a LINE and an app sender, and `tokens` of allowance.
pub(crate) async fn shop(pool: &PgPool, customers: i32, tokens: i64) -> Shop {
    let id = Uuid::now_v7();
    let sql = format!(
        "insert into shop (id, name, url, plan) values ('{id}', 'Tea', 'https://tea.example', 'core');
         insert into sender (id, shop_id, channel, name, is_primary, credentials)
         select gen_random_uuid(), '{id}', c::channel, c, true, '' from unnest(array['line', 'app']) as c;
         insert into customer (shop_id, first_name) select '{id}', 'N' || n from generate_series(1, {customers}) as n;
         insert into address (shop_id, sender_id, customer_id, address)
         select '{id}', s.id, c.id, s.channel::text || c.id from sender s, customer c where s.shop_id = '{id}' and c.shop_id = '{id}';
         select ledger_refill('{id}', '2999-11', {tokens})"
    );
    run(pool, &sql).await;
    let customers = one(
        pool,
        &format!("select coalesce(array_agg(id order by id), '{{}}') from customer where shop_id = '{id}'"),
    )
    .await;
    Shop {
        id,
        customers,
        pool: pool.clone(),
    }
}

impl Shop {
    /// A broadcast to every customer on these channels, in `planning` with everything planned, cut into slices of
    /// `slice` deliveries. Its plan epoch is 1. One skipped customer is counted, too.
    pub(crate) async fn planned(&self, channels: &[(&str, i32)], slice: usize) -> Uuid {
        let id = Uuid::now_v7();
        let mut sql = format!(
            "insert into broadcast (id, shop_id, name, mode, content, audience, state, plan_epoch)
             values ('{id}', '{}', 'Sale', 'app_plus_one', '{{}}', '{{\"all\": true}}', 'planning', 1);
             insert into skipped_customer values ('{id}', 0, 'no_address');
             insert into tally values ('{id}', 'plan', null, 'skipped', 'no_address', 1);",
            self.id
        );
        for (position, (channel, tokens)) in channels.iter().enumerate() {
            let _ = write!(
                sql,
                "insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens, planned)
                 select '{id}', {position}, '{channel}', id, {tokens}, {} from sender
                  where shop_id = '{shop}' and channel = '{channel}';
                 insert into delivery (broadcast_id, customer_id, address_id, twin_of, channel)
                 select '{id}', a.customer_id, a.id, a.twin_of, '{channel}' from address a
                   join sender s on s.id = a.sender_id where a.shop_id = '{shop}' and s.channel = '{channel}';",
                self.customers.len(),
                shop = self.id
            );
            for (number, part) in self.customers.chunks(slice).enumerate() {
                let _ = write!(
 sql,
                    "insert into slice (broadcast_id, channel, slice_no, first_customer, last_customer, planned, remaining)
                     values ('{id}', '{channel}', {number}, {}, {}, {len}, {len});",
                    part[0],
                    part[part.len() - 1],
                    len = part.len()
                );
            }
        }
        run(&self.pool, &sql).await;
        id
    }

    /// A planned broadcast, opened.
    pub(crate) async fn opened(&self, channels: &[(&str, i32)], slice: usize) -> Uuid {
        let id = self.planned(channels, slice).await;
        assert_eq!(open(&self.pool, id).await, "opened");
        id
    }

    /// What may be spent now.
    pub(crate) async fn available(&self) -> i64 {
        let sql = format!(
            "select allowance - held_allowance + extra - held_extra from token_account where shop_id = '{}'",
            self.id
        );
        one(&self.pool, &sql).await
    }
}

/// The last step of planning.
pub(crate) async fn open(pool: &PgPool, broadcast: Uuid) -> String {
    one(pool, &format!("select open_broadcast('{broadcast}', 1)")).await
}

/// The state of a broadcast.
pub(crate) async fn state(pool: &PgPool, broadcast: Uuid) -> String {
    one(pool, &format!("select state from broadcast where id = '{broadcast}'")).await
}

/// A claimed slice.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Claim {
    pub(crate) slice_no: i32,
    pub(crate) epoch: i32,
    pub(crate) intent_no: i32,
    pub(crate) repeats: i32,
    pub(crate) in_flight: Vec<i64>,
    pub(crate) customers: Vec<i64>,
    pub(crate) first_names: Vec<String>,
}

/// Claims a slice, for whatever turn its lane is in, with a window of `window` messages from a provider that remembers keys for `key_secs`.
pub(crate) async fn claim(
    db: impl sqlx::PgExecutor<'_>,
    broadcast: Uuid,
    channel: &str,
    window: i32,
    key_secs: f64,
) -> Option<Claim> {
    let sql = format!(
        "select s.* from lane l, claim_slice('{broadcast}', '{channel}', l.epoch, {window}, 60, {key_secs}, {}) s
          where l.broadcast_id = '{broadcast}' and l.channel = '{channel}'",
        key_secs > 0.0
    );
    sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(db).await.unwrap()
}

/// Settles members of a claim as `outcome`, with `next` as the next intent.
pub(crate) async fn settle(
    db: impl sqlx::PgExecutor<'_>,
    broadcast: Uuid,
    channel: &str,
    claim: &Claim,
    (customers, outcome): (&[i64], &str),
    (next, uncertain): (Option<&[i64]>, Option<&[i64]>),
) -> String {
    let reason = (!matches!(outcome, "accepted" | "cancelled" | "expired")).then_some("recipient");
    let none: Vec<Option<&str>> = vec![None; customers.len()];
    query_scalar(
        "select settle_window($1, $2::text::channel, $3, $4, $5, $6::text[]::delivery_state[], $7, $8, $8, $9, $11, '{}', $10, 0, 60)",
    )
    .bind(broadcast)
    .bind(channel)
    .bind(claim.slice_no)
    .bind(claim.epoch)
    .bind(customers)
    .bind(vec![outcome; customers.len()])
    .bind(vec![reason; customers.len()])
    .bind(none)
    .bind(next)
    .bind(uncertain.unwrap_or_default())
    .bind(claim.intent_no + 1)
    .fetch_one(db)
    .await
    .unwrap()
}

/// Claims and accepts whatever is left of a channel.
pub(crate) async fn send_rest(pool: &PgPool, broadcast: Uuid, channel: &str) -> String {
    let mut last = String::new();
    while let Some(claimed) = claim(pool, broadcast, channel, 1000, 0.0).await {
        last = settle(
            pool,
            broadcast,
            channel,
            &claimed,
            (&claimed.customers, "accepted"),
            (None, None),
        )
        .await;
    }
    last
}

/// Lets the lease of everything that is being sent run out, as after a crash.
pub(crate) async fn let_leases_expire(pool: &PgPool, broadcast: Uuid) {
    let sql = format!(
        "update slice set lease_until = now() - interval '1 second' where broadcast_id = '{broadcast}' and state = 'sending'"
    );
    run(pool, &sql).await;
}

/// How many results a broadcast has by state and reason, as `state reason n`, sorted.
pub(crate) async fn outcomes(pool: &PgPool, broadcast: Uuid) -> Vec<String> {
    let sql = format!(
        "select coalesce(array_agg(line order by line), '{{}}') from (
            select concat_ws(' ', state, reason, count(*)) as line from delivery_result
             where broadcast_id = '{broadcast}' group by state, reason) x"
    );
    one(pool, &sql).await
}

/// The audit finds nothing.
pub(crate) async fn assert_clean(pool: &PgPool) {
    let report = carillon::ledger::audit(pool, None).await.unwrap();
    let mut text = Vec::new();
    carillon::cli::audit::table(&mut text, &report).unwrap();
    assert!(report.is_clean(), "{}", String::from_utf8_lossy(&text));
}
