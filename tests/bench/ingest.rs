//! Webhooks: how many are accepted a second, against a bare handler that verifies and inserts one row each; how long the 200
//! takes at a steady rate while broadcasts are sent, each counted from when its request was due and not from when a client got round
//! to it; and how many are worked through a second, also with ten times the history: webhooks, events, customers, conversations and
//! messages.
//!
//! Both sides are processes of their own, with as many connections to Postgres and the same client, which writes requests
//! that were signed beforehand and reads nothing but the status; they take turns at who is first. A run counts only when every
//! request it was told 200 for is in the table, the bare one's as well.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use carillon::channel::Channel;
use carillon_sandbox::{
    LINE_BOT_USER_ID, LINE_CHANNEL_SECRET,
    webhooks::{Request, Signer, line},
};
use ring::hmac;
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::bed::{Bed, Process};

/// Connections of the client.
const CONNECTIONS: usize = 64;
/// Connections to Postgres of each side: the default of the web process.
const POOL: u32 = 4;
/// Customers that write.
const CUSTOMERS: usize = 2_000;

struct Plan {
    webhooks: usize,
    rounds: usize,
    per_sec: u32,
    secs: u32,
    jobs: usize,
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut plan = Self {
            webhooks: 20_000,
            rounds: 3,
            per_sec: 500,
            secs: 20,
            jobs: 5_000,
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return None };
            match name.as_str() {
                "--webhooks" => plan.webhooks = value.parse().ok()?,
                "--rounds" => plan.rounds = value.parse().ok()?,
                "--per-sec" => plan.per_sec = value.parse().ok()?,
                "--secs" => plan.secs = value.parse().ok()?,
                "--jobs" => plan.jobs = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(plan)
    }
}

pub fn run(arguments: &[String]) {
    let Some(plan) = Plan::parse(arguments) else {
        eprintln!("bin/bench ingest [--webhooks 20000] [--rounds 3] [--per-sec 500] [--secs 20] [--jobs 5000]");
        std::process::exit(2);
    };
    tokio::runtime::Runtime::new().unwrap().block_on(bench(&plan));
}

async fn bench(plan: &Plan) {
    let bed = Bed::new().await;
    let sender: Uuid = bed.one("select id from sender where channel = 'line'").await;
    let (ours, bare) = (free_port().await, free_port().await);
    let settings = [
        ("CARILLON__WEB__BIND", "127.0.0.1".to_owned()),
        ("CARILLON__WEB__PORT", ours.port().to_string()),
        ("CARILLON__DATABASE__POOL_WEB", POOL.to_string()),
        ("CARILLON__WEBHOOK__PER_SENDER_PER_SEC", "1000000".to_owned()),
    ];
    let web = bed.process_with("web", &settings);
    let floor_process = Process::again(
        "bare-webhooks",
        &[("BARE", bare.to_string()), ("DATABASE_URL", bed.database_url())],
    );
    bed.run("create table bare_webhook (id uuid primary key, body bytea not null, received_at timestamptz not null default now())")
        .await;
    for address in [ours, bare] {
        answers(address).await;
    }
    let path = format!("/webhooks/line/{sender}");
    let mut number = 0;
    let (mut fastest, mut floor) = (0.0_f64, 0.0_f64);
    for round in 1..=plan.rounds {
        let requests = signed(&path, ours, plan.webhooks, &mut number);
        // Who comes second finds the caches warm and the disk busy.
        let (bare_per_sec, per_sec) = if round % 2 == 1 {
            let bare_per_sec = flood(bare, &requests).await;
            (bare_per_sec, flood(ours, &requests).await)
        } else {
            let per_sec = flood(ours, &requests).await;
            (flood(bare, &requests).await, per_sec)
        };
        eprintln!("round {round}: {per_sec:.0} webhooks/s accepted, bare handler {bare_per_sec:.0}/s");
        fastest = fastest.max(per_sec);
        floor = floor.max(bare_per_sec);
    }
    let told = i64::try_from(plan.rounds * plan.webhooks).unwrap();
    for table in ["webhook", "bare_webhook"] {
        let stored: i64 = bed.one(&format!("select count(*) from {table}")).await;
        assert_eq!(stored, told, "what was acknowledged is on disk in {table}");
    }
    // Their bells are out and find nothing to do: what follows begins with an empty backlog.
    bed.run("truncate webhook_pending; drop table bare_webhook").await;

    let (p50, p99) = steady(plan, &bed, ours, &path, &mut number).await;
    let (few, many) = jobs(plan, &bed, ours, &path, &mut number).await;
    let ratio = fastest / floor;
    eprintln!("accepted: {fastest:.0}/s, bare {floor:.0}/s, ratio {ratio:.2}");
    eprintln!(
        "at {}/s beside a broadcast: p50 {p50:.1} ms, p99 {p99:.1} ms",
        plan.per_sec
    );
    eprintln!(
        "worked through: {few:.0}/s; with ten times the history {many:.0}/s, ratio {:.2}",
        many / few
    );
    println!(
        "{}",
        json!({"subject": "ingest", "accepted_per_sec": fastest, "bare_per_sec": floor, "ratio": ratio, "p50_ms": p50, "p99_ms": p99,
            "jobs_per_sec": few, "jobs_per_sec_ten_times": many, "ratio_ten_times": many / few})
    );
    drop((web, floor_process));
    bed.close().await;
}

