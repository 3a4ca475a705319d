//! The inbox: whatever order events come in, however often and to however many workers, it holds what a plain model holds.

use std::{collections::VecDeque, sync::Mutex};

use carillon::{
    channel::DeliveryMark,
    channel::webhook::{Echo, InboundMessage, WebhookEvent, What},
    db::{self, PgPool},
    inbox::{self, Applied, Batch, InboxError},
};
use carillon_jobs::{BroadcastId, CustomerId, SenderId};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use uuid::Uuid;

use crate::{
    fixture_db::database,
    inbox_happening::{Happening, happenings},
    inbox_model::{SECS, STANDING, expected},
    scene::{one, run},
};

/// A shop with one sender.
pub(crate) struct Scene {
    pub(crate) pool: PgPool,
    pub(crate) shop: Uuid,
    pub(crate) sender: SenderId,
}

impl Scene {
    pub(crate) async fn new(pool: &PgPool, channel: &str) -> Self {
        let (shop, sender) = (Uuid::now_v7(), SenderId(Uuid::now_v7()));
        run(
            pool,
            &format!(
                "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'https://tea.example', 'core');
                 insert into sender (id, shop_id, channel, name, credentials) values ('{sender}', '{shop}', '{channel}', 'S', '')"
            ),
        )
        .await;
        Self {
            pool: pool.clone(),
            shop,
            sender,
        }
    }

    /// The same, from another task.
    pub(crate) fn at(pool: PgPool, sender: SenderId) -> Self {
        Self {
            pool,
            shop: Uuid::nil(),
            sender,
        }
    }

    pub(crate) async fn apply(&self, events: &[WebhookEvent]) -> Applied {
        loop {
            let batch = Batch {
                sender: self.sender,
                events,
                webhook: None,
            };
            match inbox::apply(&self.pool, batch).await {
                Ok(applied) => return applied.unwrap(),
                Err(InboxError::Db(error)) if db::may_pass(&error) => {
                    println!("tried again: {}", db::describe(&error));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn get<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        one(&self.pool, sql).await
    }
}

fn noon() -> DateTime<Utc> {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

/// A message of a person, `secs` after noon.
pub(crate) fn wrote(person: &str, id: &str, text: &str, secs: i64) -> WebhookEvent {
    WebhookEvent {
        account: None,
        key: format!("key {id}"),
        at: noon() + TimeDelta::seconds(secs),
        from: Some(person.to_owned()),
        what: What::Message(InboundMessage {
            message_id: id.to_owned(),
            text: Some(text.to_owned()),
            ..InboundMessage::default()
        }),
    }
}

/// Applies what happened, cut into batches, by four workers at once, and compares.
async fn plays_out(
    pool: &PgPool,
    happened: &[Happening],
    told: Vec<Happening>,
    cuts: &[usize],
) -> Result<(), TestCaseError> {
    let scene = Scene::new(pool, "messenger").await;
    let mut batches = VecDeque::new();
    let mut rest: Vec<WebhookEvent> = told.into_iter().map(Happening::event).collect();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let later = rest.split_off((*cut).min(rest.len()));
        batches.push_back(std::mem::replace(&mut rest, later));
    }
    let batches = Mutex::new(batches);
    let worker = async || {
        let mut new = 0;
        loop {
            let next = batches.lock().unwrap().pop_front();
            let Some(batch) = next else { return new };
            new += scene.apply(&batch).await.new;
        }
    };
    let new: usize = join_all((0..4).map(|_| worker())).await.into_iter().sum();
    let keys: std::collections::BTreeSet<String> = happened.iter().map(|one| one.event().key).collect();
    prop_assert_eq!(new, keys.len(), "each event counts once");
    let standing: Vec<String> = scene.get(&STANDING.replace("SENDER", &scene.sender.to_string())).await;
    let events: Vec<WebhookEvent> = happened.iter().map(|one| one.event()).collect();
    prop_assert_eq!(standing, expected(&[], &events));
    Ok(())
}

#[test]
fn any_order_any_repetition_and_four_workers_come_to_what_a_plain_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(async {
        let db = database().await;
        run(&db.pool, SECS).await;
        db
    });
    let case = happenings().prop_flat_map(|happened| {
        let again = prop::sample::subsequence(happened.clone(), 0..=happened.len());
        (Just(happened), again).prop_flat_map(|(happened, again)| {
            let told: Vec<Happening> = happened.iter().copied().chain(again).collect();
            (
                Just(happened),
                Just(told).prop_shuffle(),
                prop::collection::vec(1..9_usize, 1..5),
            )
        })
    });
    let mut runner = TestRunner::new(Config {
        cases: 120,
        failure_persistence: None,
        ..Config::default()
    });
    let played = runner.run(&case, |(happened, told, cuts)| {
        runtime.block_on(plays_out(&db.pool, &happened, told, &cuts))
    });
    runtime.block_on(async { drop(db) });
    played.unwrap_or_else(|failed| panic!("{failed}"));
}

#[tokio::test]
async fn a_person_who_is_met_by_many_workers_at_once_is_one_customer() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    let events: Vec<WebhookEvent> = (0..12).map(|n| wrote("U1", &format!("m{n}"), "hello", n)).collect();
    join_all(events.iter().map(|event| scene.apply(std::slice::from_ref(event)))).await;
    let counts: Vec<i64> = scene
        .get("select array[(select count(*) from customer), (select count(*) from address), (select count(*) from conversation),
                           (select unread from conversation), (select count(*) from message)]")
        .await;
    assert_eq!(counts, [1, 1, 1, 12, 12]);
}

#[tokio::test]
async fn customer_and_staff_bring_a_conversation_back_from_the_archive_and_a_broadcast_does_not() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "messenger").await;
    let archived = async || scene.get::<bool>("select archived from conversation").await;
    let archive = async || run(&db.pool, "update conversation set archived = true").await;
    scene.apply(&[wrote("P1", "m1", "hello", 0)]).await;
    archive().await;
    let echo = |id: &str, mark| WebhookEvent {
        what: What::Echo(Echo {
            message_id: id.to_owned(),
            mark,
            ..Echo::default()
        }),
        ..wrote("P1", id, "", 5)
    };
    let mark = DeliveryMark {
        broadcast: BroadcastId::new(),
        customer: CustomerId(1),
    };
    scene.apply(&[echo("b1", Some(mark))]).await;
    assert!(archived().await, "a broadcast");
    scene.apply(&[wrote("P1", "m1", "hello", 0)]).await;
    assert!(archived().await, "a message that is told again");
    scene.apply(&[echo("e1", None)]).await;
    assert!(!archived().await, "staff in the provider's own app");
    archive().await;
    scene.apply(&[wrote("P1", "m2", "are you there?", -60)]).await;
    assert!(!archived().await, "the customer, however late it is told");
    let messages: i64 = scene.get("select count(*) from message").await;
    assert_eq!(messages, 3, "the broadcast is a delivery and no message");
}

