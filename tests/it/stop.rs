//! Real processes are told to stop at bad moments: they take nothing new, give back what they cannot finish without counting
//! it against anybody, and are gone in 25 seconds whatever hangs. Every stop here is three SIGTERMs, which are one.

use std::time::{Duration, Instant};

use carillon::app::ProcessKind;
use carillon_jobs::{AddressId, BroadcastId};
use carillon_sandbox::{Channel, Fault, FaultKind, Latency};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    fixture::others_slots,
    gate::Gate,
    process::STOP_LIMIT,
    redis_server::{Memory, RedisServer},
    wait::{eventually, until},
    world::World,
};

/// What lies in a world's queue.
struct Lists {
    redis: MultiplexedConnection,
    prefix: String,
}

impl Lists {
    async fn of(world: &World) -> Self {
        let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
        Self {
            redis: client.get_multiplexed_async_connection().await.unwrap(),
            prefix: format!("{{{}}}", world.env["CARILLON__REDIS__KEY_PREFIX"]),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}:broadcast-send", self.prefix)
    }

    async fn ready(&self) -> usize {
        self.redis.clone().llen(self.key("ready")).await.unwrap()
    }

    async fn running(&self) -> usize {
        self.redis.clone().hlen(self.key("run")).await.unwrap()
    }

    /// Everything that is not running: the counts before each text, none for one that nobody has counted anything for.
    async fn waiting(&self) -> Vec<Option<String>> {
        let mut redis = self.redis.clone();
        let ready: Vec<String> = redis.lrange(self.key("ready"), 0, -1).await.unwrap();
        let due: Vec<String> = redis.zrange(self.key("due"), 0, -1).await.unwrap();
        let counts = |entry: String| entry.strip_prefix('\u{1}').map(str::to_owned);
        ready.into_iter().chain(due).map(counts).collect()
    }

