//! How planning ends: short of tokens, over budget, late, refused; and what changes while it runs.

use carillon::broadcast::{self, Advance, Audience, BroadcastConfig, BroadcastState, Mode};
use carillon::channel::Channel::{App, Email, Line};
use carillon_jobs::{BroadcastId, CustomerId};

use crate::{
    broadcast_scene::{
        ALL, advance_fully, assert_adds_up, at, config, held, one, people, person, planner, rows_left, run, sent, shop,
        skipped, state, step, stepping,
    },
    fixture_db::database,
};

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
    assert_eq!(step(&planner, second).await, Advance::NotItsTurn);
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
