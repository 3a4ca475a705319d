//! Leases and poison with real processes: killed, stopped past their lease and woken, aborted by the job they run.
//!
//! Where a test needs a handler of its own, a process is this test binary once more, told by its environment to be a worker;
//! what it does it notes in Redis. Else it is the product.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use carillon::queue::{self, DeadReason, JobContext, JobError, Outcome, QueueConfig, RedisConn};
use carillon_jobs::{BroadcastId, Job};
use carillon_sandbox::{Channel, Latency};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{Fixture, broadcast_of, job},
    fixture_db::service,
    wait::until,
    world::World,
};

/// How a worker process treats its jobs. The name travels in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Done at once.
    Done,
    /// Never done.
    Hold,
    /// Has a side effect every few milliseconds, each time after a look at its lease; done when that is lost.
    Careful,
    /// The job named in the environment takes the process down.
    Abort,
}

const MANNERS: [Manner; 4] = [Manner::Done, Manner::Hold, Manner::Careful, Manner::Abort];

/// A worker process, killed when dropped.
struct WorkerProcess(Child);

impl WorkerProcess {
    fn start(fixture: &Fixture, manner: Manner, poison: Option<BroadcastId>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "queue_process::a_worker_process", "--ignored", "--nocapture"]);
        command
            .env("CHILD_MANNER", format!("{manner:?}"))
            .env("CHILD_PREFIX", &fixture.config.key_prefix)
            .env("CHILD_LEASE_MS", fixture.config.lease_ms.unwrap_or(0).to_string())
            .env("CHILD_DATABASE", &fixture.db.url)
            .env("CHILD_POISON", poison.map(|id| id.to_string()).unwrap_or_default());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(child.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: &str) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "no test of its own: the process that the tests of this file start, stop and kill"]
fn a_worker_process() {
    let Ok(manner) = std::env::var("CHILD_MANNER") else {
        return;
    };
    let variable = |name: &str| std::env::var(name).unwrap();
    let manner = *MANNERS.iter().find(|known| format!("{known:?}") == manner).unwrap();
    let lease_ms: u64 = variable("CHILD_LEASE_MS").parse().unwrap();
    let poison = variable("CHILD_POISON");
    let config = QueueConfig {
        key_prefix: variable("CHILD_PREFIX"),
        concurrency: 10 + crate::fixture::others_slots(),
        lease_ms: (lease_ms > 0).then_some(lease_ms),
        ..QueueConfig::default()
    };
    let log = log_key(&config.key_prefix);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let url = service("CARILLON_TEST_REDIS_URL");
        let redis = RedisConn::connect(&url, &config).unwrap();
        let pool = PgPoolOptions::new().connect_lazy(&variable("CHILD_DATABASE")).unwrap();
        let notes = redis::Client::open(url)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let handler = move |job, context| run_job(manner, poison.clone(), log.clone(), notes.clone(), job, context);
        queue::run(config, redis, pool.into(), handler, CancellationToken::new()).await;
    });
}

