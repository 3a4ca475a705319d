//! A lie in any table is found, and found by the checks whose business it is.

use carillon::db::PgPool;
use carillon::ledger::{AuditError, Report, audit};
use carillon::top_up;
use carillon_jobs::ShopId;
use uuid::Uuid;

use crate::{
    audit_lies::LIES,
    fixture_db::database,
    scene::{APP, LINE, Shop, assert_clean, claim, one, open, run, send_rest, settle, shop},
    top_up_scene,
};

/// Two shops with a broadcast in every situation there is; all of it true.
async fn world(pool: &PgPool) -> (Shop, Uuid) {
    let tea = shop(pool, 6, 100).await;
    run(pool, &format!("select ledger_top_up('{}', 500, 'order-1')", tea.id)).await;
    let done = tea.opened(&[LINE, APP], 4).await;
    send_rest(pool, done, "line").await;
    assert_eq!(send_rest(pool, done, "app").await, "completed");
    // One of them bounced for good afterwards.
    run(
        pool,
        &format!(
            "with failed as (update delivery_result set state = 'failed', reason = 'recipient', charged_tokens = 0
                where broadcast_id = '{done}' and channel = 'line' and customer_id = {} returning 1)
             select ledger_refund('{done}', 'line', 5, 'receipt-1') from failed;
             update tally set n = n - 1 where broadcast_id = '{done}' and channel = 'line' and outcome = 'accepted';
             insert into tally values ('{done}', 'send', 'line', 'failed', 'recipient', 1)",
            tea.customers[0]
        ),
    )
    .await;
    let busy = tea.opened(&[LINE, APP], 2).await;
    let first = claim(pool, busy, "line", 2, 1000.0).await.unwrap();
    settle(
        pool,
        busy,
        "line",
        &first,
        (&first.in_flight[..1], "failed"),
        (None, Some(&first.in_flight[1..])),
    )
    .await;
    claim(pool, busy, "app", 1, 0.0).await.unwrap();
    let second = claim(pool, busy, "line", 2, 1000.0).await.unwrap();
    assert_eq!(second.in_flight, first.in_flight[1..]);
    // The allowance it held belongs to a period that has ended by now.
    run(pool, &format!("select ledger_refill('{}', '2999-12', 300)", tea.id)).await;
    settle(pool, busy, "line", &second, (&second.in_flight, "failed"), (None, None)).await;
    tea.planned(&[LINE], 4).await;
    let stopped = tea.opened(&[APP], 3).await;
    run(
        pool,
        &format!("select cancel_broadcast('{stopped}'); select drain_slice('{stopped}', 'app', 'cancelled')"),
    )
    .await;
    let cake = shop(pool, 3, 10).await;
    assert_eq!(open(pool, cake.planned(&[LINE], 4).await).await, "short");
    let nothing = cake.planned(&[LINE], 4).await;
    run(pool, &format!("select cancel_broadcast('{nothing}')")).await;
    let drained = cake.opened(&[APP], 10).await;
    run(
        pool,
        &format!("select cancel_broadcast('{drained}'); select drain_slice('{drained}', 'app', 'cancelled')"),
    )
    .await;
    bought_and_corrected(pool, cake.id).await;
    (tea, busy)
}

/// A top-up order and an adjustment in every state there is.
async fn bought_and_corrected(pool: &PgPool, shop: Uuid) {
    let kept = top_up_scene::due(pool, shop, 1, "ref-1").await;
    let returned = top_up_scene::due(pool, shop, 2, "ref-2").await;
    for order in [kept, returned] {
        top_up::settle(pool, order).await.unwrap();
    }
    top_up::refund(pool, returned, Some(2500), "half of it was a mistake", "anna")
        .await
        .unwrap();
    top_up_scene::due(pool, shop, 1, "ref-3").await;
    let declined = top_up_scene::requested(pool, shop, 1).await;
    top_up::fail(pool, declined, "no card", "anna").await.unwrap();
    run(
        pool,
        &format!(
            "select decide_adjustment(request_adjustment('{shop}', -1, 7, 'a gift', 'Ann'), 'applied', 'Bob', null);
             select decide_adjustment(request_adjustment('{shop}', 0, 1, 'one more', 'Ann'), 'rejected', 'Ann', 'no');
             select request_adjustment('{shop}', 0, 2, 'two more', 'Ann')"
        ),
    )
    .await;
}

fn broken(report: &Report) -> Vec<&'static str> {
    let mut names: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.broken > 0)
        .map(|check| check.name)
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_true_database_passes_every_check_and_every_check_has_looked_at_something() {
    let db = database().await;
    assert_clean(&db.pool).await;
    world(&db.pool).await;
    assert_clean(&db.pool).await;
    let report = audit(&db.pool, None).await.unwrap();
    let idle: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.examined == 0)
        .map(|check| check.name)
        .collect();
    assert_eq!(idle, ["one_message_per_mailbox"], "checks without anything to compare");
}

#[tokio::test]
async fn every_lie_is_found_by_the_checks_whose_business_it_is() {
    let db = database().await;
    let (_, busy) = world(&db.pool).await;
    remember_the_truth(&db.pool).await;
    for (lie, expected) in LIES {
        let lie = lie
            .replace("= B", &format!("= '{busy}'"))
            .replace("(B,", &format!("('{busy}',"));
        run(
            &db.pool,
            &format!("set local session_replication_role = replica; {lie}"),
        )
        .await;
        let report = audit(&db.pool, None).await.unwrap();
        for check in report.checks.iter().filter(|check| check.broken > 0) {
            assert!(!check.first.is_empty() && check.off > 0, "{check:?}");
            assert!(
                check
                    .first
                    .iter()
                    .all(|drift| drift.off > 0 && drift.expected != drift.actual),
                "{check:?}"
            );
        }
        assert_eq!(broken(&report), *expected, "{lie}");
        run(
            &db.pool,
            "set local session_replication_role = replica; select tell_the_truth()",
        )
        .await;
        // So that the next lie is the only one.
        assert_clean(&db.pool).await;
    }
}

