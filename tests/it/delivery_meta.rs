//! Broadcasts over Messenger and WhatsApp, end to end against the sandbox: through refusals, lost answers and crashes to what
//! echoes and statuses prove afterwards.

use carillon::app::ProcessKind;
use carillon_jobs::BroadcastId;
use carillon_sandbox::{
    Channel, Fault, FaultKind, META_APP_SECRET, PAGE_ID, PHONE_NUMBER_ID, ReceivedQuery,
    webhooks::{Request, Signer, messenger, whatsapp},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    meta_scene::{customers, world},
    wait::eventually,
    webhook_scene::ask,
    world::World,
};

const HELLO: &str = "哈囉 {first_name}";

fn got(world: &World, channel: Channel) -> (u64, u64) {
    let summary = world.sandbox.handle().channel_summary(channel);
    (summary.messages, summary.max_to_one_recipient)
}

async fn nothing_is_left(world: &World, id: BroadcastId) {
    assert_eq!(world.count(id, "queued").await + world.count(id, "sending").await, 0);
    for channel in [Channel::Messenger, Channel::Whatsapp] {
        assert!(got(world, channel).1 <= 1, "{channel}: somebody got more than one");
    }
    world.audit().await;
}

/// How many failed with this class and code, and whether one of their addresses was closed.
async fn failed(world: &World, id: BroadcastId, class: &str, code: &str) -> (i64, bool) {
    let of = format!(
        "from delivery_result r join delivery d using (broadcast_id, channel, customer_id)
         join address a on a.id = d.address_id
         where r.broadcast_id = '{id}' and r.state = 'failed' and r.reason = '{class}' and r.code = '{code}'"
    );
    let count = world.one(&format!("select count(*) {of}")).await;
    let closed = world
        .one(&format!("select coalesce(bool_or(a.state <> 'active'), false) {of}"))
        .await;
    (count, closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_inside_the_window_gets_it_once_and_nobody_outside() {
    let (world, _prices) = world(&[]).await;
    for channel in ["messenger", "whatsapp"] {
        customers(&world, 150, channel, "1 hour").await;
        customers(&world, 50, channel, "25 hours").await;
    }
    let id = world.draft("priority_single", &["messenger", "whatsapp"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    assert_eq!(
        (got(&world, Channel::Messenger), got(&world, Channel::Whatsapp)),
        ((150, 1), (150, 1))
    );
    let skipped: i64 = world
        .one(&format!(
            "select count(*) from skipped_customer where broadcast_id = '{id}' and reason = 'window_closed'"
        ))
        .await;
    assert_eq!(skipped, 100);
    nothing_is_left(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_closes_before_the_first_attempt_is_respected() {
    let (world, _prices) = world(&[]).await;
    customers(&world, 40, "messenger", "1 hour").await;
    let id = world.draft("priority_single", &["messenger"], HELLO).await;
    world
        .run("update sender set state = 'paused' where channel = 'messenger'")
        .await;
    let _working = world.work();
    world.send(id).await;
    let planned = format!("select sending_at is not null from broadcast where id = '{id}'");
    eventually("planning ends", 20, || world.one::<bool>(&planned)).await;
    world
        .run("update address set last_inbound_at = now() - interval '24 hours 1 second' where id % 4 = 0")
        .await;
    let late: i64 = world.one("select count(*) from address where id % 4 = 0").await;
    world
        .run("update sender set state = 'connected'; update lane set due_at = now()")
        .await;
    world.ended(id, 30).await;
    let skipped: i64 = world
        .one(&format!(
            "select count(*) from delivery_result where broadcast_id = '{id}' and state = 'skipped' and reason = 'window_closed'"
        ))
        .await;
    assert_eq!((skipped, world.count(id, "accepted").await), (late, 40 - late));
    assert_eq!(got(&world, Channel::Messenger).0, u64::try_from(40 - late).unwrap());
    nothing_is_left(&world, id).await;
}

/// What the inbox hears is what broadcasts go by: an echo of the page opens nothing, a word of the customer does.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_from_the_customer_opens_the_window_and_an_echo_does_not() {
    let (world, _prices) = world(&[]).await;
    let web = carillon::web::router(world.app(ProcessKind::Web));
    customers(&world, 2, "messenger", "3 days").await;
    let people: Vec<String> = world.one("select array_agg(address order by id) from address").await;
    let sender: Uuid = world.one("select id from sender where channel = 'messenger'").await;
    let at_ms = chrono::Utc::now().timestamp_millis();
    let events = [
        messenger::text(PAGE_ID, &people[0], at_ms, "m_in", "還有貨嗎？"),
        messenger::echo(PAGE_ID, &people[1], at_ms, "m_out", "有的", None),
    ];
    let request = Signer::Meta(META_APP_SECRET.to_owned()).json(&messenger::body(PAGE_ID, at_ms, &events));
    let _working = world.work();
    assert_eq!(ask(&web, "messenger", &sender.to_string(), &request).await.0, 200);
    let heard = "select count(*) = 2 from message";
    eventually("both are in the inbox", 20, || world.one::<bool>(heard)).await;
    let id = world.draft("priority_single", &["messenger"], HELLO).await;
    world.send(id).await;
    world.ended(id, 30).await;
    let counts = world.sandbox.handle().counts(Channel::Messenger, None);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(people[0].clone(), 1)]);
    nothing_is_left(&world, id).await;
}

/// Every kind of bad day at once: each delivery ends once, in the class its refusal has.
#[tokio::test(flavor = "multi_thread")]
async fn through_every_kind_of_refusal_each_delivery_ends_once_in_its_class() {
    let (world, _prices) = world(&[
        ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
        ("CHANNEL__MESSENGER__TIMEOUT_SECS", "2"),
        ("CHANNEL__WHATSAPP__TIMEOUT_SECS", "2"),
    ])
    .await;
    customers(&world, 200, "messenger", "1 hour").await;
    customers(&world, 200, "whatsapp", "1 hour").await;
    // Spread over the audience: a window of nothing but failures would rightly be taken for a sender that fails.
    let unlucky = async |channel: &str, place: usize| -> Vec<String> {
        world
            .one(&format!(
                "select array_agg(address) from (select a.address, row_number() over (order by a.id) as place
                   from address a join sender s on s.id = a.sender_id where s.channel = '{channel}') x where place % 20 = {place}"
            ))
            .await
    };
    let replies = [
        (Channel::Messenger, 3, "10/2018278"),
        (Channel::Messenger, 5, "551/1545041"),
        (Channel::Messenger, 7, "1/1357046"),
        (Channel::Messenger, 9, "100/2018109"),
        (Channel::Whatsapp, 3, "131047"),
        (Channel::Whatsapp, 5, "131026"),
        (Channel::Whatsapp, 7, "131056"),
        (Channel::Whatsapp, 9, "131051"),
    ];
    let handle = world.sandbox.handle();
    for (channel, place, code) in replies {
        let fault = Fault::new(channel, FaultKind::Reply).with_reply(400, code);
        let who = unlucky(channel.name(), place).await;
        handle.set_fault(fault.recipients(who)).unwrap();
    }
    for channel in [Channel::Messenger, Channel::Whatsapp] {
        for (place, kind) in [
            (11, FaultKind::ResetAfter),
            (13, FaultKind::ServerErrorAfter),
            (15, FaultKind::Garbage),
        ] {
            let who = unlucky(channel.name(), place).await;
            handle.set_fault(Fault::new(channel, kind).recipients(who)).unwrap();
        }
        let busy = Fault::new(channel, FaultKind::Throttled).times(2).retry_after_secs(1);
        handle.set_fault(busy).unwrap();
    }
    let id = world.draft("priority_single", &["messenger", "whatsapp"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    for (class, code, closed) in [
        ("recipient", "10/2018278", false),
        ("recipient", "551/1545041", true),
        ("content", "100/2018109", false),
        ("recipient", "131047", false),
        ("recipient", "131026", true),
        ("recipient", "131056", false),
        ("content", "131051", false),
    ] {
        assert_eq!(failed(&world, id, class, code).await, (10, closed), "{class} {code}");
    }
    // Ten of 1/1357046, and three kinds of lost answers on two channels.
    assert_eq!(world.count(id, "unknown").await, 10 + 60);
    assert_eq!(world.count(id, "accepted").await, 400 - 70 - 70);
    assert_eq!(
        (got(&world, Channel::Messenger), got(&world, Channel::Whatsapp)),
        ((160, 1), (160, 1))
    );
    nothing_is_left(&world, id).await;
}

/// What the sandbox was sent and we do not know of, each as the webhook its provider would send.
fn proofs(world: &World, channel: Channel) -> Vec<Request> {
    let now = chrono::Utc::now();
    let signer = Signer::Meta(META_APP_SECRET.to_owned());
    let received = world.sandbox.handle().received(channel, &ReceivedQuery::default());
    let proof = |(nr, message): (usize, carillon_sandbox::ReceivedMessage)| {
        let sent: Value = serde_json::from_str(&message.body).unwrap();
        let (at_ms, to) = (now.timestamp_millis(), message.recipient.as_str());
        let body = if channel == Channel::Messenger {
            let mark = sent["message"]["metadata"].as_str();
            let echo = messenger::echo(PAGE_ID, to, at_ms, &format!("m_{nr}"), &message.text, mark);
            messenger::body(PAGE_ID, at_ms, &[echo])
        } else {
            let mark = sent["biz_opaque_callback_data"].as_str();
            let number = to.trim_start_matches('+');
            let status = whatsapp::status(number, now.timestamp(), &format!("wamid.{nr}"), "sent", mark, None);
            whatsapp::body(PHONE_NUMBER_ID, &[], &[status])
        };
        signer.json(&body)
    };
    received.into_iter().enumerate().map(proof).collect()
}

/// Answers that never came leave deliveries unknown; the page's echo and the number's status say that they arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_interrupted_is_unknown_until_an_echo_or_a_status_proves_it() {
    let (world, _prices) = world(&[]).await;
    let web = carillon::web::router(world.app(ProcessKind::Web));
    let mut broadcasts = Vec::new();
    let _working = world.work();
    for (channel, provider) in [("messenger", Channel::Messenger), ("whatsapp", Channel::Whatsapp)] {
        customers(&world, 30, channel, "1 hour").await;
        let fault = Fault::new(provider, FaultKind::ResetAfter).times(6).probability(0.4);
        world.sandbox.handle().set_fault(fault).unwrap();
        let id = world.draft("priority_single", &[channel], HELLO).await;
        world.send(id).await;
        world.ended(id, 60).await;
        assert_eq!(got(&world, provider), (30, 1));
        assert_eq!(
            (world.count(id, "unknown").await, world.count(id, "accepted").await),
            (6, 24)
        );
        broadcasts.push((channel, provider, id));
    }
    for (channel, provider, id) in broadcasts {
        let sender: Uuid = world
            .one(&format!("select id from sender where channel = '{channel}'"))
            .await;
        let charged: i64 = world
            .one(&format!(
                "select sum(charged_tokens)::bigint from delivery_result where broadcast_id = '{id}'"
            ))
            .await;
        for request in proofs(&world, provider) {
            assert_eq!(ask(&web, channel, &sender.to_string(), &request).await.0, 200);
        }
        let unknown =
            format!("select count(*) = 0 from delivery_result where broadcast_id = '{id}' and state = 'unknown'");
        eventually("the proofs are applied", 20, || world.one::<bool>(&unknown)).await;
        assert_eq!(world.count(id, "accepted").await, 30, "{channel}");
        let still: i64 = world
            .one(&format!(
                "select sum(charged_tokens)::bigint from delivery_result where broadcast_id = '{id}'"
            ))
            .await;
        assert_eq!(still, charged, "what was released is not charged after all");
        nothing_is_left(&world, id).await;
    }
}

/// A token that is no good pauses the sender; nothing is lost, and it goes on once somebody has mended it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_pauses_the_page_until_a_person_mends_it() {
    let (world, _prices) = world(&[]).await;
    customers(&world, 20, "messenger", "1 hour").await;
    let fault = Fault::new(Channel::Messenger, FaultKind::BadCredentials);
    let rule = world.sandbox.handle().set_fault(fault).unwrap();
    let id = world.draft("priority_single", &["messenger"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    let paused =
        "select state = 'paused' and state_reason = 'credentials: 190' from sender where channel = 'messenger'";
    eventually("the page is paused", 20, || world.one::<bool>(paused)).await;
    assert_eq!(got(&world, Channel::Messenger).0, 0);
    world.sandbox.handle().clear_fault(rule);
    world
        .run("update sender set state = 'connected', state_reason = null; update lane set due_at = now()")
        .await;
    world.ended(id, 30).await;
    assert_eq!(got(&world, Channel::Messenger), (20, 1));
    nothing_is_left(&world, id).await;
}
