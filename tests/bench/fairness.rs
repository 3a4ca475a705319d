//! `fairness`: what a shop notices of the others, at full size, with real workers and the sandbox.
//!
//! Two questions, each on senders of the shops' own and on one sender of the platform at its limit:
//! - A large shop sends to two hundred thousand and opens three hundred broadcasts more; a second after it began another shop
//!   sends to ten. How long do those ten take?
//! - Two hundred shops with equal work begin together. By how much do the first and the last end apart from the mean?
//!
//! What they are held against is what was promised: 3 s and ±20 %.

use std::{process::ExitCode, time::Duration};

use carillon::channel::Channel;
use carillon_jobs::BroadcastId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bed::Bed;

const USAGE: &str =
    "usage: fairness [--only newcomer|equal] [--customers N] [--more N] [--shops N] [--each N] [--workers N]";
const PROMISED_SECS: f64 = 3.0;
const PROMISED_PERCENT: f64 = 20.0;
const PATIENCE_SECS: u64 = 300;
/// A sender of the platform that is the narrowest place by far, for the newcomer …
const NARROW_PER_SEC: f64 = 50.0;
/// … and one that two hundred shops can use up.
const SHARED_PER_SEC: f64 = 3_000.0;

struct Plan {
    newcomer: bool,
    equal: bool,
    customers: u32,
    more: u32,
    shops: u32,
    each: u32,
    workers: u32,
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut plan = Self {
            newcomer: true,
            equal: true,
            customers: 200_000,
            more: 300,
            shops: 200,
            each: 600,
            workers: 1,
        };
        for pair in arguments.chunks(2) {
            let value = pair.get(1)?;
            if pair[0] == "--only" {
                (plan.newcomer, plan.equal) = match value.as_str() {
                    "newcomer" => (true, false),
                    "equal" => (false, true),
                    _ => return None,
                };
                continue;
            }
            let number = value.parse().ok().filter(|n| *n > 0)?;
            match pair[0].as_str() {
                "--customers" => plan.customers = number,
                "--more" => plan.more = number,
                "--shops" => plan.shops = number,
                "--each" => plan.each = number,
                "--workers" => plan.workers = number,
                _ => return None,
            }
        }
        Some(plan)
    }
}

