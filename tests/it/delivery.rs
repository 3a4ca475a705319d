//! A broadcast end to end against the sandbox: what arrives, what is charged, what a stop or a bad day leaves.

use std::time::{Duration, Instant};

use carillon_jobs::BroadcastId;
use carillon_sandbox::{Channel, Fault, FaultKind, Latency};

use crate::{
    wait::{comes_to_rest, eventually},
    world::World,
};

const HELLO: &str = "哈囉 {first_name}";
const SALE: &str = "週末特賣";

/// Accepted messages a channel of the sandbox counted, and the most one recipient got.
fn got(world: &World, channel: Channel) -> (u64, u64) {
    let summary = world.sandbox.handle().channel_summary(channel);
    (summary.messages, summary.max_to_one_recipient)
}

async fn spent(world: &World) -> i64 {
    world.one("select 1005000 - allowance - extra from token_account").await
}

/// Every delivery has ended, the books are right, nobody got two.
async fn nothing_is_left(world: &World, id: BroadcastId) {
    assert_eq!(world.count(id, "queued").await + world.count(id, "sending").await, 0);
    for channel in [Channel::Line, Channel::Fcm, Channel::Smtp] {
        assert!(got(world, channel).1 <= 1, "{channel:?}: somebody got more than one");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reachable_gets_the_message_once_and_exactly_that_is_charged() {
    let world = World::new(&[]).await;
    world.customers(600, "s.channel <> 'email'").await;
    world.customers(60, "s.channel = 'email'").await;
    let id = world.draft("priority_single", &["line", "app", "email"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(world.state(id).await, "completed");
    assert_eq!(got(&world, Channel::Line), (600, 1));
    assert_eq!(got(&world, Channel::Fcm).0, 0, "the first channel of the order wins");
    assert_eq!(got(&world, Channel::Smtp), (60, 1));
    assert_eq!(spent(&world).await, 600 * 5 + 60 * 2);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn app_plus_one_reaches_a_customer_on_both() {
    let world = World::new(&[]).await;
    world
        .customers(120, "s.channel = 'app' or (s.channel = 'line' and n.i % 2 = 0)")
        .await;
    let id = world.draft("app_plus_one", &["app", "line"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(
        (got(&world, Channel::Fcm), got(&world, Channel::Line)),
        ((120, 1), (60, 1))
    );
    assert_eq!(spent(&world).await, 120 + 60 * 5);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_the_same_for_all_goes_out_in_multicasts() {
    let world = World::new(&[]).await;
    world.customers(1_200, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], SALE).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!(
        (summary.requests, summary.messages, summary.max_to_one_recipient),
        (3, 1_200, 1)
    );
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_address_in_a_multicast_costs_nobody_else_the_message() {
    let world = World::new(&[]).await;
    world.customers(50, "s.channel = 'line'").await;
    let bad: String = world.one("select min(address) from address").await;
    world
        .sandbox
        .handle()
        .set_fault(
            Fault::new(Channel::Line, FaultKind::InvalidRecipient)
                .recipients([bad.clone()])
                .at("multicast"),
        )
        .unwrap();
    world
        .sandbox
        .handle()
        .set_fault(
            Fault::new(Channel::Line, FaultKind::InvalidRecipient)
                .recipients([bad.clone()])
                .at("push"),
        )
        .unwrap();
    let id = world.draft("priority_single", &["line"], SALE).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(got(&world, Channel::Line), (49, 1));
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "failed").await),
        (49, 1)
    );
    let state: String = world
        .one(&format!("select state from address where address = '{bad}'"))
        .await;
    assert_eq!(state, "suppressed");
    nothing_is_left(&world, id).await;
}

/// LINE honours keys: whatever happens to the answer, the message is there once.
#[tokio::test(flavor = "multi_thread")]
async fn line_is_exactly_once_through_lost_answers_errors_and_throttling() {
    let world = World::new(&[
        ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
        ("CHANNEL__LINE__TIMEOUT_SECS", "2"),
    ])
    .await;
    world.customers(400, "s.channel = 'line'").await;
    let faults = [
        (FaultKind::ResetAfter, 15),
        (FaultKind::ResetBefore, 15),
        (FaultKind::ServerError, 15),
        (FaultKind::ServerErrorAfter, 15),
        (FaultKind::HangAfter, 5),
        (FaultKind::Garbage, 10),
        (FaultKind::Throttled, 5),
    ];
    for (kind, times) in faults {
        world
            .sandbox
            .handle()
            .set_fault(Fault::new(Channel::Line, kind).times(times).probability(0.3))
            .unwrap();
    }
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    assert_eq!(got(&world, Channel::Line), (400, 1));
    assert_eq!(world.count(id, "accepted").await, 400);
    nothing_is_left(&world, id).await;
}

/// Push and mail have no keys: what may have been sent is unknown, free of charge, and never tried again.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_a_lost_answer_is_unknown_and_never_repeated() {
    let world = World::new(&[
        ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
        ("CHANNEL__APP__TIMEOUT_SECS", "2"),
    ])
    .await;
    world.customers(200, "s.channel = 'app'").await;
    world.customers(60, "s.channel = 'email'").await;
    let sandbox = world.sandbox.handle();
    // Spread over the audience: a window of nothing but lost answers would rightly be taken for a sender that fails.
    for (channel, fault, address_of, place, n) in [
        (Channel::Fcm, FaultKind::ResetAfter, "app", 7, 10),
        (Channel::Fcm, FaultKind::ServerError, "app", 13, 7),
        (Channel::Smtp, FaultKind::ResetAfter, "email", 5, 5),
    ] {
        let unlucky: Vec<String> = world
            .one(&format!(
                "select array_agg(address) from (select address from (
                     select address, row_number() over (order by a.id) as place from address a join sender s on s.id = a.sender_id
                      where s.channel = '{address_of}') x where place % 11 = {place} % 11 order by place limit {n}) y"
            ))
            .await;
        sandbox
            .set_fault(Fault::new(channel, fault).recipients(unlucky))
            .unwrap();
    }
    let id = world.draft("priority_single", &["app", "email"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    assert_eq!(world.count(id, "unknown").await, 22);
    assert_eq!(world.count(id, "accepted").await, 238);
    assert_eq!(
        (got(&world, Channel::Fcm), got(&world, Channel::Smtp)),
        ((193, 1), (60, 1))
    );
    assert_eq!(spent(&world).await, 183 + 55 * 2);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opted_out_between_planning_and_sending_gets_nothing_and_costs_nothing() {
    let world = World::new(&[]).await;
    world.customers(40, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], HELLO).await;
    // A sender that rests keeps the planned broadcast from sending.
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    let _working = world.work();
    world.send(id).await;
    eventually("the broadcast is planned", 20, async || {
        world.state(id).await == "sending"
    })
    .await;
    world
        .run("select close_address(id, 'opted_out', 'asked') from address order by id limit 7")
        .await;
    world
        .run("update customer set opted_out = true where id in (select id from customer order by id desc limit 3)")
        .await;
    world.run("update sender set state = 'connected'").await;
    world.ended(id, 20).await;
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "skipped").await),
        (30, 10)
    );
    assert_eq!(got(&world, Channel::Line), (30, 1));
    assert_eq!(spent(&world).await, 150);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_while_sending_ends_the_rest_and_returns_its_tokens() {
    let world = World::new(&[("BROADCAST__SLICE_SIZE", "50"), ("CHANNEL__LINE__IN_FLIGHT", "5")]).await;
    world.customers(800, "s.channel = 'line'").await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 30,
            jitter_ms: 20,
        },
    );
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    eventually("some are sent", 20, async || world.count(id, "accepted").await > 60).await;
    world.run(&format!("select cancel_broadcast('{id}')")).await;
    world.ended(id, 30).await;
    assert_eq!(world.state(id).await, "cancelled");
    let (accepted, cancelled) = (world.count(id, "accepted").await, world.count(id, "cancelled").await);
    assert_eq!(accepted + cancelled, 800);
    assert!(cancelled > 200, "only {cancelled} cancelled");
    assert_eq!(got(&world, Channel::Line), (u64::try_from(accepted).unwrap(), 1));
    assert_eq!(spent(&world).await, accepted * 5);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_takes_effect_within_a_second_and_resume_sends_exactly_the_rest() {
    let world = World::new(&[("CHANNEL__LINE__IN_FLIGHT", "10")]).await;
    world.customers(900, "s.channel = 'line'").await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 40,
            jitter_ms: 10,
        },
    );
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    eventually("some are sent", 20, async || got(&world, Channel::Line).0 > 100).await;
    world.run(&format!("select pause_broadcast('{id}')")).await;
    // By the sandbox's own count.
    let last = comes_to_rest("a paused broadcast", || got(&world, Channel::Line).0).await;
    assert!(last < 900);
    assert_eq!(world.state(id).await, "paused");
    carillon::broadcast::resume(world.pool(), id).await.unwrap();
    world.ended(id, 30).await;
    assert_eq!(got(&world, Channel::Line), (900, 1));
    nothing_is_left(&world, id).await;
}

