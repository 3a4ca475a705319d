//! What the customers of a shop front have seen of what the shop wrote there.

use carillon::channel::webhook::{Echo, WebhookEvent, What};

use crate::{
    fixture_db::database,
    inbox::{Scene, wrote},
};

#[tokio::test]
async fn what_the_customer_of_a_shop_front_has_seen_is_noted_whenever_it_is_told() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "app").await;
    let answer = |id: &str, secs: i64| WebhookEvent {
        what: What::Echo(Echo {
            message_id: id.to_owned(),
            text: Some("yes".to_owned()),
            ..Echo::default()
        }),
        ..wrote("c-1", id, "", secs)
    };
    let seen = |id: &str, secs: i64| WebhookEvent {
        key: format!("seen {id} {secs}"),
        what: What::Seen {
            message_id: id.to_owned(),
        },
        ..wrote("c-1", id, "", secs)
    };
    scene.apply(&[answer("m1", 0)]).await;
    scene.apply(&[seen("m1", 20)]).await;
    scene.apply(&[seen("m1", 10), seen("m2", 15)]).await;
    scene.apply(&[answer("m2", 5)]).await;
    let read: Vec<String> = scene
        .get("select array_agg(provider_id || ' ' || extract(epoch from read_at - '2026-01-31T12:00:00Z')::int order by provider_id) from message where conversation_id is not null")
        .await;
    assert_eq!(read, ["m1 10", "m2 15"]);
    assert_eq!(scene.get::<i64>("select count(*) from pending_receipt").await, 0);
}
