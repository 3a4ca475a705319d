//! A shop's lists of whom it may not write to: in, again, later, out, and after an erasure.

use std::collections::BTreeMap;

use carillon::{broadcast::Mode, suppression};
use carillon_jobs::ShopId;

use crate::{
    broadcast_scene::{ALL, Shop, advance_fully, at, column, config, one, person, planner, run, sent, shop, skipped},
    fixture_db::database,
    world::World,
};

async fn import(shop: &Shop, text: &str) -> suppression::Imported {
    suppression::import(&shop.pool, shop.id, text.as_bytes()).await.unwrap()
}

async fn export(shop: &Shop) -> String {
    let mut out = Vec::new();
    suppression::export(&shop.pool, shop.id, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

/// Each address with its state and reason.
async fn states(shop: &Shop) -> BTreeMap<String, String> {
    let sql = format!(
        "select address || ' ' || concat_ws(' ', state, state_reason) from address where shop_id = '{}'",
        shop.id
    );
    let rows: Vec<String> = column(&shop.pool, &sql).await;
    rows.iter()
        .map(|row| row.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}

/// Somebody comes with this mailbox, as a frontend writes it; returns the customer.
async fn comes(shop: &Shop, mail: &str) -> i64 {
    let insert = format!("insert into customer (shop_id) values ('{}') returning id", shop.id);
    let id: i64 = one(&shop.pool, &insert).await;
    let sender = shop.sender(carillon::channel::Channel::Email);
    run(&shop.pool, &format!("select put_address('{sender}', {id}, '{mail}')")).await;
    id
}

#[tokio::test]
async fn whoever_is_on_a_list_gets_nothing_also_when_they_come_later() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000).await;
    let people = ["Amy@X.example", "bob@x.example"].map(|mail| person([None, None, None, at(mail)]));
    let ids = shop.add(&people).await;
    let list = "channel,address,reason\nemail,amy@x.example,old shop\nemail,later@x.example,\nline,Uabc,\n";
    let told = import(&shop, list).await;
    assert_eq!((told.lines, told.changed, told.bad), (3, 3, 0));
    let again = import(&shop, list).await;
    assert_eq!((again.lines, again.changed, again.bad), (3, 0, 0));
    let later = comes(&shop, "LATER@x.example").await;
    let now = states(&shop).await;
    assert_eq!(now["Amy@X.example"], "opted_out old shop");
    assert_eq!(now["bob@x.example"], "active");
    assert_eq!(now["LATER@x.example"], "opted_out list");
    let id = sent(&shop, &config(10), Mode::PrioritySingle, &ALL).await;
    advance_fully(&planner(&shop.pool, &config(10)), id).await;
    assert_eq!(
        skipped(&shop.pool, id).await,
        [format!("{} opted_out", ids[0]), format!("{later} opted_out")]
    );
    // Another shop's customers are none of its business.
    let other = crate::broadcast_scene::shop(&db.pool, 10).await;
    other.add(&[person([None, None, None, at("amy@x.example")])]).await;
    assert_eq!(states(&other).await["amy@x.example"], "active");
}

/// A list and an address that are written at the same moment, in both orders: whoever commits second sees the other.
#[tokio::test]
async fn a_list_and_a_newcomer_of_the_same_moment_do_not_miss_each_other() {
    let db = database().await;
    let shop = shop(&db.pool, 10).await;
    let sender = shop.sender(carillon::channel::Channel::Email);
    let insert = format!("insert into customer (shop_id) values ('{}') returning id", shop.id);
    let id: i64 = one(&shop.pool, &insert).await;
    let lists = |mail: &str| {
        format!(
            "select suppress_listed('{}', '{{email}}', '{{{mail}}}', '{{opted_out}}', '{{list}}')",
            shop.id
        )
    };
    let comes = |mail: &str| format!("select put_address('{sender}', {id}, '{mail}')");
    for (first, second, mail) in [
        (lists("a@x.example"), comes("a@x.example"), "a@x.example"),
        (comes("b@x.example"), lists("b@x.example"), "b@x.example"),
    ] {
        let mut open = shop.pool.begin().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(first))
            .execute(&mut *open)
            .await
            .unwrap();
        let pool = shop.pool.clone();
        let other = tokio::spawn(async move { run(&pool, &second).await });
        let waits = "select exists (select from pg_stat_activity where wait_event = 'advisory' and datname = current_database())";
        crate::wait::until("the other one waits", || async { one::<bool>(&shop.pool, waits).await }).await;
        open.commit().await.unwrap();
        other.await.unwrap();
        assert_eq!(states(&shop).await[mail], "opted_out list");
    }
}

/// A shop's addresses are hashed once for a list, not once for each of its lines: that would be a thousand million here.
#[tokio::test]
async fn a_long_list_meets_a_large_shop_in_one_pass() {
    let db = database().await;
    let shop = shop(&db.pool, 10).await;
    let sender = shop.sender(carillon::channel::Channel::Email);
    run(
        &shop.pool,
        &format!(
            "with c as (insert into customer (shop_id) select '{}' from generate_series(1, 30000) returning id)
             insert into address (shop_id, sender_id, customer_id, address)
             select '{}', '{sender}', id, 'p' || row_number() over (order by id) || '@x.example' from c",
            shop.id, shop.id
        ),
    )
    .await;
    // Not written as they are stored.
    let lines: Vec<String> = (1..=30_000).map(|i| format!("email,P{i}@X.example\n")).collect();
    let told = import(&shop, &format!("channel,address\n{}", lines.concat())).await;
    assert_eq!((told.lines, told.changed, told.bad), (30_000, 30_000, 0));
    let open: i64 = one(&shop.pool, "select count(*) from address where state = 'active'").await;
    assert_eq!(open, 0);
}

