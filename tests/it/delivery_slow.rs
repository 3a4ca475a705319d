//! Sending where little may be sent: few permits, a closed sender, a lane that cannot be worked on.

use carillon_sandbox::{Channel, Fault, FaultKind};

use crate::{wait::eventually, world::World};

/// A sender of few messages a second has a permit at a time. Who has none of the answers yet must not keep the next from
/// beginning, or it would send one message at a time however few those permits are.
#[tokio::test(flavor = "multi_thread")]
async fn few_permits_do_not_mean_one_message_at_a_time() {
    let world = World::new(&[
        ("CHANNEL__APP__IN_FLIGHT", "10"),
        ("CHANNEL__APP__TIMEOUT_SECS", "120"),
        ("DELIVERY__PARALLEL_SLICES", "1"),
        ("DELIVERY__TURN_MS", "60000"),
    ])
    .await;
    world.customers(40, "s.channel = 'app'").await;
    world.run("update sender set rate_per_sec = 20").await;
    world
        .sandbox
        .handle()
        .set_fault(Fault::new(Channel::Fcm, FaultKind::Hang))
        .unwrap();
    let id = world.draft("priority_single", &["app"], "週末特賣").await;
    let _working = world.work();
    world.send(id).await;
    eventually("as many are out as may be", 30, async || {
        world.count(id, "sending").await == 10
    })
    .await;
}

/// A crash or a bad hour left more in flight than the sender may send in a whole turn: they go turn by turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_larger_than_the_permits_of_a_turn_gets_through() {
    let world = World::new(&[("DELIVERY__TURN_MS", "500"), ("DELIVERY__PARALLEL_SLICES", "1")]).await;
    world.customers(60, "s.channel = 'line'").await;
    world
        .run("update sender set rate_per_sec = 50, state = case channel when 'line' then 'paused' else state end")
        .await;
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    eventually("the broadcast is planned", 20, async || {
        world.state(id).await == "sending"
    })
    .await;
    world
        .run(
            "update slice s set first_attempt_at = now(), claimed_at = now(), intent_no = 1,
                    in_flight = (select array_agg(customer_id order by customer_id) from delivery d where d.broadcast_id = s.broadcast_id)",
        )
        .await;
    world.run("update sender set state = 'connected'").await;
    world.ended(id, 60).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (60, 1));
    world.audit().await;
}

/// LINE counts single requests apart: one refused as too fast closes and slows those, not the multicasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_429_to_a_single_request_after_a_refused_multicast_counts_against_single_requests() {
    let world = World::new(&[]).await;
    world.customers(50, "s.channel = 'line'").await;
    let sandbox = world.sandbox.handle();
    sandbox
        .set_fault(Fault::new(Channel::Line, FaultKind::InvalidRecipient).at("multicast"))
        .unwrap();
    sandbox
        .set_fault(Fault::new(Channel::Line, FaultKind::Throttled).at("push").times(1))
        .unwrap();
    let id = world.draft("priority_single", &["line"], "週末特賣").await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    let summary = sandbox.channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (50, 1));
    let mut redis = redis::Client::open(world.env["REDIS_URL"].as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let sender: uuid::Uuid = world.one("select id from sender where channel = 'line'").await;
    for (call, throttled) in [("single", true), ("multicast", false)] {
        let key = format!("{{{}}}:limit:{sender}:{call}", world.env["CARILLON__REDIS__KEY_PREFIX"]);
        let is: bool = redis::cmd("HEXISTS")
            .arg(key)
            .arg("throttled_at")
            .query_async(&mut redis)
            .await
            .unwrap();
        assert_eq!(is, throttled, "{call}");
    }
    world.audit().await;
}

/// A turn that ends with an error gives its lane back: it would idle until its lease ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_turn_failed_is_left_and_goes_on_when_it_is_mended() {
    let world = World::new(&[("DELIVERY__LEASE_SECS", "600")]).await;
    world.customers(20, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "週末特賣").await;
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    let _working = world.work();
    world.send(id).await;
    eventually("the broadcast is planned", 20, async || {
        world.state(id).await == "sending"
    })
    .await;
    let content: String = world.one("select content::text from broadcast").await;
    world
        .run("alter table broadcast disable trigger user; update broadcast set content = '{}'; update sender set state = 'connected'")
        .await;
    eventually("the lane rests in nobody's hands", 20, async || {
        world
            .one::<bool>(
                "select epoch > 0 and lease_until is null and due_at > now() + interval '20 seconds' from lane",
            )
            .await
    })
    .await;
    world
        .run(&format!("update broadcast set content = '{content}'; alter table broadcast enable trigger user; update lane set due_at = now()"))
        .await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 20);
    world.audit().await;
}
