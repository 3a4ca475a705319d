//! A secret that proves a callback is kept nowhere once it has done so.

use carillon::app::ProcessKind;
use carillon_jobs::WebhookIngest;
use serde_json::json;

use crate::{
    wait::until,
    webhook_scene::{CALLBACK_TOKEN, Scene},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_callback_that_a_frontend_stored_goes_once_it_has_proved_it() {
    let scene = Scene::new(&[]).await;
    let sender = scene
        .sender("sms", &json!({"provider": "mitake", "callback_token": CALLBACK_TOKEN}))
        .await;
    let query = format!("msgid=77&token={CALLBACK_TOKEN}&StatusFlag=4&dstaddr=0912345678");
    scene
        .world
        .run(&format!(
            "select store_webhook('{sender}', 'mitake', '{{}}', '', '{query}')"
        ))
        .await;
    let _working = scene.world.work();
    let app = scene.world.app(ProcessKind::Command);
    let queue = app.queue().unwrap();
    scene.world.run("update webhook_pending set due_at = now()").await;
    queue
        .ring(carillon_jobs::Envelope::new(WebhookIngest { webhook_id: None }))
        .await
        .unwrap();
    until("it is done", async || scene.count("done").await == 1).await;
    let kept: String = scene.world.one("select query from webhook").await;
    assert_eq!(kept, "msgid=77&StatusFlag=4&dstaddr=0912345678");
}