async fn run_job(
    manner: Manner,
    poison: String,
    log: String,
    mut notes: MultiplexedConnection,
    job: Job,
    context: JobContext,
) -> Result<Outcome, JobError> {
    let id = broadcast_of(&job).to_string();
    let mut note = async |what: &str| {
        let line = format!("{} {what} {id}", std::process::id());
        let _: i64 = notes.rpush(&log, line).await.unwrap();
    };
    note("begins").await;
    match manner {
        Manner::Hold => std::future::pending().await,
        Manner::Careful => {
            while !context.lease.is_lost() {
                note("acts").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            note("has lost").await;
        }
        Manner::Abort if id == poison => {
            context.about_to("divide by the number of customers").await;
            std::process::abort();
        }
        Manner::Done | Manner::Abort => {}
    }
    Ok(Outcome::Done)
}

fn log_key(prefix: &str) -> String {
    format!("log of {prefix}")
}

/// What the processes noted, oldest first.
async fn log(fixture: &Fixture) -> Vec<String> {
    let key = log_key(&fixture.config.key_prefix);
    fixture.raw.clone().lrange(key, 0, -1).await.unwrap()
}

async fn count(fixture: &Fixture, process: &WorkerProcess, what: &str) -> usize {
    let begins = format!("{} {what} ", process.id());
    log(fixture)
        .await
        .iter()
        .filter(|line| line.starts_with(&begins))
        .count()
}

async fn forget_log(fixture: &Fixture) {
    let key = log_key(&fixture.config.key_prefix);
    let _: i64 = fixture.raw.clone().del(key).await.unwrap();
}

#[tokio::test]
async fn a_killed_processs_jobs_run_elsewhere_within_twenty_seconds() {
    // The defaults, lease and all: this is the promise made to operators.
    let fixture = Fixture::new().await;
    let doomed = WorkerProcess::start(&fixture, Manner::Hold, None);
    let jobs: Vec<_> = (0..10).map(|_| job().0).collect();
    fixture.queue.ring_many(&jobs).await.unwrap();
    until("all have begun", || async {
        count(&fixture, &doomed, "begins").await == 10
    })
    .await;
    let other = WorkerProcess::start(&fixture, Manner::Done, None);
    doomed.signal("-KILL");
    let killed = Instant::now();
    until("all have run elsewhere", || async {
        count(&fixture, &other, "begins").await == 10
    })
    .await;
    let took = killed.elapsed();
    println!("recovered {took:?} after SIGKILL");
    assert!(took <= Duration::from_secs(20), "{took:?}");
    fixture.emptied().await;
    forget_log(&fixture).await;
}

#[tokio::test]
async fn a_process_stopped_past_its_lease_acts_no_more_and_goes_on() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(1_000);
    let late = WorkerProcess::start(&fixture, Manner::Careful, None);
    fixture.queue.ring(job().0).await.unwrap();
    until("it acts", || async { count(&fixture, &late, "acts").await > 10 }).await;
    late.signal("-STOP");
    let other = WorkerProcess::start(&fixture, Manner::Hold, None);
    until("another has it", || async {
        count(&fixture, &other, "begins").await == 1
    })
    .await;
    let acts = count(&fixture, &late, "acts").await;
    let held: Vec<(String, String)> = fixture
        .raw
        .clone()
        .hgetall(fixture.key("run:broadcast-send"))
        .await
        .unwrap();

    late.signal("-CONT");
    until("it has noticed", || async {
        count(&fixture, &late, "has lost").await == 1
    })
    .await;
    // The one act it was in the middle of may still have arrived.
    let more = count(&fixture, &late, "acts").await - acts;
    assert!(more <= 1, "{more} acts after its lease was lost");
    // Its next job shows that its Done about the first has reached Redis, where it changed nothing.
    other.signal("-STOP");
    fixture.queue.ring(job().0).await.unwrap();
    until("it goes on", || async { count(&fixture, &late, "begins").await == 2 }).await;
    let now: Vec<(String, String)> = fixture
        .raw
        .clone()
        .hgetall(fixture.key("run:broadcast-send"))
        .await
        .unwrap();
    assert!(
        held.len() == 1 && now.contains(&held[0]),
        "the other's claim stands: {held:?}, {now:?}"
    );
    forget_log(&fixture).await;
}

