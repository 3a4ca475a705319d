//! Whether a whole lane may sleep through quiet hours.

use carillon::db::PgPool;
use uuid::Uuid;

use super::KEY_SECS;
use crate::{
    fixture_db::database,
    scene::{LINE, claim, let_leases_expire, one, run, settle, shop},
};

/// Whether nobody on the lane is worked on until some later time.
async fn sleeps(pool: &PgPool, broadcast: Uuid) -> bool {
    let sql = format!(
        "select lane_sleeps_until('{broadcast}', sender_id) > now() from lane where broadcast_id = '{broadcast}'"
    );
    one::<Option<bool>>(pool, &sql).await == Some(true)
}

/// Its key is forgotten in the morning, and then nobody would know whether it left.
#[tokio::test]
async fn a_lane_with_a_message_in_flight_does_not_sleep() {
    let db = database().await;
    let shop = shop(&db.pool, 4, 100).await;
    let broadcast = shop.opened(&[LINE], 2).await;
    assert!(!sleeps(&db.pool, broadcast).await, "nobody asked for quiet");
    // An hour around this moment, whatever the time is.
    run(
        &db.pool,
        &format!(
            "select set_quiet_hours(s.id, 'line', (now() at time zone s.time_zone)::time - interval '1 hour',
                                    (now() at time zone s.time_zone)::time + interval '1 hour')
               from shop s where s.id = '{}'",
            shop.id
        ),
    )
    .await;
    assert!(sleeps(&db.pool, broadcast).await);

    // Sent when there was no quiet, and nobody knows yet whether it arrived.
    run(
        &db.pool,
        "create table quiet as select * from quiet_hours; delete from quiet_hours",
    )
    .await;
    let claimed = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    run(&db.pool, "insert into quiet_hours select * from quiet").await;
    assert!(!sleeps(&db.pool, broadcast).await, "a worker is at it");
    let_leases_expire(&db.pool, broadcast).await;
    assert!(!sleeps(&db.pool, broadcast).await, "its worker died");
    let repeat = claim(&db.pool, broadcast, "line", 2, KEY_SECS).await.unwrap();
    assert_eq!(repeat.in_flight, claimed.in_flight);
    let uncertain = Some(&repeat.in_flight[..]);
    settle(
        &db.pool,
        broadcast,
        "line",
        &repeat,
        (&[], "accepted"),
        (None, uncertain),
    )
    .await;
    assert!(!sleeps(&db.pool, broadcast).await, "it rests, to be repeated");

    run(
        &db.pool,
        "update slice set in_flight = null, state = 'planned', lease_until = null",
    )
    .await;
    assert!(sleeps(&db.pool, broadcast).await);
}