#[tokio::test]
async fn bad_lines_are_named_by_their_number_and_keep_nobody_out() {
    let db = database().await;
    let shop = shop(&db.pool, 10).await;
    let list = "Address;Channel\n";
    let refused = suppression::import(&shop.pool, shop.id, list.as_bytes())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("`channel` is missing"), "{refused}");
    let list = "address,channel,state\na@x.example,email,\nnobody,email,\n\"b@x.example,email,\nc@x.example,fax,\n";
    let told = import(&shop, list).await;
    assert_eq!((told.lines, told.bad), (1, 2));
    let numbers: Vec<u64> = told.bad_lines.iter().map(|(line, _)| *line).collect();
    assert_eq!(numbers, [3, 4]);
    assert!(
        told.bad_lines.iter().all(|(_, problem)| !problem.contains('@')),
        "{told:?}"
    );
    let missing = suppression::import(&shop.pool, ShopId::new(), "channel,address".as_bytes())
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("there is no shop"));
}

#[tokio::test]
async fn an_export_is_what_an_import_reads_and_no_formula() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000).await;
    let people = ["gone@x.example", "out@x.example", "fine@x.example"]
        .map(|mail| person([at(format!("t{mail}")), None, None, at(mail)]));
    let ids = shop.add(&people).await;
    run(
        &db.pool,
        &format!(
            "select close_address(id, 'suppressed', 'rcpt 550 5.1.1') from address where address = 'gone@x.example';
             update customer set opted_out = true where id = {}",
            ids[1]
        ),
    )
    .await;
    import(&shop, "channel,address,state,reason\nsms,+886912345678,opted_out,=cmd()\nemail,\"o,\"\"x\"\"@y.example\",suppressed,\n").await;
    let text = export(&shop).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], suppression::CSV_HEADER);
    assert_eq!(lines.len(), 1 + 2 + 3, "{text}");
    assert!(text.contains("sms,'+886912345678,opted_out,'=cmd(),"), "{text}");
    assert!(
        text.contains("email,gone@x.example,suppressed,rcpt 550 5.1.1,"),
        "{text}"
    );
    assert!(text.contains("out@x.example,opted_out,everything,"), "{text}");
    assert!(!text.contains("fine@"), "{text}");
    // To another shop it says the same, and there again.
    let other = crate::broadcast_scene::shop(&db.pool, 10).await;
    let told = import(&other, &text).await;
    assert_eq!((told.lines, told.changed, told.bad), (5, 5, 0), "{told:?}");
    let without_times = |text: String| {
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.rsplit_once(',').unwrap().0.to_owned())
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(without_times(export(&other).await), without_times(text));
}

#[tokio::test]
async fn who_is_erased_leaves_a_hash_and_stays_excluded() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000).await;
    let ids = shop.add(&[person([None, None, None, at("Amy@x.example")])]).await;
    import(&shop, "channel,address\nemail,amy@x.example\n").await;
    run(&db.pool, &format!("select erase_customer({})", ids[0])).await;
    let texts: i64 = one(&db.pool, "select count(*) from suppression where address is not null").await;
    assert_eq!(texts, 0);
    let text = export(&shop).await;
    assert!(text.contains("email,sha256:") && !text.contains("amy"), "{text}");
    // Her own export is a list; the old list brings her name back to nobody.
    assert_eq!(import(&shop, &text).await.changed, 0);
    import(&shop, "channel,address\nemail,amy@x.example\n").await;
    let texts: i64 = one(&db.pool, "select count(*) from suppression where address is not null").await;
    assert_eq!(texts, 0);
    comes(&shop, "amy@X.example").await;
    assert_eq!(states(&shop).await["amy@X.example"], "opted_out list");
}

/// More lines than a chunk, and a server that cancels in the middle of the second: the first is taken whole, the second not at all.
#[tokio::test]
async fn a_chunk_is_taken_whole_or_not_at_all() {
    let db = database().await;
    let shop = shop(&db.pool, 10).await;
    run(
        &db.pool,
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
         create trigger refuse before insert on suppression for each row when (new.address = 'p7000@x.example') execute function refuse()",
    )
    .await;
    let lines: Vec<String> = (0..12_000).map(|i| format!("email,p{i}@x.example\n")).collect();
    let lines = lines.concat();
    let list = format!("channel,address\n{lines}");
    assert!(suppression::import(&shop.pool, shop.id, list.as_bytes()).await.is_err());
    let kept: i64 = one(&db.pool, "select count(*) from suppression").await;
    assert_eq!(kept, 5_000);
    run(&db.pool, "drop trigger refuse on suppression").await;
    let told = import(&shop, &list).await;
    assert_eq!((told.lines, told.changed), (12_000, 7_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_read_and_write_files() {
    let world = World::new(&[]).await;
    let shop = world.shop.to_string();
    let list = "channel,address\nline,U1\nfax,1\n";
    let told = crate::cli::run_with(&world.env, &["suppressions", "import", "--shop", &shop, "-"], list).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.out.contains("1 lines taken") && told.err.contains("line 3:"),
        "{told:?}"
    );
    let out = crate::cli::run(&world, &["suppressions", "export", "--shop", &shop]).await;
    assert!(out.code == 0 && out.out.contains("line,U1,opted_out,list,"), "{out:?}");
    let nowhere = crate::cli::run(&world, &["suppressions", "import", "--shop", &shop, "/nowhere.csv"]).await;
    assert_eq!(nowhere.code, 2, "{nowhere:?}");
}
