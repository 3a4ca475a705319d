//! What counting a message costs: the calls every message makes into `carillon::metrics`, in a bare loop, on one thread and
//! on every core at once, where they share cache lines. The floor is the least that says the same: two looks at the clock and
//! four atomic additions.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use carillon::{
    channel::{Channel, SendOutcome},
    metrics::sends,
};
use serde_json::json;

const CALLS: u32 = 5_000_000;
/// What a worker is to send a second; the share of a core is told for it.
const MESSAGES_PER_SEC: f64 = 40_000.0;
const ANSWER: Duration = Duration::from_millis(20);

/// One message as `delivery/window.rs` counts it: the time of its request, what became of it.
fn ours() {
    let began = Instant::now();
    sends::answered(black_box(Channel::App), began.elapsed() + ANSWER);
    let outcome = SendOutcome::Accepted { provider_id: None };
    sends::ended(black_box(Channel::App), black_box(&outcome), 1);
}

fn floor() {
    static COUNTS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    let began = Instant::now();
    let took = began.elapsed() + ANSWER;
    for (place, count) in COUNTS.iter().enumerate() {
        let by = if place == 0 { u64::from(took.subsec_nanos()) } else { 1 };
        count.fetch_add(black_box(by), Ordering::Relaxed);
    }
}

fn nanos_each(call: fn()) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn on_every_core(call: fn()) -> f64 {
    let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let threads: Vec<_> = (0..cores).map(|_| thread::spawn(move || nanos_each(call))).collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .fold(0.0, f64::max)
}

pub fn run(_: &[String]) {
    // The first round makes the series and warms the caches.
    nanos_each(ours);
    let (ours_alone, floor_alone) = (nanos_each(ours), nanos_each(floor));
    let (ours_together, floor_together) = (on_every_core(ours), on_every_core(floor));
    let share = ours_together * MESSAGES_PER_SEC / 1e9;
    eprintln!("counting a message: {ours_alone:.0} ns on one thread (floor {floor_alone:.0})");
    eprintln!("on every core at once: {ours_together:.0} ns (floor {floor_together:.0})");
    eprintln!(
        "at {MESSAGES_PER_SEC} messages a second: {:.2} % of a core",
        share * 100.0
    );
    let ratio = floor_together / ours_together;
    println!(
        "{}",
        json!({"subject": "metrics", "ns_alone": ours_alone, "ns_together": ours_together, "ratio": ratio})
    );
}
