//! Webhooks from the socket to the end of their job: on disk before they are acknowledged, worked through once, whatever is away.

use carillon::app::ProcessKind;
use carillon_jobs::Kind;

use crate::{wait::until, webhook_scene::Scene};

async fn ready(scene: &Scene) -> u64 {
    let queue = scene.world.app(ProcessKind::Command).queue().unwrap();
    let depths = queue.depths().await.unwrap();
    depths
        .iter()
        .find(|depth| depth.kind == Kind::WebhookIngest)
        .unwrap()
        .ready
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_webhook_is_stored_rung_for_and_done() {
    let scene = Scene::new(&[]).await;
    assert_eq!(scene.line_text(1).await, 200);
    assert_eq!((scene.count("stored").await, scene.count("done").await), (1, 0));
    until("the bell is out", async || ready(&scene).await == 1).await;
    let _working = scene.world.work();
    until("it is done", async || scene.count("done").await == 1).await;
    assert_eq!(scene.world.one::<i64>("select count(*) from webhook_pending").await, 0);
}
