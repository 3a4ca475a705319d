//! `carillon tokens topup`, run as the real program: a wrong call says what is wrong and changes nothing, a good one does what it
//! says, in words and in JSON.

use carillon::top_up;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    cli::run as cli,
    top_up_scene::{due, requested, rows},
    world::World,
};

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
