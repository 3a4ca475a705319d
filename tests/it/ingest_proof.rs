//! The proof of the inbox: webhooks of every provider and kind, mixed up and some told twice, through a real web process and
//! worked through by four real workers of which one is killed every few seconds, Redis flushed once. Every event counts once, and
//! messages, unread counts, windows, deliveries and tokens are what two plain models say.
//!
//! 1,500 webhooks here. The 100,000, in a quarter of an hour of a release build:
//! `CARILLON_TEST_WEBHOOKS=100000 cargo nextest run --release -E 'test(every_event_counts_once)'`

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::channel::webhook::WebhookEvent;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    inbox_model,
    ingest_doors::doors,
    ingest_outcome,
    ingest_told::{Door, Told},
    process::Process,
    redis_server::{Memory, RedisServer},
    wait::eventually,
    webhook_scene::Scene,
    world::World,
};

/// Webhooks of the ordinary run.
const FEW: usize = 1_500;
const WORKERS: usize = 4;
/// Webhooks between two kills: with a release build some seconds.
const BETWEEN_KILLS: usize = 1_500;
/// Connections of the provider.
const CONNECTIONS: usize = 16;
/// Webhooks told and not worked through yet, at most: what waits is then a crowd and not the whole.
const AHEAD: usize = 2_000;

