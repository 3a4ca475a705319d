//! Planning: killed, paused, cancelled, short of tokens, late, twice at once.

use std::time::Duration;

use carillon::{
    broadcast::{self, Advance, Audience, BroadcastConfig, BroadcastState, Mode, Planner},
    channel::Channel::{self, App, Email, Line},
};
use carillon_jobs::{BroadcastId, CustomerId};
use tokio_util::sync::CancellationToken;

use crate::{
    broadcast_scene::{
        Person, Shop, advance_fully, assert_adds_up, at, config, deliveries, one, person, planner, run, shop, skipped,
        state,
    },
    fixture_db::database,
};

const ALL: [Channel; 3] = [App, Line, Email];

/// Two in three have LINE, one in three the app, one in four a mailbox that every other one shares.
fn people(n: usize) -> Vec<Person> {
    (0..n)
        .map(|i| {
            let app = (i % 3 == 0).then(|| at(format!("app{i}"))).flatten();
            let line = (i % 3 != 2).then(|| at(format!("line{i}"))).flatten();
            let mail = (i % 4 == 0).then(|| at(format!("mail{}", i / 8))).flatten();
            person([app, line, None, mail])
        })
        .collect()
}

async fn sent(shop: &Shop, config: &BroadcastConfig, mode: Mode, channels: &[Channel]) -> BroadcastId {
    let id = broadcast::create(&shop.pool, config, &shop.new_broadcast(mode, channels))
        .await
        .unwrap();
    assert_eq!(broadcast::send(&shop.pool, id).await.unwrap(), BroadcastState::Queued);
    id
}

/// Plans one chunk a call.
fn stepping(chunk: u32) -> BroadcastConfig {
    BroadcastConfig {
        plan_budget_secs: 0.0,
        ..config(chunk)
    }
}

async fn step(planner: &Planner, broadcast: BroadcastId) -> Advance {
    planner.advance(broadcast, &CancellationToken::new()).await.unwrap()
}

