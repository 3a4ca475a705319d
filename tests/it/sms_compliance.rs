//! A text message with a link or a number nobody registered waits for a person, with nothing held; without a recorded identity none leaves.

use carillon::broadcast::{
    BroadcastState,
    compliance::{self, ReviewError},
    estimate_stored,
};
use carillon_jobs::{BroadcastId, SenderId};
use carillon_sandbox::Channel;
use uuid::Uuid;

use crate::{
    sms_scene::{customers, world},
    wait::eventually,
    world::World,
};

pub(crate) const PLAIN: &str = "{first_name} 您好，週末特賣";
const LINKED: &str = "特賣 https://shop.example/sale 電洽0912-345-678";

/// A world with customers, workers at work, and its sender.
pub(crate) async fn scene() -> (World, Uuid) {
    let (world, sender) = world("mitake").await;
    customers(&world, 12).await;
    (world, sender)
}

async fn waits(world: &World, id: BroadcastId) {
    eventually("the broadcast waits for a review", 20, async || {
        world.state(id).await == "compliance_review"
    })
    .await;
    let held: i64 = world.one("select held_allowance + held_extra from token_account").await;
    assert_eq!(held, 0, "nothing is held meanwhile");
    let planned: i64 = world
        .one(&format!("select count(*) from delivery where broadcast_id = '{id}'"))
        .await;
    assert_eq!(planned, 0);
    assert_eq!(world.sandbox.handle().channel_summary(Channel::Mitake).requests, 0);
}

pub(crate) fn config(world: &World) -> carillon::broadcast::BroadcastConfig {
    world.app(carillon::app::ProcessKind::Command).config.broadcast.clone()
}

pub(crate) async fn ring(world: &World, id: BroadcastId) {
    let queue = world.app(carillon::app::ProcessKind::Command).queue().unwrap();
    carillon::reconcile::ring(&queue, id, None).await.unwrap();
}

