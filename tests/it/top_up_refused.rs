//! What is refused of top-up orders, with the reason and nothing written: by the functions, and by the database whoever asks it.

use carillon::top_up::{self, TopUpError};
use chrono::{TimeDelta, Utc};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{self, one, shop},
    top_up_scene::{charge, due, long_ago, new, requested, rows, states},
};

/// The sentence of a refusal.
fn why<T: std::fmt::Debug>(result: Result<T, TopUpError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn an_order_of_anything_but_whole_listed_packages_is_refused() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let today: String = one(&db.pool, "select price_day()::text").await;
    let before = rows(&db.pool).await;
    for blocks in [0, 2, 7, 49, 500, -1, i32::MIN, i32::MAX] {
        let said = why(top_up::request(&db.pool, &new(shop.id, blocks, 1)).await);
        let expected = format!("a package of {blocks} blocks is not sold on {today}; there are: 1, 5, 10, 50, 100");
        assert_eq!(said, expected);
    }
    for quantity in [0, -1, 1001, i32::MIN, i32::MAX] {
        let said = why(top_up::request(&db.pool, &new(shop.id, 10, quantity)).await);
        assert_eq!(said, format!("a quantity is 1 to 1000 packages, not {quantity}"));
    }
    let nobody = Uuid::now_v7();
    let said = why(top_up::request(&db.pool, &new(nobody, 1, 1)).await);
    assert_eq!(said, format!("there is no shop {nobody}"));
    for by in ["", "  ", "a\nb", &"x".repeat(61)] {
        let mut order = new(shop.id, 1, 1);
        order.by = by.to_owned();
        let said = why(top_up::request(&db.pool, &order).await);
        assert!(said.starts_with("a name is 1 to 60 characters"), "{said}");
    }
    assert_eq!(rows(&db.pool).await, before);
    assert_eq!(
        top_up::request(&db.pool, &new(shop.id, 100, 1000))
            .await
            .unwrap()
            .tokens,
        1_250_000_000
    );
}

#[tokio::test]
async fn a_charge_that_cannot_be_is_refused() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let paid = due(&db.pool, shop.id, 1, "PAY-1").await;
    let open = requested(&db.pool, shop.id, 1).await;
    let given_back = due(&db.pool, shop.id, 1, "PAY-2").await;
    top_up::refund(&db.pool, given_back, None, "chargeback", "bob")
        .await
        .unwrap();
    let before = rows(&db.pool).await;
    let said = [
        why(charge(&db.pool, paid, "PAY-3", Some(long_ago())).await),
        why(charge(&db.pool, open, "PAY-1", Some(long_ago())).await),
        why(charge(&db.pool, given_back, "PAY-3", Some(long_ago())).await),
        why(charge(&db.pool, open, "PAY-3", Some(Utc::now() + TimeDelta::minutes(5))).await),
        why(charge(&db.pool, open, "PAY-3", Some(Utc::now() - TimeDelta::days(61))).await),
        why(charge(&db.pool, open, " ", None).await),
        why(charge(&db.pool, open, &"x".repeat(101), None).await),
    ];
    assert_eq!(
        said,
        [
            format!("order {paid} was paid with another payment: look at both, and give one back"),
            "that payment reference has paid for another order: one payment pays one order".to_owned(),
            format!("order {given_back} is refunded and cannot be charged: a new payment needs a new order"),
            "an order cannot have been charged later than now".to_owned(),
            "an order cannot have been charged before it was requested".to_owned(),
            "a payment reference is 1 to 100 characters, none of them a control character".to_owned(),
            "a payment reference is 1 to 100 characters, none of them a control character".to_owned(),
        ]
    );
    assert_eq!(rows(&db.pool).await, before);
    // Once it is credited, another payment is still refused.
    top_up::settle(&db.pool, paid).await.unwrap();
    let before = rows(&db.pool).await;
    assert!(why(charge(&db.pool, paid, "PAY-3", Some(long_ago())).await).contains("another payment"));
    assert_eq!(rows(&db.pool).await, before);
}

#[tokio::test]
async fn what_was_not_paid_is_neither_credited_nor_refunded_and_what_was_paid_does_not_fail() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let open = requested(&db.pool, shop.id, 1).await;
    let failed = requested(&db.pool, shop.id, 1).await;
    top_up::fail(&db.pool, failed, "no answer", "bob").await.unwrap();
    let waiting = requested(&db.pool, shop.id, 1).await;
    charge(&db.pool, waiting, "PAY-1", None).await.unwrap();
    let settled = due(&db.pool, shop.id, 1, "PAY-2").await;
    top_up::settle(&db.pool, settled).await.unwrap();
    let before = rows(&db.pool).await;
    let refund = async |id, tokens| why(top_up::refund(&db.pool, id, tokens, "chargeback", "bob").await);
    let fail = async |id| why(top_up::fail(&db.pool, id, "no answer", "bob").await);
    let said = [
        why(top_up::settle(&db.pool, open).await),
        why(top_up::settle(&db.pool, failed).await),
        refund(open, None).await,
        refund(failed, None).await,
        refund(waiting, Some(1)).await,
        refund(settled, Some(0)).await,
        refund(settled, Some(-5)).await,
        refund(settled, Some(12_501)).await,
        fail(waiting).await,
        fail(settled).await,
    ];
    assert_eq!(
        said,
        [
            format!("order {open} is requested and cannot be settled: it was not paid"),
            format!("order {failed} is failed and cannot be settled: it was not paid"),
            format!("order {open} is requested and cannot be refunded: it was not paid; fail it"),
            format!("order {failed} is failed and cannot be refunded: it was not paid"),
            format!("order {waiting} has brought no tokens yet: refund it as a whole"),
            "1 to 12500 tokens can be taken back of this order, not 0".to_owned(),
            "1 to 12500 tokens can be taken back of this order, not -5".to_owned(),
            "1 to 12500 tokens can be taken back of this order, not 12501".to_owned(),
            format!("order {waiting} is charged and cannot be failed: it was paid; refund it"),
            format!("order {settled} is settled and cannot be failed: it was paid; refund it"),
        ]
    );
    assert!(why(top_up::settle(&db.pool, waiting).await).ends_with("and not before"));
    assert_eq!(rows(&db.pool).await, before);
    // Spent by now: above what is left.
    scene::run(
        &db.pool,
        &format!(
            "select ledger_hold('{0}', '{1}', 12000); select ledger_settle('{0}', 'line', 12000, 0, 'a')",
            Uuid::now_v7(),
            shop.id
        ),
    )
    .await;
    let before = rows(&db.pool).await;
    assert_eq!(
        refund(settled, None).await,
        "12500 tokens cannot be taken back: 500 extra tokens are left that are neither spent nor held"
    );
    assert_eq!(rows(&db.pool).await, before);
}

