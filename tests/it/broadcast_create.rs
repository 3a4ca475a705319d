//! The door: what is refused and how, tests, resends, pause, resume and cancel.

use carillon::{
    broadcast::{
        self, Advance, Audience, BroadcastConfig, BroadcastState, ControlError, CreateError, Mode, NewBroadcast,
        ResendOutcome,
    },
    channel::Channel::{self, App, Email, Line, Messenger, Sms, Whatsapp},
};
use carillon_jobs::{BroadcastId, CustomerId, SenderId, ShopId};
use serde_json::json;

use crate::{
    broadcast_scene::{Shop, advance_fully, at, column, config, deliveries, one, person, planner, run, shop, state},
    fixture_db::database,
};

fn refusals(error: CreateError) -> Vec<(&'static str, String)> {
    match error {
        CreateError::Refused(problems) => problems.0.into_iter().map(|one| (one.id, one.field)).collect(),
        CreateError::Database(error) => panic!("{error}"),
    }
}

/// Creates, sends and plans.
async fn opened(shop: &Shop, config: &BroadcastConfig, new: &NewBroadcast) -> BroadcastId {
    let id = broadcast::create(&shop.pool, config, new).await.unwrap();
    broadcast::send(&shop.pool, id).await.unwrap();
    assert_eq!(advance_fully(&planner(&shop.pool, config), id).await, Advance::Opened);
    id
}

/// Ends every delivery of a channel as given, with the functions a worker uses.
async fn end(shop: &Shop, broadcast: BroadcastId, channel: Channel, customers: &[i64], state: &str) {
    let reason = if state == "accepted" { "null" } else { "'recipient'" };
    let sql = format!(
        "select record_results('{broadcast}', '{channel}', s.slice_no, array_agg(d.customer_id),
                array_fill('{state}'::delivery_state, array[count(*)::int]), array_fill({reason}::text, array[count(*)::int]),
                array_fill(null::text, array[count(*)::int]), array_fill(null::text, array[count(*)::int]))::bigint
           from slice s join delivery d using (broadcast_id, channel)
          where broadcast_id = '{broadcast}' and channel = '{channel}' and d.customer_id = any ('{customers:?}')
            and d.customer_id between s.first_customer and s.last_customer group by s.slice_no"
    );
    let sql = sql.replace("'[", "'{").replace("]')", "}')");
    column::<i64>(&shop.pool, &sql).await;
}

/// Wrong broadcasts, each with what is said of it.
#[allow(clippy::too_many_lines, reason = "a table")]
fn mistakes(shop: &Shop) -> Vec<(NewBroadcast, Vec<(&'static str, &'static str)>)> {
    let fine = || shop.new_broadcast(Mode::AppPlusOne, &[App]);
    let content = |value| NewBroadcast {
        content: value,
        ..fine()
    };
    let channels = |mode, channels: &[Channel]| shop.new_broadcast(mode, channels);
    vec![
        (
            content(json!({"text": "很".repeat(66)})),
            vec![("content_invalid", "content.text")],
        ),
        (
            content(json!({"text": "Hello {nickname}"})),
            vec![("content_invalid", "content.text")],
        ),
        (
            content(json!({"text": "Hi", "button": {"label": "Go", "url": "shop.example"}})),
            vec![("content_invalid", "content.button.url")],
        ),
        (content(json!([])), vec![("content_invalid", "content")]),
        (channels(Mode::AppPlusOne, &[]), vec![("no_channel", "channels")]),
        (channels(Mode::AppPlusOne, &[Line]), vec![("app_missing", "channels")]),
        (
            channels(Mode::AppPlusOne, &[App, Line, Email]),
            vec![("too_many_channels", "channels")],
        ),
        (
            channels(Mode::AppPlusOne, &[App, Sms]),
            vec![("sender_missing", "channels[1]")],
        ),
        (
            NewBroadcast {
                audience: Audience::Tag("nobody".into()),
                ..fine()
            },
            vec![("empty_audience", "audience")],
        ),
        (
            NewBroadcast {
                audience: Audience::Customers(vec![CustomerId(0)]),
                ..fine()
            },
            vec![("empty_audience", "audience")],
        ),
        (
            NewBroadcast {
                at: Some("2020-01-01 10:00".into()),
                ..fine()
            },
            vec![("time_past", "scheduled_at")],
        ),
        (
            NewBroadcast {
                at: Some("soon".into()),
                ..fine()
            },
            vec![("time_unreadable", "scheduled_at")],
        ),
        (
            NewBroadcast {
                deadline_hours: Some(0),
                ..fine()
            },
            vec![("deadline_invalid", "deadline_hours")],
        ),
        (
            NewBroadcast {
                shop: ShopId::new(),
                ..fine()
            },
            vec![("shop_not_found", "shop")],
        ),
        (
            NewBroadcast {
                channels: vec![(App, Some(SenderId::new()))],
                ..fine()
            },
            vec![("sender_not_found", "channels[0].sender")],
        ),
        (
            NewBroadcast {
                channels: vec![(App, Some(shop.sender(Line)))],
                ..fine()
            },
            vec![("sender_of_other_channel", "channels[0].sender")],
        ),
        (
            NewBroadcast {
                name: " ".into(),
                at: Some("soon".into()),
                content: json!({}),
                ..fine()
            },
            vec![
                ("time_unreadable", "scheduled_at"),
                ("name_missing", "name"),
                ("content_invalid", "content.text"),
            ],
        ),
    ]
}

