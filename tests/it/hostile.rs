//! What a hostile reviewer tried: bad moments that no other test picks. Each test names what went wrong once.

use std::time::{Duration, Instant};

use carillon::app::ProcessKind;
use carillon_sandbox::{Channel, Fault, FaultKind, Latency};

use crate::{
    fixture_db::database,
    redis_server::{Memory, RedisServer},
    scene::{LINE, assert_clean, claim, let_leases_expire, one, outcomes, run, settle, shop, state},
    wait::{comes_to_rest, eventually, until},
    world::World,
};

const KEY_SECS: f64 = 82_800.0;

/// A multicast is refused for one bad address, and a single message to whoever is suspected loses its answer, twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_single_message_after_a_refused_multicast_is_repeated_singly() {
    let world = World::new(&[]).await;
    world.customers(50, "s.channel = 'line'").await;
    let bad: String = world.one("select min(address) from address").await;
    let sandbox = world.sandbox.handle();
    for at in ["multicast", "push"] {
        sandbox
            .set_fault(
                Fault::new(Channel::Line, FaultKind::InvalidRecipient)
                    .recipients([bad.clone()])
                    .at(at),
            )
            .unwrap();
    }
    sandbox
        .set_fault(Fault::new(Channel::Line, FaultKind::ResetAfter).at("push").times(2))
        .unwrap();
    let id = world.draft("priority_single", &["line"], "週末特賣").await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    let summary = sandbox.channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (49, 1));
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "failed").await),
        (49, 1)
    );
    world.audit().await;
}

/// An account that is gone, with credentials nobody can read any more, must not keep its lane turning for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_sender_without_usable_credentials_ends_its_lane() {
    let world = World::new(&[]).await;
    world.customers(30, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
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
        .run("update sender set state = 'disconnected', credentials = '' where channel = 'line'")
        .await;
    world.ended(id, 15).await;
    assert_eq!(world.count(id, "skipped").await, 30);
    world.audit().await;
}

/// A shop that is suspended with a million messages to go must not end them all in one transaction.
#[tokio::test]
async fn a_claim_ends_only_so_many_slices_in_one_transaction() {
    let db = database().await;
    let shop = shop(&db.pool, 200, 1000).await;
    let broadcast = shop.opened(&[LINE], 1).await;
    run(&db.pool, "update shop set state = 'suspended'").await;
    assert!(claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.is_none());
    let ended: i64 = one(&db.pool, "select count(*) from slice where state = 'settled'").await;
    assert!((1..=20).contains(&ended), "{ended} slices in one transaction");
    for _ in 0..200 {
        assert!(claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.is_none());
    }
    assert_eq!(outcomes(&db.pool, broadcast).await, ["skipped shop_suspended 200"]);
    assert_eq!(state(&db.pool, broadcast).await, "completed");
    assert_clean(&db.pool).await;
}

/// The cancel comes while a window is out; the window comes back with "ask again in an hour".
#[tokio::test]
async fn a_cancel_is_not_delayed_by_a_wait_that_comes_after_it() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 2).await;
    let take = format!("select (select epoch from take_lane('{broadcast}', (select sender_id from lane), 30))");
    let epoch: Option<i32> = one(&db.pool, &take).await;
    let claimed = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    run(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await;
    run(
        &db.pool,
        &format!(
            "select settle_window('{broadcast}', 'line', 0, {}, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', null, {}, '{{}}', '{{}}', 3600, 30)",
            claimed.epoch, claimed.intent_no
        ),
    )
    .await;
    run(
        &db.pool,
        &format!(
            "select leave_lane('{broadcast}', (select sender_id from lane), {}, 3600, 0)",
            epoch.unwrap()
        ),
    )
    .await;
    assert!(
        one::<bool>(&db.pool, "select due_at <= now() from lane").await,
        "the tokens stay held for an hour"
    );
}