/// The constraint with which Postgres refuses a statement.
async fn refusal(pool: &carillon::db::PgPool, sql: &str) -> String {
    let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    let error = result.expect_err(sql).into_database_error().unwrap();
    error.constraint().unwrap_or(error.message()).to_owned()
}

#[tokio::test]
async fn the_database_itself_refuses_to_bend_an_order() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let (open, waiting, settled) = (
        requested(&db.pool, shop.id, 1).await,
        requested(&db.pool, shop.id, 1).await,
        due(&db.pool, shop.id, 1, "PAY-2").await,
    );
    charge(&db.pool, waiting, "PAY-1", None).await.unwrap();
    let due = due(&db.pool, shop.id, 1, "PAY-3").await;
    top_up::settle(&db.pool, settled).await.unwrap();
    let before = rows(&db.pool).await;
    let set = |id, what: &str| format!("update top_up_order set {what} where id = '{id}'");
    let payment = "gateway = 'x', payment_reference = 'x', charged_at = now(), credit_at = now(), due_at = now()";
    let (moves, stays, entry) = ("top_up_state_moves", "top_up_order_stays", "top_up_has_its_entry");
    let cases = [
        (set(open, "state = 'settled'"), moves),
        (set(open, "state = 'refunded'"), moves),
        (set(open, "state = 'charged'"), "top_up_paid_is_charged"),
        (set(open, payment), stays),
        (set(open, "price_twd = 1"), stays),
        (set(open, "tokens = 99999"), stays),
        (set(open, "shop_id = shop_id, moved_by = 'eve'"), stays),
        (set(waiting, "state = 'requested'"), moves),
        (set(waiting, "state = 'failed'"), moves),
        (set(waiting, "state = 'settled', settled_at = now()"), entry),
        (set(waiting, "credit_at = charged_at"), stays),
        (set(waiting, "due_at = charged_at"), "top_up_credited_after_charge"),
        (set(waiting, "payment_reference = 'another'"), stays),
        (set(waiting, "state = 'refunded', refunded_tokens = 12500"), "top_up_refund_within_credit"),
        // Due, but the ledger does not say so.
        (set(due, "state = 'settled', settled_at = now()"), entry),
        (set(settled, "state = 'charged', settled_at = null"), stays),
        (set(settled, "settled_at = now()"), stays),
        (set(settled, "state = 'refunded', refunded_tokens = 5"), entry),
        (format!("delete from top_up_order where id = '{open}'"), stays),
        ("truncate top_up_order cascade".to_owned(), stays),
        ("update top_up_history set by = 'eve'".to_owned(), stays),
        ("delete from top_up_history".to_owned(), stays),
        ("truncate top_up_history".to_owned(), stays),
        (
            format!("insert into top_up_order (shop_id, package_blocks, quantity, blocks, tokens, package_price_twd, price_twd,
                        price_version, state, moved_by, moved_why) values ('{}', 1, 1, 1, 12500, 799, 799, 'v', 'charged', 'eve', 'x')", shop.id),
            moves,
        ),
        (
            format!("insert into top_up_order (shop_id, package_blocks, quantity, blocks, tokens, package_price_twd, price_twd,
                        price_version, moved_by, moved_why) values ('{}', 1, 2, 2, 12500, 799, 799, 'v', 'eve', 'x')", shop.id),
            "top_up_price_adds_up",
        ),
        (
            format!("select ledger_post('{}', 'top_up_refund', 'top_up_refund:x', null, null, 0, 5, 0, 0)", shop.id),
            "kind_moves_its_own_way",
        ),
        (
            format!("select ledger_post('{}', 'gift', 'gift:x', null, null, 0, 5, 0, 0)", shop.id),
            "ledger_has_one_door",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(refusal(&db.pool, &sql).await, expected, "{sql}");
    }
    assert_eq!(rows(&db.pool).await, before);
    // Tokens credited by hand under the order's name, another number than it brought: nobody calls that settled.
    scene::run(&db.pool, &format!("select ledger_top_up('{}', 5, '{due}')", shop.id)).await;
    assert_eq!(
        refusal(&db.pool, &format!("select settle_top_up('{due}')")).await,
        entry
    );
    assert_eq!(states(&db.pool, due).await, ["requested", "charged"]);
}
