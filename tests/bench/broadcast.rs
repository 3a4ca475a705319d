//! A broadcast against its floor: seconds a real worker takes to send it, held against the seconds the bare parts take to
//! send the same requests to the same sandbox plus those to append the same rows.
//!
//! A round counts only if everybody got the message exactly once by the sandbox's own count and the audit finds nothing.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use carillon::channel::Channel;
use serde_json::{Value, json};

use crate::{
    bed::{Bed, Process},
    floor::{Floor, Wire},
    usage::{cpu_secs, cpu_secs_of_family, parent, peak_mb},
};

const USAGE: &str = "usage: broadcast [--customers N] [--channel line|app|email|messenger|whatsapp|sms] [--rounds N]";
/// Longer than any round worth waiting for.
const PATIENCE_SECS: u64 = 900;

struct Plan {
    customers: u32,
    channel: Channel,
    rounds: u32,
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut plan = Self {
            customers: 100_000,
            channel: Channel::Line,
            rounds: 3,
        };
        for pair in arguments.chunks(2) {
            let value = pair.get(1)?;
            let number = || value.parse().ok().filter(|n| *n > 0);
            match pair[0].as_str() {
                "--customers" => plan.customers = number()?,
                "--rounds" => plan.rounds = number()?,
                "--channel" => plan.channel = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(plan)
    }
}

type Cpu = BTreeMap<&'static str, f64>;

/// What one round brought.
struct Round {
    bare_send_secs: f64,
    bare_write_secs: f64,
    ours_secs: f64,
    exact: bool,
    /// CPU seconds by process, while ours sent, and while the bare parts sent and wrote.
    ours_cpu: Cpu,
    bare_cpu: Cpu,
    bare_write_cpu: Cpu,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let Some(plan) = Plan::parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if runtime.block_on(bench(&plan)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn content() -> Value {
    json!({
        "text": "{first_name} 您好：週年慶全館八折，滿千再折百，只到這個星期天。\n憑此訊息結帳另享會員點數兩倍。",
        "subject": "{first_name}，週年慶開始了", "title": "週年慶",
        "fallbacks": {"first_name": "貴賓", "last_name": "貴賓", "shop_url": "https://shop.example"},
    })
}

async fn bench(plan: &Plan) -> bool {
    let bed = Bed::new().await;
    bed.customers(plan.customers, &[plan.channel]).await;
    let floor = Arc::new(Floor::new(&bed, plan.channel));
    eprintln!(
        "{} customers on {}, personalised; {} requests in flight, {} connections that write, {} cores",
        plan.customers,
        plan.channel,
        floor.in_flight,
        floor.writers,
        cores(),
    );
    let worker = bed.process("worker");
    let scheduler = bed.process("scheduler");
    let content = content();
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let wires = floor.messages(&bed, &content).await;
        let round = round(plan, &bed, &floor, &wires, &worker, &content).await;
        tell(number, plan, &round);
        rounds.push(round);
    }
    let worker_peak_mb = peak_mb(worker.id());
    drop((worker, scheduler));
    let exact = report(plan, &floor, &rounds, worker_peak_mb);
    bed.close().await;
    exact
}

async fn round(
    plan: &Plan,
    bed: &Bed,
    floor: &Arc<Floor>,
    wires: &Arc<Vec<Wire>>,
    worker: &Process,
    content: &Value,
) -> Round {
    let postmaster = parent(u32::try_from(bed.one::<i32>("select pg_backend_pid()").await).unwrap());
    let cpu = || {
        BTreeMap::from([
            ("sandbox", cpu_secs(bed.sandbox.process.id())),
            ("postgres", cpu_secs_of_family(postmaster)),
            ("worker", cpu_secs(worker.id())),
            ("bare client", cpu_secs(std::process::id())),
        ])
    };
    bed.sandbox.reset().await;
    let before = cpu();
    let bare_send_secs = floor.send(wires).await;
    let bare_cpu = used(&before, &cpu());
    let everybody = (u64::from(plan.customers), u64::from(plan.customers), 1);
    let mut exact = bed.sandbox.arrived(plan.channel).await == everybody;
    floor.prepare(&bed.pool).await;
    let before = cpu();
    let bare_write_secs = floor.write(&bed.pool, wires).await;
    let bare_write_cpu = used(&before, &cpu());

    bed.sandbox.reset().await;
    let id = bed.draft(plan.channel, content).await;
    bed.run("checkpoint").await;
    bed.send(id).await;
    let sending = format!("select sending_at is not null from broadcast where id = '{id}'");
    bed.wait("planning ends", &sending, PATIENCE_SECS).await;
    let before = cpu();
    let finished = format!("select finished_at is not null from broadcast where id = '{id}'");
    bed.wait("the broadcast ends", &finished, PATIENCE_SECS).await;
    let ours_cpu = used(&before, &cpu());
    let ours_secs = bed
        .one::<f64>(&format!(
            "select extract(epoch from finished_at - sending_at)::float8 from broadcast where id = '{id}'"
        ))
        .await;
    exact &= bed.sandbox.arrived(plan.channel).await == everybody;
    let accepted = format!("select count(*) from delivery_result where broadcast_id = '{id}' and state = 'accepted'");
    exact &= bed.one::<i64>(&accepted).await == i64::from(plan.customers);
    let audit = carillon::ledger::audit(&bed.pool.clone().into(), None).await.unwrap();
    exact &= audit.is_clean();
    Round {
        bare_send_secs,
        bare_write_secs,
        ours_secs,
        exact,
        ours_cpu,
        bare_cpu,
        bare_write_cpu,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// CPU seconds each process used in between.
fn used(before: &Cpu, after: &Cpu) -> Cpu {
    before
        .keys()
        .map(|name| (*name, rounded(after[name] - before[name])))
        .collect()
}

/// Who used the processors in so many seconds, in percent of all of them.
fn shares(cpu: &Cpu, secs: f64) -> String {
    let percent = |used: &f64| (100.0 * used / (secs * cores() as f64)).round();
    let busy = cpu.iter().filter(|(_, used)| percent(used) >= 1.0);
    busy.map(|(name, used)| format!("{name} {} %", percent(used)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Microseconds of CPU a message.
fn micros(cpu: &Cpu, customers: u32) -> f64 {
    (cpu.values().sum::<f64>() * 1e6 / f64::from(customers)).round()
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn tell(number: u32, plan: &Plan, round: &Round) {
    let floor = round.bare_send_secs + round.bare_write_secs;
    eprintln!(
        "round {number}: bare {floor:.2} s (send {:.2}, write {:.2}), ours {:.2} s, {:.0} messages/s, ratio {:.2}; {}",
        round.bare_send_secs,
        round.bare_write_secs,
        round.ours_secs,
        f64::from(plan.customers) / round.ours_secs,
        floor / round.ours_secs,
        if round.exact {
            "everybody exactly once, books right"
        } else {
            "NOT EXACT"
        },
    );
    eprintln!(
        "         CPU while bare sends: {}; while ours sends: {}",
        shares(&round.bare_cpu, round.bare_send_secs),
        shares(&round.ours_cpu, round.ours_secs)
    );
    eprintln!(
        "         CPU a message: bare {} + {} µs, ours {} µs",
        micros(&round.bare_cpu, plan.customers),
        micros(&round.bare_write_cpu, plan.customers),
        micros(&round.ours_cpu, plan.customers)
    );
}

fn report(plan: &Plan, floor: &Floor, rounds: &[Round], worker_peak_mb: f64) -> bool {
    let median = |of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let floor_secs = median(|round| round.bare_send_secs + round.bare_write_secs);
    let ours_secs = median(|round| round.ours_secs);
    let exact = rounds.iter().all(|round| round.exact);
    let ratio = floor_secs / ours_secs;
    let per_sec = |secs: f64| (f64::from(plan.customers) / secs).round();
    eprintln!(
        "median of {}: floor {floor_secs:.2} s ({:.0} messages/s), ours {ours_secs:.2} s ({:.0} messages/s), ratio {ratio:.2}; \
         worker at most {worker_peak_mb:.0} MB",
        plan.rounds,
        per_sec(floor_secs),
        per_sec(ours_secs),
    );
    println!(
        "{}",
        json!({
            "subject": "broadcast", "channel": plan.channel, "customers": plan.customers, "rounds": plan.rounds,
            // A fast send that is not exact is worth nothing.
            "ratio": exact.then(|| rounded(ratio)),
            "exact": exact,
            "floor": "the same requests bare + the same rows bare",
            "floor_secs": rounded(floor_secs), "ours_secs": rounded(ours_secs),
            "bare_send_secs": rounded(median(|round| round.bare_send_secs)),
            "bare_write_secs": rounded(median(|round| round.bare_write_secs)),
            "msgs_per_sec": per_sec(ours_secs), "floor_msgs_per_sec": per_sec(floor_secs),
            "in_flight": floor.in_flight,
            "worker_peak_mb": rounded(worker_peak_mb),
            // Of the last round. Where other programs share the machine these say more than the seconds do.
            "cpu_secs": rounds.last().map(|round| {
                json!({ "bare_send": round.bare_cpu, "bare_write": round.bare_write_cpu, "ours": round.ours_cpu })
            }),
        })
    );
    exact
}
