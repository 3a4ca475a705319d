//! Who gets a conversation: the switch, the shifts, permission, turns, and staff who take one themselves.

use carillon::{db::PgPool, inbox::assign_waiting};
use chrono::{DateTime, Utc};
use futures::future::join_all;

use crate::{
    fixture_db::database,
    inbox::{Scene, wrote},
    scene::{one, run},
};

/// A shop with the switch on, two sets of hours (always, and never on this day of the week) and no staff.
async fn shop_with_hours(pool: &PgPool) -> Scene {
    let scene = Scene::new(pool, "line").await;
    let id = scene.shop;
    run(
        pool,
        &format!(
            "insert into inbox_setting (shop_id, auto_assign) values ('{id}', true);
             insert into working_hours (shop_id, name, time_zone, days, starts_at, ends_at) values
                 ('{id}', 'always', 'Asia/Taipei', '{{1,2,3,4,5,6,7}}', '00:00', '00:00');
             insert into working_hours (shop_id, name, time_zone, days, starts_at, ends_at)
             select '{id}', 'another day', 'Asia/Taipei', array[1 + (extract(isodow from now() at time zone 'Asia/Taipei')::int + 2) % 7], '10:00', '10:01'"
        ),
    )
    .await;
    scene
}

impl Scene {
    async fn staff(&self, name: &str, hours: &str, permitted_mins: i32) {
        let sql = format!(
            "insert into staff (shop_id, external_id, may_send_since, working_hours_id)
             select '{}', '{name}', now() - {permitted_mins} * interval '1 minute', id from working_hours where name = '{hours}' and shop_id = '{}'",
            self.shop, self.shop
        );
        run(&self.pool, &sql).await;
    }

    /// Who has each conversation, in the order they began.
    async fn assigned(&self) -> Vec<String> {
        self.get(
            "select coalesce(array_agg(coalesce(s.external_id, '-') order by t.id), '{}')
               from conversation t left join staff s on s.id = t.assigned_staff_id",
        )
        .await
    }
}

#[tokio::test]
async fn a_conversation_goes_to_who_is_on_shift_and_permitted_for_five_minutes() {
    let db = database().await;
    let scene = shop_with_hours(&db.pool).await;
    scene.staff("new", "always", 4).await;
    scene.staff("off", "another day", 60).await;
    run(&db.pool, "insert into staff (shop_id, external_id, may_send_since) select shop_id, 'no hours', now() - interval '1 day' from staff limit 1").await;
    let applied = scene.apply(&[wrote("U1", "m1", "hello", 0)]).await;
    assert_eq!(
        (applied.assigned, scene.assigned().await),
        (0, vec!["-".to_owned()]),
        "it stays pending"
    );
    scene.staff("ann", "always", 5).await;
    assert_eq!(scene.apply(&[wrote("U1", "m2", "anybody?", 1)]).await.assigned, 1);
    assert_eq!(scene.assigned().await, ["ann"]);
    assert_eq!(
        scene.apply(&[wrote("U1", "m3", "thanks", 2)]).await.assigned,
        0,
        "it has somebody"
    );
}

#[tokio::test]
async fn without_the_switch_and_for_a_shop_fronts_messages_nobody_is_chosen() {
    let db = database().await;
    let scene = shop_with_hours(&db.pool).await;
    scene.staff("ann", "always", 60).await;
    run(&db.pool, "update inbox_setting set auto_assign = false").await;
    scene.apply(&[wrote("U1", "m1", "hello", 0)]).await;
    assert_eq!(scene.assigned().await, ["-"]);
    run(
        &db.pool,
        &format!(
            "update inbox_setting set auto_assign = true; update sender set channel = 'app' where id = '{}'",
            scene.sender
        ),
    )
    .await;
    let mut store = wrote("c-1", "m2", "hello", 0);
    if let carillon::channel::webhook::What::Message(message) = &mut store.what {
        message.thread = carillon::channel::webhook::Thread::Store;
    }
    assert_eq!(scene.apply(&[store]).await.assigned, 0);
}

#[tokio::test]
async fn everybody_gets_a_turn_and_one_taken_by_hand_counts_as_one() {
    let db = database().await;
    let scene = shop_with_hours(&db.pool).await;
    for name in ["ann", "bob", "cy"] {
        scene.staff(name, "always", 60).await;
    }
    for n in 0..3 {
        scene
            .apply(&[wrote(&format!("U{n}"), &format!("m{n}"), "hello", n)])
            .await;
    }
    let first: Vec<String> = scene.assigned().await;
    let mut sorted = first.clone();
    sorted.sort();
    assert_eq!(sorted, ["ann", "bob", "cy"], "who never got one comes first");
    // Whose turn is next takes another by hand, so the one after is chosen.
    run(&db.pool, &format!("select assign_conversation((select max(id) from conversation), (select id from staff where external_id = '{}'), 'the lead')", first[0])).await;
    scene
        .apply(&[wrote("U9", "m9", "hello", 9), wrote("U8", "m8", "hello", 8)])
        .await;
    assert_eq!(scene.assigned().await[3..], [first[1].clone(), first[2].clone()]);
    let by_hand: i64 = scene
        .get("select count(*) from assignment where assigned_by = 'the lead'")
        .await;
    assert_eq!(by_hand, 1);
}

#[tokio::test]
async fn workers_that_assign_at_once_share_out_evenly() {
    let db = database().await;
    let scene = shop_with_hours(&db.pool).await;
    for n in 0..4 {
        scene.staff(&format!("s{n}"), "always", 60).await;
    }
    join_all((0..20).map(async |n| {
        let event = wrote(&format!("U{n}"), &format!("m{n}"), "hello", n);
        scene.apply(&[event]).await
    }))
    .await;
    let shares: Vec<i64> = one(
        &db.pool,
        "select array_agg(n) from (select count(*) as n from conversation group by assigned_staff_id) t",
    )
    .await;
    assert_eq!(shares, [5, 5, 5, 5]);
    let times: Vec<DateTime<Utc>> = one(&db.pool, "select array_agg(distinct last_assigned_at) from staff").await;
    assert_eq!(times.len(), 4, "no two are equally long ago");
}

#[tokio::test]
async fn who_comes_to_work_gets_what_waited() {
    let db = database().await;
    let scene = shop_with_hours(&db.pool).await;
    scene.staff("off", "another day", 60).await;
    scene
        .apply(&[wrote("U1", "m1", "hello", 0), wrote("U2", "m2", "hello", 1)])
        .await;
    assert_eq!(assign_waiting(&db.pool).await.unwrap(), 0, "nobody is at work");
    scene.staff("ann", "always", 5).await;
    run(&db.pool, "update inbox_setting set auto_assign = false").await;
    assert_eq!(assign_waiting(&db.pool).await.unwrap(), 0, "the switch is off");
    run(&db.pool, "update inbox_setting set auto_assign = true").await;
    assert_eq!(assign_waiting(&db.pool).await.unwrap(), 2);
    assert_eq!(scene.assigned().await, ["ann", "ann"]);
    assert_eq!(assign_waiting(&db.pool).await.unwrap(), 0);
}
