//! The proof of the inbox: webhooks of every provider and kind, mixed up and some told twice, through a real web process and
//! worked through by four real workers of which one is killed every few seconds, Redis flushed once. Every event counts once, and
//! messages, unread counts, windows, deliveries and tokens are what two plain models say.
//!
//! `CARILLON_TEST_WEBHOOKS=100000` makes it that large; give it a release build then: see README.md.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::channel::webhook::WebhookEvent;
use carillon_sandbox::{LINE_CHANNEL_SECRET, webhooks::Signer};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use uuid::Uuid;

use crate::{
    inbox_model::{self, SECS, moment},
    ingest_outcome::{self, TOKENS, sent_as},
    ingest_told::{Door, NUMBER, PAGE, SENT_AT, Told},
    process::Process,
    redis_server::{Memory, RedisServer},
    scene::{Shop, claim, settle},
    wait::eventually,
    webhook_scene::{APP_SECRET, AUTH_TOKEN, CALLBACK_TOKEN, STORE_SECRET, Scene, VERIFY_TOKEN},
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
    // "Everything up to then was read" and the proof that one of these was sent at all, told at the same moment, miss each other;
    // a scheduler looks once more a minute later, and here it is done at once.
    scene
        .world
        .run("update receipt_watermark set recheck_at = now() where recheck_at is not null")
        .await;
    carillon::delivery::receipt::retry(scene.world.pool()).await.unwrap();
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
        // What a dead worker had taken for a minute is taken again, as if the minute were over.
        self.scene
            .world
            .run("update webhook_pending set due_at = now() where due_at > now() + interval '5 seconds'")
            .await;
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

/// Six senders; over four of them went a broadcast to the first of their people.
async fn doors(scene: &Scene, url: &str, people: usize) -> Vec<Door> {
    let world = &scene.world;
    world.run(SECS).await;
    let shop_app: Uuid = world
        .one(&format!(
            "select id from sender where shop_id = '{}' and channel = 'app'",
            world.shop
        ))
        .await;
    scene.change(shop_app, &json!({"secret": STORE_SECRET})).await;
    let meta = |id: &str, value: &str| json!({id: value, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN, "access_token": "t"});
    let credentials: [(&str, &str, Value); 4] = [
        ("messenger", "messenger", meta("page_id", PAGE)),
        ("whatsapp", "whatsapp", meta("phone_number_id", NUMBER)),
        (
            "twilio",
            "sms",
            json!({"provider": "twilio", "account_sid": "AC00000000000000000000000000000000", "auth_token": AUTH_TOKEN}),
        ),
        (
            "mitake",
            "sms",
            json!({"provider": "mitake", "callback_token": CALLBACK_TOKEN}),
        ),
    ];
    let mut doors = vec![
        Door::new("line", scene.line, Signer::Line(LINE_CHANNEL_SECRET.to_owned()), people),
        Door::new("store", shop_app, Signer::Store(STORE_SECRET.to_owned()), people),
    ];
    for (provider, channel, credentials) in credentials {
        let sender = scene.sender(channel, &credentials).await;
        let signer = match provider {
            "twilio" => Signer::Twilio(AUTH_TOKEN.to_owned(), format!("{url}/webhooks/twilio/{sender}")),
            "mitake" => Signer::Mitake(CALLBACK_TOKEN.to_owned()),
            _ => Signer::Meta(APP_SECRET.to_owned()),
        };
        let mut door = Door::new(provider, sender, signer, people);
        broadcast(scene, &mut door, channel, people * 2 / 3).await;
        doors.push(door);
    }
    doors
}

/// Moves the sender to a shop of its own, whose broadcast has gone to so many of its people.
async fn broadcast(scene: &Scene, door: &mut Door, channel: &str, recipients: usize) {
    let (world, sender, shop) = (&scene.world, door.sender, Uuid::now_v7());
    let addresses: Vec<String> = (0..recipients).map(|person| door.address(person)).collect();
    world
        .run(&format!(
            "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'https://tea.example', 'core');
             update sender set shop_id = '{shop}', sends_templates = true where id = '{sender}';
             with c as (insert into customer (shop_id) select '{shop}' from generate_series(1, {recipients}) returning id),
                  n as (select id, row_number() over (order by id) as nr from c)
             insert into address (shop_id, sender_id, customer_id, address)
             select '{shop}', '{sender}', n.id, t.address
               from n join unnest('{{{}}}'::text[]) with ordinality as t (address, nr) using (nr);
             select ledger_refill('{shop}', '2999-11', 10000000)",
            addresses.join(",")
        ))
        .await;
    let customers: Vec<i64> = world
        .one(&format!(
            "select array_agg(id order by id) from customer where shop_id = '{shop}'"
        ))
        .await;
    let shop = Shop {
        id: shop,
        customers,
        pool: world.pool().clone(),
    };
    let id = shop.opened(&[(channel, TOKENS)], 50).await;
    while let Some(mut claimed) = claim(world.pool(), id, channel, 1_000, 0.0).await {
        let mut left = claimed.customers.clone();
        let place = |customer: &i64| shop.customers.binary_search(customer).unwrap();
        for outcome in ["accepted", "unknown", "failed"] {
            let whose: Vec<i64> = claimed
                .customers
                .iter()
                .copied()
                .filter(|one| sent_as(place(one)) == outcome)
                .collect();
            left.retain(|customer| !whose.contains(customer));
            if !whose.is_empty() {
                settle(
                    world.pool(),
                    id,
                    channel,
                    &claimed,
                    (&whose, outcome),
                    (Some(&left), None),
                )
                .await;
                claimed.intent_no += 1;
            }
        }
    }
    let ids: Vec<String> = (0..recipients)
        .filter(|person| sent_as(*person) != "unknown")
        .map(|person| door.provider_id(person))
        .collect();
    let whose: Vec<String> = (0..recipients)
        .filter(|person| sent_as(*person) != "unknown")
        .map(|person| shop.customers[person].to_string())
        .collect();
    world
        .run(&format!(
            "update broadcast set sending_at = '{at}'::timestamptz - interval '1 hour' where id = '{id}';
             update delivery_result set settled_at = '{at}' where broadcast_id = '{id}';
             update delivery_result d set provider_id = u.provider_id
               from unnest('{{{}}}'::bigint[], '{{{}}}'::text[]) as u (customer_id, provider_id)
              where d.broadcast_id = '{id}' and d.customer_id = u.customer_id",
            whose.join(","),
            ids.join(","),
            at = moment(SENT_AT).to_rfc3339()
        ))
        .await;
    door.broadcast = Some((id, shop.customers));
}
