//! `carillon jobs explain`: for each situation a job, a broadcast or a delivery can be in, the answer names it, says what to
//! do, and changes nothing. Codes are compared rather than sentences, and a few words where a person acts on them.

use std::time::Duration;

use carillon::{
    app::ProcessKind,
    limit::Call,
    pause::Scope,
    queue::{JobError, Outcome},
};
use carillon_jobs::{BroadcastId, BroadcastSend, Envelope, Kind, SenderId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    cli::{Ran, keys, run},
    scene::{self, APP, LINE, Shop},
    wait::until,
    world::World,
};

/// What the command says in JSON.
pub(crate) async fn explain(world: &World, id: &str) -> Value {
    run(world, &["jobs", "explain", id, "--json"]).await.json()
}

/// The codes of what it says, in their order.
pub(crate) async fn codes(world: &World, id: &str) -> Vec<String> {
    let answer = explain(world, id).await;
    let reasons = answer["reasons"].as_array().unwrap();
    let code = |reason: &Value| reason["code"].as_str().unwrap().to_owned();
    reasons.iter().map(code).collect()
}

/// What it says to a person.
pub(crate) async fn words(world: &World, id: &str) -> String {
    let Ran { code, out, err } = run(world, &["jobs", "explain", id]).await;
    assert_eq!(code, 0, "{err}");
    out
}

/// A world with the scene's shop, its own senders aside.
pub(crate) async fn scene() -> (World, Shop) {
    let world = World::new(&[]).await;
    let shop = scene::shop(world.pool(), 10, 1_000).await;
    (world, shop)
}