    /// Jobs that end at once: their broadcast is a draft. One failed attempt would be their last.
    async fn push(&self, broadcast: BroadcastId, count: usize) {
        let text = format!(r#"{{"args":{{"broadcast_id":"{broadcast}"}},"max_attempts":1}}"#);
        let _: usize = self
            .redis
            .clone()
            .rpush(self.key("ready"), vec![text; count])
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_running_jobs_are_given_back_though_postgres_hangs() {
    let mut world = World::new(&[("QUEUE__CONCURRENCY", &(200 + others_slots()).to_string())]).await;
    let direct = world.env["DATABASE_URL"].clone();
    let (gate, through) = Gate::before(&direct).await;
    world.env.insert("DATABASE_URL".to_owned(), through);
    let draft = world.draft("priority_single", &["line"], "嗨").await;
    let lists = Lists::of(&world).await;
    let mut worker = world.process("worker");
    worker.says("the worker takes jobs").await;
    gate.freeze();
    lists.push(draft, 300).await;
    until("200 jobs run", async || lists.running().await == 200).await;

    let asked = Instant::now();
    for _ in 0..3 {
        worker.signal("-TERM");
    }
    worker.says("Told to stop").await;
    // 100 ms is the promise: from then on what is ready only grows, by what was given back and by what comes new.
    tokio::time::sleep_until((asked + Duration::from_millis(100)).into()).await;
    let ready = lists.ready().await;
    lists.push(draft, 50).await;
    let code = worker.exit_code(STOP_LIMIT).await;
    println!("stopped in {:?}", asked.elapsed());
    assert_eq!(code, 0, "{}", worker.log());
    assert!(lists.ready().await >= ready + 50, "something was claimed after 100 ms");
    assert_eq!(lists.running().await, 0);
    let waiting = lists.waiting().await;
    assert_eq!(waiting.len(), 350, "nothing is lost and nothing is doubled");
    for counts in waiting.iter().flatten() {
        assert!(
            counts.starts_with("0 0 "),
            "an attempt or a crash was counted: {counts:?}"
        );
    }

    world.env.insert("DATABASE_URL".to_owned(), direct);
    let mut second = world.process("worker");
    until("a second worker has run all", async || {
        lists.waiting().await.is_empty() && lists.running().await == 0
    })
    .await;
    assert_eq!(second.stop().await, 0);
    assert_eq!(world.one::<i64>("select count(*) from dead_job").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_stops_in_time_though_redis_and_postgres_hang() {
    let redis = RedisServer::start(Memory::Lost).await;
    let mut world = World::on_redis(&redis.url(), &[("WEB__PORT", "0")]).await;
    let (gate, through) = Gate::before(&world.env["DATABASE_URL"]).await;
    world.env.insert("DATABASE_URL".to_owned(), through);
    let mut processes = ["worker", "scheduler", "web"].map(|kind| world.process(kind));
    for process in &processes {
        process.says("Ready to start").await;
    }
    // Everybody has something in hand that hangs: a claim, a look, a question of readiness.
    let token = world
        .app(ProcessKind::Web)
        .secrets
        .unsubscribe_token(AddressId(1), BroadcastId::new());
    redis.signal("-STOP");
    gate.freeze();
    let _request = post(&processes[2].log(), &format!("/u/{token}")).await;
    processes[0].says("Redis does not answer").await;
    for process in &processes {
        for _ in 0..3 {
            process.signal("-TERM");
        }
    }
    let asked = Instant::now();
    for process in &mut processes {
        assert_eq!(process.exit_code(STOP_LIMIT).await, 0, "{}", process.log());
    }
    println!("stopped in {:?}", asked.elapsed());
    redis.signal("-CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_for_postgres_stops_at_once() {
    let mut world = World::new(&[("WEB__PORT", "0"), ("DATABASE__ACQUIRE_TIMEOUT_SECS", "1")]).await;
    let (mut gate, through) = Gate::before(&world.env["DATABASE_URL"]).await;
    world.env.insert("DATABASE_URL".to_owned(), through);
    gate.shut().await;
    for mut process in ["worker", "scheduler", "web"].map(|kind| world.process(kind)) {
        process.says("PostgreSQL does not answer yet").await;
        let asked = Instant::now();
        assert_eq!(process.stop().await, 0, "{}", process.log());
        assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
    }
}

/// Every provider takes what it is sent and never answers: the mail relay included, whose time-out is longer than a stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time_though_every_provider_hangs() {
    let world = World::new(&[
        ("QUEUE__DRAIN_SECS", "3"),
        ("DELIVERY__LANES_PER_SHOP", "3"),
        ("DELIVERY__LEASE_SECS", "4"),
        ("DELIVERY__BELL_STALE_SECS", "1.0"),
        ("BROADCAST__SLICE_SIZE", "20"),
    ])
    .await;
    world
        .customers(90, "s.channel::text = (array['line', 'app', 'email'])[1 + n.i % 3]")
        .await;
    let channels = [Channel::Line, Channel::Fcm, Channel::Smtp];
    for channel in channels {
        let hang = Fault::new(channel, FaultKind::HangAfter);
        world.sandbox.handle().set_fault(hang).unwrap();
    }
    let id = world
        .draft("priority_single", &["app", "line", "email"], "嗨 {first_name}")
        .await;
    let _scheduler = world.process("scheduler");
    let mut worker = world.process("worker");
    world.send(id).await;
    eventually("every provider hangs", 30, async || {
        channels
            .iter()
            .all(|channel| world.sandbox.handle().channel_summary(*channel).messages > 0)
    })
    .await;
    let asked = Instant::now();
    assert_eq!(worker.stop().await, 0, "{}", worker.log());
    println!("stopped in {:?}", asked.elapsed());

    world.sandbox.handle().clear_faults();
    let _second = world.process("worker");
    world.ended(id, 60).await;
    for channel in channels {
        let summary = world.sandbox.handle().channel_summary(channel);
        assert_eq!(summary.max_to_one_recipient, 1, "{channel:?}");
    }
    // LINE's were repeated with their keys; of the others those in flight are unknown, and nobody is told twice.
    let line = "select count(*) from delivery_with_state where channel = 'line' and state = 'accepted'";
    assert_eq!(world.one::<i64>(line).await, 30);
    let (accepted, unknown) = (world.count(id, "accepted").await, world.count(id, "unknown").await);
    assert!(
        accepted + unknown == 90 && unknown > 0,
        "{accepted} accepted, {unknown} unknown"
    );
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_takes_over_without_a_gap() {
    let world = World::new(&[("BROADCAST__SLICE_SIZE", "50"), ("CHANNEL__LINE__IN_FLIGHT", "16")]).await;
    world.customers(2_000, "s.channel = 'line'").await;
    let slow = Latency {
        fixed_ms: 100,
        jitter_ms: 100,
    };
    world.sandbox.handle().set_latency(Channel::Line, slow);
    let id = world.draft("priority_single", &["line"], "嗨 {first_name}").await;
    let _scheduler = world.process("scheduler");
    let mut first = world.process("worker");
    world.send(id).await;
    let received = || world.sandbox.handle().channel_summary(Channel::Line).messages;
    eventually("the first worker sends", 30, async || received() > 200).await;
    let mut second = world.process("worker");
    second.says("the worker takes jobs").await;
    for _ in 0..3 {
        first.signal("-TERM");
    }
    let (mut seen, mut since, mut gap) = (received(), Instant::now(), Duration::ZERO);
    eventually("the second worker has sent the rest", 60, async || {
        if received() > seen {
            gap = gap.max(since.elapsed());
            (seen, since) = (received(), Instant::now());
        }
        seen >= 2_000
    })
    .await;
    println!("the longest gap was {gap:?}");
    // A lease that had to run out would be 15 seconds; the rest is a slow machine.
    assert!(gap < Duration::from_secs(5), "nothing was sent for {gap:?}");
    assert_eq!(first.exit_code(STOP_LIMIT).await, 0, "{}", first.log());
    world.ended(id, 30).await;
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.max_to_one_recipient), (2_000, 1));
    assert_eq!(world.count(id, "accepted").await, 2_000);
    assert_eq!(second.stop().await, 0);
    world.audit().await;
}

/// What is in flight when a worker is told to stop takes longer than the leases last, and push has no keys: another worker
/// that took it for lost would make it `unknown`.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_last_answers_and_nobody_takes_them_for_lost() {
    let world = World::new(&[("DELIVERY__LEASE_SECS", "2"), ("DELIVERY__BELL_STALE_SECS", "1.0")]).await;
    world.customers(40, "s.channel = 'app'").await;
    let slow = Latency {
        fixed_ms: 4_500,
        jitter_ms: 0,
    };
    world.sandbox.handle().set_latency(Channel::Fcm, slow);
    let id = world.draft("priority_single", &["app"], "嗨").await;
    let _scheduler = world.process("scheduler");
    let mut first = world.process("worker");
    world.send(id).await;
    let begun = "select exists (select from slice where state = 'sending' and in_flight is not null)";
    eventually("the first worker sends", 30, async || world.one::<bool>(begun).await).await;
    let _second = world.process("worker");
    assert_eq!(first.stop().await, 0, "{}", first.log());
    world.ended(id, 30).await;
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "unknown").await),
        (40, 0)
    );
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_answers_what_it_has_begun_and_takes_nothing_new() {
    let mut world = World::new(&[("WEB__PORT", "0")]).await;
    let (mut gate, through) = Gate::before(&world.env["DATABASE_URL"]).await;
    world.env.insert("DATABASE_URL".to_owned(), through);
    world.customers(1, "s.channel = 'email'").await;
    let address = AddressId(world.one("select id from address").await);
    let token = world
        .app(ProcessKind::Web)
        .secrets
        .unsubscribe_token(address, BroadcastId::new());
    let mut web = world.process("web");
    web.says("Ready to start").await;
    gate.freeze();
    let mut request = post(&web.log(), &format!("/u/{token}")).await;
    for _ in 0..3 {
        web.signal("-TERM");
    }
    web.says("Told to stop").await;
    let port = port(&web.log());
    until("nobody listens any more", async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    gate.open().await;
    let mut answer = String::new();
    request.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(web.exit_code(STOP_LIMIT).await, 0, "{}", web.log());
    assert_eq!(world.one::<String>("select state from address").await, "opted_out");
}

/// The port a web process listens on, from its log.
fn port(log: &str) -> u16 {
    let (_, rest) = log.split_once("Listening on http://").expect(log);
    let digits = rest.split_once(':').unwrap().1;
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// A request under way: written whole, its answer still to come.
async fn post(log: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port(log))).await.unwrap();
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}