#[tokio::test]
async fn every_mistake_of_a_new_broadcast_is_named_at_once() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&[person([at("a"), None, None, None])]).await;
    let config = config(100);
    for (new, expected) in mistakes(&shop) {
        let found = refusals(broadcast::create(&db.pool, &config, &new).await.unwrap_err());
        let found: Vec<_> = found.iter().map(|(id, field)| (*id, field.as_str())).collect();
        assert_eq!(found, expected, "{new:?}");
    }
    // WhatsApp can be connected, and still has no price.
    let sql = format!(
        "insert into sender (id, shop_id, channel, name, is_primary, credentials) values ('{}', '{}', 'whatsapp', 'w', true, '')",
        SenderId::new(),
        shop.id
    );
    run(&db.pool, &sql).await;
    let new = shop.new_broadcast(Mode::AppPlusOne, &[App, Whatsapp]);
    let found = refusals(broadcast::create(&db.pool, &config, &new).await.unwrap_err());
    assert_eq!(found, [("price_missing", "channels[1]".to_owned())]);
    assert_eq!(one::<i64>(&db.pool, "select count(*) from broadcast").await, 0);
}

#[tokio::test]
async fn the_estimate_warns_of_what_a_merchant_would_not_expect() {
    let db = database().await;
    let shop = shop(&db.pool, 3).await;
    shop.add(&[
        person([at("a"), at("b"), None, at("c")]),
        person([None, at("d"), None, None]),
    ])
    .await;
    let new = NewBroadcast {
        budget_tokens: Some(1),
        ..shop.new_broadcast(Mode::PrioritySingle, &[Line, Email, App])
    };
    run(
        &db.pool,
        &format!(
            "update sender set state = 'disconnected' where id = '{}'",
            shop.sender(App)
        ),
    )
    .await;
    let estimate = broadcast::estimate_new(&db.pool, &config(1), &new).await.unwrap();
    assert_eq!((estimate.customers, estimate.messages, estimate.tokens), (2, 2, 10));
    assert_eq!((estimate.available_before, estimate.available_after), (3, -7));
    let warnings = estimate.warnings.join("\n");
    for said in [
        "7 tokens are missing",
        "the budget is 1",
        "line (5 tokens) stands before email (2)",
        "sender of app is disconnected",
    ] {
        assert!(warnings.contains(said), "{said}: {warnings}");
    }
    assert_eq!(one::<i64>(&db.pool, "select count(*) from broadcast").await, 0);
}

#[tokio::test]
async fn a_resend_goes_to_whom_nothing_reached() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    let both = |name: &str| person([at(format!("app-{name}")), at(format!("line-{name}")), None, None]);
    let ids = shop.add(&[both("a"), both("b"), both("c"), both("d")]).await;
    let config = config(1);
    let old = opened(&shop, &config, &shop.new_broadcast(Mode::AppPlusOne, &[App, Line])).await;
    let refused = refusals(
        broadcast::resend(&db.pool, &config, old, &[ResendOutcome::Failed])
            .await
            .unwrap_err(),
    );
    assert_eq!(refused, [("broadcast_not_finished", "audience.broadcast".to_owned())]);
    // Of the four: one got both, one only the app, one nothing, of one nobody knows.
    end(&shop, old, App, &ids[..2], "accepted").await;
    end(&shop, old, App, &ids[2..3], "failed").await;
    end(&shop, old, App, &ids[3..], "unknown").await;
    end(&shop, old, Line, &ids[..1], "accepted").await;
    end(&shop, old, Line, &ids[1..], "failed").await;
    assert_eq!(state(&db.pool, old).await, "completed");
    let report = broadcast::report(&db.pool, old).await.unwrap();
    assert!(report.is_over());
    assert_eq!(
        (report.total.planned, report.total.accepted, report.total.left),
        (8, 3, 0)
    );
    assert_eq!(
        (report.total.failed["recipient"], report.total.unknown["recipient"]),
        (4, 1)
    );
    assert_eq!(
        (report.tokens.held, report.tokens.captured, report.tokens.released),
        (24, 7, 17)
    );
    assert_eq!(report.tokens.available, 993);

    let both = [ResendOutcome::Unknown, ResendOutcome::Failed];
    for (outcomes, expected) in [(&both[..], &ids[2..]), (&both[..1], &ids[3..]), (&both[1..], &ids[2..])] {
        let new = broadcast::resend(&db.pool, &config, old, outcomes).await.unwrap();
        broadcast::send(&db.pool, new).await.unwrap();
        assert_eq!(advance_fully(&planner(&db.pool, &config), new).await, Advance::Opened);
        let mut got: Vec<i64> = deliveries(&db.pool, new)
            .await
            .iter()
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        got.dedup();
        assert_eq!(got, expected);
    }
    let none = broadcast::resend(&db.pool, &config, old, &[ResendOutcome::Expired])
        .await
        .unwrap_err();
    assert_eq!(refusals(none), [("empty_audience", "outcomes".to_owned())]);
}

