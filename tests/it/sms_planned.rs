//! From planning on a text message is what was looked at, whatever is changed behind it, and so is who sends it.

use carillon::broadcast::compliance;
use carillon_jobs::{BroadcastId, SenderId};
use carillon_sandbox::{Channel, ReceivedQuery};

use crate::{
    sms_compliance::{PLAIN, config, ring, scene},
    wait::eventually,
    world::World,
};

/// A broadcast that is planned and has sent nothing: its sender is paused.
async fn planned(world: &World, text: &str) -> BroadcastId {
    world
        .run("update sender set state = 'paused' where channel = 'sms'")
        .await;
    let id = world.draft("priority_single", &["sms"], text).await;
    let working = world.work();
    world.send(id).await;
    eventually("it waits for a review, or is planned", 20, async || {
        matches!(world.state(id).await.as_str(), "compliance_review" | "sending")
    })
    .await;
    if world.state(id).await == "compliance_review" {
        compliance::clear(world.pool(), &config(world), id, "amy", "the shop's own page")
            .await
            .unwrap();
        ring(world, id).await;
        eventually("it is planned", 20, async || world.state(id).await == "sending").await;
    }
    working.stop().await;
    assert_eq!(world.sandbox.handle().channel_summary(Channel::Mitake).requests, 0);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cleared_is_what_leaves_whatever_the_shops_address_becomes() {
    let (world, _) = scene().await;
    world.run("update shop set url = 'https://shop.example/a'").await;
    let id = planned(&world, "看 {shop_url}").await;
    world.run("update shop set url = 'https://evil.example/b'").await;
    let by_hand = sqlx::query("update broadcast set shop_url = 'https://evil.example/c'");
    let error = by_hand.execute(world.pool()).await.unwrap_err();
    assert!(error.to_string().contains("cannot change"), "{error}");
    let review = compliance::reviews(world.pool(), &config(&world)).await.unwrap();
    assert!(review.is_empty());
    world
        .run("update sender set state = 'connected' where channel = 'sms'")
        .await;
    let _working = world.work();
    world.ended(id, 30).await;
    let all = world
        .sandbox
        .handle()
        .received(Channel::Mitake, &ReceivedQuery::default());
    assert_eq!(all.len(), 12);
    for message in all {
        assert_eq!(message.text, "EasyStore 看 https://shop.example/a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_somebody_else_by_now_sends_nothing_more() {
    let (world, sender) = scene().await;
    let id = planned(&world, PLAIN).await;
    let record = async |name: &str| {
        compliance::identity(world.pool(), SenderId(sender), name, "amy", "approved")
            .await
            .unwrap();
        world
            .run("update sender set state = 'connected', state_reason = null where channel = 'sms'")
            .await;
    };
    record("OtherName").await;
    let _working = world.work();
    eventually("its sender waits for a person", 20, async || {
        world
            .one::<bool>("select state = 'paused' and state_reason like 'identity: OtherName is recorded%' from sender where channel = 'sms'")
            .await
    })
    .await;
    assert_eq!(world.sandbox.handle().channel_summary(Channel::Mitake).requests, 0);
    record("EasyStore").await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 12);
    world.audit().await;
}
