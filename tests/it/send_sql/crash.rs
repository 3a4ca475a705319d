//! What a crash leaves in flight: repeated under its key, or unknown.

use super::{KEY_SECS, accept};
use crate::{
    fixture_db::database,
    scene::{APP, LINE, assert_clean, claim, let_leases_expire, one, outcomes, run, send_rest, settle, shop, state},
};

#[tokio::test]
async fn an_interrupted_keyed_intent_is_repeated_as_it_was() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    // One in flight and one behind them opt out: only who was not in flight is skipped. Another in flight has a new name:
    // the key stands for a body with the old one, so that one is neither repeated nor sent anew.
    let changed = format!(
        "update customer set opted_out = true where id in ({}, {});
         update customer set first_name = 'Other' where id in ({}, {})",
        shop.customers[0], shop.customers[2], shop.customers[1], shop.customers[3]
    );
    run(&db.pool, &changed).await;

    let again = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    assert_eq!((again.intent_no, again.repeats, again.epoch), (first.intent_no, 1, 2));
    assert_eq!(again.in_flight, [shop.customers[0]]);
    assert_eq!(again.customers, [shop.customers[0], shop.customers[3]]);
    assert_eq!(again.first_names, ["N1", "Other"]);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["skipped opted_out 1", "unknown renamed 1"]
    );
    let next = &again.customers[1..];
    settle(
        &db.pool,
        broadcast,
        "line",
        &again,
        (&again.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(accept(&db.pool, broadcast, "line", &again, next).await, "completed");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn somebody_erased_in_flight_is_unknown_and_the_others_keep_their_key() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    run(
        &db.pool,
        &format!(
            "delete from customer where id in ({}, {})",
            shop.customers[0], shop.customers[2]
        ),
    )
    .await;
    let again = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    assert_eq!(
        (again.intent_no, again.in_flight.as_slice()),
        (first.intent_no, &shop.customers[1..2])
    );
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["skipped erased 1", "unknown erased 1"]
    );
    assert_eq!(
        accept(&db.pool, broadcast, "line", &again, &again.in_flight).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn an_interrupted_unkeyed_intent_is_unknown_and_the_rest_goes_on() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    let rest = claim(&db.pool, broadcast, "app", 3, 0.0).await.unwrap();
    assert_eq!((rest.intent_no, rest.repeats), (first.intent_no + 1, 0));
    assert_eq!(rest.in_flight, &shop.customers[3..]);
    assert_eq!(outcomes(&db.pool, broadcast).await, ["unknown interrupted 3"]);
    assert_eq!(
        accept(&db.pool, broadcast, "app", &rest, &rest.in_flight).await,
        "completed"
    );
    assert_eq!(shop.available().await, 99, "unknown is not charged");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_key_the_provider_has_forgotten_is_never_used_again() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    let_leases_expire(&db.pool, broadcast).await;
    run(
        &db.pool,
        "update slice set first_attempt_at = now() - interval '24 hours'",
    )
    .await;
    assert!(claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.is_none());
    assert_eq!(outcomes(&db.pool, broadcast).await, ["unknown key_expired 2"]);
    assert_eq!(state(&db.pool, broadcast).await, "completed");
    assert_eq!(shop.available().await, 100);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn uncertain_members_stay_in_flight_under_their_intent() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 3, KEY_SECS).await.unwrap();
    let (sure, uncertain) = first.in_flight.split_at(1);
    settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (sure, "accepted"),
        (None, Some(uncertain)),
    )
    .await;
    assert_clean(&db.pool).await;
    let again = claim(&db.pool, broadcast, "line", 3, KEY_SECS).await.unwrap();
    assert_eq!(
        (again.intent_no, again.in_flight.as_slice()),
        (first.intent_no, uncertain)
    );
    assert_eq!(
        accept(&db.pool, broadcast, "line", &again, uncertain).await,
        "completed"
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn nobody_in_flight_is_no_intent() {
    let db = database().await;
    let shop = shop(&db.pool, 2, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    settle(
        &db.pool,
        broadcast,
        "app",
        &first,
        (&[], "accepted"),
        (Some(&[]), Some(&[])),
    )
    .await;
    let held = "select state = 'sending' and in_flight is null from slice";
    assert!(
        one::<bool>(&db.pool, held).await,
        "the claim is kept while its worker waits for permits"
    );
    let_leases_expire(&db.pool, broadcast).await;
    assert_eq!(send_rest(&db.pool, broadcast, "app").await, "completed");
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 2"]);
    assert_clean(&db.pool).await;
}

/// A window rolls on while one of its members is on the way, and its worker dies: they are unknown, all others are not.
#[tokio::test]
async fn after_a_crash_those_on_their_way_and_those_begun_beside_them_are_unknown() {
    let db = database().await;
    let shop = shop(&db.pool, 5, 100).await;
    let broadcast = shop.opened(&[APP], 10).await;
    let first = claim(&db.pool, broadcast, "app", 2, 0.0).await.unwrap();
    let [back, flying] = first.in_flight[..] else {
        unreachable!()
    };
    let next = first.customers[2];
    let sql = format!(
        "select settle_window('{broadcast}', 'app', {}, {}, '{{{back}}}', '{{accepted}}', '{{null}}', '{{null}}', '{{null}}',
            '{{{next}}}', {}, '{{{flying}}}', '{{}}', 0, 60)",
        first.slice_no,
        first.epoch,
        first.intent_no + 1
    );
    assert_eq!(one::<String>(&db.pool, &sql).await, "sending");
    let_leases_expire(&db.pool, broadcast).await;
    assert_eq!(send_rest(&db.pool, broadcast, "app").await, "completed");
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["accepted 3", "unknown interrupted 2"]
    );
    assert_clean(&db.pool).await;
}
