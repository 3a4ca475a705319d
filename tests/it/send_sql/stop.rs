//! What stops a broadcast or one of its members on the way.

use super::KEY_SECS;
use crate::{
    fixture_db::database,
    scene::{LINE, assert_clean, claim, let_leases_expire, one, outcomes, run, send_rest, settle, shop, state},
};

#[tokio::test]
async fn a_cancel_ends_what_was_in_flight_as_unknown_and_releases_everything() {
    let db = database().await;
    let shop = shop(&db.pool, 6, 100).await;
    let broadcast = shop.opened(&[LINE], 3).await;
    claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    assert!(one::<bool>(&db.pool, &format!("select cancel_broadcast('{broadcast}')")).await);
    let_leases_expire(&db.pool, broadcast).await;
    assert!(
        claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.is_none(),
        "nothing is repeated after a cancel"
    );
    let drain = format!("select drain_slice('{broadcast}', 'line', 'cancelled')");
    assert_clean(&db.pool).await;
    assert!(one::<bool>(&db.pool, &drain).await && one::<bool>(&db.pool, &drain).await);
    assert!(!one::<bool>(&db.pool, &drain).await);
    assert_eq!(
        outcomes(&db.pool, broadcast).await,
        ["cancelled 4", "unknown interrupted 2"]
    );
    assert_eq!(
        (state(&db.pool, broadcast).await.as_str(), shop.available().await),
        ("cancelled", 100)
    );
    assert!(one::<bool>(&db.pool, "select finished_at is not null from broadcast").await);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn past_its_deadline_a_broadcast_expires_lane_by_lane() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 2).await;
    let first = claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.unwrap();
    run(&db.pool, "update broadcast set deadline_at = now()").await;
    let next = &first.customers[1..];
    let after = settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (&first.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(after, "expired");
    assert!(claim(&db.pool, broadcast, "line", 1, KEY_SECS).await.is_none());
    let mode = format!("select mode from take_lane('{broadcast}', (select sender_id from lane), 30)");
    assert_eq!(one::<String>(&db.pool, &mode).await, "expired");
    let drain = format!("select drain_slice('{broadcast}', 'line', 'expired')");
    assert!(one::<bool>(&db.pool, &drain).await && one::<bool>(&db.pool, &drain).await);
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 1", "expired 2"]);
    assert_eq!(
        (state(&db.pool, broadcast).await.as_str(), shop.available().await),
        ("completed", 95)
    );
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn who_leaves_between_planning_and_sending_is_skipped_and_costs_nothing() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let [a, b, c, _] = shop.customers[..] else {
        unreachable!()
    };
    run(
        &db.pool,
        &format!(
            "update customer set opted_out = true where id = {a};
             update address set state = 'suppressed' where customer_id = {b};
             delete from customer where id = {c}"
        ),
    )
    .await;
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "completed");
    let expected = [
        "accepted 1",
        "skipped erased 1",
        "skipped opted_out 1",
        "skipped suppressed 1",
    ];
    assert_eq!(outcomes(&db.pool, broadcast).await, expected);
    assert_eq!(shop.available().await, 95);
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_suspended_shop_and_a_lost_sender_skip_everybody_a_paused_sender_waits() {
    let db = database().await;
    for (stop, reason) in [
        ("update shop set state = 'suspended'", "skipped shop_suspended 3"),
        (
            "update shop set state = 'active'; update sender set state = 'disconnected'",
            "skipped sender_disconnected 3",
        ),
    ] {
        let shop = shop(&db.pool, 3, 100).await;
        let broadcast = shop.opened(&[LINE], 2).await;
        run(&db.pool, "update sender set state = 'paused'").await;
        assert!(claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.is_none());
        assert!(outcomes(&db.pool, broadcast).await.is_empty());
        run(&db.pool, "update sender set state = 'connected'").await;
        run(&db.pool, stop).await;
        assert!(claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.is_none());
        assert_eq!(outcomes(&db.pool, broadcast).await, [reason]);
        assert_eq!(
            (state(&db.pool, broadcast).await.as_str(), shop.available().await),
            ("completed", 100)
        );
    }
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn a_pause_starts_nothing_new_and_resume_sends_exactly_the_rest() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    run(&db.pool, &format!("select pause_broadcast('{broadcast}')")).await;
    let next = &first.customers[2..];
    let after = settle(
        &db.pool,
        broadcast,
        "line",
        &first,
        (&first.in_flight, "accepted"),
        (Some(next), None),
    )
    .await;
    assert_eq!(after, "paused");
    assert!(claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.is_none());
    assert_clean(&db.pool).await;
    run(
        &db.pool,
        "update broadcast set state = resume_state, resume_state = null",
    )
    .await;
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "completed");
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 4"]);
    assert_clean(&db.pool).await;
}

