//! Text messages end to end: by Mitake each recipient gets exactly one whatever happens, by Twilio at most one, and its StatusCallback
//! resolves what nobody knew.

use carillon_sandbox::{Channel, Fault, FaultKind};

use crate::{
    sms_scene::{customers, mitake, seal, world},
    wait::eventually,
    world::World,
};

const HELLO: &str = "{first_name} 您好，週末特賣";

fn got(world: &World, channel: Channel) -> (u64, u64) {
    let summary = world.sandbox.handle().channel_summary(channel);
    (summary.messages, summary.max_to_one_recipient)
}

async fn nothing_is_left(world: &World, id: carillon_jobs::BroadcastId, channel: Channel) {
    assert_eq!(world.count(id, "queued").await + world.count(id, "sending").await, 0);
    assert!(got(world, channel).1 <= 1, "somebody got more than one");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_by_mitake_reaches_everybody_with_the_name_in_front() {
    let (world, _) = world("mitake").await;
    customers(&world, 120).await;
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(world.state(id).await, "completed");
    assert_eq!(got(&world, Channel::Mitake), (120, 1));
    assert_eq!(world.count(id, "accepted").await, 120);
    let spent: i64 = world.one("select 1005000 - allowance - extra from token_account").await;
    assert_eq!(spent, 120 * 32);
    let all = world.sandbox.handle().received(Channel::Mitake, &carillon_sandbox::ReceivedQuery::default());
    for message in all {
        assert!(message.text.starts_with("EasyStore 小") && message.text.ends_with("您好，週末特賣"), "{}", message.text);
        assert_eq!(message.marker, id.0.simple().to_string());
        assert!(message.recipient.starts_with("09"), "{}", message.recipient);
    }
    nothing_is_left(&world, id, Channel::Mitake).await;
}