/// LINE forgets keys after a day: what was in flight when a pause longer than that began is unknown, the rest is sent.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_pause_longer_than_the_key_lives_nothing_in_flight_is_repeated() {
    let world = World::new(&[
        ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
        ("CHANNEL__LINE__TIMEOUT_SECS", "2"),
    ])
    .await;
    world.customers(30, "s.channel = 'line'").await;
    let sandbox = world.sandbox.handle();
    let lost = sandbox
        .set_fault(Fault::new(Channel::Line, FaultKind::ResetAfter).probability(0.5))
        .unwrap();
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let working = world.work();
    world.send(id).await;
    eventually("answers are lost", 20, async || {
        world
            .one::<i64>("select coalesce(sum(cardinality(in_flight)), 0) from slice where state = 'planned'")
            .await
            > 0
    })
    .await;
    world.run(&format!("select pause_broadcast('{id}')")).await;
    working.stop().await;
    let in_flight: i64 = world
        .one("select coalesce(sum(cardinality(in_flight)), 0) from slice")
        .await;
    assert!(in_flight > 0);
    sandbox.clear_fault(lost);
    sandbox.advance_clock(Duration::from_hours(25));
    world
        .run("update slice set first_attempt_at = first_attempt_at - interval '25 hours', due_at = now()")
        .await;
    world
        .run("update broadcast set deadline_at = now() + interval '1 hour'")
        .await;
    let _working = world.work();
    carillon::broadcast::resume(world.pool(), id).await.unwrap();
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "unknown").await, in_flight);
    let reason: String = world
        .one("select max(reason) from delivery_result where state = 'unknown'")
        .await;
    assert_eq!(reason, "key_expired");
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_at_the_deadline_expires() {
    let world = World::new(&[]).await;
    world.customers(25, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], HELLO).await;
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    let _working = world.work();
    world.send(id).await;
    eventually("the broadcast is planned", 20, async || {
        world.state(id).await == "sending"
    })
    .await;
    world.run("update lane set due_at = now() + interval '3 days'").await;
    world.run("update broadcast set deadline_at = now()").await;
    world.ended(id, 20).await;
    assert_eq!((world.count(id, "expired").await, spent(&world).await), (25, 0));
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_pause_the_sender_and_mending_them_sends_everything() {
    let world = World::new(&[]).await;
    world.customers(30, "s.channel = 'line'").await;
    let refused = world
        .sandbox
        .handle()
        .set_fault(Fault::new(Channel::Line, FaultKind::BadCredentials))
        .unwrap();
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    eventually("the sender is paused", 20, async || {
        world
            .one::<bool>(
                "select exists (select from sender where state = 'paused' and state_reason like 'credentials%')",
            )
            .await
    })
    .await;
    assert_eq!(world.count(id, "failed").await, 0);
    world.sandbox.handle().clear_fault(refused);
    world
        .run("update sender set state = 'connected', state_reason = null")
        .await;
    world.ended(id, 20).await;
    assert_eq!(got(&world, Channel::Line), (30, 1));
    nothing_is_left(&world, id).await;
}

