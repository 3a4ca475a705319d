//! `carillon tokens`: what a shop has, had and spent, as tables, JSON and CSV; and corrections that need two persons.

use carillon::ledger::{self, CSV_HEADER, Period, Usage};
use carillon_jobs::ShopId;
use uuid::Uuid;

use crate::{
    cli::run,
    fixture_db::database,
    scene::{self, one},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_its_entries_and_what_was_spent_read_as_tables_and_as_json() {
    let world = World::new(&[]).await;
    let shop = scene::shop(world.pool(), 0, 1_000).await.id.to_string();
    let broadcast = Uuid::now_v7();
    for sql in [
        format!("select ledger_top_up('{shop}', 12500, 'order-1')"),
        format!("select ledger_hold('{broadcast}', '{shop}', 1200)"),
        format!("select ledger_settle('{broadcast}', 'line', 1100, 50, '1')"),
        format!("select ledger_settle('{broadcast}', 'app', 20, 0, '2')"),
        format!("select ledger_refund('{broadcast}', 'line', 5, '1')"),
    ] {
        world.run(&sql).await;
    }
    let table = run(&world, &["tokens", "balance", "--shop", &shop]).await;
    assert_eq!(table.code, 0, "{table:?}");
    for line in [
        "  tokens     balance  held  to spend",
        "  allowance        0     0         0",
        "  extra       12,385    30    12,355",
        "the allowance is that of 2999-11",
    ] {
        assert!(table.out.contains(line), "{line}: {}", table.out);
    }
    let json = run(&world, &["tokens", "balance", "--shop", &shop, "--json"])
        .await
        .json();
    assert_eq!(
        (
            json["extra"].as_i64(),
            json["held_extra"].as_i64(),
            json["available"].as_i64()
        ),
        (Some(12_385), Some(30), Some(12_355))
    );

    let table = run(&world, &["tokens", "ledger", "--shop", &shop, "--limit", "2"]).await;
    assert!(
        table.out.contains("refund:1 (line)") && table.out.contains("+5"),
        "{table:?}"
    );
    assert!(!table.out.contains("top_up"), "{table:?}");
    let older = table
        .out
        .lines()
        .last()
        .unwrap()
        .strip_prefix("older: carillon ")
        .unwrap();
    let older = run(&world, &older.split(' ').collect::<Vec<_>>()).await;
    assert!(
        older.out.contains("top_up:order-1") && !older.out.contains("refund:1"),
        "{older:?}"
    );
    let json = run(&world, &["tokens", "ledger", "--shop", &shop, "--json"])
        .await
        .json();
    assert_eq!(json.as_array().unwrap().len(), 7);
    assert_eq!(
        (
            json[1]["kind"].as_str(),
            json[1]["channel"].as_str(),
            json[1]["extra"].as_i64()
        ),
        (Some("capture"), Some("app"), Some(-20))
    );

    let month: String = world
        .one("select to_char(now() at time zone 'Asia/Taipei', 'YYYY-MM')")
        .await;
    let table = run(&world, &["tokens", "usage", "--shop", &shop]).await;
    for (channel, captured, refunded, spent) in [
        ("app", "20", "0", "20"),
        ("line", "1,100", "5", "1,095"),
        ("together", "1,120", "5", "1,115"),
    ] {
        let row = table
            .out
            .lines()
            .find(|line| line.contains(channel))
            .unwrap_or_else(|| panic!("{table:?}"));
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            [&*month, channel, captured, refunded, spent]
        );
    }
    let json = run(&world, &["tokens", "usage", "--shop", &shop, "--json"])
        .await
        .json();
    assert_eq!(
        (json[1]["channel"].as_str(), json[1]["spent"].as_i64()),
        (Some("line"), Some(1_095))
    );
    assert_exported(&world, &shop, broadcast).await;
}

