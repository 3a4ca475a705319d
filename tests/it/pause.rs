//! Pauses of a kind, a shop, a sender and everything: they hold within about a second, through the loss of Redis, and what
//! waited goes on exactly where it was.

use std::time::Duration;

use carillon::pause::{self, Moved, Scope};
use carillon_jobs::{BroadcastId, Kind, SenderId, ShopId};
use carillon_sandbox::{Channel, Latency};
use uuid::Uuid;

use crate::{
    cli::run,
    redis_server::{Memory, RedisServer},
    wait::{comes_to_rest, eventually},
    world::World,
};

const HELLO: &str = "哈囉 {first_name}";
const CUSTOMERS: i32 = 4_000;

/// A world whose provider takes a while, with a broadcast under way that has reached some.
async fn sending(world: &World) -> BroadcastId {
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 100,
            jitter_ms: 0,
        },
    );
    world.customers(CUSTOMERS, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], HELLO).await;
    world.send(id).await;
    eventually("some have it", 30, async || got(world) >= 50).await;
    id
}

fn got(world: &World) -> u64 {
    world.sandbox.handle().channel_summary(Channel::Line).messages
}

async fn goes_on_to_the_end(world: &World, id: BroadcastId) {
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 0,
            jitter_ms: 0,
        },
    );
    world.ended(id, 60).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!(
        (summary.messages, summary.max_to_one_recipient),
        (u64::try_from(CUSTOMERS).unwrap(), 1)
    );
    assert_eq!(world.count(id, "accepted").await, i64::from(CUSTOMERS));
    world.audit().await;
}

const SETTINGS: &[(&str, &str)] = &[("DELIVERY__TURN_MS", "20000"), ("BROADCAST__SLICE_SIZE", "50")];