#[tokio::test]
async fn what_came_after_the_last_look_is_unread_however_old_it_is() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "line").await;
    let unread = async || {
        scene
            .get::<i32>("select greatest(unread, marked_unread::int) from conversation")
            .await
    };
    scene
        .apply(&[wrote("U1", "m1", "one", 10), wrote("U1", "m2", "two", 20)])
        .await;
    assert_eq!(unread().await, 2);
    run(&db.pool, "select read_conversation(id) from conversation").await;
    assert_eq!(unread().await, 0);
    scene.apply(&[wrote("U1", "m0", "zero", 0)]).await;
    assert_eq!(unread().await, 1, "nobody has seen it");
    let unsent = WebhookEvent {
        what: What::Unsent {
            message_id: "m0".to_owned(),
        },
        ..wrote("U1", "unsent", "", 30)
    };
    scene.apply(&[unsent]).await;
    assert_eq!(unread().await, 0, "taken back");
    run(&db.pool, "update conversation set marked_unread = true").await;
    assert_eq!(unread().await, 1);
    scene
        .apply(&[wrote("U1", "m4", "four", 40), wrote("U1", "m5", "five", 50)])
        .await;
    assert_eq!(unread().await, 2, "marked unread counts only where nothing else does");
}

#[tokio::test]
async fn a_clock_ahead_opens_no_window_and_odd_texts_keep_nothing_back() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "messenger").await;
    let ahead = WebhookEvent {
        at: DateTime::<Utc>::MAX_UTC,
        ..wrote("P1", "m\0 1", "a\0b \\u0000 \u{fffd}", 0)
    };
    let before = WebhookEvent {
        at: DateTime::<Utc>::MIN_UTC,
        from: Some("P\0".to_owned()),
        ..wrote("", "m2", "", 0)
    };
    let nobody = WebhookEvent {
        from: None,
        ..wrote("", "m3", "lost?", 0)
    };
    assert_eq!(scene.apply(&[ahead, before, nobody]).await.new, 3);
    let ok: bool = scene
        .get("select bool_and(last_inbound_at <= now()) from address")
        .await;
    let text: String = scene
        .get("select text from message where provider_id = E'm\\uFFFD 1'")
        .await;
    assert!(ok);
    assert_eq!(text, "a\u{fffd}b \\u0000 \u{fffd}");
}

