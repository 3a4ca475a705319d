//! Real worker processes are killed at random moments while one broadcast goes out on three channels of three natures.
//! What must hold afterwards: the keyed channel exactly once, the others at most once, every delivery ended, the books right.

use std::{collections::BTreeMap, time::Instant};

use carillon_jobs::BroadcastId;
use carillon_sandbox::{Channel, Latency};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    process::Process,
    redis_server::{Memory, RedisServer},
    wait::eventually,
    world::World,
};

const CUSTOMERS: i32 = 5_000;
const KILLS: u32 = 22;
const WORKERS: usize = 2;
/// Messages in flight per worker on the channels without keys: slices side by side × messages in flight.
const IN_FLIGHT: i64 = 2 * (8 + 4);

/// Short leases, so that a dead worker's work goes on within seconds, and little in flight.
const SETTINGS: &[(&str, &str)] = &[
    ("DELIVERY__LEASE_SECS", "2"),
    ("DELIVERY__TURN_MS", "1000"),
    ("DELIVERY__BELL_STALE_SECS", "1.0"),
    ("QUEUE__LEASE_MS", "2000"),
    ("BROADCAST__CHUNK_CUSTOMERS", "700"),
    ("BROADCAST__SLICE_SIZE", "100"),
    ("BROADCAST__PLAN_LEASE_SECS", "1.0"),
    ("BROADCAST__SHOP_LEASE_SECS", "1.0"),
    ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
    ("DELIVERY__PARALLEL_SLICES", "2"),
    ("CHANNEL__LINE__IN_FLIGHT", "8"),
    ("CHANNEL__LINE__TIMEOUT_SECS", "2"),
    ("CHANNEL__APP__IN_FLIGHT", "8"),
    ("CHANNEL__APP__TIMEOUT_SECS", "2"),
    ("CHANNEL__EMAIL__IN_FLIGHT", "4"),
    ("CHANNEL__EMAIL__MAX_CONNECTIONS", "4"),
    ("CHANNEL__EMAIL__CONNECT_TIMEOUT_SECS", "1"),
    ("CHANNEL__EMAIL__COMMAND_TIMEOUT_SECS", "1"),
    ("CHANNEL__EMAIL__BODY_TIMEOUT_SECS", "1"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_a_dead_redis_and_a_flush_lose_nothing_and_repeat_nothing() {
    let mut redis = RedisServer::start(Memory::Lost).await;
    let world = World::on_redis(&redis.url(), SETTINGS).await;
    // A mail is six answers, a push one: the three lanes take about as long, and the kills meet all of them.
    for (channel, fixed_ms) in [(Channel::Line, 50), (Channel::Fcm, 50), (Channel::Smtp, 5)] {
        let latency = Latency {
            fixed_ms,
            jitter_ms: fixed_ms,
        };
        world.sandbox.handle().set_latency(channel, latency);
    }
    world
        .customers(
            CUSTOMERS,
            "s.channel::text = (array['line', 'app', 'email'])[1 + n.i % 3]",
        )
        .await;
    let id = world
        .draft("priority_single", &["app", "line", "email"], "哈囉 {first_name}")
        .await;

    let _scheduler = world.process("scheduler");
    let mut workers: Vec<Process> = (0..WORKERS).map(|_| world.process("worker")).collect();
    world.send(id).await;
    let kills_while_sending = storm(&world, &mut redis, &mut workers, id).await;
    assert!(
        kills_while_sending >= 20,
        "only {kills_while_sending} kills fell into the sending"
    );
    let waiting = Instant::now();
    world.ended(id, 90).await;
    println!("ended {:?} after the last kill", waiting.elapsed());
    prove(&world, id).await;
}

/// Kills workers at random moments, Redis once, and flushes it once. Returns how many kills fell into the sending.
async fn storm(world: &World, redis: &mut RedisServer, workers: &mut [Process], id: BroadcastId) -> u32 {
    let given = std::env::var("CARILLON_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("CARILLON_TEST_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut kills_while_sending = 0;
    for kill in 0..KILLS {
        let before = ended_count(world, id).await;
        // At least one more result between two kills, so that the kills are spread over the whole of the sending.
        let more = (before + dice.random_range(20..180)).min(i64::from(CUSTOMERS) - 1);
        eventually("sending goes on", 60, async || ended_count(world, id).await >= more).await;
        let victim = dice.random_range(0..WORKERS);
        workers[victim].kill();
        kills_while_sending += u32::from(world.state(id).await == "sending");
        workers[victim] = world.process("worker");
        if kill == KILLS / 3 {
            redis.kill();
            redis.run();
        }
        if kill == 2 * KILLS / 3 {
            let mut conn = redis.connect().await;
            redis::cmd("FLUSHALL").exec_async(&mut conn).await.unwrap();
        }
    }
    kills_while_sending
}

/// What must hold afterwards.
async fn prove(world: &World, id: BroadcastId) {
    for state in ["queued", "sending", "failed", "skipped", "cancelled", "expired"] {
        assert_eq!(world.count(id, state).await, 0, "deliveries {state}");
    }
    let unknown = world.count(id, "unknown").await;
    assert_eq!(world.count(id, "accepted").await + unknown, i64::from(CUSTOMERS));
    assert!(
        unknown <= i64::from(KILLS) * IN_FLIGHT,
        "{unknown} unknown after {KILLS} kills"
    );
    println!("{unknown} unknown of {CUSTOMERS} after {KILLS} kills");

    let line = received(world, id, "line", Channel::Line).await;
    assert!(
        line.values().all(|n| *n == 1),
        "LINE: exactly one each; not so: {:?}",
        wrong(&line, 1..=1)
    );
    for (channel, name) in [(Channel::Fcm, "app"), (Channel::Smtp, "email")] {
        let got = received(world, id, name, channel).await;
        assert!(
            got.values().all(|n| *n <= 1),
            "{name}: at most one each; not so: {:?}",
            wrong(&got, 0..=1)
        );
    }
    world.audit().await;
}

async fn ended_count(world: &World, id: BroadcastId) -> i64 {
    world
        .one(&format!(
            "select coalesce(sum(n), 0)::bigint from tally where broadcast_id = '{id}' and stage = 'send'"
        ))
        .await
}

/// What each planned recipient of a channel really got, by the sandbox's count.
async fn received(world: &World, id: BroadcastId, name: &str, channel: Channel) -> BTreeMap<String, u64> {
    let addresses: Vec<String> = world
        .one(&format!(
            "select array_agg(a.address) from delivery d join address a on a.id = d.address_id
              where d.broadcast_id = '{id}' and d.channel = '{name}'"
        ))
        .await;
    let counts = world.sandbox.handle().counts(channel, None);
    addresses
        .into_iter()
        .map(|address| (address.clone(), counts.get(&address).copied().unwrap_or(0)))
        .collect()
}

fn wrong(counts: &BTreeMap<String, u64>, right: std::ops::RangeInclusive<u64>) -> Vec<(&String, &u64)> {
    counts.iter().filter(|(_, n)| !right.contains(n)).take(5).collect()
}