/// Two purges of one plan at once: when the last says it is done, nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn two_purges_at_once_leave_nothing_behind() {
    let world = World::new(&[("BROADCAST__PURGE_ROWS", "20")]).await;
    world.customers(1500, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    world
        .run(&format!(
            "update broadcast set budget_tokens = 1 where id = '{id}'; select send_broadcast('{id}')"
        ))
        .await;
    let work = world.app(ProcessKind::Worker).broadcast_work().unwrap();
    let halt = tokio_util::sync::CancellationToken::new();
    while world.state(id).await != "failed" {
        work.planner.advance(id, &halt).await.unwrap();
    }
    let purges: Vec<_> = (0..8)
        .map(|_| {
            let (planner, halt) = (work.planner.clone(), halt.clone());
            tokio::spawn(async move {
                while planner.advance(id, &halt).await.unwrap() == carillon::broadcast::Advance::Again {}
            })
        })
        .collect();
    for purge in purges {
        purge.await.unwrap();
    }
    let left: i64 = world
        .one("select (select count(*) from delivery) + (select count(*) from slice)")
        .await;
    assert_eq!(
        (left, world.one::<bool>("select purge from broadcast").await),
        (0, false)
    );
}

/// A frontend that sits on one broadcast's row must not keep everybody else's bells from ringing.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_broadcast_does_not_hold_up_the_others() {
    let world = World::new(&[]).await;
    world.customers(5, "s.channel = 'line'").await;
    let (locked, other) = (
        world.draft("priority_single", &["line"], "嗨").await,
        world.draft("priority_single", &["line"], "嗨").await,
    );
    for id in [locked, other] {
        world.run(&format!("update broadcast set scheduled_at = now() + interval '1 second' where id = '{id}'; select send_broadcast('{id}')")).await;
    }
    until("their time has come", async || {
        world
            .one::<bool>("select bool_and(scheduled_at <= now()) from broadcast")
            .await
    })
    .await;
    let mut frontend = world.pool().begin().await.unwrap();
    sqlx::query("select from broadcast where id = $1 for update")
        .bind(locked.0)
        .execute(&mut *frontend)
        .await
        .unwrap();
    let app = world.app(ProcessKind::Scheduler);
    let queue = app.queue().unwrap();
    let look = carillon::reconcile::look(&app.db, &queue, &app.config.delivery);
    let found = tokio::time::timeout(Duration::from_secs(5), look)
        .await
        .expect("it waits for the frontend")
        .unwrap();
    assert_eq!((found.due, found.unplanned), (1, 1));
}

/// What could not be rung for must not count as rung: it would wait for the bell to be stale when Redis is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_without_redis_marks_nothing_as_rung_and_the_first_one_with_it_rings() {
    let mut redis = RedisServer::start(Memory::Lost).await;
    let world = World::on_redis(&redis.url(), &[]).await;
    world.customers(2, "s.channel = 'line'").await;
    let id = world.draft("priority_single", &["line"], "嗨").await;
    world.send(id).await;
    let app = world.app(ProcessKind::Scheduler);
    let queue = app.queue().unwrap();
    queue.answers().await.unwrap();
    redis.kill();
    let look = carillon::reconcile::look(&app.db, &queue, &app.config.delivery).await;
    assert!(look.is_err(), "{look:?}");
    let rung = format!("select rung_at is not null from broadcast where id = '{id}'");
    assert!(!world.one::<bool>(&rung).await);
    // The very first look after it is back rings, though the connection broke while nobody used it.
    redis.restart().await;
    let found = carillon::reconcile::look(&app.db, &queue, &app.config.delivery)
        .await
        .unwrap();
    assert_eq!(found.unplanned, 1);
}

