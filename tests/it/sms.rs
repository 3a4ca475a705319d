//! Text messages end to end: by Mitake each recipient gets exactly one whatever happens, by Twilio at most one, and its StatusCallback
//! resolves what nobody knew.

use carillon::app::ProcessKind;
use carillon_jobs::{BroadcastId, SenderId};
use carillon_sandbox::{
    Channel, Fault, FaultKind, Latency, ReceivedMessage, ReceivedQuery, TWILIO_AUTH_TOKEN,
    webhooks::{self, Signer},
};
use url::form_urlencoded;
use uuid::Uuid;

use crate::{
    sms_scene::{customers, mitake, seal, twilio, world},
    wait::eventually,
    webhook_scene,
    world::World,
};

const HELLO: &str = "{first_name} 您好，週末特賣";

fn got(world: &World, channel: Channel) -> (u64, u64) {
    let summary = world.sandbox.handle().channel_summary(channel);
    (summary.messages, summary.max_to_one_recipient)
}

fn received(world: &World, channel: Channel) -> Vec<ReceivedMessage> {
    world.sandbox.handle().received(channel, &ReceivedQuery::default())
}

/// Every delivery has ended, the books are right, nobody got two.
async fn nothing_is_left(world: &World, id: BroadcastId, channel: Channel) {
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
    for message in received(&world, Channel::Mitake) {
        let text = &message.text;
        assert!(
            text.starts_with("EasyStore 小") && text.ends_with("您好，週末特賣"),
            "{text}"
        );
        assert_eq!(message.marker, id.0.simple().to_string());
        assert!(message.recipient.starts_with("09"), "{}", message.recipient);
    }
    nothing_is_left(&world, id, Channel::Mitake).await;
}

/// Mitake honours the `clientid`: whatever happens to the answer, the message is there once.
#[tokio::test(flavor = "multi_thread")]
async fn mitake_is_exactly_once_through_lost_answers_errors_and_throttling() {
    let (world, _) = world("mitake").await;
    customers(&world, 300).await;
    let faults = [
        (FaultKind::ResetAfter, 15),
        (FaultKind::ResetBefore, 15),
        (FaultKind::ServerError, 15),
        (FaultKind::ServerErrorAfter, 15),
        (FaultKind::HangAfter, 5),
        (FaultKind::Garbage, 10),
        (FaultKind::Truncated, 10),
        (FaultKind::Throttled, 3),
    ];
    for (kind, times) in faults {
        let fault = Fault::new(Channel::Mitake, kind).times(times).probability(0.3);
        world.sandbox.handle().set_fault(fault).unwrap();
    }
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 90).await;
    assert_eq!(got(&world, Channel::Mitake), (300, 1));
    assert_eq!(world.count(id, "accepted").await, 300);
    nothing_is_left(&world, id, Channel::Mitake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_mitake_ends_where_it_should() {
    let (world, _) = world("mitake").await;
    customers(&world, 60).await;
    let addresses: Vec<String> = world
        .one("select array_agg('0' || substr(address, 5) order by id) from address")
        .await;
    let reply = |code: &str| format!("[1]\r\nstatuscode={code}\r\nError=x\r\n");
    for (at, code) in [(7, "v"), (21, "7"), (35, "x")] {
        let fault = Fault::new(Channel::Mitake, FaultKind::Reply)
            .recipients([addresses[at].clone()])
            .with_reply(200, &reply(code));
        world.sandbox.handle().set_fault(fault).unwrap();
    }
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    let outcomes: Vec<String> = world
        .one(&format!(
            "select array_agg(concat_ws(' ', state, reason, code) order by code) from delivery_result
              where broadcast_id = '{id}' and state <> 'accepted'"
        ))
        .await;
    assert_eq!(
        outcomes,
        [
            "failed recipient mitake 7",
            "failed recipient mitake v",
            "failed content mitake x"
        ]
    );
    let closed: Vec<String> = world
        .one("select array_agg(state_reason) from address where state = 'suppressed'")
        .await;
    assert_eq!(closed, ["mitake v"], "a handset that takes none today keeps its number");
    nothing_is_left(&world, id, Channel::Mitake).await;
}

/// Twilio has no keys: what may have left is unknown, free of charge, never tried again, and known again when Twilio tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_twilio_left_unknown_its_status_callback_resolves() {
    let (world, sender) = world("twilio").await;
    customers(&world, 90).await;
    let unlucky: Vec<String> = world
        .one("select array_agg(address) from (select address, row_number() over (order by id) n from address) a where n % 9 = 4")
        .await;
    let fault = Fault::new(Channel::Twilio, FaultKind::ResetAfter).recipients(unlucky.clone());
    world.sandbox.handle().set_fault(fault).unwrap();
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "unknown").await),
        (80, 10)
    );
    assert_eq!(got(&world, Channel::Twilio), (90, 1));
    for (number, message) in received(&world, Channel::Twilio).into_iter().enumerate() {
        if unlucky.contains(&message.recipient) {
            told(&world, sender, &message, number, "delivered").await;
        }
    }
    eventually("the status callbacks are applied", 30, async || {
        world.count(id, "delivered").await == 10
    })
    .await;
    assert_eq!(world.count(id, "unknown").await, 0);
    let spent: i64 = world.one("select 1005000 - allowance - extra from token_account").await;
    assert_eq!(spent, 80 * 32, "what proves to have arrived is not charged");
    nothing_is_left(&world, id, Channel::Twilio).await;
}