async fn scopes(world: &World) -> Vec<Scope> {
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    vec![
        Scope::Everything,
        Scope::Kind(Kind::BroadcastSend),
        Scope::Shop(ShopId(world.shop)),
        Scope::Sender(SenderId(line)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pause_stops_sending_within_about_a_second_and_its_end_sends_exactly_the_rest() {
    let world = World::new(SETTINGS).await;
    let _working = world.work();
    let id = sending(&world).await;
    for scope in scopes(&world).await {
        assert_eq!(
            pause::pause(world.pool(), scope, "a look", "anna").await.unwrap(),
            Moved::Done
        );
        // At rest within a second of being asked.
        let sent = comes_to_rest("sending", || got(&world)).await;
        assert!(
            sent < u64::try_from(CUSTOMERS).unwrap(),
            "it was over before it was paused"
        );
        assert_eq!(
            pause::pause(world.pool(), scope, "again", "bob").await.unwrap(),
            Moved::Already
        );
        let pauses = pause::in_force(world.pool()).await.unwrap();
        assert_eq!(pauses.len(), 1);
        assert_eq!(
            (
                pauses[0].reason.as_str(),
                pauses[0].paused_by.as_str(),
                pauses[0].of.clone()
            ),
            ("a look", "anna", scope.of())
        );
        eventually("what is in hand is settled", 10, async || {
            world
                .one::<bool>("select not exists (select from slice where state = 'sending')")
                .await
        })
        .await;
        let pauses = pause::in_force(world.pool()).await.unwrap();
        assert_eq!(
            (pauses[0].broadcasts, pauses[0].messages),
            (1, i64::from(CUSTOMERS) - i64::try_from(got(&world)).unwrap())
        );
        assert_eq!(pause::resume(world.pool(), scope, "bob").await.unwrap(), Moved::Done);
        assert_eq!(pause::resume(world.pool(), scope, "bob").await.unwrap(), Moved::Already);
        eventually("it goes on", 10, async || got(&world) > sent).await;
    }
    let recorded: i64 = world
        .one("select count(*) from pause where paused_by = 'anna' and resumed_by = 'bob' and resumed_at > paused_at")
        .await;
    assert_eq!(recorded, 4);
    goes_on_to_the_end(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_redis_and_the_workers() {
    let mut server = RedisServer::start(Memory::Lost).await;
    let world = World::on_redis(&server.url(), SETTINGS).await;
    let working = world.work();
    let id = sending(&world).await;
    let kind = Scope::Kind(Kind::BroadcastSend);
    pause::pause(world.pool(), kind, "wrong price", "anna").await.unwrap();
    comes_to_rest("sending", || got(&world)).await;
    working.stop().await;
    server.kill();
    server.run();
    let sent = got(&world);
    let working = world.work();
    let queue = world.app(carillon::app::ProcessKind::Command).queue().unwrap();
    eventually("the bell is rung again and again", 20, async || {
        world.run("update lane set rung_at = null").await;
        let _ = carillon::reconcile::ring(&queue, id, None).await;
        queue
            .waiting(Kind::BroadcastSend)
            .await
            .is_ok_and(|waiting| waiting > 0)
    })
    .await;
    comes_to_rest("sending", || got(&world)).await;
    assert_eq!(got(&world), sent, "nobody has begun anything");
    assert!(
        queue.waiting(Kind::BroadcastSend).await.unwrap() > 0,
        "nobody has claimed anything"
    );
    pause::resume(world.pool(), kind, "anna").await.unwrap();
    goes_on_to_the_end(&world, id).await;
    drop(working);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_shop_is_not_planned_and_others_are() {
    let world = World::new(&[]).await;
    world.customers(30, "s.channel = 'line'").await;
    let shop = Scope::Shop(ShopId(world.shop));
    pause::pause(world.pool(), shop, "unpaid", "anna").await.unwrap();
    let _working = world.work();
    let id = world.draft("priority_single", &["line"], HELLO).await;
    world.send(id).await;
    let queue = world.app(carillon::app::ProcessKind::Command).queue().unwrap();
    eventually("its bell was heard", 10, async || {
        queue.depths().await.unwrap()[0].ready + queue.depths().await.unwrap()[0].running == 0
    })
    .await;
    assert_eq!(world.state(id).await, "queued");
    assert_eq!(pause::in_force(world.pool()).await.unwrap()[0].broadcasts, 1);
    // Its turn to plan has not come either when somebody looks for work.
    assert_eq!(world.one::<i64>("select count(*) from plans_to_ring(null, 0)").await, 0);
    pause::resume(world.pool(), shop, "anna").await.unwrap();
    world.ended(id, 20).await;
    assert_eq!(world.count(id, "accepted").await, 30);
}

#[tokio::test]
async fn a_sender_that_its_provider_refuses_is_a_pause_like_any_other() {
    let world = World::new(&[]).await;
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let sender = Scope::Sender(SenderId(line));
    assert!(
        carillon::delivery::store::pause_sender(world.pool(), SenderId(line), "credentials: 401")
            .await
            .unwrap()
    );
    let pauses = pause::in_force(world.pool()).await.unwrap();
    assert_eq!((pauses.len(), pauses[0].reason.as_str()), (1, "credentials: 401"));
    assert_eq!(
        pause::pause(world.pool(), sender, "me too", "anna").await.unwrap(),
        Moved::Already
    );
    assert_eq!(pause::resume(world.pool(), sender, "anna").await.unwrap(), Moved::Done);
    let state: String = world
        .one("select concat(state, state_reason) from sender where channel = 'line'")
        .await;
    assert_eq!(state, "connected");
    // Whoever writes the state itself leaves a record too.
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    assert_eq!(
        pause::in_force(world.pool()).await.unwrap()[0].reason,
        "no reason given"
    );
    world
        .run("update sender set state = 'disconnected' where channel = 'line'")
        .await;
    assert!(pause::in_force(world.pool()).await.unwrap().is_empty());
    assert_eq!(
        pause::pause(world.pool(), sender, "x", "anna").await.unwrap(),
        Moved::Disconnected
    );
    let nobody = Scope::Shop(ShopId(Uuid::now_v7()));
    assert_eq!(
        pause::pause(world.pool(), nobody, "x", "anna").await.unwrap(),
        Moved::Missing
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_gives_the_tokens_back_while_its_shop_is_paused() {
    let world = World::new(SETTINGS).await;
    let _working = world.work();
    let id = sending(&world).await;
    pause::pause(world.pool(), Scope::Shop(ShopId(world.shop)), "a look", "anna")
        .await
        .unwrap();
    comes_to_rest("sending", || got(&world)).await;
    carillon::broadcast::cancel(world.pool(), id).await.unwrap();
    world.ended(id, 20).await;
    assert_eq!(world.state(id).await, "cancelled");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_one_call_pauses_every_broadcast_on_its_way() {
    let world = World::new(SETTINGS).await;
    let working = world.work();
    let id = sending(&world).await;
    let later = world.draft("priority_single", &["line"], HELLO).await;
    world
        .run(&format!(
            "update broadcast set scheduled_at = now() + interval '1 hour' where id = '{later}'; select send_broadcast('{later}')"
        ))
        .await;
    let draft = world.draft("priority_single", &["line"], HELLO).await;
    working.stop().await;
    assert_eq!(carillon::broadcast::pause_all(world.pool()).await.unwrap(), [id]);
    assert_eq!(world.state(later).await, "scheduled", "its time has not come");
    assert_eq!(world.state(draft).await, "draft");
    let working = world.work();
    let sent = comes_to_rest("sending", || got(&world)).await;
    carillon::broadcast::resume(world.pool(), id).await.unwrap();
    eventually("it goes on", 20, async || got(&world) > sent).await;
    goes_on_to_the_end(&world, id).await;
    tokio::time::timeout(Duration::from_secs(30), working.stop())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_says_who_why_since_when_and_what_waits() {
    let world = World::new(&[]).await;
    world.customers(20, "s.channel = 'line'").await;
    assert_eq!(run(&world, &["paused"]).await.out, "nothing is paused\n");
    let shop = world.shop.to_string();
    let line: Uuid = world.one("select id from sender where channel = 'line'").await;
    let line = line.to_string();
    let pauses: [&[&str]; 4] = [
        &["everything"],
        &["kind", "broadcast-send"],
        &["shop", &shop],
        &["sender", &line],
    ];
    for which in pauses {
        let call = [
            &["pause"],
            which,
            &["--reason", "wrong price\u{1b}[2J", "--by", "anna", "--json"],
        ]
        .concat();
        let told = run(&world, &call).await.json();
        assert_eq!(
            (&told["paused"], &told["changed"]),
            (&true.into(), &true.into()),
            "{which:?}"
        );
        assert_eq!(run(&world, &call).await.json()["changed"], false, "{which:?}");
    }
    let id = world.draft("priority_single", &["line"], "哈囉").await;
    world.send(id).await;
    let list = run(&world, &["paused", "--json"]).await.json();
    let told: Vec<(&str, &str)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|pause| (pause["scope"].as_str().unwrap(), pause["paused_by"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("everything", "anna"),
            ("kind", "anna"),
            ("shop", "anna"),
            ("sender", "anna")
        ]
    );
    assert_eq!(
        (&list[0]["broadcasts"], &list[0]["jobs"]),
        (&1.into(), &1.into()),
        "{list}"
    );
    assert_eq!(
        (&list[2]["of"], &list[2]["title"]),
        (&shop.as_str().into(), &"好日子選物".into()),
        "{list}"
    );
    assert!(list[0]["paused_at"].is_string() && list[3]["jobs"].is_null(), "{list}");
    let text = run(&world, &["paused"]).await.out;
    for says in [
        "by anna",
        "wrong price",
        "1 broadcast,",
        "1 job in the queue",
        "carillon resume everything",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(
        !text.contains('\u{1b}'),
        "a reason must not command the terminal: {text}"
    );
    assert!(run(&world, &["jobs", "list"]).await.out.contains("paused"));

    let one = run(&world, &["resume", "everything", "--by", "bob"]).await;
    assert!(
        one.out.contains("everything goes on; 3 other pauses are in force"),
        "{one:?}"
    );
    for which in &pauses[1..] {
        let call = [&["resume"], *which, &["--json"]].concat();
        assert_eq!(run(&world, &call).await.json()["changed"], true, "{which:?}");
        assert_eq!(run(&world, &call).await.json()["changed"], false, "{which:?}");
    }
    assert_eq!(run(&world, &["paused", "--json"]).await.json(), serde_json::json!([]));
    // After a restore.
    let all = run(&world, &["broadcast", "pause", "--all", "--json"]).await.json();
    assert_eq!(all["paused"], serde_json::json!([id]));
    assert_eq!(
        run(&world, &["broadcast", "pause", "--all"]).await.out,
        "no broadcast is on its way\n"
    );
    assert_eq!(run(&world, &["broadcast", "resume", &id.to_string()]).await.code, 0);
}