#[tokio::test]
async fn a_test_reaches_one_tester_and_no_audience_ever_does() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&[person([at("a"), None, None, at("customer@mail.example")])])
        .await;
    let config = config(100);
    let new = shop.new_broadcast(Mode::AppPlusOne, &[App, Email]);
    let draft = broadcast::create(&db.pool, &config, &new).await.unwrap();
    for round in 1..=2 {
        let test = broadcast::test_send(&db.pool, &config, draft, Email, " me@mail.example ")
            .await
            .unwrap();
        broadcast::send(&db.pool, test).await.unwrap();
        assert_eq!(advance_fully(&planner(&db.pool, &config), test).await, Advance::Opened);
        assert_eq!(deliveries(&db.pool, test).await.len(), 1);
        assert_eq!(
            broadcast::report(&db.pool, test).await.unwrap().tokens.held,
            2,
            "it costs what it costs"
        );
        assert_eq!(
            one::<i64>(&db.pool, "select count(*) from customer where is_tester").await,
            1,
            "round {round}"
        );
    }
    assert_eq!(state(&db.pool, draft).await, "draft");
    let all = opened(&shop, &config, &new).await;
    assert_eq!(deliveries(&db.pool, all).await.len(), 2);

    let test = |channel, to| broadcast::test_send(&db.pool, &config, draft, channel, to);
    assert_eq!(refusals(test(Line, "U1").await.unwrap_err())[0].0, "channel_not_chosen");
    assert_eq!(refusals(test(Email, " ").await.unwrap_err())[0].0, "address_missing");
    run(
        &db.pool,
        "update address set state = 'suppressed' where address = 'me@mail.example'",
    )
    .await;
    assert_eq!(
        refusals(test(Email, "me@mail.example").await.unwrap_err())[0].0,
        "address_closed"
    );
}

#[tokio::test]
async fn pause_resume_and_cancel_are_what_the_states_allow() {
    let db = database().await;
    let shop = shop(&db.pool, 1000).await;
    shop.add(&[person([at("a"), None, None, None])]).await;
    let config = config(100);
    let new = shop.new_broadcast(Mode::AppPlusOne, &[App]);
    let draft = broadcast::create(&db.pool, &config, &new).await.unwrap();
    assert!(matches!(
        broadcast::pause(&db.pool, draft).await,
        Err(ControlError::WrongState {
            state: BroadcastState::Draft,
            ..
        })
    ));
    assert!(matches!(
        broadcast::resume(&db.pool, draft).await,
        Err(ControlError::WrongState { .. })
    ));
    assert!(matches!(
        broadcast::pause(&db.pool, BroadcastId::new()).await,
        Err(ControlError::NotFound(_))
    ));

    let id = opened(&shop, &config, &new).await;
    assert_eq!(
        broadcast::send(&db.pool, id).await.unwrap(),
        BroadcastState::Sending,
        "sending twice changes nothing"
    );
    for _ in 0..2 {
        assert_eq!(broadcast::pause(&db.pool, id).await.unwrap(), BroadcastState::Paused);
    }
    run(&db.pool, "update lane set due_at = now() + interval '1 hour'").await;
    assert_eq!(broadcast::resume(&db.pool, id).await.unwrap(), BroadcastState::Sending);
    assert!(one::<bool>(&db.pool, "select bool_and(due_at <= now()) from lane").await);
    for _ in 0..2 {
        assert_eq!(
            broadcast::cancel(&db.pool, id).await.unwrap(),
            BroadcastState::Cancelled
        );
    }
    assert!(matches!(
        broadcast::pause(&db.pool, id).await,
        Err(ControlError::WrongState { .. })
    ));
    assert!(
        !broadcast::report(&db.pool, id).await.unwrap().is_over(),
        "its tokens are still held"
    );
}

#[tokio::test]
async fn the_usual_channels_are_those_with_a_price_and_a_sender() {
    let db = database().await;
    let shop = shop(&db.pool, 0).await;
    let usual = async |mode| {
        broadcast::default_channels(&db.pool, &config(1), shop.id, mode)
            .await
            .unwrap()
    };
    assert_eq!(usual(Mode::AppPlusOne).await, [App]);
    assert_eq!(usual(Mode::PrioritySingle).await, [App, Line, Messenger, Email]);
    run(
        &db.pool,
        "update sender set state = 'disconnected' where channel = 'line'",
    )
    .await;
    assert_eq!(usual(Mode::PrioritySingle).await, [App, Messenger, Email]);
}