async fn rows_left(shop: &Shop, broadcast: BroadcastId) -> i64 {
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

async fn held(shop: &Shop) -> i64 {
    let sql = format!(
        "select held_allowance + held_extra from token_account where shop_id = '{}'",
        shop.id
    );
    one(&shop.pool, &sql).await
}

#[tokio::test]
async fn the_table_of_states_is_the_databases() {
    let db = database().await;
    for from in BroadcastState::ALL {
        for to in BroadcastState::ALL {
            let sql = format!("select broadcast_may_move('{from}', '{to}')");
            assert_eq!(one::<bool>(&db.pool, &sql).await, from.may_move(to), "{from} -> {to}");
        }
    }
}

#[tokio::test]
async fn a_whole_plan_holds_its_cost_and_opens_its_lanes() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(40)).await;
    let config = config(1000);
    let id = sent(&shop, &config, Mode::AppPlusOne, &[App, Line]).await;
    assert_eq!(step(&planner(&db.pool, &config), id).await, Advance::Opened);
    // 14 have the app (1 token), 27 LINE (5 tokens).
    assert_eq!(held(&shop).await, 14 + 27 * 5);
    let lanes: String = one(
        &db.pool,
        &format!("select string_agg(concat_ws(' ', channel, tokens, remaining), ', ' order by channel) from lane where broadcast_id = '{id}'"),
    )
    .await;
    assert_eq!(lanes, "app 1 14, line 5 27");
    assert_eq!(skipped(&db.pool, id).await.len(), 13);
    assert_adds_up(&db.pool, id).await;
    assert_eq!(state(&db.pool, id).await, "sending");
    assert_eq!(
        step(&planner(&db.pool, &config), id).await,
        Advance::NothingToDo(BroadcastState::Sending)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_killed_anywhere_goes_on_exactly_where_it_was() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000_000).await;
    shop.add(&people(300)).await;
    let whole = config(1000);
    let calm = sent(&shop, &whole, Mode::PrioritySingle, &ALL).await;
    assert_eq!(advance_fully(&planner(&db.pool, &whole), calm).await, Advance::Opened);

    // Leases end at once, as if much time passed between a planner's death and the next one.
    let hasty = BroadcastConfig {
        plan_lease_secs: 0.0,
        shop_lease_secs: 0.0,
        plan_budget_secs: 0.01,
        ..config(7)
    };
    let killed = sent(&shop, &hasty, Mode::PrioritySingle, &ALL).await;
    let mut kills = 0;
    for micros in (0..).map(|n: u64| 500 + n * 1_237 % 9_000) {
        let planner = planner(&db.pool, &hasty);
        let task = tokio::spawn(async move { planner.advance(killed, &CancellationToken::new()).await });
        if micros % 2 == 0 {
            // The planner dies: its future is dropped wherever it is.
            let abort = task.abort_handle();
            let kill = tokio::time::timeout(Duration::from_micros(micros), task);
            if matches!(kill.await, Ok(Ok(Ok(Advance::Opened)))) {
                break;
            }
            abort.abort();
        } else {
            // Its connection dies.
            tokio::time::timeout(Duration::from_micros(micros), std::future::pending::<()>())
                .await
                .unwrap_err();
            let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'";
            one::<i64>(&db.pool, sql).await;
            if matches!(task.await.unwrap(), Ok(Advance::Opened)) {
                break;
            }
        }
        kills += 1;
        assert!(kills < 5_000, "planning never gets through");
    }
    assert!(kills > 5, "only {kills} kills");
    assert_eq!(deliveries(&db.pool, killed).await, deliveries(&db.pool, calm).await);
    assert_eq!(skipped(&db.pool, killed).await, skipped(&db.pool, calm).await);
    assert_adds_up(&db.pool, killed).await;
    let holds = "select count(distinct (allowance, extra)) from token_hold";
    assert_eq!(one::<i64>(&db.pool, holds).await, 1, "both hold the same cost");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_planners_of_one_broadcast_plan_it_once() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000_000).await;
    shop.add(&people(120)).await;
    let config = BroadcastConfig {
        plan_lease_secs: 0.0,
        shop_lease_secs: 0.0,
        ..config(5)
    };
    let id = sent(&shop, &config, Mode::PrioritySingle, &ALL).await;
    let planners = (0..6).map(|_| {
        let planner = planner(&db.pool, &config);
        tokio::spawn(async move {
            loop {
                match planner.advance(id, &CancellationToken::new()).await.unwrap() {
                    Advance::Again | Advance::WaitUntil(_) => {}
                    done => return done,
                }
            }
        })
    });
    let mut opened = 0;
    for planner in planners.collect::<Vec<_>>() {
        opened += usize::from(planner.await.unwrap() == Advance::Opened);
    }
    assert_eq!(opened, 1);
    assert_adds_up(&db.pool, id).await;
    assert_eq!(one::<i64>(&db.pool, "select count(*) from token_hold").await, 1);
}

