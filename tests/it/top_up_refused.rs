//! What is refused of top-up orders, with the reason and nothing written: by the functions, by the database whoever asks it, and
//! on the command line.

use carillon::top_up::{self, TopUpError};
use chrono::{TimeDelta, Utc};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    cli::run as cli,
    fixture_db::database,
    scene::{self, one, shop},
    top_up_scene::{charge, due, long_ago, new, requested, rows, states},
    world::World,
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
        why(charge(&db.pool, paid, "PAY-3", long_ago()).await),
        why(charge(&db.pool, open, "PAY-1", long_ago()).await),
        why(charge(&db.pool, given_back, "PAY-3", long_ago()).await),
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
    assert!(why(charge(&db.pool, paid, "PAY-3", long_ago()).await).contains("another payment"));
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
            "ledger_entry_kind_check",
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

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)] // A table, a line a call.
async fn a_wrong_call_of_topup_says_what_is_wrong_and_changes_nothing() {
    let world = World::new(&[]).await;
    let pool = world.pool();
    let paid = due(pool, world.shop, 1, "PAY-1").await;
    top_up::settle(pool, paid).await.unwrap();
    let (open, paid, shop) = (
        requested(pool, world.shop, 1).await.to_string(),
        paid.to_string(),
        world.shop.to_string(),
    );
    let nobody = Uuid::now_v7().to_string();
    let topup = |rest: &[&str]| -> Vec<String> {
        ["tokens", "topup"]
            .iter()
            .chain(rest)
            .map(|word| (*word).to_owned())
            .collect()
    };
    let by = ["--by", "anna"];
    let calls: Vec<(Vec<String>, &str)> = vec![
        (topup(&[]), "Commands:"),
        (topup(&["request", "--shop", &shop, "--package", "1"]), "--by"),
        (
            topup(&["request", "--shop", &shop, "--package", "7", by[0], by[1]]),
            "there are: 1, 5, 10, 50, 100",
        ),
        (
            topup(&["request", "--shop", &shop, "--package", "-1", by[0], by[1]]),
            "is not sold",
        ),
        (
            topup(&[
                "request",
                "--shop",
                &shop,
                "--package",
                "1",
                "--quantity",
                "0",
                by[0],
                by[1],
            ]),
            "1 to 1000 packages, not 0",
        ),
        (
            topup(&[
                "request",
                "--shop",
                &shop,
                "--package",
                "1",
                "--quantity",
                "-3",
                by[0],
                by[1],
            ]),
            "1 to 1000 packages, not -3",
        ),
        (
            topup(&["request", "--shop", &nobody, "--package", "1", by[0], by[1]]),
            "there is no shop",
        ),
        (
            topup(&["request", "--shop", &shop, "--package", "1", "--by", " "]),
            "a name is 1 to 60",
        ),
        (
            topup(&["list", "--state", "paid"]),
            "requested, charged, settled, failed or refunded",
        ),
        (topup(&["list", "--limit", "0"]), "1..=1000"),
        (topup(&["show", &nobody]), "there is no top-up order"),
        (topup(&["mark-charged", &open, by[0], by[1]]), "--reference"),
        (topup(&["mark-charged", &open, "--reference", "PAY-9"]), "--by"),
        (
            topup(&["mark-charged", &open, "--reference", "PAY-1", by[0], by[1]]),
            "has paid for another order",
        ),
        (
            topup(&[
                "mark-charged",
                &open,
                "--reference",
                "P",
                "--at",
                "yesterday",
                by[0],
                by[1],
            ]),
            "with its offset",
        ),
        (
            topup(&[
                "mark-charged",
                &open,
                "--reference",
                "P",
                "--at",
                "2126-01-01T00:00:00Z",
                by[0],
                by[1],
            ]),
            "later than now",
        ),
        (
            topup(&["mark-charged", &paid, "--reference", "PAY-1", by[0], by[1]]),
            "is settled and cannot be charged",
        ),
        (
            topup(&["mark-charged", &paid, "--reference", "PAY-9", by[0], by[1]]),
            "another payment",
        ),
        (
            topup(&["mark-charged", &nobody, "--reference", "PAY-9", by[0], by[1]]),
            "there is no top-up order",
        ),
        (topup(&["fail", &open, by[0], by[1]]), "--reason"),
        (
            topup(&["fail", &open, "--reason", "", by[0], by[1]]),
            "a reason is 1 to 500",
        ),
        (
            topup(&["fail", &paid, "--reason", "x", by[0], by[1]]),
            "it was paid; refund it",
        ),
        (
            topup(&["refund", &open, "--reason", "x", by[0], by[1]]),
            "it was not paid; fail it",
        ),
        (
            topup(&["refund", &paid, "--reason", "x", "--tokens", "0", by[0], by[1]]),
            "1 to 12500 tokens",
        ),
        (
            topup(&["refund", &paid, "--reason", "x", "--tokens", "-1", by[0], by[1]]),
            "1 to 12500 tokens",
        ),
        (
            topup(&["refund", &paid, "--reason", "x", "--tokens", "12501", by[0], by[1]]),
            "1 to 12500 tokens",
        ),
    ];
    let before = rows(pool).await;
    for (args, says) in &calls {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = cli(&world, &words).await;
        let clear = ran.code == 2 && ran.out.is_empty() && ran.err.contains(says) && ran.err.lines().count() <= 30;
        assert!(clear, "{args:?} should say {says:?}: {ran:?}");
    }
    assert_eq!(rows(pool).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_an_order_from_the_request_to_the_refund() {
    let world = World::new(&[]).await;
    let shop = world.shop.to_string();
    let topup = async |rest: &[&str]| {
        let words: Vec<&str> = ["tokens", "topup"].into_iter().chain(rest.iter().copied()).collect();
        cli(&world, &words).await
    };
    let placed = topup(&["request", "--shop", &shop, "--package", "50", "--by", "anna", "--json"])
        .await
        .json();
    let id = placed["order"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&placed["changed"], &placed["order"]["price_twd"]),
        (&Value::from(true), &Value::from(31_950))
    );
    let words = topup(&[
        "request",
        "--shop",
        &shop,
        "--package",
        "5",
        "--quantity",
        "2",
        "--by",
        "anna",
    ])
    .await;
    assert!(
        words.code == 0
            && words.out.contains("125,000 tokens for 7,190 TWD")
            && words.out.contains("next: charge the shop"),
        "{words:?}"
    );

    let charged = topup(&["mark-charged", &id, "--reference", "BANK-7", "--by", "bob"]).await;
    assert!(
        charged.code == 0
            && charged.out.contains("its tokens come at Thu ")
            && charged.out.contains("00:00:00 Asia/Taipei"),
        "{charged:?}"
    );
    let again = topup(&["mark-charged", &id, "--reference", "BANK-7", "--by", "bob", "--json"])
        .await
        .json();
    assert_eq!(
        (&again["changed"], &again["order"]["state"]),
        (&Value::from(false), &Value::from("charged"))
    );
    let again = topup(&["mark-charged", &id, "--reference", "BANK-7", "--by", "bob"]).await;
    assert!(again.out.contains("nothing has changed"), "{again:?}");

    let listed = topup(&["list", "--shop", &shop, "--state", "charged", "--json"])
        .await
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let table = topup(&["list"]).await;
    assert!(
        table.out.contains(&id) && table.out.contains("1 × 50") && table.out.contains("2 × 5"),
        "{table:?}"
    );
    let refunded = topup(&["refund", &id, "--reason", "wrong shop", "--by", "bob"]).await;
    assert!(
        refunded.code == 0 && refunded.out.contains("taken back: 0 tokens"),
        "{refunded:?}"
    );
    let shown = topup(&["show", &id]).await;
    for part in [
        "is refunded",
        "BANK-7 (operator)",
        "31,950 TWD, by blocks-2025-09-01",
        "wrong shop",
        "anna",
        "bob",
    ] {
        assert!(shown.out.contains(part), "{part}: {shown:?}");
    }
    let shown = topup(&["show", &id, "--json"]).await.json();
    assert_eq!(shown["history"].as_array().unwrap().len(), 3);
}