/// Copies every table, so that after a lie all of them can be put back: much cheaper than a database for each lie. Also
/// makes a partition for a broadcast that never was, and a shorthand for the lies.
async fn remember_the_truth(pool: &PgPool) {
    run(
        pool,
        "select ensure_partitions(broadcast_id_time('01900000-0000-7000-8000-000000000000'));
         create function channel_is_line(s uuid) returns boolean language sql as
            $$ select channel = 'line' from sender where id = s $$;
         create schema rules;
         create table rules.kept as select conrelid::regclass::text as of, conname, pg_get_constraintdef(oid) as rule
           from pg_constraint where conname in ('hold_adds_up', 'kind_moves_its_own_way') and conrelid <> 0;
         create schema truth;
         do $$ declare t text; begin
            for t in select relname from pg_class where relnamespace = 'public'::regnamespace
                        and relkind in ('r', 'p') and not relispartition loop
                execute format('create table truth.%1$I as table public.%1$I', t);
            end loop;
         end $$;
         create function tell_the_truth() returns void language plpgsql as $$ declare t text; begin
            for t in select relname from pg_class where relnamespace = 'truth'::regnamespace and relkind = 'r' loop
                execute format('delete from public.%I', t);
                execute format('insert into public.%1$I (%2$s) overriding system value select %2$s from truth.%1$I', t,
                    (select string_agg(quote_ident(attname), ', ') from pg_attribute
                      where attrelid = format('public.%I', t)::regclass and attnum > 0 and not attisdropped and attgenerated = ''));
            end loop;
            for t in select format('alter table %1$s drop constraint if exists %2$I, add constraint %2$I %3$s', k.of, k.conname, k.rule)
                       from rules.kept k loop
                execute t;
            end loop;
         end $$",
    )
    .await;
}

/// What keeps everybody from lying, taken away: every row still agrees, and it is found all the same.
#[tokio::test]
async fn a_guard_that_was_taken_away_is_missed() {
    let db = database().await;
    world(&db.pool).await;
    for (done, undone, named) in [
        (
            "disable trigger ledger_append_only",
            "enable trigger ledger_append_only",
            "trigger ledger_append_only of ledger_entry: switched off",
        ),
        (
            "drop constraint ledger_entry_shop_id_operation_key",
            "add constraint ledger_entry_shop_id_operation_key unique (shop_id, operation)",
            "constraint ledger_entry_shop_id_operation_key of ledger_entry: gone",
        ),
        (
            "rename constraint kind_moves_its_own_way to kind_moves_as_it_likes",
            "rename constraint kind_moves_as_it_likes to kind_moves_its_own_way",
            "constraint kind_moves_its_own_way of ledger_entry: gone",
        ),
    ] {
        run(&db.pool, &format!("alter table ledger_entry {done}")).await;
        let report = audit(&db.pool, None).await.unwrap();
        assert_eq!(broken(&report), ["guards_stand"]);
        let first = &report.checks.iter().find(|check| check.broken > 0).unwrap().first;
        assert_eq!(format!("{}: {}", first[0].what, first[0].actual), named);
        run(&db.pool, &format!("alter table ledger_entry {undone}")).await;
        assert_clean(&db.pool).await;
    }
}

#[tokio::test]
async fn a_drift_names_its_row_and_by_how_much() {
    let db = database().await;
    let (tea, busy) = world(&db.pool).await;
    let lie =
        format!("update slice set remaining = 1 where broadcast_id = '{busy}' and channel = 'line' and slice_no = 2");
    run(&db.pool, &lie).await;
    let report = audit(&db.pool, None).await.unwrap();
    let check = report.checks.iter().find(|check| check.broken > 0).unwrap();
    let drift = &check.first[0];
    assert_eq!(
        (check.name, check.broken, check.first.len()),
        ("slice_remaining_is_unfinished", 1, 1)
    );
    assert_eq!(
        (drift.what.as_str(), drift.expected.as_str(), drift.actual.as_str()),
        ("line slice 2", "2", "1")
    );
    assert_eq!(
        (drift.off, drift.shop_id.unwrap().0, drift.broadcast_id.unwrap().0),
        (1, tea.id, busy)
    );

    let (mut table, mut json) = (Vec::new(), Vec::new());
    carillon::cli::audit::table(&mut table, &report).unwrap();
    carillon::cli::audit::json(&mut json, &report).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert!(
        table.contains("line slice 2: is 1, must be 2 (off by 1)") && table.contains("DRIFT: 1 of"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (json["clean"].as_bool(), json["checks"].as_array().unwrap().len()),
        (Some(false), report.checks.len())
    );
}

#[tokio::test]
async fn one_shop_is_looked_at_alone() {
    let db = database().await;
    let (tea, _) = world(&db.pool).await;
    let cake: Uuid = one(&db.pool, &format!("select id from shop where id <> '{}'", tea.id)).await;
    run(
        &db.pool,
        &format!(
            "set local session_replication_role = replica;
             update token_account set extra = extra + 4 where shop_id = '{cake}'"
        ),
    )
    .await;
    assert!(audit(&db.pool, Some(ShopId(tea.id))).await.unwrap().is_clean());
    let report = audit(&db.pool, Some(ShopId(cake))).await.unwrap();
    assert_eq!(broken(&report), ["balance_is_sum_of_entries"]);
    let nobody = ShopId::new();
    assert!(matches!(audit(&db.pool, Some(nobody)).await, Err(AuditError::NoShop(id)) if id == nobody));
}