async fn register(world: &World, sender: Uuid, what: &str) -> bool {
    let one = compliance::registration(what).unwrap();
    compliance::register(world.pool(), SenderId(sender), &one, "amy", "contract 7")
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_registered_waits_until_a_person_clears_it() {
    let (world, _) = scene().await;
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    let estimate = estimate_stored(world.pool(), &config(&world), id).await.unwrap();
    assert!(
        estimate
            .warnings
            .iter()
            .any(|one| one.contains("link shop.example/sale, phone +886912345678")),
        "{:?}",
        estimate.warnings
    );
    let _working = world.work();
    world.send(id).await;
    waits(&world, id).await;
    let reviews = compliance::reviews(world.pool(), &config(&world)).await.unwrap();
    assert_eq!(reviews.len(), 1);
    assert_eq!(reviews[0].findings, ["link shop.example/sale", "phone +886912345678"]);
    assert!(reviews[0].text.starts_with("EasyStore 特賣"), "{}", reviews[0].text);
    let told: String = world
        .one("select subject from event where kind = 'broadcast_in_review'")
        .await;
    assert_eq!(told, id.to_string());
    let state = compliance::clear(world.pool(), &config(&world), id, "amy", "the shop's own page")
        .await
        .unwrap();
    assert_eq!(state, BroadcastState::Queued);
    ring(&world, id).await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 12);
    let logged: Vec<String> = world
        .one("select array_agg(actor || ' ' || action || ' ' || subject) from operator_action where action like 'sms.review%'")
        .await;
    assert_eq!(logged, [format!("amy sms.review.clear broadcast {id}")]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_ends_and_says_why() {
    let (world, _) = scene().await;
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    let _working = world.work();
    world.send(id).await;
    waits(&world, id).await;
    let state = compliance::reject(world.pool(), id, "amy", "somebody else's page")
        .await
        .unwrap();
    assert_eq!(state, BroadcastState::Failed);
    let reason: String = world
        .one(&format!("select state_reason from broadcast where id = '{id}'"))
        .await;
    assert_eq!(reason, "compliance_rejected: somebody else's page");
    let again = compliance::reject(world.pool(), id, "amy", "again").await;
    assert!(matches!(again, Err(ReviewError::NotWaiting(_))));
    let nameless = world.draft("priority_single", &["sms"], LINKED).await;
    world.send(nameless).await;
    waits(&world, nameless).await;
    let refused = compliance::reject(world.pool(), nameless, " ", "why").await;
    assert!(matches!(refused, Err(ReviewError::Text)), "{refused:?}");
    assert_eq!(world.state(nameless).await, "compliance_review");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_leaves_at_once() {
    let (world, sender) = scene().await;
    assert!(register(&world, sender, "https://shop.example/sale").await);
    assert!(!register(&world, sender, "shop.example/sale/").await, "it is the same");
    assert!(register(&world, sender, "0912 345 678").await);
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 12);
    let link = compliance::registration("shop.example/sale").unwrap();
    assert!(
        compliance::unregister(world.pool(), SenderId(sender), &link, "amy", "expired")
            .await
            .unwrap()
    );
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    let before = world.sandbox.handle().channel_summary(Channel::Mitake).messages;
    world.send(id).await;
    eventually("the next one waits", 20, async || {
        world.state(id).await == "compliance_review"
    })
    .await;
    assert_eq!(world.sandbox.handle().channel_summary(Channel::Mitake).messages, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_nobody_knows_sends_nothing_whatever_a_person_clears() {
    let (world, sender) = scene().await;
    world.run("delete from sms_identity").await;
    let id = world.draft("priority_single", &["sms"], PLAIN).await;
    let _working = world.work();
    world.send(id).await;
    waits(&world, id).await;
    let refused = compliance::clear(world.pool(), &config(&world), id, "amy", "please").await;
    assert!(matches!(refused, Err(ReviewError::Identity(_))), "{refused:?}");
    // Nor when somebody writes the decision by hand.
    world
        .run(&format!("select decide_review('{id}', 'cleared', 'amy', 'by hand')"))
        .await;
    ring(&world, id).await;
    eventually("it is asked about again", 20, async || {
        world.one("select decision is null from compliance_review").await
            && world.state(id).await == "compliance_review"
    })
    .await;
    compliance::identity(world.pool(), SenderId(sender), "OtherName", "amy", "approved")
        .await
        .unwrap();
    let refused = compliance::clear(world.pool(), &config(&world), id, "amy", "please").await;
    assert!(
        matches!(refused, Err(ReviewError::Identity(_))),
        "messages begin with another name: {refused:?}"
    );
    compliance::identity(world.pool(), SenderId(sender), "EasyStore", "amy", "approved")
        .await
        .unwrap();
    compliance::clear(world.pool(), &config(&world), id, "amy", "recorded")
        .await
        .unwrap();
    ring(&world, id).await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_text_than_the_cleared_one_waits_again() {
    let (world, _) = scene().await;
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    // The shop plans another one, so that this one waits between its clearing and its planning.
    let working = world.work();
    world.send(id).await;
    waits(&world, id).await;
    working.stop().await;
    compliance::clear(world.pool(), &config(&world), id, "amy", "fine")
        .await
        .unwrap();
    world
        .run(&format!(
            "update broadcast set content = jsonb_set(content, '{{text}}', '\"看 evil.example\"') where id = '{id}'"
        ))
        .await;
    let _working = world.work();
    ring(&world, id).await;
    eventually("the other text waits", 20, async || {
        world
            .one::<String>("select findings::text from compliance_review")
            .await
            == "[\"link evil.example\"]"
            && world.state(id).await == "compliance_review"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_one_is_looked_at_when_sent_and_again_when_its_time_comes() {
    let (world, _) = scene().await;
    let (cleared, left) = (
        world.draft("priority_single", &["sms"], LINKED).await,
        world.draft("priority_single", &["sms"], LINKED).await,
    );
    world
        .run("update broadcast set scheduled_at = now() + interval '1 hour'")
        .await;
    let _working = world.work();
    for id in [cleared, left] {
        world.send(id).await;
    }
    eventually("both can be decided before their time", 20, async || {
        world
            .one::<i64>("select count(*) from compliance_review where decision is null")
            .await
            == 2
    })
    .await;
    assert_eq!(world.state(cleared).await, "scheduled");
    let state = compliance::clear(world.pool(), &config(&world), cleared, "amy", "fine")
        .await
        .unwrap();
    assert_eq!(state, BroadcastState::Scheduled);
    world
        .run("update broadcast set scheduled_at = now() - interval '1 second'")
        .await;
    world.ended(cleared, 30).await;
    assert_eq!(world.count(cleared, "accepted").await, 12);
    eventually("the other one waits", 20, async || {
        world.state(left).await == "compliance_review"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_name_cannot_complete_a_link_or_a_number() {
    let (world, _) = scene().await;
    world
        .run("update customer set first_name = 'tw' where id % 3 = 0")
        .await;
    world
        .run("update customer set first_name = '345678' where id % 3 = 1")
        .await;
    let id = world
        .draft("priority_single", &["sms"], "看 shop.{first_name} 或 0912{first_name}")
        .await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(world.count(id, "accepted").await, 12);
    let all = world
        .sandbox
        .handle()
        .received(Channel::Mitake, &carillon_sandbox::ReceivedQuery::default());
    for message in all {
        let found = carillon::channel::Contacts::find(&message.text);
        assert!(found.is_empty(), "{}: {found:?}", message.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_review_the_commands_say_what_to_do() {
    let (world, sender) = scene().await;
    let id = world.draft("priority_single", &["sms"], LINKED).await;
    let working = world.work();
    world.send(id).await;
    waits(&world, id).await;
    working.stop().await;
    let run = async |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_carillon"))
            .args(args)
            .envs(&world.env)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (id, sender) = (id.to_string(), sender.to_string());
    let (code, text) = run(&["broadcast", "review", "list"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("link shop.example/sale") && text.contains("EasyStore 特賣"),
        "{text}"
    );
    let (_, text) = run(&["jobs", "explain", &id]).await;
    assert!(text.contains("broadcast review clear"), "{text}");
    let (code, text) = run(&[
        "sender",
        "sms",
        "register",
        &sender,
        "shop.example 0912345678",
        "--by",
        "amy",
        "--reason",
        "x",
    ])
    .await;
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&[
        "sender",
        "sms",
        "register",
        &sender,
        "shop.example",
        "--by",
        "amy",
        "--reason",
        "contract",
    ])
    .await;
    assert_eq!(code, Some(0), "{text}");
    let (_, text) = run(&["sender", "sms", "list"]).await;
    assert!(text.contains("EasyStore") && text.contains("shop.example"), "{text}");
    let (code, text) = run(&["broadcast", "review", "reject", &id, "--by", "amy", "--reason", "no"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&["broadcast", "review", "clear", &id, "--by", "amy", "--reason", "yes"]).await;
    assert_eq!(code, Some(2), "{text}");
}
