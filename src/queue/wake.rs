//! Listening for bells, so that an idle worker starts a job at once and not at its next look.
//!
//! Only ever a shortcut: a message that is missed costs one poll interval.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{engine::Engine, keys};

/// Runs until `finish` is cancelled.
pub(crate) async fn run(engine: Arc<Engine>, finish: CancellationToken) {
    let channel = keys::wake(&engine.config.key_prefix);
    finish
        .run_until_cancelled(async {
            loop {
                if let Ok(mut listening) = engine.store.redis.listen().await
                    && listening.subscribe(&channel).await.is_ok()
                {
                    // Whatever rang before the subscription stood.
                    engine.wake.notify_one();
                    let mut bells = listening.on_message();
                    while bells.next().await.is_some() {
                        engine.wake.notify_one();
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
        .await;
}
