//! A multicast with a few members whom LINE refuses: found by halves, and exact when workers die in the middle of it.

use carillon_sandbox::{Channel, Fault, FaultKind, Latency};

use crate::{wait::eventually, world::World};

const SALE: &str = "週末特賣";

/// A world in which LINE refuses these of its members, in a multicast and alone.
async fn world(members: i32, bad: i64, settings: &[(&str, &str)]) -> World {
    let world = World::new(settings).await;
    world.customers(members, "s.channel = 'line'").await;
    let refused: Vec<String> = world
        .one(&format!(
            "select array_agg(address) from (select address from address order by md5(address) limit {bad}) a"
        ))
        .await;
    for at in ["multicast", "push"] {
        let fault = Fault::new(Channel::Line, FaultKind::InvalidRecipient);
        world
            .sandbox
            .handle()
            .set_fault(fault.recipients(refused.clone()).at(at))
            .unwrap();
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn three_bad_members_of_five_hundred_cost_tens_of_requests_and_nobody_the_message() {
    let world = world(500, 3, &[]).await;
    let id = world.draft("priority_single", &["line"], SALE).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    println!("{} requests", summary.requests);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (497, 1));
    assert!(summary.requests <= 60, "{} requests", summary.requests);
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "failed").await),
        (497, 3)
    );
    let closed: i64 = world
        .one("select count(*) from address where state = 'suppressed'")
        .await;
    assert_eq!(closed, 3);
    world.audit().await;
}

/// So many are bad that looking for them would cost more than sending to each: that is noticed, and everybody else has it once.
#[tokio::test(flavor = "multi_thread")]
async fn where_half_are_bad_they_are_sent_to_one_by_one() {
    let world = world(200, 100, &[]).await;
    let id = world.draft("priority_single", &["line"], SALE).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    println!("{} requests", summary.requests);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (100, 1));
    assert!(summary.requests <= 400, "{} requests", summary.requests);
    assert_eq!(world.count(id, "failed").await, 100);
    world.audit().await;
}

/// Workers are killed between the halves: each half is an intent with its own key, so it is repeated as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_between_the_halves_send_nobody_a_second_one() {
    let settings = [
        ("DELIVERY__LEASE_SECS", "2"),
        ("DELIVERY__TURN_MS", "1000"),
        ("DELIVERY__BELL_STALE_SECS", "1.0"),
        ("QUEUE__LEASE_MS", "2000"),
        ("BROADCAST__SLICE_SIZE", "100"),
        ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
        ("CHANNEL__LINE__TIMEOUT_SECS", "2"),
    ];
    let world = world(600, 12, &settings).await;
    let latency = Latency {
        fixed_ms: 40,
        jitter_ms: 40,
    };
    world.sandbox.handle().set_latency(Channel::Line, latency);
    let id = world.draft("priority_single", &["line"], SALE).await;
    let _scheduler = world.process("scheduler");
    let mut worker = world.process("worker");
    world.send(id).await;
    let asked = || world.sandbox.handle().channel_summary(Channel::Line).requests;
    let over = format!("select finished_at is not null from broadcast where id = '{id}'");
    let mut kills = 0;
    while kills < 8 && !world.one::<bool>(&over).await {
        let before = asked();
        eventually("some more requests were made", 60, async || {
            asked() >= before + 7 || world.one::<bool>(&over).await
        })
        .await;
        worker.kill();
        worker = world.process("worker");
        kills += 1;
    }
    assert!(kills >= 4, "only {kills} kills before it was over");
    world.ended(id, 90).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    println!("{kills} kills, {} requests", summary.requests);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (588, 1));
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "failed").await),
        (588, 12)
    );
    world.audit().await;
}
