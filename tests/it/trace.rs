//! Traces: a small collector in the test receives what real processes export, and reads it as a collector does.

use std::{
    collections::BTreeMap,
    process::Output,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use carillon_jobs::{BroadcastId, TraceParent};
use carillon_sandbox::{LINE_CHANNEL_SECRET, LINE_TOKEN, SMTP_PASSWORD};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use redis::AsyncCommands as _;
use tokio::net::TcpListener;

use crate::{
    wait::{eventually, until},
    world::World,
};

const FRONTEND: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_RECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What arrived.
#[derive(Default)]
struct Arrived {
    spans: Vec<Span>,
    resources: Vec<Vec<KeyValue>>,
    authorization: Vec<String>,
    raw: Vec<u8>,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Arrived>>);

impl Collector {
    /// Listens on loopback; returns its address.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let arrived = collector.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
            let mut arrived = arrived.0.lock().unwrap();
            let header = headers
                .get("authorization")
                .map(|value| value.to_str().unwrap().to_owned());
            arrived.authorization.extend(header);
            arrived.raw.extend(body);
            for resource in request.resource_spans {
                arrived.resources.push(resource.resource.unwrap().attributes);
                arrived
                    .spans
                    .extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (collector, url)
    }

    fn of(&self, name: &str, trace: TraceParent) -> Vec<Span> {
        let arrived = self.0.lock().unwrap();
        let wanted = |span: &&Span| span.name == name && span.trace_id == trace.trace_id.to_be_bytes();
        arrived.spans.iter().filter(wanted).cloned().collect()
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

/// The environment of a world that exports to `url`, at once.
fn export_to(world: &mut World, url: &str) {
    let more = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20swordfish"),
        ("OTEL_SERVICE_NAME", "carillon-test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    world
        .env
        .extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

async fn rpush(world: &World, text: &str) {
    let key = format!("{{{}}}:ready:broadcast-send", world.env["CARILLON__REDIS__KEY_PREFIX"]);
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let _: i64 = redis.rpush(key, text).await.unwrap();
}

/// Starts a broadcast as a frontend does, its bell saying `trace`.
async fn send_as_part_of(world: &World, trace: &str) -> BroadcastId {
    let id = world
        .draft("priority_single", &["line", "app", "email"], "秘密特賣 {first_name}")
        .await;
    world.run(&format!("select send_broadcast('{id}')")).await;
    let text = format!(r#"{{"id":"bell","args":{{"broadcast_id":"{id}"}},"traceparent":"{trace}"}}"#);
    rpush(world, &text).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traceparent_handed_over_is_the_parent_of_the_jobs_spans() {
    let (collector, url) = Collector::start().await;
    let mut world = World::new(&[]).await;
    export_to(&mut world, &url);
    world
        .customers(
            30,
            "s.channel = 'email' or s.channel = 'app' and n.i % 2 = 0 or s.channel = 'line' and n.i % 3 = 0",
        )
        .await;
    let _worker = world.process("worker");
    // What the producer does not record is not recorded here either, and is sent all the same.
    let unrecorded = send_as_part_of(&world, NOT_RECORDED).await;
    world.ended(unrecorded, 60).await;
    let id = send_as_part_of(&world, FRONTEND).await;
    world.ended(id, 60).await;

    let frontend: TraceParent = FRONTEND.parse().unwrap();
    let is_of_a_lane = |span: &Span| text_of(&span.attributes, "sender.id").is_some();
    // The bell itself, and the three lanes it led to.
    eventually("the spans have arrived", 30, async || {
        let spans = collector.of("job", frontend);
        spans.iter().any(|span| !is_of_a_lane(span)) && spans.iter().filter(|span| is_of_a_lane(span)).count() >= 3
    })
    .await;
    for span in collector.of("job", frontend) {
        assert_eq!(span.parent_span_id, frontend.parent_id.to_be_bytes(), "{span:?}");
        let attribute = |key: &str| text_of(&span.attributes, key);
        assert_eq!(attribute("broadcast.id"), Some(id.to_string()));
        assert_eq!(attribute("job.kind").as_deref(), Some("broadcast-send"));
        assert!(span.events.is_empty(), "log lines are not exported");
    }
    let arrived = collector.0.lock().unwrap();
    let unrecorded: TraceParent = NOT_RECORDED.parse().unwrap();
    assert!(
        arrived
            .spans
            .iter()
            .all(|span| span.trace_id != unrecorded.trace_id.to_be_bytes())
    );
    assert!(arrived.authorization.iter().all(|header| header == "Bearer swordfish"));
    assert_eq!(
        text_of(&arrived.resources[0], "service.name").as_deref(),
        Some("carillon-test")
    );
    assert_eq!(
        text_of(&arrived.resources[0], "carillon.process").as_deref(),
        Some("worker")
    );
    assert_nothing_personal(&arrived.raw);
}

/// Names, addresses, the message and every secret of the world.
fn assert_nothing_personal(raw: &[u8]) {
    let raw = String::from_utf8_lossy(raw);
    for private in [
        "小",
        "陳",
        "秘密特賣",
        "@mail.example",
        "token-",
        "APA91b",
        "postgres://",
        "redis://",
        "swordfish",
        LINE_TOKEN,
        LINE_CHANNEL_SECRET,
        SMTP_PASSWORD,
    ] {
        assert!(!raw.contains(private), "{private} was exported");
    }
    assert!(raw.contains("broadcast-send"), "and the search can find something");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_traceparent_is_told_in_the_log_and_the_job_runs() {
    let world = World::new(&[("LOG__FORMAT", "json")]).await;
    world.customers(2, "s.channel = 'line'").await;
    let id = send_as_part_of(&world, "private-0912345678").await;
    let worker = world.process("worker");
    world.ended(id, 60).await;
    let said = worker.log();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("no W3C trace context"))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].contains(r#""job.id":"bell""#) && !said.contains("0912345678"),
        "{said}"
    );
    assert_eq!(world.one::<i64>("select count(*) from dead_job").await, 0);
}

async fn enqueue(world: &World, more: &[(&str, &str)]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_carillon"))
        .args(["enqueue", "broadcast-send"])
        .arg(format!(r#"{{"broadcast_id":"{}"}}"#, BroadcastId::new()))
        .env_remove("TRACEPARENT")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .envs(&world.env)
        .envs(more.iter().copied())
        .output()
        .await
        .unwrap()
}

/// The `traceparent` of the one job that waits.
async fn handed_on(world: &World) -> Option<TraceParent> {
    let key = format!("{{{}}}:ready:broadcast-send", world.env["CARILLON__REDIS__KEY_PREFIX"]);
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let text: String = redis.lpop(key, None).await.unwrap();
    let job: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    job.get("traceparent")
        .map(|trace| trace.as_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_enqueues_is_part_of_its_span_and_that_of_its_callers() {
    let (collector, url) = Collector::start().await;
    let mut world = World::new(&[]).await;
    let caller: TraceParent = FRONTEND.parse().unwrap();
    // Traces off: nothing of ours, the caller's is handed through, a wrong one is not.
    assert!(enqueue(&world, &[]).await.status.success());
    assert_eq!(handed_on(&world).await, None);
    assert!(enqueue(&world, &[("TRACEPARENT", FRONTEND)]).await.status.success());
    assert_eq!(handed_on(&world).await, Some(caller));
    assert!(enqueue(&world, &[("TRACEPARENT", "who knows")]).await.status.success());
    assert_eq!(handed_on(&world).await, None);

    export_to(&mut world, &url);
    assert!(enqueue(&world, &[("TRACEPARENT", FRONTEND)]).await.status.success());
    let trace = handed_on(&world).await.unwrap();
    assert_eq!((trace.trace_id, trace.flags), (caller.trace_id, 1));
    // The command has ended, and with it everything it had to send.
    let commands = collector.of("command", caller);
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0].span_id, trace.parent_id.to_be_bytes());
    assert_eq!(commands[0].parent_span_id, caller.parent_id.to_be_bytes());
    assert_eq!(
        text_of(&commands[0].attributes, "command.name").as_deref(),
        Some("enqueue")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_away_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}", listener.local_addr().unwrap());
    let mut world = World::new(&[]).await;
    world.customers(2, "s.channel = 'line'").await;
    for url in [hangs.as_str(), "http://127.0.0.1:1"] {
        export_to(&mut world, url);
        // Every process is gone within 25 seconds, whatever hangs.
        let command = tokio::time::timeout(std::time::Duration::from_secs(25), enqueue(&world, &[]));
        assert!(
            command
                .await
                .expect("the command hangs with the collector")
                .status
                .success()
        );
    }
    export_to(&mut world, &hangs);
    let _worker = world.process("worker");
    let id = send_as_part_of(&world, FRONTEND).await;
    world.ended(id, 60).await;
    until("both were accepted", async || world.count(id, "accepted").await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_of_a_worker_leave_before_it_ends() {
    let (collector, url) = Collector::start().await;
    let mut world = World::new(&[]).await;
    export_to(&mut world, &url);
    // Nothing leaves by itself for an hour.
    world
        .env
        .insert("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "3600000".to_owned());
    let mut worker = world.process("worker");
    let id = send_as_part_of(&world, FRONTEND).await;
    world.ended(id, 60).await;
    assert_eq!(worker.stop().await, 0, "{}", worker.log());
    assert!(!collector.of("job", FRONTEND.parse().unwrap()).is_empty());
}