#[tokio::test]
async fn a_cancel_between_chunks_leaves_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(40)).await;
    let config = BroadcastConfig {
        purge_rows: 3,
        ..stepping(10)
    };
    let planner = planner(&db.pool, &config);
    let id = sent(&shop, &config, Mode::PrioritySingle, &ALL).await;
    assert_eq!(step(&planner, id).await, Advance::Again);
    assert_eq!(step(&planner, id).await, Advance::Again);
    assert_eq!(deliveries(&db.pool, id).await.len(), 15);
    broadcast::cancel(&db.pool, id).await.unwrap();
    let config = BroadcastConfig {
        plan_budget_secs: 1.0,
        ..config
    };
    let planner = Planner { config, ..planner };
    assert_eq!(
        advance_fully(&planner, id).await,
        Advance::NothingToDo(BroadcastState::Cancelled)
    );
    assert_eq!(rows_left(&shop, id).await, 0);
    assert_eq!(held(&shop).await, 0);
    assert!(!one::<bool>(&db.pool, &format!("select purge from broadcast where id = '{id}'")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_moment_of_planning_leaves_nothing_or_a_whole_plan() {
    let db = database().await;
    let shop = shop(&db.pool, 1_000_000).await;
    shop.add(&people(60)).await;
    let config = config(5);
    for round in 0..25_u64 {
        let id = sent(&shop, &config, Mode::PrioritySingle, &ALL).await;
        let planner = planner(&db.pool, &config);
        let planning = tokio::spawn(async move { advance_fully(&planner, id).await });
        let pause = std::future::pending::<()>();
        tokio::time::timeout(Duration::from_millis(round * 2), pause)
            .await
            .unwrap_err();
        broadcast::cancel(&db.pool, id).await.unwrap();
        let done = planning.await.unwrap();
        let lanes: i64 = one(
            &db.pool,
            &format!("select count(*) from lane where broadcast_id = '{id}'"),
        )
        .await;
        if lanes == 0 {
            assert_eq!(done, Advance::NothingToDo(BroadcastState::Cancelled));
            assert_eq!(rows_left(&shop, id).await, 0);
        } else {
            // It was open when the cancel came: sending ends it, with its hold.
            assert_adds_up(&db.pool, id).await;
        }
    }
    let shops: i64 = one(&db.pool, "select count(*) from shop where planning_lease_until > now()").await;
    assert!(shops <= 1);
}

#[tokio::test]
async fn a_pause_between_chunks_goes_on_where_it_was() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(40)).await;
    let config = stepping(10);
    let planner = planner(&db.pool, &config);
    let id = sent(&shop, &config, Mode::PrioritySingle, &ALL).await;
    step(&planner, id).await;
    let before = deliveries(&db.pool, id).await;
    broadcast::pause(&db.pool, id).await.unwrap();
    assert_eq!(step(&planner, id).await, Advance::NothingToDo(BroadcastState::Paused));
    assert_eq!(deliveries(&db.pool, id).await, before);
    assert_eq!(broadcast::resume(&db.pool, id).await.unwrap(), BroadcastState::Planning);
    assert_eq!(advance_fully(&planner, id).await, Advance::Opened);
    assert_adds_up(&db.pool, id).await;
    assert_eq!(deliveries(&db.pool, id).await[..before.len()], before);
}

#[tokio::test]
async fn too_few_tokens_hold_nothing_and_say_how_many_are_missing() {
    let db = database().await;
    let shop = shop(&db.pool, 100).await;
    shop.add(&people(40)).await;
    let config = stepping(7);
    let id = sent(&shop, &config, Mode::AppPlusOne, &[App, Line]).await;
    let planner = planner(
        &db.pool,
        &BroadcastConfig {
            plan_budget_secs: 1.0,
            ..config
        },
    );
    assert_eq!(
        advance_fully(&planner, id).await,
        Advance::NothingToDo(BroadcastState::Failed)
    );
    assert_eq!(state(&db.pool, id).await, "failed: tokens_short: 49 tokens are missing");
    let figures = format!("select array[cost_tokens, missing_tokens] from broadcast where id = '{id}'");
    assert_eq!(one::<Vec<i64>>(&db.pool, &figures).await, [149, 49]);
    assert_eq!((rows_left(&shop, id).await, held(&shop).await), (0, 0));
    assert_eq!(
        one::<i64>(&db.pool, "select count(*) from ledger_entry where kind = 'hold'").await,
        0
    );
}

#[tokio::test]
async fn a_plan_over_its_budget_stops_before_the_first_message() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(40)).await;
    let config = config(100);
    let mut new = shop.new_broadcast(Mode::AppPlusOne, &[App, Line]);
    new.budget_tokens = Some(148);
    let id = broadcast::create(&db.pool, &config, &new).await.unwrap();
    broadcast::send(&db.pool, id).await.unwrap();
    let done = advance_fully(&planner(&db.pool, &config), id).await;
    assert_eq!(done, Advance::NothingToDo(BroadcastState::Failed));
    assert_eq!(
        state(&db.pool, id).await,
        "failed: over_budget: the plan costs 149 tokens, the budget is 148"
    );
    assert_eq!((rows_left(&shop, id).await, held(&shop).await), (0, 0));
}

