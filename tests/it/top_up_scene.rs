//! Sets scenes of top-up orders straight: orders requested and paid at any time of the past.

use carillon::{
    db::PgPool,
    top_up::{self, Moved, NewTopUp, Operator, TopUpConfig, TopUpError},
};
use carillon_jobs::{ShopId, TopUpId};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::scene::{one, run};

pub(crate) const RULES: TopUpConfig = TopUpConfig::built_in();

/// An order of so many packages of one block, requested 60 days ago.
pub(crate) async fn requested(pool: &PgPool, shop: Uuid, quantity: i32) -> TopUpId {
    TopUpId(
        one(
            pool,
            &format!(
                "insert into top_up_order (shop_id, package_blocks, quantity, blocks, tokens, package_price_twd, price_twd,
                     price_version, requested_at, moved_by, moved_why)
                 values ('{shop}', 1, {quantity}, {quantity}, 12500 * {quantity}, 799, 799 * {quantity}, 'blocks-2025-09-01',
                     now() - interval '60 days', 'anna', 'requested')
                 returning id"
            ),
        )
        .await,
    )
}

/// What an operator says about a payment.
pub(crate) fn paid(reference: &str, charged_at: Option<DateTime<Utc>>) -> Operator {
    Operator {
        by: "anna".to_owned(),
        reference: reference.to_owned(),
        charged_at,
    }
}

/// Thirty days ago: whatever was charged then is due by now.
pub(crate) fn long_ago() -> DateTime<Utc> {
    Utc::now() - chrono::TimeDelta::days(30)
}

/// Marks as charged, now or in the past.
pub(crate) async fn charge(
    pool: &PgPool,
    id: TopUpId,
    reference: &str,
    at: Option<DateTime<Utc>>,
) -> Result<Moved, TopUpError> {
    top_up::charge(pool, &RULES, &paid(reference, at), id).await
}

/// An order that is paid and due.
pub(crate) async fn due(pool: &PgPool, shop: Uuid, quantity: i32, reference: &str) -> TopUpId {
    let id = requested(pool, shop, quantity).await;
    assert!(charge(pool, id, reference, Some(long_ago())).await.unwrap().changed);
    id
}

/// A request for a package of today's list.
pub(crate) fn new(shop: Uuid, package_blocks: i32, quantity: i32) -> NewTopUp {
    NewTopUp {
        shop: ShopId(shop),
        package_blocks,
        quantity,
        by: "anna".to_owned(),
    }
}

/// The order's moves, in order.
pub(crate) async fn states(pool: &PgPool, id: TopUpId) -> Vec<String> {
    let moves = top_up::history(pool, id).await.unwrap();
    moves.iter().map(|entry| entry.state.to_string()).collect()
}

/// How often tokens of this order were credited, and how many, less those taken back.
pub(crate) async fn credits(pool: &PgPool, id: TopUpId) -> (i64, i64) {
    let count = one(
        pool,
        &format!("select count(*) from ledger_entry where kind = 'top_up' and operation = 'top_up:{id}'"),
    )
    .await;
    let tokens = one(
        pool,
        &format!("select coalesce(sum(extra), 0)::bigint from ledger_entry where operation in ('top_up:{id}', 'top_up_refund:{id}')"),
    )
    .await;
    (count, tokens)
}

/// Everything a refused call could have written.
pub(crate) async fn rows(pool: &PgPool) -> String {
    one(
        pool,
        "select concat((select json_agg(o order by id) from top_up_order o), (select count(*) from top_up_history),
            (select count(*) from ledger_entry), (select json_agg(a order by shop_id) from token_account a),
            (select count(*) from operator_action))",
    )
    .await
}

/// Makes the shop hold so many tokens, allowance first.
pub(crate) async fn hold(pool: &PgPool, shop: Uuid, tokens: i64) {
    let broadcast = Uuid::now_v7();
    run(pool, &format!("select ledger_hold('{broadcast}', '{shop}', {tokens})")).await;
}
