//! A worker is killed while one answer of a slice does not come. What the others answered was written before that one was
//! waited for, so only that one is unknown.

use carillon_sandbox::{Channel, Fault, FaultKind};

use crate::{wait::eventually, world::World};

const CUSTOMERS: i32 = 12;

/// Nobody gives up or takes over before the kill; leases are short, so that it goes on soon after.
const SETTINGS: &[(&str, &str)] = &[
    ("DELIVERY__LEASE_SECS", "2"),
    ("DELIVERY__TURN_MS", "60000"),
    ("DELIVERY__BELL_STALE_SECS", "1.0"),
    ("QUEUE__LEASE_MS", "2000"),
    ("CHANNEL__APP__TIMEOUT_SECS", "120"),
    ("CHANNEL__EMAIL__BODY_TIMEOUT_SECS", "120"),
    // All of them at once.
    ("CHANNEL__APP__IN_FLIGHT", "20"),
    ("CHANNEL__EMAIL__IN_FLIGHT", "20"),
    ("CHANNEL__EMAIL__MAX_CONNECTIONS", "20"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mail_is_all_that_a_kill_makes_unknown() {
    only_the_slow_one_is_unknown("email", Channel::Smtp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_push_is_all_that_a_kill_makes_unknown() {
    only_the_slow_one_is_unknown("app", Channel::Fcm).await;
}

async fn only_the_slow_one_is_unknown(name: &str, channel: Channel) {
    let world = World::new(SETTINGS).await;
    world.customers(CUSTOMERS, &format!("s.channel = '{name}'")).await;
    let slow: String = world
        .one("select address from address order by customer_id desc limit 1")
        .await;
    let sandbox = world.sandbox.handle();
    // The provider has it and never says so: a repeat would be a second one.
    let mut silence = Fault::new(channel, FaultKind::HangAfter);
    silence.recipients = Some(vec![slow.clone()]);
    sandbox.set_fault(silence).unwrap();
    let id = world.draft("priority_single", &[name], "嗨 {first_name}").await;

    let _scheduler = world.process("scheduler");
    let mut worker = world.process("worker");
    world.send(id).await;
    let others = i64::from(CUSTOMERS) - 1;
    eventually("all others are accepted", 30, async || {
        world.count(id, "accepted").await == others && world.count(id, "sending").await == 1
    })
    .await;
    eventually("the provider has the slow one", 30, async || {
        sandbox.counts(channel, None).contains_key(&slow)
    })
    .await;
    worker.kill();

    sandbox.clear_faults();
    let _next = world.process("worker");
    world.ended(id, 60).await;
    assert_eq!(world.count(id, "accepted").await, others);
    assert_eq!(world.count(id, "unknown").await, 1);
    let unknown: String = world
        .one(&format!(
            "select a.address from delivery_with_state d join address a on a.id = d.address_id
              where d.broadcast_id = '{id}' and d.state = 'unknown'"
        ))
        .await;
    assert_eq!(unknown, slow);
    let received = sandbox.counts(channel, None);
    assert_eq!(received.len(), usize::try_from(CUSTOMERS).unwrap());
    assert!(received.values().all(|times| *times == 1), "{received:?}");
    world.audit().await;
}