#[tokio::test]
async fn a_scheduled_broadcast_waits_for_its_time() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(4)).await;
    let config = config(100);
    let planner = planner(&db.pool, &config);
    let mut new = shop.new_broadcast(Mode::AppPlusOne, &[App]);
    new.at = Some("2999-11-30 10:00".to_owned());
    let id = broadcast::create(&db.pool, &config, &new).await.unwrap();
    assert_eq!(step(&planner, id).await, Advance::NothingToDo(BroadcastState::Draft));
    assert_eq!(broadcast::send(&db.pool, id).await.unwrap(), BroadcastState::Scheduled);
    assert_eq!(
        step(&planner, id).await,
        Advance::WaitUntil("2999-11-30T02:00:00Z".parse().unwrap())
    );
    run(
        &db.pool,
        &format!("update broadcast set scheduled_at = now() where id = '{id}'"),
    )
    .await;
    assert_eq!(step(&planner, id).await, Advance::Opened);
}

#[tokio::test]
async fn a_shop_plans_one_broadcast_at_a_time() {
    let db = database().await;
    let (shop, other) = (shop(&db.pool, 1000).await, shop(&db.pool, 1000).await);
    shop.add(&people(20)).await;
    other.add(&people(4)).await;
    let config = stepping(10);
    let planner = planner(&db.pool, &config);
    let first = sent(&shop, &config, Mode::AppPlusOne, &[App]).await;
    let second = sent(&shop, &config, Mode::AppPlusOne, &[App]).await;
    let elsewhere = sent(&other, &config, Mode::AppPlusOne, &[App]).await;
    assert_eq!(step(&planner, first).await, Advance::Again);
    assert!(matches!(step(&planner, second).await, Advance::WaitUntil(_)));
    assert_eq!(step(&planner, elsewhere).await, Advance::Opened);
    assert_eq!(advance_fully(&planner, first).await, Advance::Opened);
    assert_eq!(advance_fully(&planner, second).await, Advance::Opened);

    // One that was paused in the middle of planning keeps nobody waiting.
    let third = sent(&shop, &config, Mode::AppPlusOne, &[App]).await;
    let fourth = sent(&shop, &config, Mode::AppPlusOne, &[App]).await;
    assert_eq!(step(&planner, third).await, Advance::Again);
    broadcast::pause(&db.pool, third).await.unwrap();
    assert_eq!(advance_fully(&planner, fourth).await, Advance::Opened);
}

#[tokio::test]
async fn twins_that_come_into_being_between_two_chunks_get_one_mail() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    let config = stepping(1);
    let planner = planner(&db.pool, &config);
    let mail = |text: &str| person([None, None, None, at(text)]);
    let ids = shop.add(&[mail("shared"), mail("b"), mail("c"), mail("gone")]).await;
    let id = sent(&shop, &config, Mode::PrioritySingle, &[Email]).await;
    step(&planner, id).await;
    // The first is planned and no twin yet. Now the second changes its mailbox to the same one, and somebody new has it.
    let sender = shop.sender(Email);
    run(
        &db.pool,
        &format!("select put_address('{sender}', {}, 'shared')", ids[1]),
    )
    .await;
    let new = shop.add(&[mail("shared"), mail("gone")]).await;
    for _ in 0..3 {
        step(&planner, id).await;
    }
    // The fourth is planned as a twin and then erased; its group goes on without it.
    run(&db.pool, &format!("delete from customer where id = {}", ids[3])).await;
    assert_eq!(advance_fully(&planner, id).await, Advance::Opened);
    let same = |who: i64| format!("{who} same_address");
    assert_eq!(skipped(&db.pool, id).await, [same(ids[1]), same(new[0]), same(new[1])]);
    assert_adds_up(&db.pool, id).await;
}

#[tokio::test]
async fn who_opts_out_between_two_chunks_is_not_planned() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    let config = stepping(1);
    let planner = planner(&db.pool, &config);
    let ids = shop
        .add(&[person([at("a"), None, None, None]), person([at("b"), None, None, None])])
        .await;
    let id = sent(&shop, &config, Mode::AppPlusOne, &[App]).await;
    step(&planner, id).await;
    run(
        &db.pool,
        &format!("update customer set opted_out = true where id = {}", ids[1]),
    )
    .await;
    assert_eq!(advance_fully(&planner, id).await, Advance::Opened);
    assert_eq!(skipped(&db.pool, id).await, [format!("{} opted_out", ids[1])]);
}