/// A customer's address changes twice at once, such as two tokens of one app.
#[tokio::test(flavor = "multi_thread")]
async fn two_address_changes_of_one_customer_at_once_both_get_through() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let sender: uuid::Uuid = one(&db.pool, "select id from sender where channel = 'line'").await;
    for round in 0..40 {
        let tasks: Vec<_> = (0..2)
            .map(|n| {
                let (pool, customers) = (db.pool.clone(), shop.customers.clone());
                let address = format!("box-{}", (round + n) % 2);
                tokio::spawn(async move {
                    sqlx::query("select put_address($1, $2, $3)")
                        .bind(sender)
                        .bind(customers[0])
                        .bind(address)
                        .execute(&pool)
                        .await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }
}

/// Credentials were refused elsewhere, or a person paused the sender: what has not left yet stays.
#[tokio::test(flavor = "multi_thread")]
async fn pausing_a_sender_takes_effect_within_a_second() {
    let world = World::new(&[("CHANNEL__LINE__IN_FLIGHT", "10"), ("DELIVERY__TURN_MS", "20000")]).await;
    world.customers(900, "s.channel = 'line'").await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 80,
            jitter_ms: 10,
        },
    );
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    let got = || world.sandbox.handle().channel_summary(Channel::Line).messages;
    eventually("some are sent", 20, async || got() > 50).await;
    world
        .run("update sender set state = 'paused' where channel = 'line'")
        .await;
    let at_rest = comes_to_rest("a paused sender", got).await;
    assert!(at_rest < 850, "all {at_rest} left before anybody could look");
    world.run("update sender set state = 'connected'").await;
    world.sandbox.handle().set_latency(
        Channel::Line,
        Latency {
            fixed_ms: 0,
            jitter_ms: 0,
        },
    );
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 900);
}

/// A sender of two messages a second must get its two messages a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sender_gets_the_rate_it_has() {
    let world = World::new(&[]).await;
    world.customers(16, "s.channel = 'line'").await;
    world
        .run("update sender set rate_per_sec = 2 where channel = 'line'")
        .await;
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    eventually("it begins", 20, async || world.count(id, "accepted").await > 0).await;
    let begun = Instant::now();
    world.ended(id, 60).await;
    let secs = begun.elapsed().as_secs_f64();
    assert!(secs < 12.0, "15 messages at 2 a second took {secs:.1} s");
}

/// One customer at whom the provider always stumbles must not keep the rest of the slice waiting for a day.
#[tokio::test(flavor = "multi_thread")]
async fn one_message_that_is_always_uncertain_does_not_hold_up_the_others() {
    let world = World::new(&[]).await;
    world.customers(120, "s.channel = 'line'").await;
    world
        .run("update sender set rate_per_sec = 100 where channel = 'line'")
        .await;
    let poison: String = world.one("select address from address order by id limit 1").await;
    world
        .sandbox
        .handle()
        .set_fault(Fault::new(Channel::Line, FaultKind::ServerError).recipients([poison]))
        .unwrap();
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    eventually("everybody else has it", 20, async || {
        world.count(id, "accepted").await == 119
    })
    .await;
}

/// The same on a channel without keys: one mailbox that is always "try again later".
#[tokio::test(flavor = "multi_thread")]
async fn one_mailbox_that_is_always_greylisted_does_not_hold_up_the_others() {
    let world = World::new(&[]).await;
    world.customers(60, "s.channel = 'email'").await;
    let poison: String = world.one("select address from address order by id limit 1").await;
    world
        .sandbox
        .handle()
        .set_fault(
            Fault::new(Channel::Smtp, FaultKind::Throttled)
                .at("rcpt")
                .recipients([poison]),
        )
        .unwrap();
    let id = world.draft("priority_single", &["email"], "嗨 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    eventually("everybody else has it", 40, async || {
        world.count(id, "accepted").await == 59
    })
    .await;
}

/// Names are read when the slice is claimed; a window begun later carries those.
#[tokio::test]
async fn who_is_renamed_between_the_claim_and_their_window_is_not_repeated_with_another_body() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.unwrap();
    run(
        &db.pool,
        &format!(
            "update customer set first_name = 'Other' where id = {}",
            shop.customers[1]
        ),
    )
    .await;
    settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (&first.in_flight, "accepted"),
        (Some(&shop.customers[1..]), None),
    )
    .await;
    let_leases_expire(&db.pool, broadcast).await;
    let again = claim(&db.pool, broadcast, "line", 1, KEY_SECS).await;
    assert!(
        again.is_none(),
        "sent as N2, repeated under the same key as {:?}",
        again.unwrap().first_names
    );
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 1", "unknown renamed 1"]);
}