pub fn run(arguments: &[String]) -> ExitCode {
    let Some(plan) = Plan::parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if runtime.block_on(measure(&plan)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn measure(plan: &Plan) -> bool {
    let mut told =
        json!({ "subject": "fairness", "workers": plan.workers, "floor": "what was promised: 3 s and ±20 %" });
    let mut ratio = f64::INFINITY;
    if plan.newcomer {
        let own_secs = newcomer(plan, Channel::Line, None).await;
        let shared_secs = newcomer(plan, Channel::App, Some(NARROW_PER_SEC)).await;
        ratio = ratio.min(PROMISED_SECS / own_secs.max(shared_secs));
        told["newcomer"] = json!({ "beside_customers": plan.customers, "and_broadcasts": plan.more,
            "own_sender_secs": rounded(own_secs), "shared_sender_secs": rounded(shared_secs) });
    }
    if plan.equal {
        let own = spread(plan, None).await;
        let shared = spread(plan, Some(SHARED_PER_SEC)).await;
        ratio = ratio.min(PROMISED_PERCENT / own.percent.max(shared.percent));
        told["equal_work"] = json!({ "shops": plan.shops, "messages_each": plan.each,
            "own_senders": own.json(), "shared_sender": shared.json() });
    }
    told["ratio"] = json!(rounded(ratio));
    println!("{told}");
    ratio >= 1.0
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A shop and the sender it uses.
struct Shop {
    id: Uuid,
    sender: Uuid,
    channel: Channel,
}

/// A sender of a shop or (`None`) of the platform.
async fn sender(bed: &Bed, shop: Option<Uuid>, channel: Channel, rate_per_sec: f64) -> Uuid {
    let id = Uuid::now_v7();
    let sealed = bed.app().secrets.seal(bed.credentials(channel).as_bytes(), id).unwrap();
    sqlx::query(
        "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
         values ($1, $2, $3, 'fair', true, $4, $5)",
    )
    .bind(id)
    .bind(shop)
    .bind(channel)
    .bind(sealed)
    .bind(rate_per_sec)
    .execute(&bed.pool)
    .await
    .unwrap();
    id
}

async fn shop(bed: &Bed, customers: u32, channel: Channel, shared: Option<Uuid>) -> Shop {
    let id = Uuid::now_v7();
    bed.run(&format!(
        "insert into shop (id, name, url, plan) values ('{id}', 'Tea', 'https://tea.example', 'core');
         select ledger_top_up('{id}', 1000000000, 'bench-{id}')"
    ))
    .await;
    let sender = match shared {
        Some(shared) => shared,
        None => sender(bed, Some(id), channel, 10_000_000.0).await,
    };
    bed.run(&format!(
        "with c as (insert into customer (shop_id, first_name) select '{id}', '小' || i from generate_series(1, {customers}) i
                    returning id)
         insert into address (shop_id, sender_id, customer_id, address)
         select '{id}', '{sender}', id, case '{channel}' when 'line' then 'U' || md5(id::text)
                else 'token-' || md5(id::text) || ':APA91b' || md5(id::text) end from c"
    ))
    .await;
    Shop { id, sender, channel }
}

impl Shop {
    /// `n` broadcasts to everybody, sent as a frontend does: in one transaction, then a bell each.
    async fn send(&self, bed: &Bed, n: u32) -> Vec<BroadcastId> {
        let ids: Vec<BroadcastId> = (0..n).map(|_| BroadcastId::new()).collect();
        let list = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        let content = json!({"text": "{first_name} 您好：週年慶全館八折", "title": "週年慶", "subject": "週年慶",
            "fallbacks": {"first_name": "您", "last_name": "您", "shop_url": "https://tea.example"}});
        bed.run(&format!(
            "begin;
             insert into broadcast (id, shop_id, name, mode, content, audience)
             select id, '{shop}', 'Sale', 'priority_single', '{content}', '{{\"all\": true}}' from unnest(array[{list}]::uuid[]) id;
             insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens)
             select id, 0, '{channel}', '{sender}', 1 from unnest(array[{list}]::uuid[]) id;
             select send_broadcast(id) from unnest(array[{list}]::uuid[]) id;
             commit",
            shop = self.id,
            sender = self.sender,
            channel = self.channel,
        ))
        .await;
        let queue = bed.app().queue().unwrap();
        for id in &ids {
            carillon::reconcile::ring(&queue, *id, None).await.unwrap();
        }
        ids
    }

    async fn accepted(&self, bed: &Bed) -> i64 {
        bed.one(&format!(
            "select coalesce(sum(t.n), 0)::bigint from tally t join broadcast b on b.id = t.broadcast_id
              where b.shop_id = '{}' and t.stage = 'send' and t.outcome = 'accepted'",
            self.id
        ))
        .await
    }
}

/// Seconds from a small shop's send to the last of its ten messages.
async fn newcomer(plan: &Plan, channel: Channel, shared_per_sec: Option<f64>) -> f64 {
    let bed = Bed::new().await;
    let shared = match shared_per_sec {
        Some(rate) => Some(sender(&bed, None, channel, rate).await),
        None => None,
    };
    let large = shop(&bed, plan.customers, channel, shared).await;
    let small = shop(&bed, 10, channel, shared).await;
    bed.run("vacuum analyze customer").await;
    bed.run("vacuum analyze address").await;
    let processes: Vec<_> = (0..plan.workers)
        .map(|_| bed.process("worker"))
        .chain([bed.process("scheduler")])
        .collect();
    large.send(&bed, 1).await;
    large.send(&bed, plan.more).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let while_planning = time_ten(&bed, &small).await;
    let under_way = format!(
        "select coalesce(sum(n), 0) > 0 from tally t join broadcast b on b.id = t.broadcast_id
        where b.shop_id = '{}' and t.stage = 'send'",
        large.id
    );
    bed.wait("the large one is under way", &under_way, PATIENCE_SECS).await;
    let before = large.accepted(&bed).await;
    let while_sending = time_ten(&bed, &small).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let on = large.accepted(&bed).await - before;
    eprintln!(
        "ten messages beside {} and {} broadcasts more on {}: {while_planning:.2} s while those are planned, {while_sending:.2} s \
         while they are sent; the large one went on with {on} meanwhile",
        plan.customers,
        plan.more,
        shared_per_sec.map_or_else(
            || "senders of their own".to_owned(),
            |rate| format!("one shared sender of {rate}/s")
        ),
    );
    assert!(on > 0, "the large shop stands still");
    drop(processes);
    bed.close().await;
    while_planning.max(while_sending)
}

async fn time_ten(bed: &Bed, small: &Shop) -> f64 {
    let id = small.send(bed, 1).await[0];
    let ended = format!("select finished_at is not null from broadcast where id = '{id}'");
    bed.wait("the ten are sent", &ended, PATIENCE_SECS).await;
    let accepted = format!("select count(*) from delivery_result where broadcast_id = '{id}' and state = 'accepted'");
    assert_eq!(bed.one::<i64>(&accepted).await, 10);
    bed.one(&format!(
        "select extract(epoch from finished_at - queued_at)::float8 from broadcast where id = '{id}'"
    ))
    .await
}

/// When shops with equal work ended, in seconds from the common start.
struct Spread {
    first_secs: f64,
    mean_secs: f64,
    last_secs: f64,
    percent: f64,
}

impl Spread {
    fn json(&self) -> Value {
        json!({ "first_secs": rounded(self.first_secs), "mean_secs": rounded(self.mean_secs),
                "last_secs": rounded(self.last_secs), "percent": rounded(self.percent) })
    }
}

async fn spread(plan: &Plan, shared_per_sec: Option<f64>) -> Spread {
    let bed = Bed::new().await;
    let shared = match shared_per_sec {
        Some(rate) => Some(sender(&bed, None, Channel::App, rate).await),
        None => None,
    };
    let mut shops = Vec::new();
    for _ in 0..plan.shops {
        shops.push(shop(&bed, plan.each, Channel::App, shared).await);
    }
    bed.run("vacuum analyze customer").await;
    bed.run("vacuum analyze address").await;
    for shop in &shops {
        shop.send(&bed, 1).await;
    }
    let began: f64 = bed.one("select extract(epoch from clock_timestamp())::float8").await;
    let processes: Vec<_> = (0..plan.workers)
        .map(|_| bed.process("worker"))
        .chain([bed.process("scheduler")])
        .collect();
    let all = "select not exists (select from broadcast where finished_at is null)";
    bed.wait("every shop's broadcast ends", all, PATIENCE_SECS).await;
    drop(processes);
    let ended: Vec<f64> = bed
        .one("select array_agg(extract(epoch from finished_at)::float8 order by finished_at) from broadcast")
        .await;
    let accepted: i64 = bed
        .one("select count(*) from delivery_result where state = 'accepted'")
        .await;
    assert_eq!(accepted, i64::from(plan.shops * plan.each));
    assert!(
        carillon::ledger::audit(&bed.pool.clone().into(), None)
            .await
            .unwrap()
            .is_clean()
    );
    bed.close().await;
    let secs: Vec<f64> = ended.iter().map(|at| at - began).collect();
    let mean_secs = secs.iter().sum::<f64>() / f64::from(plan.shops);
    let (first_secs, last_secs) = (secs[0], secs[secs.len() - 1]);
    let percent = 100.0 * (mean_secs - first_secs).max(last_secs - mean_secs) / mean_secs;
    eprintln!(
        "{} shops with {} messages each on {}: first {first_secs:.1} s, mean {mean_secs:.1} s, last {last_secs:.1} s, ±{percent:.0} %",
        plan.shops,
        plan.each,
        shared_per_sec.map_or_else(
            || "senders of their own".to_owned(),
            |rate| format!("one shared sender of {rate}/s")
        ),
    );
    Spread {
        first_secs,
        mean_secs,
        last_secs,
        percent,
    }
}
