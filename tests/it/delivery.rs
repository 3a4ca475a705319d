//! A broadcast end to end, in one process, against the sandbox: what arrives, what is charged, what a stop leaves.

use carillon_sandbox::Channel;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reachable_gets_the_message_once_and_exactly_that_is_charged() {
    let world = World::new(&[]).await;
    world.customers(600, "true").await;
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(world.state(id).await, "completed");
    assert_eq!(world.count(id, "accepted").await, 600);
    let summary = world.sandbox.handle().channel_summary(Channel::Line);
    assert_eq!((summary.messages, summary.distinct_recipients, summary.max_to_one_recipient), (600, 600, 1));
    assert_eq!(world.one::<i64>("select 1005000 - allowance - extra from token_account").await, 3000);
    world.audit().await;
}
