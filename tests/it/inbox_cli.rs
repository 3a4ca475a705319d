//! `carillon conversations`: what the inbox holds; and the scheduler's bell for what customers attach.

use carillon::{
    channel::webhook::{Attachment, AttachmentKind, MediaSource, What},
    inbox::media,
};

use crate::{
    cli::run,
    inbox::{Scene, wrote},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_listed_and_shown_and_what_was_written_only_when_asked_for() {
    let world = World::new(&[]).await;
    let scene = Scene::new(world.pool(), "line").await;
    let nothing = run(&world, &["conversations", "list"]).await;
    assert_eq!((nothing.code, nothing.out.trim()), (0, "no conversations"));
    scene
        .apply(&[
            wrote("U1", "m1", "my number is 0912-345-678", 0),
            wrote("U2", "m2", "hello", 1),
        ])
        .await;
    let table = run(&world, &["conversations", "list", "--phone"]).await;
    assert!(table.out.contains("social") && table.out.contains("phone"), "{table:?}");
    assert_eq!(table.out.trim_end().lines().count(), 3, "{table:?}");
    let listed = run(&world, &["conversations", "list", "--json", "--unread"])
        .await
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[1]["has_phone"], true, "the one written in last is first");
    let id = listed[1]["id"].to_string();
    let shown = run(&world, &["conversations", "show", &id]).await;
    assert!(
        shown.out.contains("customer") && !shown.out.contains("0912"),
        "{shown:?}"
    );
    let shown = run(&world, &["conversations", "show", &id, "--json"]).await;
    assert!(!shown.out.contains("912"), "{shown:?}");
    let shown = run(&world, &["conversations", "show", &id, "--texts"]).await;
    assert!(shown.out.contains("0912-345-678"), "{shown:?}");
    let nobody = run(&world, &["conversations", "show", "999"]).await;
    assert_eq!(nobody.code, 2, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_fetched_is_due_until_somebody_has_it() {
    let world = World::new(&[]).await;
    let scene = Scene::new(world.pool(), "line").await;
    assert!(!media::has_due(world.pool()).await.unwrap());
    let mut event = wrote("U1", "m1", "look", 0);
    if let What::Message(message) = &mut event.what {
        message.attachments = vec![Attachment {
            kind: AttachmentKind::Image,
            source: Some(MediaSource::ProviderId("m1".to_owned())),
            label: None,
        }];
    }
    scene.apply(&[event]).await;
    assert!(media::has_due(world.pool()).await.unwrap());
    world.run("update media set due_at = now() + interval '1 hour'").await;
    assert!(!media::has_due(world.pool()).await.unwrap());
    world.run("delete from media").await;
    assert!(!media::has_due(world.pool()).await.unwrap(), "nobody had it in hand");
}