#[tokio::test]
async fn a_job_that_aborts_its_process_takes_down_three_and_is_dead_with_its_last_breadcrumb() {
    let mut fixture = Fixture::new().await;
    fixture.config.lease_ms = Some(600);
    let (poison, id) = job();
    fixture.queue.ring(poison).await.unwrap();
    for nth in 1..=3 {
        let mut process = WorkerProcess::start(&fixture, Manner::Abort, Some(id));
        let what = format!("process {nth} is taken down");
        until(&what, async || process.has_ended()).await;
    }
    let mut survivor = WorkerProcess::start(&fixture, Manner::Abort, Some(id));
    until("it is dead", || async { fixture.dead_rows().await.len() == 1 }).await;
    let (good, _) = job();
    fixture.queue.ring(good).await.unwrap();
    until("the fourth process works", || async {
        count(&fixture, &survivor, "begins").await == 1
    })
    .await;
    assert!(!survivor.has_ended());
    let begun = log(&fixture).await;
    let begun = begun.iter().filter(|line| line.ends_with(&id.to_string())).count();
    assert_eq!(begun, 3);
    let row = fixture.dead_rows().await.remove(0);
    assert_eq!((row.reason, row.crashes, row.attempts), (DeadReason::Poison, 3, 0));
    assert!(
        row.error.ends_with("about to divide by the number of customers"),
        "{}",
        row.error
    );
    fixture.emptied().await;
    forget_log(&fixture).await;
}

/// Every row of a broadcast with the transaction that wrote it: writing the same once more would show.
async fn rows(world: &World, id: BroadcastId) -> Vec<String> {
    let tables = [
        "lane",
        "slice",
        "delivery_result",
        "tally",
        "token_hold",
        "ledger_entry",
    ];
    let mut rows = Vec::new();
    for table in tables {
        let sql = format!(
            "select coalesce(array_agg(concat('{table} ', t.xmin, ' ', t::text) order by t::text), '{{}}')
               from {table} t where broadcast_id = '{id}'"
        );
        rows.extend(world.one::<Vec<String>>(&sql).await);
    }
    let sql = format!("select concat(b.xmin, ' ', b::text) from broadcast b where id = '{id}'");
    rows.push(world.one(&sql).await);
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_stopped_past_its_leases_writes_nothing_in_postgres_and_goes_on() {
    let world = World::new(&[
        ("DELIVERY__LEASE_SECS", "2"),
        ("DELIVERY__BELL_STALE_SECS", "1.0"),
        ("QUEUE__LEASE_MS", "2000"),
        ("BROADCAST__SLICE_SIZE", "50"),
        ("DELIVERY__PARALLEL_SLICES", "2"),
        ("CHANNEL__LINE__IN_FLIGHT", "8"),
        ("CHANNEL__APP__IN_FLIGHT", "8"),
    ])
    .await;
    let slow = Latency {
        fixed_ms: 30,
        jitter_ms: 30,
    };
    world.sandbox.handle().set_latency(Channel::Line, slow);
    world.sandbox.handle().set_latency(Channel::Fcm, slow);
    world
        .customers(1_200, "s.channel::text = (array['line', 'app'])[1 + n.i % 2]")
        .await;
    let id = world
        .draft("priority_single", &["app", "line"], "哈囉 {first_name}")
        .await;
    let _scheduler = world.process("scheduler");
    let late = world.process("worker");
    world.send(id).await;
    let sent = format!("select coalesce(sum(n), 0)::bigint from tally where broadcast_id = '{id}' and stage = 'send'");
    until("it sends", async || world.one::<i64>(&sent).await > 200).await;
    late.signal("-STOP");
    assert_eq!(world.state(id).await, "sending");
    let mut other = world.process("worker");
    world.ended(id, 60).await;
    // Stopped and not killed: it leaves its lanes in peace, and after it nobody but the late one writes.
    other.signal("-TERM");
    until("the other has stopped", async || !other.runs()).await;
    let before = rows(&world, id).await;
    let received = world.sandbox.handle().counts(Channel::Line, None);

    late.signal("-CONT");
    let next = world.draft("priority_single", &["app", "line"], "再會").await;
    world.send(next).await;
    world.ended(next, 60).await;
    // It has worked for a whole broadcast since, so whatever it had to say about the first has been said.
    let after = rows(&world, id).await;
    let news: Vec<&String> = after.iter().filter(|row| !before.contains(row)).collect();
    assert!(news.is_empty() && after.len() == before.len(), "{news:#?}");
    assert!(received.values().all(|n| *n == 1), "LINE: once each");
    assert_eq!(received.len(), 600);
    world.audit().await;
}