/// A provider that cannot be reached costs no message and no attempt; one probe at a time finds out when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_provider_is_probed_and_loses_nothing() {
    let world = World::new(&[("CHANNEL__LINE__BASE_URL", "http://127.0.0.1:9")]).await;
    world.customers(30, "s.channel = 'line'").await;
    // It answered a moment ago: without a word of LINE's nothing is let start.
    world
        .run("insert into line_quota (sender_id, used, read_at) select id, 0, now() from sender where channel = 'line'")
        .await;
    let id = world.draft("priority_single", &["line"], HELLO).await;
    let working = world.work();
    world.send(id).await;
    eventually("the lane rests", 20, async || {
        world
            .one::<bool>("select coalesce(bool_and(strikes > 0), false) from lane")
            .await
    })
    .await;
    assert_eq!(world.count(id, "queued").await, 30);
    working.stop().await;
    let mut world = world;
    world
        .env
        .insert("CARILLON__CHANNEL__LINE__BASE_URL".to_owned(), world.sandbox.http_url());
    world.run("update lane set due_at = now()").await;
    let _working = world.work();
    world.ended(id, 30).await;
    assert_eq!(got(&world, Channel::Line), (30, 1));
    nothing_is_left(&world, id).await;
}

/// Redis holds pointers only: with every key gone a broadcast goes on within ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_whose_jobs_vanished_goes_on() {
    let world = World::new(&[("CHANNEL__LINE__IN_FLIGHT", "5")]).await;
    world.customers(200, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], HELLO).await;
    // Nobody rings: the bell was lost before any worker heard it.
    world.run(&format!("select send_broadcast('{id}')")).await;
    let asked_at = Instant::now();
    let _working = world.work();
    eventually("it goes on", 10, async || got(&world, Channel::Line).0 > 0).await;
    assert!(asked_at.elapsed() < Duration::from_secs(10));
    // And once more in the middle: lanes were rung for, and the bells are gone.
    world.run("update lane set rung_at = now(), lease_until = null").await;
    world.ended(id, 20).await;
    assert_eq!(got(&world, Channel::Line), (200, 1));
    nothing_is_left(&world, id).await;
}

/// One push is never answered, and the others do not wait for it: its time-out is far longer than the test.
#[tokio::test(flavor = "multi_thread")]
async fn one_slow_answer_makes_nobody_wait() {
    let world = World::new(&[
        ("CHANNEL__APP__IN_FLIGHT", "10"),
        ("CHANNEL__APP__TIMEOUT_SECS", "120"),
        ("DELIVERY__PARALLEL_SLICES", "1"),
        ("DELIVERY__TURN_MS", "60000"),
    ])
    .await;
    world.customers(300, "s.channel = 'app'").await;
    let slow: String = world
        .one("select min(a.address) from address a join sender s on s.id = a.sender_id where s.channel = 'app'")
        .await;
    world
        .sandbox
        .handle()
        .set_fault(Fault::new(Channel::Fcm, FaultKind::Hang).recipients([slow]))
        .unwrap();
    let id = world.draft("priority_single", &["app"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    eventually("all others have it", 30, async || got(&world, Channel::Fcm).0 == 299).await;
    eventually("all results but one are written", 30, async || {
        world.count(id, "accepted").await == 299
    })
    .await;
}
