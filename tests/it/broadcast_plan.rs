//! Planning: killed, paused, cancelled, short of tokens, late, twice at once.

use std::time::Duration;

use carillon::{
    broadcast::{self, Advance, BroadcastConfig, BroadcastState, Mode, Planner},
    channel::Channel::{App, Line},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broadcast_scene::{
        ALL, advance_fully, assert_adds_up, config, deliveries, held, one, people, planner, rows_left, sent, shop,
        skipped, state, step, stepping,
    },
    fixture_db::database,
};

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
