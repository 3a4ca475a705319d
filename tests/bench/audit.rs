//! `audit`: proving a whole database against one bare sequential pass over the tables it must read.
//!
//! The floor counts and sums one column of each table, nothing more: no join, no group, no comparison. The data is what
//! sending would have left: broadcasts of a hundred thousand messages, one in twenty failed, a capture and a release for every
//! slice. It is measured twice, at a fifth of the size and at the whole, so that memory can be seen not to grow with it: the
//! memory of this process, and that of the database's own processes where they run on this machine (`null` elsewhere).

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::{
    db::{self, PgPool},
    ledger::{self, Report},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

/// Messages of one broadcast.
const BROADCAST: u64 = 100_000;
/// How often the memory of the database's processes is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs it: `[--deliveries N]`.
pub(crate) fn run(arguments: &[String]) {
    let at = arguments.iter().position(|argument| argument == "--deliveries");
    let deliveries: u64 = at
        .and_then(|at| arguments.get(at + 1))
        .map_or(1_000_000, |value| value.parse().expect("a number"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{}", runtime.block_on(measure(deliveries.max(5 * BROADCAST))));
}

async fn measure(deliveries: u64) -> serde_json::Value {
    let options: PgConnectOptions = std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is the address of a Postgres")
        .parse()
        .unwrap();
    let name = format!("carillon_bench_{}", Uuid::new_v4().simple());
    let mut admin = PgConnection::connect_with(&options).await.unwrap();
    execute(&mut admin, &format!("create database {name}")).await;
    let pool: PgPool = sqlx::PgPool::connect_with(options.database(&name))
        .await
        .unwrap()
        .into();
    db::migrate(&pool).await.unwrap();
    let mut sizes = Vec::new();
    let mut there = 0;
    for broadcasts in [deliveries / 5 / BROADCAST, deliveries / BROADCAST] {
        while there < broadcasts {
            send(&pool, there).await;
            there += 1;
        }
        sqlx::raw_sql("vacuum (analyze)").execute(&pool).await.unwrap();
        sizes.push(size(&pool, there * BROADCAST).await);
    }
    pool.close().await;
    execute(&mut admin, &format!("drop database {name} with (force)")).await;
    let ratio = sizes.last().map(|size| size["ratio"].clone());
    serde_json::json!({ "benchmark": "audit", "sizes": sizes, "ratio": ratio })
}

/// Both in turn, the first round to warm caches.
async fn size(pool: &PgPool, deliveries: u64) -> serde_json::Value {
    let (mut floor, mut ours, mut peak_kib) = (f64::INFINITY, f64::INFINITY, None);
    let mut report = None;
    for _ in 0..3 {
        floor = floor.min(bare(pool).await);
        let watch = Memory::watch(pool);
        let started = Instant::now();
        report = Some(ledger::audit(pool, None).await.unwrap());
        ours = ours.min(started.elapsed().as_secs_f64());
        peak_kib = peak_kib.max(watch.peak_kib().await);
    }
    let report: Report = report.unwrap();
    assert!(report.is_clean(), "{report:?}");
    let compared: i64 = report.checks.iter().map(|check| check.examined).sum();
    let own_kib = kib("self", "VmHWM:");
    eprintln!(
        "{deliveries} deliveries: bare {floor:.2} s, audit {ours:.2} s ({compared} comparisons), {:.2}; peak memory: ours {} KiB, the database's {} KiB",
        floor / ours,
        own_kib.unwrap_or(0),
        peak_kib.unwrap_or(0)
    );
    serde_json::json!({
        "deliveries": deliveries, "compared": compared, "bare_secs": floor, "audit_secs": ours,
        "own_peak_kib": own_kib, "postgres_peak_kib": peak_kib, "ratio": floor / ours,
    })
}

/// One sequential pass over everything the audit must read.
async fn bare(pool: &PgPool) -> f64 {
    let started = Instant::now();
    for (table, column) in [
        ("token_account", "allowance"),
        ("ledger_entry", "allowance"),
        ("token_hold", "allowance"),
        ("broadcast", "cost_tokens"),
        ("broadcast_channel", "planned"),
        ("lane", "planned"),
        ("slice", "planned"),
        ("tally", "n"),
        ("delivery", "customer_id"),
        ("delivery_result", "charged_tokens"),
    ] {
        let _: (i64, Option<f64>) = sqlx::query_as(AssertSqlSafe(format!(
            "select count(*), sum({column})::float8 from {table}"
        )))
        .fetch_one(pool)
        .await
        .unwrap();
    }
    started.elapsed().as_secs_f64()
}

/// What one broadcast of a shop of its own leaves, straight into the tables.
async fn send(pool: &PgPool, number: u64) {
    let sql = format!(
        "set local session_replication_role = replica;
         create temp table made on commit drop as
             select gen_random_uuid() as shop, gen_random_uuid() as sender, new_broadcast_id() as id,
                    {number} * {BROADCAST}::bigint as first;
         insert into shop (id, name, url, plan) select shop, 'Bench', 'https://bench.example', 'core' from made;
         insert into sender (id, shop_id, channel, name, credentials) select sender, shop, 'line', 'Bench', '' from made;
         insert into broadcast (id, shop_id, name, mode, content, audience, state, cost_tokens, sending_at, finished_at)
         select id, shop, 'Bench', 'app_plus_one', '{{}}', '{{\"all\": true}}', 'completed', 5 * {BROADCAST}, now(), now() from made;
         insert into broadcast_channel select id, 0, 'line', sender, 5, {BROADCAST} from made;
         insert into lane (broadcast_id, sender_id, shop_id, channel, tokens, planned, remaining)
         select id, sender, shop, 'line', 5, {BROADCAST}, 0 from made;
         insert into delivery (broadcast_id, customer_id, address_id, channel)
         select id, first + n, first + n, 'line' from made, generate_series(1, {BROADCAST}) n;
         insert into delivery_result (broadcast_id, customer_id, channel, state, charged_tokens, reason, code, provider_id)
         select id, first + n, 'line', (case n % 20 when 0 then 'failed' else 'accepted' end)::delivery_state,
                case n % 20 when 0 then 0 else 5 end, case n % 20 when 0 then 'recipient' end, null, md5(n::text)
           from made, generate_series(1, {BROADCAST}) n;
         insert into slice (broadcast_id, channel, slice_no, first_customer, last_customer, planned, remaining, state, settles)
         select id, 'line', n, first + n * 500 + 1, first + (n + 1) * 500, 500, 0, 'settled', 1
           from made, generate_series(0, {BROADCAST} / 500 - 1) n;
         insert into tally select id, 'send', 'line', s::delivery_state, r, n from made,
             (values ('accepted', null, {BROADCAST} * 19 / 20), ('failed', 'recipient', {BROADCAST} / 20)) as t (s, r, n);
         insert into token_account (shop_id, allowance, allowance_period)
         select shop, {BROADCAST} / 20 * 5, '2026-11' from made;
         insert into token_hold (broadcast_id, shop_id, period, allowance, extra, open_allowance, open_extra, captured_allowance,
             released, state)
         select id, shop, '2026-11', {BROADCAST} * 5, 0, 0, 0, {BROADCAST} * 19 / 20 * 5, {BROADCAST} / 20 * 5, 'closed' from made;
         insert into ledger_entry (shop_id, kind, operation, broadcast_id, channel, allowance, extra, held_allowance, held_extra,
             allowance_after, extra_after, held_allowance_after, held_extra_after)
         select shop, kind, operation, broadcast, channel, allowance, 0, held, 0, sum(allowance) over w, 0, sum(held) over w, 0
           from (select 0 as place, shop, 'grant' as kind, 'grant:2026-11' as operation, null::uuid as broadcast,
                        null::channel as channel, {BROADCAST} * 5 as allowance, 0 as held from made
                 union all
                 select 1, shop, 'hold', 'hold:' || id, id, null, 0, {BROADCAST} * 5 from made
                 union all
                 select 2 + 2 * n, shop, 'capture', format('capture:%s:line:%s:1', id, n), id, 'line', -475 * 5, -475 * 5
                   from made, generate_series(0, {BROADCAST} / 500 - 1) n
                 union all
                 select 3 + 2 * n, shop, 'release', format('release:%s:line:%s:1', id, n), id, 'line', 0, -25 * 5
                   from made, generate_series(0, {BROADCAST} / 500 - 1) n) e
         window w as (order by place) order by place"
    );
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// The most memory all processes of this database have had together while it was watched, the server's buffers apart.
struct Memory {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    watching: tokio::task::JoinHandle<()>,
}

impl Memory {
    fn watch(pool: &PgPool) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen, pool) = (Arc::clone(&stop), Arc::clone(&peak), pool.clone());
        let watching = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let pids: Vec<i32> = sqlx::query_scalar(
                    "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
                )
                .fetch_all(&pool)
                .await
                .unwrap();
                // Private memory, and what they share for one query: the server's own buffers have one size.
                let own: u64 = pids.iter().filter_map(|pid| kib(&pid.to_string(), "RssAnon:")).sum();
                if own > 0 {
                    seen.fetch_max(own + shared_kib(), Ordering::Relaxed);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { stop, peak, watching }
    }

    async fn peak_kib(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.unwrap();
        Some(self.peak.load(Ordering::Relaxed)).filter(|kib| *kib > 0)
    }
}

/// A figure of a process' status, in KiB; none where it cannot be read.
fn kib(pid: &str, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What queries with several processes share, in KiB: PostgreSQL keeps it in files here.
fn shared_kib() -> u64 {
    let files = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let sizes = files
        .filter(|file| file.file_name().to_string_lossy().starts_with("PostgreSQL."))
        .filter_map(|file| Some(file.metadata().ok()?.len() / 1024));
    sizes.sum()
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}