fn bell(id: &str, broadcast: BroadcastId) -> Envelope {
    let mut bell = Envelope::new(BroadcastSend {
        broadcast_id: broadcast,
        sender_id: None,
    });
    bell.id = Some(id.to_owned());
    bell
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_is_found_with_its_place_and_what_holds_it_up() {
    let world = World::new(&[]).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let nobody = BroadcastId::new();
    queue
        .ring_many([bell("first", nobody), bell("mine", nobody)])
        .await
        .unwrap();
    let mut later = bell("later", nobody);
    later.run_at = Some(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    queue.ring(later).await.unwrap();

    let answer = explain(&world, "mine").await;
    assert_eq!(answer["facts"]["jobs"][0]["in"], "ready");
    assert_eq!(answer["facts"]["jobs"][0]["place"], 2);
    assert_eq!(codes(&world, "mine").await, ["ready", "none_running"]);
    assert!(words(&world, "mine").await.contains("at place 2 of"));
    assert_eq!(codes(&world, "later").await, ["scheduled"]);
    carillon::pause::pause(world.pool(), Scope::Kind(Kind::BroadcastSend), "a test", "tester")
        .await
        .unwrap();
    assert_eq!(codes(&world, "mine").await, ["ready", "kind_paused"]);
    assert!(words(&world, "mine").await.contains("`carillon paused`"));
    assert_eq!(codes(&world, "later").await, ["scheduled", "kind_paused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_crashed_retries_or_died_is_told_apart() {
    let world = World::new(&[("QUEUE__LEASE_MS", "1000"), ("QUEUE__RETRY_FIRST_MS", "3600000")]).await;
    let app = world.app(ProcessKind::Worker);
    let queue = app.queue().unwrap();
    let nobody = BroadcastId::new();
    for id in ["hangs", "fails", "dies"] {
        queue.ring(bell(id, nobody)).await.unwrap();
    }
    let (config, conn, db) = (app.queue_config(), app.queue_conn().unwrap(), app.db.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.spawn(carillon::queue::run(
        config,
        conn,
        db,
        |_, context| async move {
            match context.id.as_str() {
                "fails" => Err(JobError::retry("the moon is wrong")),
                "dies" => Err(JobError::dead("no attempt can succeed")),
                _ => std::future::pending::<Result<Outcome, JobError>>().await,
            }
        },
        CancellationToken::new(),
    ));
    until("it is dead", async || {
        world.one::<bool>("select exists (select from dead_job)").await
    })
    .await;
    until("one waits for its next try", async || {
        queue.depths().await.unwrap()[0].delayed == 1
    })
    .await;

    assert_eq!(codes(&world, "hangs").await, ["running"]);
    assert_eq!(codes(&world, "fails").await, ["scheduled", "history"]);
    assert!(words(&world, "fails").await.contains("1 attempt failed"));
    assert_eq!(codes(&world, "dies").await, ["dead"]);
    let number: i64 = world.one("select id from dead_job").await;
    let says = words(&world, &number.to_string()).await;
    assert!(
        says.contains("no attempt can succeed") && says.contains(&format!("`carillon jobs retry {number}`")),
        "{says}"
    );
    assert_eq!(explain(&world, "dies").await["facts"]["dead"][0]["reason"], "rejected");

    runtime.shutdown_background();
    until("its lease has run out", async || {
        codes(&world, "hangs").await == ["abandoned"]
    })
    .await;
    world.run("update dead_job set replayed_at = now()").await;
    assert_eq!(codes(&world, "dies").await, ["retried"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_job_without_an_id_is_found_by_its_broadcast() {
    let world = World::new(&[]).await;
    let id = world.draft("priority_single", &["line"], "Hello").await;
    world.run(&format!("select send_broadcast('{id}')")).await;
    assert_eq!(codes(&world, &id.to_string()).await, ["unplanned", "no_bell"]);
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let text = format!(r#"{{"args":{{"broadcast_id":"{}"}}}}"#, id.to_string().to_uppercase());
    queue.push_raw("broadcast-send", text.as_bytes()).await.unwrap();
    assert_eq!(
        codes(&world, &id.to_string()).await,
        ["unplanned", "ready", "none_running"]
    );
    assert!(words(&world, &id.to_string()).await.contains("Its bell: "));
    let whose = explain(&world, &id.to_string().to_uppercase()).await;
    assert_eq!(
        (&whose["what"], &whose["facts"]["broadcast"]["state"]),
        (&"broadcast".into(), &"queued".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_does_not_send_says_why() {
    let world = World::new(&[]).await;
    let id = world.draft("priority_single", &["line"], "Hello").await;
    let text = id.to_string();
    assert_eq!(codes(&world, &text).await, ["draft"]);
    world
        .run("update broadcast set scheduled_at = now() + interval '1 hour'")
        .await;
    world.run(&format!("select send_broadcast('{id}')")).await;
    assert_eq!(codes(&world, &text).await, ["scheduled"]);
    assert!(words(&world, &text).await.contains("(in 59 min"));
    world.run(&format!("select pause_broadcast('{id}')")).await;
    assert_eq!(codes(&world, &text).await, ["paused"]);
    assert!(
        words(&world, &text)
            .await
            .contains(&format!("`carillon broadcast resume {id}`"))
    );
    world
        .run(&format!(
            "select resume_broadcast('{id}'); update broadcast set state = 'queued'"
        ))
        .await;
    world
        .run("update broadcast set plan_lease_until = now() + interval '9 seconds'")
        .await;
    assert_eq!(codes(&world, &text).await, ["planning"]);
    let other = world.draft("priority_single", &["line"], "Hello").await;
    world
        .run(&format!(
            "update broadcast set plan_lease_until = null;
             update shop set planning_broadcast = '{other}', planning_lease_until = now() + interval '9 seconds'"
        ))
        .await;
    assert_eq!(codes(&world, &text).await, ["planning_waits", "no_bell"]);
    assert!(words(&world, &text).await.contains(&other.to_string()));
    world
        .run(&format!(
            "update broadcast set state = 'failed', state_reason = 'tokens_short: 7' where id = '{id}'"
        ))
        .await;
    assert_eq!(codes(&world, &text).await, ["failed"]);
    assert!(words(&world, &text).await.contains("tokens_short: 7"));
    world.run(&format!("select cancel_broadcast('{other}')")).await;
    assert_eq!(codes(&world, &other.to_string()).await, ["cancelled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_says_who_has_it_or_what_it_waits_for() {
    let (world, shop) = scene().await;
    let id = shop.opened(&[LINE], 5).await;
    let text = id.to_string();
    let lane = |set: &str| format!("update lane set {set} where broadcast_id = '{id}'");
    assert_eq!(codes(&world, &text).await, ["sending", "lane", "nobody"]);
    for (set, expected) in [
        ("rung_at = now()", "rung"),
        ("rung_at = null, lease_until = now() + interval '1 min'", "lane_leased"),
        ("lease_until = now() - interval '1 min'", "lane_abandoned"),
        ("lease_until = null, due_at = now() + interval '1 min'", "not_due"),
        ("strikes = 3", "resting"),
    ] {
        world.run(&lane(set)).await;
        assert_eq!(codes(&world, &text).await, ["sending", "lane", expected]);
    }
    world.run(&lane("strikes = 0, due_at = now()")).await;

    let sender: Uuid = world
        .one(&format!("select sender_id from lane where broadcast_id = '{id}'"))
        .await;
    let app = world.app(ProcessKind::Command);
    let delivery = app.delivery().unwrap();
    let key = delivery.limit_key(SenderId(sender), carillon::channel::Channel::Line, Call::Single, None);
    delivery.limits.throttled(&key, Some(Duration::from_mins(5))).await;
    assert_eq!(
        codes(&world, &text).await,
        ["sending", "lane", "nobody", "sender_closed", "rate"]
    );

    let queue = app.queue().unwrap();
    carillon::pause::pause(world.pool(), Scope::Kind(Kind::BroadcastSend), "a test", "tester")
        .await
        .unwrap();
    carillon::reconcile::ring(&queue, BroadcastId(id), Some(SenderId(sender)))
        .await
        .unwrap();
    let expected = ["sending", "lane", "kind_paused", "bell_out", "sender_closed", "rate"];
    assert_eq!(codes(&world, &text).await, expected);
    assert!(words(&world, &text).await.contains("at place 1 of the ready list"));

    world
        .run(&format!(
            "update sender set state = 'paused', state_reason = 'credentials: 401' where id = '{sender}'"
        ))
        .await;
    assert_eq!(codes(&world, &text).await, ["sending", "lane", "sender_paused"]);
    let says = words(&world, &text).await;
    assert!(
        says.contains("credentials: 401") && says.contains(&format!("`carillon resume sender {sender}`")),
        "{says}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_behind_its_own_shop_waits_for_its_turn() {
    let (world, shop) = scene().await;
    for _ in 0..2 {
        shop.opened(&[APP], 5).await;
    }
    world
        .run("update lane set lease_until = now() + interval '1 min'")
        .await;
    let third = shop.opened(&[APP], 5).await.to_string();
    assert_eq!(codes(&world, &third).await, ["sending", "lane", "shop_at_its_share"]);
    world.run("update shop set state = 'suspended'").await;
    assert_eq!(
        codes(&world, &third).await,
        ["sending", "shop_suspended", "lane", "shop_at_its_share"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_changes_nothing_and_needs_no_redis_to_say_what_postgres_knows() {
    let (mut world, shop) = scene().await;
    let id = shop.opened(&[LINE, APP], 5).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    queue.ring(bell("mine", BroadcastId(id))).await.unwrap();
    let everything = "select concat((select json_agg(l) from lane l), (select json_agg(s) from slice s),
                             (select json_agg(b) from broadcast b), (select json_agg(s) from sender s))";
    let (rows, before): (String, Vec<String>) = (world.one(everything).await, keys(&world).await);
    for asked in [id.to_string(), format!("{id}:{}", shop.customers[0]), "mine".to_owned()] {
        explain(&world, &asked).await;
        words(&world, &asked).await;
    }
    assert_eq!(
        (world.one::<String>(everything).await, keys(&world).await),
        (rows, before)
    );
    assert_eq!(
        codes(&world, "mine").await[..4],
        ["ready", "none_running", "about", "sending"]
    );

    world
        .env
        .insert("REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned());
    let codes = codes(&world, &id.to_string()).await;
    assert_eq!(
        (codes[0].as_str(), codes.last().unwrap().as_str()),
        ("sending", "redis_away")
    );
    let unknown = run(&world, &["jobs", "explain", "mine"]).await;
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.err.contains("Redis does not answer"), "{unknown:?}");
}