/// The 200 at a steady rate: from when a request was due to its answer, broadcasts and the ingest jobs beside it.
async fn steady(plan: &Plan, bed: &Bed, address: SocketAddr, path: &str, number: &mut usize) -> (f64, f64) {
    bed.customers(200_000, &[Channel::Line]).await;
    let _worker = bed.process("worker");
    let _scheduler = bed.process("scheduler");
    let began = tokio::sync::Notify::new();
    let content = json!({"text": "{first_name} 您好", "fallbacks": {"first_name": "貴賓", "last_name": "貴賓", "shop_url": "https://shop.example"}});
    // One after the other, so that one is under way for as long as it is measured.
    let sending = async {
        loop {
            let broadcast = bed.draft(Channel::Line, &content).await;
            bed.send(broadcast).await;
            let is = |state: &str| format!("select state = '{state}' from broadcast where id = '{broadcast}'");
            bed.wait("a broadcast is being sent", &is("sending"), 60).await;
            began.notify_one();
            bed.wait("a broadcast has ended", &is("completed"), 600).await;
        }
    };
    let measured = async {
        let requests = signed(path, address, (plan.per_sec * plan.secs) as usize, number);
        began.notified().await;
        at_rate(plan, address, requests).await
    };
    let mut took = tokio::select! {
        took = measured => took,
        () = sending => unreachable!("it never ends"),
    };
    let done = "select not exists (select from webhook_pending)";
    bed.wait("everything is worked through", done, 300).await;
    let quiet = "select not exists (select from broadcast where state in ('queued', 'planning', 'sending'))";
    bed.wait("the broadcasts have ended", quiet, 600).await;
    took.sort_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Milliseconds from when each request was due to its answer: one that waits for a client waits as well.
async fn at_rate(plan: &Plan, address: SocketAddr, requests: Vec<Vec<u8>>) -> Vec<f64> {
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let (gap, began) = (Duration::from_secs(1) / plan.per_sec, Instant::now());
    let clients = (0..CONNECTIONS).map(|_| {
        let (requests, next) = (requests.clone(), next.clone());
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut took = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(index) else {
                    return took;
                };
                let due = began + gap * u32::try_from(index).unwrap();
                tokio::time::sleep_until(due.into()).await;
                assert_eq!(call(&mut socket, request).await, 200);
                took.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut took = Vec::with_capacity(requests.len());
    for client in clients {
        took.extend(client.await.unwrap());
    }
    took
}

/// Jobs a second of one worker, at the start and with ten times the history: the better of two each.
async fn jobs(plan: &Plan, bed: &Bed, address: SocketAddr, path: &str, number: &mut usize) -> (f64, f64) {
    let mut once = async || {
        let requests = signed(path, address, plan.jobs, number);
        flood(address, &requests).await;
        let left = "select count(*) from webhook_pending";
        let _worker = bed.process("worker");
        // Its start is no part of it.
        bed.wait("it has begun", &format!("select ({left}) < {}", plan.jobs), 60)
            .await;
        let (began, first) = (Instant::now(), bed.one::<i64>(left).await);
        bed.wait("everything is worked through", &format!("select ({left}) = 0"), 600)
            .await;
        first as f64 / began.elapsed().as_secs_f64()
    };
    let few = once().await.max(once().await);
    grow(bed).await;
    (few, once().await.max(once().await))
}

/// Stores nine times as much beside what is there: a ninth of the messages of those who write on, the rest of others.
async fn grow(bed: &Bed) {
    let before: i64 = bed.one("select count(*) from message").await;
    bed.run(
        "insert into webhook (id, sender_id, provider, headers, query, body, is_verified, received_at)
         select new_broadcast_id(), w.sender_id, w.provider, w.headers, w.query, w.body, true, w.received_at
           from webhook w, generate_series(1, 9);
         insert into webhook_event (sender_id, key, kind, told_at)
         select e.sender_id, gen_random_uuid(), e.kind, e.told_at from webhook_event e, generate_series(1, 9);
         create table grown as
         select t.shop_id, t.sender_id, t.id as of_id, n.nr, nextval(pg_get_serial_sequence('customer', 'id')) as customer_id,
                nextval(pg_get_serial_sequence('conversation', 'id')) as id
           from conversation t, generate_series(1, 9) as n (nr);
         insert into customer (id, shop_id, first_name) overriding system value select customer_id, shop_id, 'Old' from grown;
         insert into address (shop_id, sender_id, customer_id, address) select shop_id, sender_id, customer_id, 'old' || customer_id from grown;
         insert into conversation (id, shop_id, sender_id, customer_id, kind, last_message_at) overriding system value
         select id, shop_id, sender_id, customer_id, 'social', now() from grown;
         insert into message (sender_id, provider_id, conversation_id, direction, sent_at, text, phones_raw, phones)
         select m.sender_id, 'old' || g.nr || '-' || m.id, case when g.nr = 1 then m.conversation_id else g.id end, m.direction, m.sent_at, m.text,
                m.phones_raw, m.phones
           from message m join grown g on g.of_id = m.conversation_id;
         drop table grown",
    )
    .await;
    bed.run("vacuum analyze").await;
    let now: i64 = bed.one("select count(*) from message").await;
    assert_eq!(now, before * 10, "messages");
}

/// Requests as they go over the wire, each of another event.
fn signed(path: &str, address: SocketAddr, count: usize, number: &mut usize) -> Vec<Vec<u8>> {
    let signer = Signer::Line(LINE_CHANNEL_SECRET.to_owned());
    let at_ms = chrono::Utc::now().timestamp_millis();
    (0..count)
        .map(|_| {
            *number += 1;
            let n = *number;
            let user = format!("U{:032x}", n % CUSTOMERS);
            let event = line::text(
                &format!("01B{n:023}"),
                &user,
                at_ms,
                &n.to_string(),
                "請問這件還有 M 號嗎？我的電話 0912-345-678",
            );
            wire(path, address, &signer.json(&line::body(LINE_BOT_USER_ID, &[event])))
        })
        .collect()
}

fn wire(path: &str, address: SocketAddr, request: &Request) -> Vec<u8> {
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n",
        request.body.len()
    );
    for (name, value) in &request.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    [text.as_bytes(), &request.body].concat()
}

/// Everything as fast as it is answered; requests a second.
async fn flood(address: SocketAddr, requests: &[Vec<u8>]) -> f64 {
    let (requests, next) = (Arc::new(requests.to_vec()), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let (requests, next) = (requests.clone(), next.clone());
        clients.push(tokio::spawn(async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                assert_eq!(call(&mut socket, request).await, 200);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    requests.len() as f64 / began.elapsed().as_secs_f64()
}

/// One request; its status. Both sides answer 200 with an empty body.
async fn call(socket: &mut TcpStream, request: &[u8]) -> u16 {
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\n") {
        let read = socket.read_buf(&mut answer).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
        if !answer.starts_with(b"HTTP/1.1 200") {
            return String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        }
    }
    200
}

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn answers(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bare handler's process: verify, insert one row, 200.
pub fn serve_bare() {
    let variable = |name: &str| std::env::var(name).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let pool = PgPoolOptions::new()
            .max_connections(POOL)
            .connect_lazy(&variable("DATABASE_URL"))
            .unwrap();
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, LINE_CHANNEL_SECRET.as_bytes()));
        let router = Router::new()
            .route("/webhooks/line/{sender}", post(bare))
            .with_state((pool, key));
        let listener = TcpListener::bind(variable("BARE")).await.unwrap();
        axum::serve(listener, router).await.unwrap();
    });
}

async fn bare(State((pool, key)): State<(PgPool, Arc<hmac::Key>)>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let tag = headers
        .get("x-line-signature")
        .and_then(|value| STANDARD.decode(value.as_bytes()).ok());
    if tag.is_none_or(|tag| hmac::verify(&key, &body, &tag).is_err()) {
        return StatusCode::UNAUTHORIZED;
    }
    let stored = sqlx::query("insert into bare_webhook (id, body) values ($1, $2)")
        .bind(Uuid::now_v7())
        .bind(&*body)
        .execute(&pool);
    match stored.await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
