//! The routing statement against the rule in plain Rust, on random shops, for every size of chunk.

use carillon::{
    broadcast::{self, Advance, Audience, Mode, route},
    channel::Channel,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    broadcast_scene::{At, Person, advance_fully, assert_adds_up, config, deliveries, one, planner, shop, skipped},
    fixture_db::{TestDb, database},
};

fn address() -> impl Strategy<Value = Option<At>> {
    // A handful of texts, so that shared mailboxes are common.
    let text = prop_oneof![2 => "[a-z]{12}", 3 => "[ab]"];
    let state = prop_oneof![8 => Just("active"), 1 => Just("opted_out"), 1 => Just("suppressed")];
    let at = (
        text,
        state,
        proptest::option::of(prop_oneof![Just(1_u8), Just(30)]),
        any::<bool>(),
    );
    proptest::option::of(at.prop_map(|(text, state, inbound_hours, has_old)| At {
        text,
        state,
        inbound_hours,
        has_old,
    }))
}

fn people() -> impl Strategy<Value = Vec<Person>> {
    let person = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        any::<bool>(),
        prop::collection::vec(address(), 4),
    );
    let person = person.prop_map(|(opted_out, tester, tag, addresses)| Person {
        opted_out,
        tester,
        tag,
        addresses,
    });
    prop::collection::vec(person, 1..25)
}

fn choice() -> impl Strategy<Value = (Mode, Vec<Channel>)> {
    use Channel::{App, Email, Line, Messenger};
    let single = Just(vec![App, Line, Messenger, Email]).prop_shuffle();
    let single = (single, 1..5_usize).prop_map(|(channels, n)| channels[..n].to_vec());
    let extra = proptest::option::of(prop_oneof![Just(Line), Just(Messenger), Just(Email)]);
    prop_oneof![
        single.prop_map(|channels| (Mode::PrioritySingle, channels)),
        extra.prop_map(|extra| (Mode::AppPlusOne, std::iter::once(App).chain(extra).collect())),
    ]
}

#[test]
fn planning_in_chunks_of_any_size_is_the_rule_and_the_estimate() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(database());
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (
        people(),
        choice(),
        any::<bool>(),
        prop_oneof![Just(1_u32), Just(2), Just(3), Just(7), Just(1000)],
    );
    TestRunner::new(config)
        .run(&strategy, |(people, (mode, channels), tag, chunk)| {
            runtime.block_on(compare(&db, &people, mode, &channels, tag, chunk));
            Ok(())
        })
        .unwrap();
}

async fn compare(db: &TestDb, people: &[Person], mode: Mode, channels: &[Channel], tag: bool, chunk: u32) {
    let shop = shop(&db.pool, 1_000_000).await;
    shop.add(people).await;
    let candidates = shop.candidates(channels, tag).await;
    let mut new = shop.new_broadcast(mode, channels);
    if tag {
        new.audience = Audience::Tag("vip".to_owned());
    }
    let config = config(chunk);
    let estimate = broadcast::estimate_new(&db.pool, &config, &new).await.unwrap();
    assert_eq!(estimate.customers, i64::try_from(candidates.len()).unwrap());
    if candidates.is_empty() {
        return;
    }
    let id = broadcast::create(&db.pool, &config, &new).await.unwrap();
    broadcast::send(&db.pool, id).await.unwrap();
    let planner = planner(&db.pool, &config);
    let done = advance_fully(&planner, id).await;

    let routed = route(mode, &candidates);
    let mut expected = Vec::new();
    for one in &routed {
        for (place, address) in &one.messages {
            expected.push((one.customer, channels[*place], address));
        }
    }
    expected.sort_unstable();
    let expected: Vec<String> = expected
        .iter()
        .map(|(who, channel, at)| format!("{who} {channel} {at}"))
        .collect();
    assert_eq!(deliveries(&db.pool, id).await, expected);
    let nothing = routed
        .iter()
        .filter_map(|one| Some(format!("{} {}", one.customer, one.skipped?.as_str())));
    assert_eq!(skipped(&db.pool, id).await, nothing.collect::<Vec<_>>());
    assert_adds_up(&db.pool, id).await;
    let opened = done == Advance::Opened;
    assert_eq!(opened, !expected.is_empty(), "{done:?}");

    assert_eq!(estimate.messages, i64::try_from(expected.len()).unwrap());
    let cost: i64 = one(
        &db.pool,
        &format!("select cost_tokens from broadcast where id = '{id}'"),
    )
    .await;
    assert_eq!(estimate.tokens, cost);
    for (name, n) in &estimate.skipped {
        let rows = routed
            .iter()
            .filter(|one| one.skipped.is_some_and(|reason| reason.as_str() == name))
            .count();
        assert_eq!(*n, i64::try_from(rows).unwrap(), "{name}");
    }
    let reached = estimate.skipped.values().sum::<i64>();
    assert_eq!(
        reached,
        i64::try_from(routed.iter().filter(|one| one.messages.is_empty()).count()).unwrap()
    );
    for (place, channel) in estimate.channels.iter().enumerate() {
        let reachable = candidates
            .iter()
            .filter(|one| !one.opted_out && one.places[place].is_some_and(|at| at.reach == broadcast::Reach::Open));
        assert_eq!(channel.reachable, i64::try_from(reachable.count()).unwrap());
    }
}