/// Tells of a message at the address that went with it, as Twilio would: signed, with our mark in the query.
async fn told(world: &World, sender: Uuid, message: &ReceivedMessage, number: usize, status: &str) {
    let callback = form_urlencoded::parse(message.body.as_bytes())
        .find(|(name, _)| name == "StatusCallback")
        .map(|(_, value)| value.into_owned())
        .unwrap();
    let address = format!("https://carillon.example/webhooks/twilio/{sender}");
    let query = callback.strip_prefix(&address).unwrap().trim_start_matches('?');
    let sid = format!("SM{number:032x}");
    let signer = Signer::Twilio(TWILIO_AUTH_TOKEN.to_owned(), address);
    let request = signer.form(query, &webhooks::twilio::status(&sid, status, &message.recipient, None));
    let web = carillon::web::router(world.app(ProcessKind::Web));
    let (code, text) = webhook_scene::ask(&web, "twilio", &sender.to_string(), &request).await;
    assert_eq!(code, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_twilio_ends_where_it_should() {
    let (world, _) = world("twilio").await;
    customers(&world, 60).await;
    let addresses: Vec<String> = world.one("select array_agg(address order by id) from address").await;
    for (at, code) in [(7, 21_610), (21, 21_612), (35, 21_614), (49, 21_617)] {
        let body = serde_json::json!({"code": code, "message": "m", "more_info": "u", "status": 400}).to_string();
        let fault = Fault::new(Channel::Twilio, FaultKind::Reply)
            .recipients([addresses[at].clone()])
            .with_reply(400, &body);
        world.sandbox.handle().set_fault(fault).unwrap();
    }
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    let _working = world.work();
    world.send(id).await;
    world.ended(id, 60).await;
    assert_eq!(
        (world.count(id, "accepted").await, world.count(id, "failed").await),
        (56, 4)
    );
    let closed: Vec<String> = world
        .one(
            "select array_agg(state || ' ' || state_reason order by state_reason) from address where state <> 'active'",
        )
        .await;
    assert_eq!(closed, ["opted_out twilio 21610", "suppressed twilio 21614"]);
    nothing_is_left(&world, id, Channel::Twilio).await;
}

/// Kills workers in mid-broadcast, then lets one finish.
async fn with_killed_workers(world: &World, id: BroadcastId, channel: Channel, total: i64) {
    let latency = Latency {
        fixed_ms: 60,
        jitter_ms: 40,
    };
    world.sandbox.handle().set_latency(channel, latency);
    let _scheduler = world.process("scheduler");
    world.send(id).await;
    for kill in 1..=3_u64 {
        let mut worker = world.process("worker");
        let enough = kill * u64::try_from(total).unwrap() / 5;
        eventually("more arrive", 60, async || got(world, channel).0 >= enough).await;
        worker.kill();
    }
    let _worker = world.process("worker");
    world.ended(id, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_leave_exactly_one_message_each_by_mitake() {
    let (mut world, _) = world("mitake").await;
    world.env.insert("CARILLON__DELIVERY__LEASE_SECS".into(), "3".into());
    customers(&world, 400).await;
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    with_killed_workers(&world, id, Channel::Mitake, 400).await;
    assert_eq!(got(&world, Channel::Mitake), (400, 1));
    assert_eq!(world.count(id, "accepted").await, 400);
    nothing_is_left(&world, id, Channel::Mitake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_leave_at_most_one_message_each_by_twilio() {
    let (mut world, _) = world("twilio").await;
    world.env.insert("CARILLON__DELIVERY__LEASE_SECS".into(), "3".into());
    customers(&world, 400).await;
    let id = world.draft("priority_single", &["sms"], HELLO).await;
    with_killed_workers(&world, id, Channel::Twilio, 400).await;
    let (accepted, unknown) = (world.count(id, "accepted").await, world.count(id, "unknown").await);
    assert_eq!(accepted + unknown, 400);
    assert!(unknown > 0, "a kill in mid-flight leaves something unknown");
    nothing_is_left(&world, id, Channel::Twilio).await;
}

/// What left by one account may not be repeated by another, nor after the twelve hours.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_would_not_know_again_is_unknown() {
    for changed in ["account", "time"] {
        let (world, sender) = world("mitake").await;
        customers(&world, 20).await;
        let fault = Fault::new(Channel::Mitake, FaultKind::HangAfter).times(20);
        world.sandbox.handle().set_fault(fault).unwrap();
        let id = world.draft("priority_single", &["sms"], HELLO).await;
        let working = world.work();
        world.send(id).await;
        eventually("all are in flight", 20, async || got(&world, Channel::Mitake).0 == 20).await;
        // Nobody repeats anything before the change is made.
        world
            .run(&format!("update sender set state = 'paused' where id = '{sender}'"))
            .await;
        working.stop().await;
        let first: i64 = world
            .one(&format!(
                "select count(*) from slice where broadcast_id = '{id}' and in_flight is not null"
            ))
            .await;
        assert_eq!(first, 1, "the sends are in flight");
        if changed == "account" {
            world.sandbox.handle().reset();
            sqlx::query("update sender set credentials = $2 where id = $1")
                .bind(sender)
                .bind(seal(&world, sender, &mitake(&world.sandbox)))
                .execute(world.pool())
                .await
                .unwrap();
        } else {
            world
                .run("update slice set first_attempt_at = first_attempt_at - interval '11 hours'")
                .await;
        }
        world
            .run(
                "update slice set lease_until = now() - interval '1 second' where lease_until is not null;
                  update slice set due_at = now(); update lane set due_at = now(), lease_until = null, rung_at = null;
                  update sender set state = 'connected'",
            )
            .await;
        let before = got(&world, Channel::Mitake).0;
        let _working = world.work();
        world.ended(id, 60).await;
        assert_eq!(world.count(id, "unknown").await, 20, "{changed}");
        assert_eq!(
            got(&world, Channel::Mitake).0,
            before,
            "{changed}: nothing was sent again"
        );
        world.audit().await;
    }
}

#[tokio::test]
async fn a_phone_is_one_address_however_it_is_typed() {
    let (world, sender) = world("mitake").await;
    customers(&world, 1).await;
    let customer: i64 = world.one("select id from customer").await;
    for text in [
        "0912-345-678",
        "+886 912 345 678",
        "０９１２３４５６７８",
        "00886912345678",
        "(0912)345678",
    ] {
        world
            .run(&format!("select put_address('{sender}', {customer}, '{text}')"))
            .await;
        let sql = "select array_agg(address) from address where is_current";
        let current: Vec<String> = world.one(sql).await;
        assert_eq!(current, ["+886912345678"], "{text}");
    }
    // The rule in SQL is the rule in Rust.
    for text in [
        "0912345678",
        " 0912 345 678 ",
        "912345678",
        "886912345678",
        "+886 (0)912-345-678",
        "002 886 912 345 678",
        "+0912345678",
        "++886912345678",
        "0912a345678",
        "02-2345-6789",
        "+85212345678",
        "",
        "+",
        "0",
        "12345678",
        "00912345678",
        "+886",
        "０８００１２３４５６",
    ] {
        let sql: String = sqlx::query_scalar("select normal_phone($1)")
            .bind(text)
            .fetch_one(world.pool())
            .await
            .unwrap();
        let rust = carillon::channel::phone::e164(text);
        assert_eq!(sql, rust.unwrap_or_else(|| text.to_owned()), "{text}");
    }
}

#[tokio::test]
async fn the_provider_is_asked_whether_the_account_may_send() {
    use carillon::channel::{Channel as Ours, Expected, FindingState, Sender};
    let (world, _) = world("twilio").await;
    let channels = world.app(ProcessKind::Command).delivery().unwrap().channels;
    for (mut credentials, secret) in [(mitake(&world.sandbox), "password"), (twilio(), "auth_token")] {
        let sender = Sender::parse(SenderId::new(), Ours::Sms, &credentials.to_string()).unwrap();
        assert!(channels.check(&sender, Expected::default()).await.unwrap().works());
        credentials[secret] = "another-secret".into();
        let sender = Sender::parse(SenderId::new(), Ours::Sms, &credentials.to_string()).unwrap();
        let checked = channels.check(&sender, Expected::default()).await.unwrap();
        assert_eq!(checked.findings[0].state, FindingState::Bad, "{checked:?}");
        assert!(!format!("{checked:?}").contains("another-secret"));
    }
}