#[tokio::test]
async fn a_shop_fronts_customers_are_found_by_its_own_ids_and_get_no_address_to_push_to() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "app").await;
    run(
        &db.pool,
        &format!(
            "insert into customer (shop_id, external_id, first_name) values ('{}', 'c-7', 'Ann')",
            scene.shop
        ),
    )
    .await;
    scene
        .apply(&[wrote("c-7", "s1", "is it in stock?", 0), wrote("c-8", "s2", "hello", 1)])
        .await;
    let names: Vec<String> = scene.get("select array_agg(external_id || ' ' || first_name || ' ' || t.unread order by c.id) from customer c join conversation t on t.customer_id = c.id").await;
    assert_eq!(names, ["c-7 Ann 1", "c-8  1"]);
    let addresses: i64 = scene.get("select count(*) from address").await;
    assert_eq!(addresses, 0);
}

#[tokio::test]
async fn a_name_somebody_gave_is_never_replaced_by_the_providers() {
    let db = database().await;
    let scene = Scene::new(&db.pool, "whatsapp").await;
    let named = |id: &str, name: &str, secs| {
        let mut event = wrote("W1", id, "hi", secs);
        if let What::Message(message) = &mut event.what {
            message.profile_name = Some(name.to_owned());
        }
        event
    };
    let name = async || scene.get::<String>("select first_name from customer").await;
    scene.apply(&[named("m2", "Bo", 20), named("m1", "Al", 10)]).await;
    assert_eq!(name().await, "Bo");
    scene.apply(&[named("m3", "Cy", 30)]).await;
    assert_eq!(name().await, "Cy");
    run(&db.pool, "update customer set first_name = 'Dora'").await;
    scene.apply(&[named("m4", "Ed", 40)]).await;
    assert_eq!(name().await, "Dora");
}

/// On a sender of the platform: that a broadcast of this shop reached its customer so many days ago.
async fn reached(scene: &Scene, platform: SenderId, days: i32) {
    let shop = scene.shop;
    run(
        &scene.pool,
        &format!(
            "with b as (insert into broadcast (id, shop_id, name, mode, content, audience, state, finished_at)
                        values (new_broadcast_id(), '{shop}', 'b', 'priority_single', '{{}}', '{{}}', 'completed', now()) returning id),
                  l as (insert into lane (broadcast_id, sender_id, shop_id, channel, tokens, planned, remaining)
                        select id, '{platform}', '{shop}', 'sms', 32, 1, 0 from b)
             insert into delivery_result (broadcast_id, customer_id, settled_at, channel, state, charged_tokens)
             select b.id, c.id, now() - {days} * interval '1 day', 'sms', 'accepted', 32 from b, customer c where c.shop_id = '{shop}'"
        ),
    )
    .await;
}

#[tokio::test]
async fn on_a_sender_of_the_platform_a_message_is_for_the_shop_that_wrote_last_and_not_for_who_knows_the_number() {
    let db = database().await;
    let [first, second, nosy] = [(); 3].map(|()| Scene::new(&db.pool, "line"));
    let (first, second, nosy) = (first.await, second.await, nosy.await);
    let platform = Scene {
        sender: SenderId(Uuid::now_v7()),
        ..Scene::new(&db.pool, "line").await
    };
    let sender = platform.sender;
    run(
        &db.pool,
        &format!("insert into sender (id, channel, name, credentials) values ('{sender}', 'sms', 'P', '')"),
    )
    .await;
    for scene in [&first, &second, &nosy] {
        run(
            &db.pool,
            &format!(
                "insert into customer (shop_id) values ('{shop}');
                 insert into address (shop_id, sender_id, customer_id, address)
                 select '{shop}', '{sender}', id, '+886912345678' from customer where shop_id = '{shop}'",
                shop = scene.shop
            ),
        )
        .await;
    }
    platform.apply(&[wrote("+886912345678", "s0", "hello", 0)]).await;
    let conversations: i64 = platform.get("select count(*) from conversation").await;
    assert_eq!(conversations, 0, "nobody wrote to that number");
    reached(&first, sender, 9).await;
    reached(&second, sender, 2).await;
    platform
        .apply(&[
            wrote("+886912345678", "s1", "ok", 1),
            wrote("+886900000000", "s2", "who are you?", 2),
        ])
        .await;
    let shops: Vec<Uuid> = platform.get("select array_agg(shop_id) from conversation").await;
    assert_eq!(shops, [second.shop]);
    let open: Vec<Uuid> = platform
        .get("select array_agg(shop_id) from address where last_inbound_at is not null")
        .await;
    assert_eq!(open, [second.shop], "nobody else may write to them for it");
    let customers: i64 = platform.get("select count(*) from customer").await;
    assert_eq!(customers, 3, "whom no shop knows belongs to none");
}
