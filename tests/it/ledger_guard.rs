//! The ledger against hand-written SQL by the owner of the tables: whatever bends it is refused before a row has changed.
//!
//! Not tried: changing the schema, switching triggers off. Who may do that may do anything; the audit finds what it left.

use carillon::db::PgPool;
use carillon_jobs::ShopId;
use sqlx::{AssertSqlSafe, Connection as _};
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{LINE, Shop, assert_clean, claim, one, run, settle, shop},
};

/// The constraint or message with which Postgres refuses a statement.
async fn refusal(pool: &PgPool, sql: &str) -> String {
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .expect_err(sql);
    let error = error.into_database_error().unwrap();
    error
        .constraint()
        .map_or_else(|| error.message().to_owned(), ToOwned::to_owned)
}

/// Every row of the ledger's tables.
async fn books(pool: &PgPool) -> String {
    one(
        pool,
        "select concat((select json_agg(a order by shop_id) from token_account a), (select json_agg(e order by id) from ledger_entry e),
            (select json_agg(h order by broadcast_id) from token_hold h), (select json_agg(t order by id) from token_adjustment t),
            (select json_agg(o order by id) from operator_action o))",
    )
    .await
}

/// A shop in the middle of a broadcast to six on LINE: two accepted, one failed, the rest open. Its broadcast, and the settle
/// that was done.
async fn sending(pool: &PgPool) -> (Shop, Uuid, String) {
    let tea = shop(pool, 6, 20).await;
    run(pool, &format!("select ledger_top_up('{}', 30, 'order-1')", tea.id)).await;
    let broadcast = tea.opened(&[LINE], 6).await;
    let claimed = claim(pool, broadcast, "line", 3, 0.0).await.unwrap();
    settle(
        pool,
        broadcast,
        "line",
        &claimed,
        (&claimed.customers[..2], "accepted"),
        (Some(&claimed.customers[2..3]), None),
    )
    .await;
    let captured: String = one(
        pool,
        "select substr(operation, 9) from ledger_entry where kind = 'capture'",
    )
    .await;
    (tea, broadcast, captured)
}

const DOOR: &str = "ledger_has_one_door";
const NEVER: &str = "ledger entries are never changed or deleted; post a refund or an adjustment instead";

