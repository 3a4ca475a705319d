//! The `top-up-settlement` job: what is due is credited by whichever worker comes first, once, whatever is delivered twice.

use carillon::{
    app::ProcessKind,
    fleet,
    queue::dead::{self, DeadFilter},
    reconcile, top_up,
};
use carillon_jobs::{Envelope, Kind, TopUpId, TopUpSettlement};

use crate::{
    redis_server::{Memory, RedisServer},
    top_up_scene::{charge, credits, due, requested, states},
    wait::{eventually, until},
    world::World,
};

fn bell(order_id: Option<TopUpId>) -> Envelope {
    Envelope::new(TopUpSettlement { order_id })
}

async fn settled(world: &World) -> i64 {
    world
        .one("select count(*) from top_up_order where state = 'settled'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn due_orders_are_rung_for_and_credited_and_the_others_wait() {
    let world = World::new(&[]).await;
    let waiting = requested(world.pool(), world.shop, 1).await;
    charge(world.pool(), waiting, "PAY-W", None).await.unwrap();
    let unpaid = requested(world.pool(), world.shop, 1).await;
    let mut orders = Vec::new();
    for n in 0..7 {
        orders.push(due(world.pool(), world.shop, n + 1, &format!("PAY-{n}")).await);
    }
    let _working = world.work();
    until("they are credited", async || settled(&world).await == 7).await;
    for (n, id) in (1..).zip(orders) {
        assert_eq!(credits(world.pool(), id).await, (1, 12_500 * n));
    }
    assert_eq!(states(world.pool(), waiting).await, ["requested", "charged"]);
    assert_eq!(states(world.pool(), unpaid).await, ["requested"]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_delivered_twice_or_twenty_times_credits_once() {
    let world = World::new(&[]).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let (one, all) = (
        due(world.pool(), world.shop, 1, "PAY-1").await,
        due(world.pool(), world.shop, 2, "PAY-2").await,
    );
    for _ in 0..10 {
        for order in [Some(one), None, Some(all)] {
            queue.ring(bell(order)).await.unwrap();
        }
    }
    let (_first, _second) = (world.work(), world.work());
    until("every bell was heard", async || {
        let depths = queue.depths().await.unwrap();
        let depth = depths.iter().find(|depth| depth.kind == Kind::TopUpSettlement).unwrap();
        depth.ready + depth.running + depth.delayed == 0
    })
    .await;
    assert_eq!(settled(&world).await, 2);
    assert_eq!(credits(world.pool(), one).await, (1, 12_500));
    assert_eq!(credits(world.pool(), all).await, (1, 25_000));
    assert_eq!(dead::count(world.pool(), &DeadFilter::default()).await.unwrap(), 0);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_for_what_is_not_due_or_given_back_does_nothing_and_one_for_what_was_not_paid_is_dead() {
    let world = World::new(&[]).await;
    let pool = world.pool();
    let early = requested(pool, world.shop, 1).await;
    charge(pool, early, "PAY-1", None).await.unwrap();
    let given_back = due(pool, world.shop, 1, "PAY-2").await;
    top_up::refund(pool, given_back, None, "chargeback", "bob")
        .await
        .unwrap();
    let unpaid = requested(pool, world.shop, 1).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    for order in [early, given_back, unpaid, TopUpId::new()] {
        queue.ring(bell(Some(order))).await.unwrap();
    }
    let _working = world.work();
    let all = DeadFilter::default();
    until("two are dead", async || dead::count(pool, &all).await.unwrap() == 2).await;
    until("none is left", async || {
        let depths = queue.depths().await.unwrap();
        depths
            .iter()
            .all(|depth| depth.ready + depth.running + depth.delayed == 0)
    })
    .await;
    let mut errors: Vec<String> = dead::list(pool, &all, None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|job| job.error)
        .collect();
    errors.sort();
    assert_eq!(
        errors[0],
        format!("order {unpaid} is requested and cannot be settled: it was not paid")
    );
    assert!(errors[1].starts_with("there is no top-up order"), "{errors:?}");
    assert_eq!(settled(&world).await, 0);
    assert_eq!(dead::count(pool, &all).await.unwrap(), 2);
}

/// A worker is killed again and again while it credits; Redis forgets everything in between.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_and_a_flushed_redis_leave_every_order_credited_once() {
    let redis = RedisServer::start(Memory::Lost).await;
    let world = World::on_redis(&redis.url(), &[("QUEUE__LEASE_MS", "1000")]).await;
    world
        .run(&format!(
            "insert into top_up_order (shop_id, package_blocks, quantity, blocks, tokens, package_price_twd, price_twd,
                 price_version, requested_at, moved_by, moved_why)
             select '{}', 1, 1, 1, 12500, 799, 799, 'blocks-2025-09-01', now() - interval '60 days', 'anna', 'requested'
               from generate_series(1, 600);
             select charge_top_up(id, 'operator', 'PAY-' || id, now() - interval '30 days', now() - interval '29 days', 'anna')
               from top_up_order",
            world.shop
        ))
        .await;
    let _scheduler = world.process("scheduler");
    let client = redis::Client::open(redis.url()).unwrap();
    for kill in 1..=6 {
        let mut worker = world.process("worker");
        eventually("some more are credited", 60, async || {
            settled(&world).await >= kill * 40
        })
        .await;
        worker.kill();
        if kill % 2 == 0 {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
        }
    }
    let _worker = world.process("worker");
    eventually("all are credited", 60, async || settled(&world).await == 600).await;
    let credited: (i64, i64) = sqlx::query_as(
        "select count(*), count(distinct operation) from ledger_entry where kind = 'top_up' and operation <> 'top_up:test'",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(credited, (600, 600));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_credited_is_put_off_and_keeps_no_other_back() {
    let world = World::new(&[]).await;
    let (broken, fine) = (
        due(world.pool(), world.shop, 1, "PAY-1").await,
        due(world.pool(), world.shop, 1, "PAY-2").await,
    );
    // Somebody wrote another number of tokens under the order's name.
    world
        .run(&format!("select ledger_top_up('{}', 5, '{broken}')", world.shop))
        .await;
    let _working = world.work();
    until("the other one is credited", async || settled(&world).await == 1).await;
    until("the broken one is put off", async || {
        world
            .one(&format!(
                "select due_at > now() + interval '9 minutes' from top_up_order where id = '{broken}'"
            ))
            .await
    })
    .await;
    assert_eq!(credits(world.pool(), fine).await, (1, 12_500));
    assert_eq!(states(world.pool(), broken).await, ["requested", "charged"]);
    let app = world.app(ProcessKind::Scheduler);
    let found = reconcile::look(&app.db, &app.queue().unwrap(), &app.config.delivery)
        .await
        .unwrap();
    assert_eq!(found.top_ups, 0, "nobody rings for it meanwhile");
    let seen = fleet::look(&app).await.unwrap();
    assert!(
        seen.top_up_overdue_secs > 86_400.0,
        "and still it counts as late: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bell_waits_for_all_that_is_due() {
    let world = World::new(&[]).await;
    for n in 0..3 {
        due(world.pool(), world.shop, 1, &format!("PAY-{n}")).await;
    }
    let app = world.app(ProcessKind::Scheduler);
    let queue = app.queue().unwrap();
    for expected in [1, 0, 0] {
        let found = reconcile::look(&app.db, &queue, &app.config.delivery).await.unwrap();
        assert_eq!(found.top_ups, expected);
    }
    assert_eq!(queue.waiting(Kind::TopUpSettlement).await.unwrap(), 1);
}
