//! Senders and their limits, as an operator sees and moves them.

use carillon_sandbox::{Channel, LINE_TOKEN, Latency};
use uuid::Uuid;

use super::run;
use crate::{wait::eventually, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_refused_by_its_provider_goes_on_within_seconds_of_being_resumed() {
    let world = World::new(&[("DELIVERY__BELL_STALE_SECS", "60.0")]).await;
    world.customers(30, "s.channel = 'line'").await;
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let line = line.to_string();
    world.sandbox.handle().revoke(Channel::Line, LINE_TOKEN);
    let _working = world.work();
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    world.send(id).await;
    eventually("the sender is paused", 20, async || {
        world
            .one::<bool>("select state = 'paused' from sender where channel = 'line'")
            .await
    })
    .await;
    let list = run(&world, &["sender", "list", "--paused", "--json"]).await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["id"], &list[0]["channel"]),
        (&line.as_str().into(), &"line".into())
    );
    assert!(list[0]["reason"].as_str().unwrap().starts_with("credentials"), "{list}");
    assert_eq!(list[0]["waiting"], 30);
    let table = run(&world, &["sender", "list"]).await;
    assert!(
        table.out.contains("paused") && table.out.contains("好日子選物") && table.out.contains("email"),
        "{table:?}"
    );
    assert!(!table.out.contains(LINE_TOKEN), "no credentials are shown");

    let account = carillon_sandbox::default_accounts()
        .into_iter()
        .find(|account| account.channel() == Channel::Line);
    world.sandbox.handle().register(account.unwrap()).unwrap();
    let resumed = run(&world, &["resume", "sender", &line]).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    world.ended(id, 10).await;
    assert_eq!(world.count(id, "accepted").await, 30);
    let state: String = world
        .one("select concat(state, state_reason) from sender where channel = 'line'")
        .await;
    assert_eq!(state, "connected");
    assert!(
        run(&world, &["resume", "sender", &line])
            .await
            .out
            .contains("was not paused")
    );
    world
        .run("update sender set state = 'disconnected' where channel = 'line'")
        .await;
    for call in [
        &["pause", "sender", &line, "--reason", "x"][..],
        &["resume", "sender", &line],
    ] {
        let ran = run(&world, call).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("is disconnected"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_a_person_pauses_stops_at_once_and_goes_on_exactly_where_it_was() {
    let world = World::new(&[("DELIVERY__TURN_MS", "20000"), ("BROADCAST__SLICE_SIZE", "50")]).await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 100,
            jitter_ms: 0,
        },
    );
    world.customers(3_000, "s.channel = 'line'").await;
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let line = line.to_string();
    let _working = world.work();
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    world.send(id).await;
    eventually("some have it", 20, async || world.count(id, "accepted").await >= 50).await;
    assert_eq!(
        run(&world, &["pause", "sender", &line, "--reason", "a look at the account"])
            .await
            .code,
        0
    );
    eventually("its turn is over", 5, async || {
        world.one::<bool>("select coalesce(lease_until <= now(), true) and not exists (select from slice where state = 'sending') from lane").await
    })
    .await;
    let accepted = world.count(id, "accepted").await;
    assert!(accepted < 3_000, "it was over before it was paused");
    let list = run(&world, &["sender", "list", &line, "--json"]).await.json();
    assert_eq!(
        (&list[0]["reason"], &list[0]["waiting"]),
        (&"a look at the account".into(), &(3_000 - accepted).into())
    );
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 0,
            jitter_ms: 0,
        },
    );
    assert_eq!(run(&world, &["resume", "sender", &line]).await.code, 0);
    world.ended(id, 30).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (3_000, 1));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shown_as_they_are_now() {
    let world = World::new(&[]).await;
    let limits = run(&world, &["sender", "limits", "--json"]).await.json();
    let calls: Vec<(&str, &str)> = limits
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["channel"].as_str().unwrap(), row["call"].as_str().unwrap()))
        .collect();
    assert_eq!(
        calls,
        [
            ("app", "single"),
            ("line", "single"),
            ("line", "multicast"),
            ("email", "single")
        ]
    );
    assert_eq!(limits[0]["configured_per_sec"], 100_000.0);

    let app = world.app(carillon::app::ProcessKind::Command);
    let delivery = app.delivery().unwrap();
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let key = delivery.limit_key(
        carillon_jobs::SenderId(line),
        carillon::channel::Channel::Line,
        carillon::limit::Call::Single,
        Some(100_000.0),
    );
    delivery
        .limits
        .throttled(&key, Some(std::time::Duration::from_mins(5)))
        .await;
    let limits = run(&world, &["sender", "limits", &line.to_string(), "--json"])
        .await
        .json();
    assert_eq!(limits[0]["effective_per_sec"], 80_000.0);
    assert!(
        limits[0]["closed_until"].is_string() && limits[0]["last_throttled_at"].is_string(),
        "{limits}"
    );
    assert!(limits[1]["closed_until"].is_null(), "multicasts count apart: {limits}");
    let table = run(&world, &["sender", "limits", "--channel", "line"]).await;
    assert!(
        table.out.contains("80000/s") && !table.out.contains("email"),
        "{table:?}"
    );
}