/// A statement and what refuses it. `S` is the shop, `B` its broadcast, `K` the name of the settle that was done.
const FORBIDDEN: &[(&str, &str)] = &[
    // A balance without an entry.
    ("update token_account set extra = extra + 1", DOOR),
    ("update token_account set allowance = allowance - 1 where shop_id = 'S'", DOOR),
    ("update token_account set extra = -1", DOOR),
    ("update token_account set held_allowance = 0, held_extra = 0", DOOR),
    ("update token_account set allowance_period = '2030-01'", DOOR),
    ("update token_account set extra = extra + 1 where false", DOOR),
    ("with moved as (update token_account set extra = extra + 1 returning 1) select * from moved", DOOR),
    ("do $$ begin update token_account set extra = extra + 1; end $$", DOOR),
    ("insert into token_account (shop_id, extra) values ('S', 5) on conflict (shop_id) do update set extra = 5", DOOR),
    ("merge into token_account a using (select 1) s on a.shop_id = 'S' when matched then update set extra = 5", DOOR),
    (
        "insert into shop (id, name, url, plan) values (gen_random_uuid(), 'New', 'u', 'core');
         insert into token_account (shop_id, extra) select id, 100 from shop where name = 'New'
         on conflict (shop_id) do update set extra = 100",
        DOOR,
    ),
    ("delete from token_account", DOOR),
    ("truncate token_account cascade", DOOR),
    // An entry without its balance, or one that does not follow the one before it.
    (
        "insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
             allowance_after, extra_after, held_allowance_after, held_extra_after)
         select shop_id, 'top_up', 'top_up:x', 0, 7, 0, 0, allowance, extra + 8, held_allowance, held_extra from token_account",
        DOOR,
    ),
    (
        "with a as (update token_account set extra = extra + 7 returning *)
         insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
             allowance_after, extra_after, held_allowance_after, held_extra_after)
         select shop_id, 'top_up', 'top_up:x', 0, 7, 0, 0, allowance, extra, held_allowance, held_extra from a",
        DOOR,
    ),
    ("insert into ledger_entry overriding system value select * from ledger_entry", DOOR),
    ("update ledger_entry set allowance = 1", NEVER),
    ("update ledger_entry set at = now()", NEVER),
    ("delete from ledger_entry", NEVER),
    ("truncate ledger_entry", NEVER),
    // A hold that moves without its entry.
    ("update token_hold set released = released + 1, open_allowance = open_allowance - 1", DOOR),
    ("update token_hold set captured_allowance = captured_allowance + 1, open_allowance = open_allowance - 1", DOOR),
    ("update token_hold set refunded_allowance = 1", DOOR),
    ("update token_hold set allowance = allowance + 1, open_allowance = open_allowance + 1", DOOR),
    ("update token_hold set period = '2030-01'", DOOR),
    ("update token_hold set shop_id = gen_random_uuid()", DOOR),
    (
        "insert into token_hold (broadcast_id, shop_id, period, allowance, extra, open_allowance, open_extra)
         values (gen_random_uuid(), 'S', '2999-11', 1, 0, 1, 0)",
        DOOR,
    ),
    ("delete from token_hold", DOOR),
    ("truncate token_hold", DOOR),
    ("update token_hold set state = 'closed'", "closed_hold_is_empty"),
    // The functions themselves, asked for what must not be.
    ("select ledger_settle('B', 'line', 10, 0, 'K')", "ledger_entry_shop_id_operation_key"),
    ("select ledger_settle('B', 'line', 21, 0, 'b')", "token_hold_open_allowance_check"),
    ("select ledger_settle('B', 'line', 0, 21, 'b')", "token_hold_open_allowance_check"),
    ("select ledger_settle('B', 'line', -1, 0, 'c')", "captured and released are numbers of tokens, not -1 and 0"),
    ("select ledger_settle('B', 'line', 1, -1, 'c')", "captured and released are numbers of tokens, not 1 and -1"),
    ("select ledger_refund('B', 'line', 11, 'd')", "refund_within_capture"),
    ("select ledger_refund('B', 'line', 0, 'e')", "a refund is a positive number of tokens, not 0"),
    ("select ledger_hold('B', 'S', 1)", "token_hold_pkey"),
    ("select ledger_hold(gen_random_uuid(), 'S', -1)", "token_hold_allowance_check"),
    ("select ledger_top_up('S', -1, 'x')", "kind_moves_its_own_way"),
    ("select ledger_refill('S', '2999-12', -1)", "allowance_not_overdrawn"),
    ("select ledger_post('S', 'capture', 'capture:x', 'B', 'line', -1, 0, -1, 0)", DOOR),
    ("select ledger_post('S', 'hold', 'hold:x', 'B', null, 0, 0, 1, 0)", DOOR),
    ("select ledger_post('S', 'release', 'release:x', 'B', null, 0, 0, -1, 0)", DOOR),
    ("select ledger_post('S', 'refund', 'refund:x', 'B', null, 1, 0, 0, 0)", DOOR),
    ("select ledger_post('S', 'adjust', 'adjust:x', null, null, 1, 0, 0, 0)", DOOR),
    ("insert into ledger_move (move, shop_id, kind, operation, extra) values ('post', 'S', 'adjust', 'adjust:x', 1)", DOOR),
    ("select ledger_post('S', 'expire', 'expire:x', null, null, -1, 0, 0, 0)", DOOR),
    ("select ledger_post('S', 'grant', 'grant:2020-01:y', null, null, 1, 0, 0, 0)", DOOR),
    ("select ledger_post('S', 'top_up', 'top_up:y', null, null, 0, 1, 0, 0)", DOOR),
    ("select ledger_post('S', null, 'grant:y', null, null, 1, 0, 0, 0)", DOOR),
    ("select ledger_post('S', 'top_up_refund', 'top_up_refund:x', null, null, 0, -999, 0, 0)", "extra_not_overdrawn"),
    ("select ledger_post('S', 'top_up_refund', 'top_up:y', null, null, 0, -1, 0, 0)", "kind_moves_its_own_way"),
    // Two persons, and what they did.
    ("insert into token_adjustment (shop_id, allowance, extra, reason, requested_by, state, decided_by)
      values ('S', 0, 5, 'gift', 'Ann', 'applied', 'Bob')", "adjustment_begins_as_a_request"),
    ("update token_adjustment set state = 'applied', decided_by = 'Ann'", "adjustment_needs_a_second_person"),
    ("update token_adjustment set state = 'applied', decided_by = ' ANN '", "adjustment_needs_a_second_person"),
    ("update token_adjustment set state = 'applied'", "adjustment_is_decided_by_somebody"),
    ("update token_adjustment set extra = 500", "adjustment_is_decided_once"),
    ("update token_adjustment set state = 'applied', decided_by = 'Bob', extra = 500", "adjustment_is_decided_once"),
    ("update token_adjustment set requested_by = 'Eve'", "adjustment_is_decided_once"),
    ("delete from token_adjustment", "adjustment_is_decided_once"),
    ("truncate token_adjustment", "adjustment_is_decided_once"),
    ("select request_adjustment('S', 0, 0, 'nothing', 'Ann')", "adjustment_moves_something"),
    ("select request_adjustment('S', 1, 0, ' ', 'Ann')", "adjustment_has_a_reason"),
    ("select request_adjustment('S', 1, 0, 'why', '')", "adjustment_is_asked_by_somebody"),
    ("update operator_action set actor = 'Eve'", "what an operator did is never changed or deleted"),
    ("delete from operator_action", "what an operator did is never changed or deleted"),
    ("truncate operator_action", "what an operator did is never changed or deleted"),
    ("select log_operator_action('', 'adjust.request', 'adjustment 1', 'why')", "operator_action_names_its_actor"),
    ("select log_operator_action('Ann', 'Adjust!', 'adjustment 1', 'why')", "operator_action_is_a_word"),
    ("select log_operator_action('Ann', 'adjust.request', '', 'why')", "operator_action_names_its_subject"),
    ("select log_operator_action('Ann', 'adjust.request', 'adjustment 1', '')", "operator_action_has_a_reason"),
];