/// A pause comes while members are on their way: the claim lasts until they are back, and what they came to is written.
#[tokio::test]
async fn a_pause_leaves_the_claim_to_those_on_their_way() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    let first = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    let [back, flying] = first.in_flight[..] else {
        unreachable!()
    };
    let next = &first.customers[2..];
    run(&db.pool, &format!("select pause_broadcast('{broadcast}')")).await;
    let settle = |customer: i64, next: &str, flying: &str| {
        format!(
            "select settle_window('{broadcast}', 'line', {}, {}, '{{{customer}}}', '{{accepted}}', '{{null}}', '{{null}}', '{{null}}',
                {next}, {}, '{{{flying}}}', '{{}}', 0, 60)",
            first.slice_no,
            first.epoch,
            first.intent_no + 1
        )
    };
    let in_flight = "select coalesce(in_flight, '{}') from slice";
    let wanted = format!("'{{{},{}}}'", next[0], next[1]);
    let after: String = one(&db.pool, &settle(back, &wanted, &flying.to_string())).await;
    assert_eq!(after, "paused");
    assert_eq!(
        one::<Vec<i64>>(&db.pool, in_flight).await,
        [flying],
        "nobody else is begun"
    );
    assert!(
        !one::<bool>(
            &db.pool,
            &format!("select drain_slice('{broadcast}', 'line', 'cancelled')")
        )
        .await
    );
    assert_clean(&db.pool).await;
    let after: String = one(&db.pool, &settle(flying, "null", "")).await;
    assert_eq!(after, "paused");
    assert_eq!(outcomes(&db.pool, broadcast).await, ["accepted 2"]);
    assert!(one::<Vec<i64>>(&db.pool, in_flight).await.is_empty());
    run(&db.pool, &format!("select resume_broadcast('{broadcast}')")).await;
    assert_eq!(send_rest(&db.pool, broadcast, "line").await, "completed");
    assert_clean(&db.pool).await;
}

/// A pause holds the messages up, not the deadline: nobody's tokens are held for ever.
#[tokio::test]
async fn a_broadcast_paused_past_its_deadline_expires_and_gives_its_tokens_back() {
    let db = database().await;
    let shop = shop(&db.pool, 3, 100).await;
    let broadcast = shop.opened(&[LINE], 10).await;
    run(&db.pool, &format!("select pause_broadcast('{broadcast}')")).await;
    let ring = "select count(*) from lanes_to_ring(null, null, 2, 4, 5)";
    let mode = format!("select mode from begin_turn('{broadcast}', (select sender_id from lane), 30)");
    assert_eq!(one::<i64>(&db.pool, ring).await, 0);
    run(&db.pool, "update broadcast set deadline_at = now()").await;
    assert_eq!(one::<i64>(&db.pool, ring).await, 1);
    assert_eq!(one::<String>(&db.pool, &mode).await, "expired");
    assert!(
        one::<bool>(
            &db.pool,
            &format!("select drain_slice('{broadcast}', 'line', 'expired')")
        )
        .await
    );
    assert_eq!(outcomes(&db.pool, broadcast).await, ["expired 3"]);
    assert_eq!(
        (state(&db.pool, broadcast).await.as_str(), shop.available().await),
        ("completed", 100)
    );
    assert_clean(&db.pool).await;
}
