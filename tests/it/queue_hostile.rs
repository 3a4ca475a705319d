//! Hostile texts against the real worker process: every one of them ends as a dead job with its raw form, and the process
//! that met them goes on.

use std::collections::BTreeMap;

use carillon::{
    app::ProcessKind,
    queue::dead::{self, DeadFilter},
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use ring::digest::{SHA256, digest};

use crate::{
    fixture::text,
    wait::{eventually, until},
    world::World,
};

#[path = "../../jobs/tests/hostile_texts/mod.rs"]
mod hostile_texts;

const GENERATED: usize = 1_500;
const KEPT_BYTES: usize = 64 * 1024;

fn sha(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// What is kept of a text: all of it, but for what a worker itself would have put before it.
fn without_header(text: &[u8]) -> &[u8] {
    let forged = hostile_texts::FORGED_HEADERS.iter();
    forged.fold(text, |text, header| text.strip_prefix(*header).unwrap_or(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_text_is_dead_with_its_raw_form_and_the_worker_goes_on() {
    let world = World::new(&[]).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let mut worker = world.process("worker");
    let (mut runner, strategy) = (TestRunner::default(), hostile_texts::hostile_text());
    let mut texts = hostile_texts::worst_texts();
    texts.extend((0..GENERATED).map(|_| strategy.new_tree(&mut runner).unwrap().current()));
    for text in &texts {
        queue.push_raw("broadcast-send", text).await.unwrap();
    }
    // A job like any other behind them: it is for a broadcast that does not exist, so it too ends among the dead.
    let (probe, _) = text();
    queue.push_raw("broadcast-send", probe.as_bytes()).await.unwrap();
    texts.push(probe.into_bytes());

    let all = DeadFilter::default();
    eventually("all are dead", 60, async || {
        dead::count(world.pool(), &all).await.unwrap() == texts.len() as u64
    })
    .await;
    until("Redis holds none of them any more", async || {
        let depth = queue.depths().await.unwrap().remove(0);
        (depth.ready, depth.running, depth.delayed) == (0, 0, 0)
    })
    .await;
    assert!(worker.runs(), "the worker is the one that began");

    let mut pushed: BTreeMap<Vec<u8>, Vec<&[u8]>> = BTreeMap::new();
    for text in &texts {
        let text = without_header(text);
        pushed.entry(sha(text)).or_default().push(text);
    }
    let rows = dead::list(world.pool(), &all, None, u32::MAX).await.unwrap();
    for row in rows {
        let same = pushed.get_mut(&row.raw_sha256).expect("nothing else died");
        let text = same.pop().expect("each only once");
        assert_eq!(row.raw, text[..text.len().min(KEPT_BYTES)]);
        assert_eq!(row.raw_length, i64::try_from(text.len()).unwrap());
        assert!(!row.error.contains(hostile_texts::MARK) && !row.error.is_empty());
    }
    assert!(pushed.values().all(Vec::is_empty));
}