#[tokio::test]
async fn the_database_itself_refuses_to_bend_the_ledger() {
    let db = database().await;
    let (tea, broadcast, done) = sending(&db.pool).await;
    run(
        &db.pool,
        &format!("select request_adjustment('{}', 0, 5, 'a gift', 'Ann')", tea.id),
    )
    .await;
    let before = books(&db.pool).await;
    for (sql, expected) in FORBIDDEN {
        let sql = sql
            .replace("'S'", &format!("'{}'", tea.id))
            .replace("'B'", &format!("'{broadcast}'"))
            .replace("'K'", &format!("'{done}'"));
        assert_eq!(refusal(&db.pool, &sql).await, *expected, "{sql}");
    }
    assert_eq!(books(&db.pool).await, before, "nothing was written");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_copy_goes_through_no_other_door() {
    let db = database().await;
    let tea = shop(&db.pool, 0, 20).await;
    for table in ["ledger_entry (shop_id, kind)", "token_hold (broadcast_id)"] {
        let mut connection = sqlx::PgConnection::connect(&db.url).await.unwrap();
        let mut copy = connection
            .copy_in_raw(&format!("copy {table} from stdin"))
            .await
            .unwrap();
        // A statement's trigger may refuse before the first row or at the end.
        let sent = copy.send(format!("{}\ttop_up\n", tea.id).as_bytes()).await.map(|_| ());
        let error = match sent {
            Ok(()) => copy.finish().await.unwrap_err(),
            Err(error) => error,
        };
        let error = error.into_database_error().unwrap();
        assert_eq!(error.constraint(), Some(DOOR), "{table}: {error}");
    }
}

#[tokio::test]
async fn a_closed_hold_stays_closed_and_a_refund_still_reaches_it() {
    let db = database().await;
    let tea = shop(&db.pool, 0, 20).await;
    let broadcast = Uuid::now_v7();
    for sql in [
        format!("select ledger_hold('{broadcast}', '{}', 10)", tea.id),
        format!("select ledger_settle('{broadcast}', 'line', 10, 0, '1')"),
        "update token_hold set state = 'closed'".to_owned(),
        format!("select ledger_refund('{broadcast}', 'line', 4, '1')"),
    ] {
        run(&db.pool, &sql).await;
    }
    assert_eq!(refusal(&db.pool, "update token_hold set state = 'open'").await, DOOR);
    assert_eq!(tea.available().await, 14);
}

#[tokio::test]
async fn a_shop_without_an_account_has_no_tokens_and_no_door() {
    let db = database().await;
    let nobody = ShopId::new();
    let held: i64 = one(
        &db.pool,
        &format!("select ledger_hold(gen_random_uuid(), '{nobody}', 7)"),
    )
    .await;
    assert_eq!(held, 7, "all of them are missing");
    let post = format!("select ledger_post('{nobody}', 'top_up_refund', 'top_up_refund:x', null, null, 0, -1, 0, 0)");
    assert!(refusal(&db.pool, &post).await.contains("has no token account"));
}