#[tokio::test]
async fn a_row_that_a_frontend_wrote_wrongly_fails_with_the_field_named() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    let other = crate::broadcast_scene::shop(&db.pool, 1000).await;
    shop.add(&people(4)).await;
    let config = config(100);
    let planner = planner(&db.pool, &config);
    let line = other.sender(Line);
    for (change, reason) in [
        (
            "update broadcast set content = '{}'".to_owned(),
            "content_invalid: content.text ",
        ),
        (
            "update broadcast set content = '{\"text\": \"{nickname}\"}'".to_owned(),
            "content_invalid: content.text ",
        ),
        (
            "update broadcast set audience = '{\"everyone\": 1}'".to_owned(),
            "audience_invalid: audience ",
        ),
        (
            "update broadcast set audience = '{\"tag\": \"nobody\"}'".to_owned(),
            "empty_audience: audience ",
        ),
        (
            format!("update broadcast_channel set sender_id = '{line}' where channel = 'line'"),
            "sender_not_found: channels[1].sender ",
        ),
        (
            format!(
                "update broadcast_channel set sender_id = '{}' where channel = 'line'",
                shop.sender(App)
            ),
            "sender_of_other_channel: channels[1].sender ",
        ),
        (
            "update broadcast_channel set channel = 'whatsapp' where channel = 'line'".to_owned(),
            "price_missing: channels[1] ",
        ),
        (
            "delete from broadcast_channel where channel = 'app'".to_owned(),
            "app_missing: channels ",
        ),
        ("delete from broadcast_channel".to_owned(), "no_channel: channels "),
    ] {
        let id = sent(&shop, &config, Mode::AppPlusOne, &[App, Line]).await;
        let column = if change.contains("broadcast_channel") {
            "broadcast_id"
        } else {
            "id"
        };
        let joint = if change.contains(" where ") { "and" } else { "where" };
        run(&db.pool, &format!("{change} {joint} {column} = '{id}'")).await;
        let done = advance_fully(&planner, id).await;
        assert_eq!(done, Advance::NothingToDo(BroadcastState::Failed), "{change}");
        let state = state(&db.pool, id).await;
        assert!(
            state.contains(&format!("failed: {reason}")) || state.contains(&format!("; {reason}")),
            "{change}: {state}"
        );
        assert_eq!(held(&shop).await, 0);
    }
}

#[tokio::test]
async fn prices_are_those_of_the_price_list_whatever_the_row_says() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&people(9)).await;
    let config = config(100);
    let id = sent(&shop, &config, Mode::AppPlusOne, &[App, Line]).await;
    run(&db.pool, "update broadcast_channel set tokens = 0").await;
    assert_eq!(advance_fully(&planner(&db.pool, &config), id).await, Advance::Opened);
    assert_eq!(held(&shop).await, 3 + 6 * 5);
}

#[tokio::test]
async fn nobody_reachable_completes_at_once_and_costs_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 0).await;
    let ids = shop.add(&[person([None, None, None, None])]).await;
    let config = config(100);
    let mut new = shop.new_broadcast(Mode::PrioritySingle, &ALL);
    new.audience = Audience::Customers(vec![CustomerId(ids[0]), CustomerId(i64::MAX)]);
    let id = broadcast::create(&db.pool, &config, &new).await.unwrap();
    broadcast::send(&db.pool, id).await.unwrap();
    let done = advance_fully(&planner(&db.pool, &config), id).await;
    assert_eq!(done, Advance::NothingToDo(BroadcastState::Completed));
    assert_eq!(skipped(&db.pool, id).await, [format!("{} no_address", ids[0])]);
}

#[tokio::test]
async fn there_is_nothing_to_do_for_a_broadcast_that_does_not_exist() {
    let db = database().await;
    assert_eq!(
        step(&planner(&db.pool, &config(1)), BroadcastId::new()).await,
        Advance::Missing
    );
}