/// The same entries as CSV.
async fn assert_exported(world: &World, shop: &str, broadcast: Uuid) {
    let csv = run(world, &["tokens", "export", "--shop", shop]).await;
    let lines: Vec<&str> = csv.out.lines().collect();
    assert_eq!((lines[0], lines.len()), (CSV_HEADER, 8), "{csv:?}");
    assert!(
        lines[1].starts_with(shop) && lines[1].contains(",grant,grant:2999-11,,,1000,0,0,0,1000,0,0,0"),
        "{csv:?}"
    );
    assert!(
        lines[7].ends_with(&format!(",refund,refund:1,{broadcast},line,0,5,0,0,0,12385,0,30")),
        "{csv:?}"
    );
    let none = run(world, &["tokens", "export", "--shop", shop, "--month", "2020-01"]).await;
    assert_eq!(none.out.trim_end(), CSV_HEADER);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_asks_for_a_correction_and_another_one_makes_it() {
    let world = World::new(&[]).await;
    let shop = world.shop.to_string();
    let before: i64 = world.one("select extra from token_account").await;
    let ask = [
        "tokens",
        "adjust",
        "request",
        "--shop",
        &shop,
        "--extra",
        "-50",
        "--reason",
        "credited twice",
        "--by",
        "Ann",
    ];
    let asked = run(&world, &ask).await;
    assert!(
        asked.out.contains("adjustment 1 is requested; nothing has moved"),
        "{asked:?}"
    );
    assert!(
        asked.out.contains("carillon tokens adjust approve 1 --by NAME"),
        "{asked:?}"
    );
    let own = run(&world, &["tokens", "adjust", "approve", "1", "--by", "Ann"]).await;
    assert_eq!(own.code, 2, "{own:?}");
    assert!(
        own.err
            .contains("another person than the one who asked must approve it"),
        "{own:?}"
    );
    let waiting = run(&world, &["tokens", "adjust", "list", "--waiting", "--json"])
        .await
        .json();
    assert_eq!(
        (waiting[0]["id"].as_i64(), waiting[0]["requested_by"].as_str()),
        (Some(1), Some("Ann"))
    );
    for (changed, text) in [
        (true, "adjustment 1 is applied"),
        (false, "adjustment 1 is already applied"),
    ] {
        let approved = run(&world, &["tokens", "adjust", "approve", "1", "--by", "Bob"]).await;
        assert_eq!((approved.code, approved.out.trim_end()), (0, text), "{changed}");
    }
    assert_eq!(world.one::<i64>("select extra from token_account").await, before - 50);
    let table = run(&world, &["tokens", "adjust", "list"]).await;
    assert!(
        table.out.contains("applied") && table.out.contains("Bob") && table.out.contains("credited twice"),
        "{table:?}"
    );
    let no = run(
        &world,
        &["tokens", "adjust", "reject", "1", "--reason", "late", "--by", "Eve"],
    )
    .await;
    assert_eq!(no.code, 2, "{no:?}");
    assert!(no.err.contains("adjustment 1 was applied before"), "{no:?}");
    let asked = run(&world, &[&ask[..], &["--json"]].concat()).await.json();
    assert_eq!(
        (asked["id"].as_i64(), asked["state"].as_str()),
        (Some(2), Some("requested"))
    );
    let rejected = run(
        &world,
        &[
            "tokens",
            "adjust",
            "reject",
            "2",
            "--reason",
            "once was right",
            "--by",
            "Ann",
        ],
    )
    .await;
    assert_eq!(rejected.out.trim_end(), "adjustment 2 is rejected");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_about_tokens_says_what_is_wrong_and_changes_nothing() {
    let world = World::new(&[]).await;
    let shop = world.shop.to_string();
    let nobody = Uuid::now_v7().to_string();
    let books = "select concat((select json_agg(e) from ledger_entry e), (select json_agg(t) from token_adjustment t))";
    let before: String = world.one(books).await;
    let ask = [
        "tokens", "adjust", "request", "--reason", "why", "--by", "Ann", "--shop",
    ];
    for (args, text) in [
        (vec!["tokens"], "Commands:"),
        (vec!["tokens", "balance"], "--shop"),
        (vec!["tokens", "balance", "--shop", "x"], "'x'"),
        (vec!["tokens", "balance", "--shop", &nobody], "there is no shop"),
        (vec!["tokens", "ledger", "--shop", &nobody], "there is no shop"),
        (vec!["tokens", "ledger", "--shop", &shop, "--limit", "0"], "1..=1000"),
        (vec!["tokens", "usage", "--shop", &nobody], "there is no shop"),
        (vec!["tokens", "export", "--shop", &nobody], "there is no shop"),
        (
            vec!["tokens", "export", "--shop", &shop, "--month", "November"],
            "such as 2026-11",
        ),
        (vec!["tokens", "adjust"], "Commands:"),
        (
            vec!["tokens", "adjust", "request", "--shop", &shop, "--extra", "5"],
            "--reason",
        ),
        ([&ask[..], &[&*nobody, "--extra", "5"]].concat(), "there is no shop"),
        ([&ask[..], &[&*shop]].concat(), "moves at least one token"),
        ([&ask[..], &[&*shop, "--extra", "many"]].concat(), "'many'"),
        (
            vec!["tokens", "adjust", "approve", "9", "--by", "Bob"],
            "there is no adjustment 9",
        ),
        (vec!["tokens", "adjust", "approve", "9"], "--by"),
        (vec!["tokens", "adjust", "reject", "9", "--by", "Bob"], "--reason"),
    ] {
        let ran = run(&world, &args).await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(
            ran.err.contains(text) && ran.err.lines().count() <= 30,
            "{args:?}: {ran:?}"
        );
    }
    assert_eq!(world.one::<String>(books).await, before);
}

#[tokio::test]
async fn an_export_of_many_pages_has_every_entry_once_and_in_order() {
    let db = database().await;
    let shop = scene::shop(&db.pool, 0, 100).await.id;
    scene::run(
        &db.pool,
        &format!("select ledger_top_up('{shop}', n, 'a \"big\", order ' || n) from generate_series(1, 10001) n"),
    )
    .await;
    let mut csv = Vec::new();
    let written = ledger::export(&db.pool, ShopId(shop), None, &mut csv).await.unwrap();
    let text = String::from_utf8(csv).unwrap();
    let ids: Vec<i64> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(1).unwrap().parse().unwrap())
        .collect();
    let all: Vec<i64> = one(&db.pool, "select array_agg(id order by id) from ledger_entry").await;
    assert_eq!((written, &ids), (10_002, &all));
    assert!(text.contains(",\"top_up:a \"\"big\"\", order 77\",,,0,77,"));
}

/// Midnight of the month is the shop's, and not that of the server.
#[tokio::test]
async fn a_month_of_usage_and_of_an_export_is_the_shops_own() {
    let db = database().await;
    let shop = scene::shop(&db.pool, 0, 100).await.id;
    let broadcast = Uuid::now_v7();
    scene::run(&db.pool, &format!("select ledger_hold('{broadcast}', '{shop}', 60)")).await;
    for n in 1..=2 {
        scene::run(
            &db.pool,
            &format!("select ledger_settle('{broadcast}', 'line', {n}0, 0, '{n}')"),
        )
        .await;
    }
    // Half an hour before and after midnight in Taipei, both the same day in UTC.
    scene::run(
        &db.pool,
        "set local session_replication_role = replica;
         update ledger_entry set at = '2026-09-15 00:00Z';
         update ledger_entry set at = '2026-09-30 15:30Z' where operation = 'capture:1';
         update ledger_entry set at = '2026-09-30 16:30Z' where operation = 'capture:2'",
    )
    .await;
    let usage = ledger::usage(&db.pool, ShopId(shop), 600).await.unwrap();
    let spent: Vec<_> = usage
        .iter()
        .map(|one: &Usage| (one.month.as_str(), one.spent))
        .collect();
    assert_eq!(spent, [("2026-10", 20), ("2026-09", 10)]);
    for (month, expected, entries) in [(9, "capture:1", 3), (10, "capture:2", 1)] {
        let mut csv = Vec::new();
        let month = Period::new(2026, month).unwrap();
        let written = ledger::export(&db.pool, ShopId(shop), Some(month), &mut csv)
            .await
            .unwrap();
        assert_eq!(written, entries, "{month}");
        assert!(String::from_utf8(csv).unwrap().contains(expected), "{month}");
    }
}