/// Short leases, so that a dead worker's work goes on within seconds.
const SETTINGS: &[(&str, &str)] = &[
    ("QUEUE__LEASE_MS", "2000"),
    ("WEBHOOK__PER_SENDER_PER_SEC", "1000000"),
    ("WEB__BIND", "127.0.0.1"),
    ("LOG__FILTER", "warn"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_counts_once_whoever_is_killed_and_all_is_as_a_plain_model_says() {
    let given = std::env::var("CARILLON_TEST_WEBHOOKS").ok();
    let webhooks = given.and_then(|n| n.parse().ok()).unwrap_or(FEW);
    let seed = std::env::var("CARILLON_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("CARILLON_TEST_SEED={seed}");
    prove(webhooks, StdRng::seed_from_u64(seed)).await;
}

/// Tells so many webhooks and proves what came of them.
async fn prove(webhooks: usize, mut dice: StdRng) {
    let mut redis = RedisServer::start(Memory::Lost).await;
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (port, url) = (port.to_string(), format!("http://127.0.0.1:{port}"));
    let settings = [SETTINGS, &[("WEB__PORT", &port), ("WEB__PUBLIC_URL", &url)]].concat();
    let scene = Scene::of(World::on_redis(&redis.url(), &settings).await).await;
    let mut doors = doors(&scene, &url, (webhooks / 60).clamp(12, 2_000)).await;

    let mut events: Vec<Vec<WebhookEvent>> = doors.iter().map(|_| Vec::new()).collect();
    let mut requests = Vec::with_capacity(webhooks);
    while requests.len() < webhooks {
        let place = *[0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5]
            .get(dice.random_range(0..13))
            .unwrap();
        let Told { request, events: told } = doors[place].tell(&mut dice);
        events[place].extend(told);
        let question = if request.query.is_empty() { "" } else { "?" };
        let door = &doors[place];
        let address = format!(
            "{url}/webhooks/{}/{}{question}{}",
            door.provider, door.sender, request.query
        );
        let request = (address, request);
        if dice.random_ratio(1, 10) && requests.len() + 1 < webhooks {
            requests.push(request.clone());
        }
        requests.push(request);
    }
    requests.shuffle(&mut dice);

    let began = Instant::now();
    let storm = Storm::new(&scene, requests).await;
    let (kills, again) = storm.rage(&mut redis, &mut dice).await;
    let took = began.elapsed();
    println!(
        "{webhooks} webhooks, {} events, {kills} kills, {again} told again: {:.1} s, {:.0} webhooks/s",
        events.iter().map(Vec::len).sum::<usize>(),
        took.as_secs_f64(),
        u32::try_from(webhooks).map(f64::from).unwrap() / took.as_secs_f64()
    );
    for (door, events) in doors.iter().zip(&events) {
        compare(&scene, door, events).await;
    }
    let failed: i64 = scene.world.one("select count(*) from webhook_pending").await;
    assert_eq!(failed, 0, "webhooks that failed or are left");
    let dead: i64 = scene.world.one("select count(*) from dead_job").await;
    assert_eq!(dead, 0, "dead jobs");
    let stored: i64 = scene.world.one("select count(*) from webhook").await;
    assert!(stored >= i64::try_from(webhooks).unwrap(), "{stored} stored");
    scene.world.audit().await;
}

/// What one sender has, against the models.
async fn compare(scene: &Scene, door: &Door, events: &[WebhookEvent]) {
    let recipients = door.broadcast.as_ref().map_or(0, |(_, customers)| customers.len());
    let known: Vec<String> = (0..recipients).map(|person| door.address(person)).collect();
    let keys: std::collections::BTreeSet<&str> = events.iter().map(|event| event.key.as_str()).collect();
    let once: i64 = scene
        .world
        .one(&format!(
            "select count(*) from webhook_event where sender_id = '{}'",
            door.sender
        ))
        .await;
    for (what, sql, wanted) in [
        ("inbox", inbox_model::STANDING, inbox_model::expected(&known, events)),
        (
            "outcome",
            ingest_outcome::STANDING,
            ingest_outcome::expected(door, &known, events),
        ),
    ] {
        let sql = sql.replace("SENDER", &door.sender.to_string());
        let stands: Vec<String> = scene.world.one(&sql).await;
        let (wanted, stands): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
            (wanted.into_iter().collect(), stands.into_iter().collect());
        let missing: Vec<_> = wanted.difference(&stands).collect();
        let wrong: Vec<_> = stands.difference(&wanted).collect();
        assert!(
            missing.is_empty() && wrong.is_empty(),
            "{what} of {}: {} of {} lines are not there, as {:#?}; {} are there instead, as {:#?}",
            door.provider,
            missing.len(),
            wanted.len(),
            &missing[..missing.len().min(5)],
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
    assert_eq!(
        once,
        i64::try_from(keys.len()).unwrap(),
        "events of {} that count",
        door.provider
    );
}

/// The processes, and the providers that tell them things.
struct Storm<'a> {
    scene: &'a Scene,
    total: usize,
    accepted: Arc<AtomicUsize>,
    worked: watch::Sender<usize>,
    again: Arc<AtomicUsize>,
    tellers: Vec<JoinHandle<()>>,
    workers: Vec<Process>,
    _others: [Process; 2],
}

impl<'a> Storm<'a> {
    async fn new(scene: &'a Scene, requests: Vec<(String, carillon_sandbox::webhooks::Request)>) -> Self {
        let others = [scene.world.process("web"), scene.world.process("scheduler")];
        let workers = (0..WORKERS).map(|_| scene.world.process("worker")).collect();
        let total = requests.len();
        let mut storm = Self {
            scene,
            total,
            accepted: Arc::default(),
            worked: watch::Sender::new(0),
            again: Arc::default(),
            tellers: Vec::new(),
            workers,
            _others: others,
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let up = format!("{}/healthz", scene.world.env["CARILLON__WEB__PUBLIC_URL"]);
        eventually("the web process answers", 30, async || {
            client.get(&up).send().await.is_ok()
        })
        .await;
        let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
        for _ in 0..CONNECTIONS {
            let (client, requests, next) = (client.clone(), requests.clone(), next.clone());
            let (accepted, mut worked, again) = (storm.accepted.clone(), storm.worked.subscribe(), storm.again.clone());
            storm.tellers.push(tokio::spawn(async move {
                while let Some((address, request)) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let keep_up = worked.wait_for(|worked| accepted.load(Ordering::Relaxed) < worked + AHEAD);
                    drop(keep_up.await.unwrap());
                    // A provider tells again until it hears 200.
                    while !tell(&client, address, request).await {
                        again.fetch_add(1, Ordering::Relaxed);
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        storm
    }

    /// Kills a worker every few seconds until everything is told, and Redis' memory once; then lets them end. How many kills, and
    /// how many webhooks had to be told again.
    async fn rage(mut self, redis: &mut RedisServer, dice: &mut StdRng) -> (usize, usize) {
        let gap = BETWEEN_KILLS.min(self.total / 10);
        let mut kills = 0;
        while (kills + 1) * gap < self.total {
            kills += 1;
            self.has_worked(kills * gap).await;
            let victim = dice.random_range(0..WORKERS);
            self.workers[victim].kill();
            self.workers[victim] = self.scene.world.process("worker");
            if kills == self.total / gap / 2 {
                let mut conn = redis.connect().await;
                redis::cmd("FLUSHALL").exec_async(&mut conn).await.unwrap();
            }
        }
        for teller in std::mem::take(&mut self.tellers) {
            teller.await.unwrap();
        }
        // What a dead worker had taken is its own for a minute, and then somebody else's.
        self.has_worked(self.total).await;
        (kills, self.again.load(Ordering::Relaxed))
    }

    /// Waits until so many are worked through.
    async fn has_worked(&self, most: usize) {
        eventually(&format!("{most} webhooks are worked through"), 120, async || {
            // In this order: what is accepted in between only makes the figure smaller.
            let accepted = self.accepted.load(Ordering::Relaxed);
            let left: i64 = self
                .scene
                .world
                .one("select count(*) from webhook_pending where failed_at is null")
                .await;
            let worked = accepted.saturating_sub(usize::try_from(left).unwrap());
            self.worked
                .send_if_modified(|most| std::mem::replace(most, worked.max(*most)) < worked);
            worked >= most
        })
        .await;
    }
}

async fn tell(client: &reqwest::Client, address: &str, request: &carillon_sandbox::webhooks::Request) -> bool {
    let mut sent = client
        .request(request.method.parse().unwrap(), address)
        .timeout(Duration::from_secs(30))
        .body(request.body.clone());
    for (name, value) in &request.headers {
        sent = sent.header(*name, value);
    }
    match sent.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            assert!(matches!(status, 200 | 429 | 503), "{status} from {address}");
            status == 200
        }
        Err(_) => false,
    }
}
