//! `carillon jobs explain BROADCAST:CUSTOMER`: what is certain about one message, under way and afterwards.

use crate::{
    explain::{codes, explain, scene, words},
    scene::{self as rows, APP, LINE},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_under_way_says_what_is_certain_about_it() {
    let (world, shop) = scene().await;
    let id = shop.opened(&[LINE, APP], 5).await;
    let first = |customer: usize| format!("{id}:{}", shop.customers[customer]);
    let message = async |customer: usize| {
        let codes = codes(&world, &first(customer)).await;
        codes.into_iter().take(2).collect::<Vec<_>>()
    };
    assert_eq!(message(0).await, ["waiting", "waiting"]);
    assert!(words(&world, &first(7)).await.contains("slice 1, behind 1 other"));

    let push = rows::claim(world.pool(), id, "app", 3, 0.0).await.unwrap();
    let line = rows::claim(world.pool(), id, "line", 3, 3_600.0).await.unwrap();
    assert_eq!(message(0).await, ["in_flight", "in_flight"]);
    assert_eq!(
        message(4).await,
        ["waiting", "waiting"],
        "in the slice, not in its window"
    );
    rows::let_leases_expire(world.pool(), id).await;
    assert_eq!(message(0).await, ["interrupted", "interrupted"]);
    let says = words(&world, &first(0)).await;
    assert!(
        says.contains("writes unknown") && says.contains("repeats it with the same key"),
        "{says}"
    );

    let (customers, none) = (push.in_flight.as_slice(), (None, None));
    rows::settle(world.pool(), id, "app", &push, (&customers[..1], "accepted"), none).await;
    let uncertain: Option<&[i64]> = Some(&line.in_flight[..1]);
    rows::settle(
        world.pool(),
        id,
        "line",
        &line,
        (&line.in_flight[1..2], "failed"),
        (None, uncertain),
    )
    .await;
    assert_eq!(message(0).await, ["accepted", "uncertain"]);
    assert!(words(&world, &first(0)).await.contains("1 tokens were charged"));
    assert_eq!(message(1).await, ["waiting", "failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ended_says_how_and_one_that_never_was_says_why() {
    let world = World::new(&[]).await;
    world.customers(4, "s.channel = 'line'").await;
    let people: Vec<i64> = world.one("select array_agg(id order by id) from customer").await;
    world
        .run(&format!(
            "update customer set opted_out = true where id = {}",
            people[1]
        ))
        .await;
    world
        .run(&format!("delete from address where customer_id = {}", people[2]))
        .await;
    let id = world.draft("priority_single", &["line"], "哈囉 {first_name}").await;
    let working = world.work();
    world.send(id).await;
    world.ended(id, 30).await;
    working.stop().await;
    let of = |customer: i64| format!("{id}:{customer}");
    assert_eq!(codes(&world, &of(people[0])).await, ["accepted"]);
    let taken: String = world.one("select provider_id from delivery_result limit 1").await;
    let told = explain(&world, &of(people[0])).await;
    assert!(
        told["facts"]["customer"]["deliveries"][0]["provider_id"].is_string(),
        "{told} {taken}"
    );
    assert_eq!(told["facts"]["customer"]["deliveries"][0]["charged_tokens"], 5);
    for (customer, says) in [(people[1], "opted out"), (people[2], "no address")] {
        assert_eq!(codes(&world, &of(customer)).await[0], "skipped_at_planning");
        assert!(words(&world, &of(customer)).await.contains(says));
    }
    let late: i64 = world
        .one(&format!(
            "insert into customer (shop_id) values ('{}') returning id",
            world.shop
        ))
        .await;
    assert_eq!(codes(&world, &of(late)).await, ["not_in_audience", "completed"]);
    assert_eq!(codes(&world, &of(999_999)).await, ["no_customer", "completed"]);
    world
        .run(&format!(
            "update delivery_result set state = 'delivered' where customer_id = {0};
             update delivery_result set state = 'failed', charged_tokens = 0, reason = 'receipt' where customer_id = {1}",
            people[0], people[3]
        ))
        .await;
    assert_eq!(codes(&world, &of(people[0])).await, ["delivered"]);
    assert_eq!(codes(&world, &of(people[3])).await, ["failed"]);
}
