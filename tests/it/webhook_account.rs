//! Whose events of other accounts are, when senders are connected late, changed, or say to be who they are not.

use carillon_sandbox::webhooks::{Signer, messenger};
use serde_json::json;
use uuid::Uuid;

use crate::{
    wait::eventually,
    webhook_scene::{APP_SECRET, Scene, VERIFY_TOKEN},
};

const AT_MS: i64 = 1_790_000_000_000;

/// Tells the first sender's address of a message to this page.
async fn told(scene: &Scene, sender: Uuid, page: &str, id: &str) {
    let text = messenger::text(page, "psid", AT_MS, id, "hi");
    let request = Signer::Meta(APP_SECRET.to_owned()).json(&messenger::body(page, AT_MS, &[text]));
    assert_eq!(scene.tell("messenger", sender, &request).await, 200);
}

async fn messages_of(scene: &Scene, sender: Uuid) -> i64 {
    let sql = format!(
        "select count(*) from message m join conversation c on c.id = m.conversation_id where c.sender_id = '{sender}'"
    );
    scene.world.one(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_is_found_by_the_account_its_credentials_have_now() {
    let scene = Scene::new(&[]).await;
    let first = scene.messenger("page-1").await;
    let late = scene.sender("messenger", &json!({})).await;
    let moved = scene.messenger("page-3").await;
    let _working = scene.world.work();
    // Everybody's account is noted now: none, and page-3.
    told(&scene, first, "page-9", "m_0").await;
    eventually("nobody has that page", 40, async || scene.count("failed").await == 1).await;
    let entered = |page: &str| json!({"page_id": page, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN});
    scene.change(late, &entered("page-2")).await;
    scene.change(moved, &entered("page-4")).await;
    told(&scene, first, "page-2", "m_1").await;
    told(&scene, first, "page-4", "m_2").await;
    eventually("both are done", 40, async || scene.count("done").await == 2).await;
    assert_eq!(
        [messages_of(&scene, late).await, messages_of(&scene, moved).await],
        [1, 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_claims_anothers_page_keeps_nothing_from_it() {
    let scene = Scene::new(&[]).await;
    let first = scene.messenger("page-1").await;
    let claims = json!({"page_id": "page-2", "app_secret": "of another app", "verify_token": VERIFY_TOKEN});
    let claims = scene.sender("messenger", &claims).await;
    let owner = scene.messenger("page-2").await;
    let _working = scene.world.work();
    told(&scene, first, "page-2", "m_1").await;
    eventually("it is done", 40, async || scene.count("done").await == 1).await;
    assert_eq!(
        [messages_of(&scene, claims).await, messages_of(&scene, owner).await],
        [0, 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn instagrams_events_are_of_the_page_that_has_the_account() {
    let scene = Scene::new(&[]).await;
    let other = scene.messenger("page-1").await;
    let both =
        json!({"page_id": "page-2", "instagram_id": "ig-2", "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN});
    let both = scene.sender("messenger", &both).await;
    let _working = scene.world.work();
    for (address, id) in [(both, "m_1"), (other, "m_2")] {
        let text = messenger::text("ig-2", "igsid", AT_MS, id, "hi");
        let mut body = messenger::body("ig-2", AT_MS, &[text]);
        body["object"] = "instagram".into();
        let request = Signer::Meta(APP_SECRET.to_owned()).json(&body);
        assert_eq!(scene.tell("messenger", address, &request).await, 200);
    }
    eventually("both are done", 40, async || scene.count("done").await == 2).await;
    assert_eq!(messages_of(&scene, both).await, 2);
}
