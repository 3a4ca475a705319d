//! The one way to wait for something that has no signal of its own. Never a bare sleep: a condition, and a deadline.

use std::time::{Duration, Instant};

/// How long an ordinary condition may take before its test fails, in seconds.
const PATIENCE_SECS: u64 = 30;

/// Waits until `done` holds.
pub(crate) async fn until(what: &str, done: impl AsyncFnMut() -> bool) {
    eventually(what, PATIENCE_SECS, done).await;
}

/// Waits until a count has not moved for a second and a half; returns it. It must have come to rest within a second.
pub(crate) async fn comes_to_rest(what: &str, count: impl Fn() -> u64) -> u64 {
    let asked_at = Instant::now();
    let (mut last, mut rests_since) = (count(), asked_at);
    while rests_since.elapsed() < Duration::from_millis(1_500) {
        let now = count();
        if now != last {
            (last, rests_since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = rests_since - asked_at;
    assert!(took < Duration::from_secs(1), "{what} goes on for {took:?}");
    last
}

/// Waits until `done` holds, at most `secs`.
pub(crate) async fn eventually(what: &str, secs: u64, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(secs);
    while !done().await {
        assert!(Instant::now() < deadline, "gave up after {secs} s waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
