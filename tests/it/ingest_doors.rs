//! The senders of the proof of the inbox, and the broadcasts that went over them before it begins.

use carillon_sandbox::{LINE_CHANNEL_SECRET, webhooks::Signer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    inbox_model::{SECS, moment},
    ingest_outcome::{TOKENS, sent_as},
    ingest_told::{Door, NUMBER, PAGE, SENT_AT},
    scene::{Shop, claim, settle},
    webhook_scene::{APP_SECRET, AUTH_TOKEN, CALLBACK_TOKEN, STORE_SECRET, Scene, VERIFY_TOKEN},
};

/// Six senders; over four of them went a broadcast to the first of their people.
pub(crate) async fn doors(scene: &Scene, url: &str, people: usize) -> Vec<Door> {
    let world = &scene.world;
    world.run(SECS).await;
    let shop_app: Uuid = world
        .one(&format!(
            "select id from sender where shop_id = '{}' and channel = 'app'",
            world.shop
        ))
        .await;
    scene.change(shop_app, &json!({"secret": STORE_SECRET})).await;
    let meta = |id: &str, value: &str| json!({id: value, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN, "access_token": "t"});
    let credentials: [(&str, &str, Value); 4] = [
        ("messenger", "messenger", meta("page_id", PAGE)),
        ("whatsapp", "whatsapp", meta("phone_number_id", NUMBER)),
        (
            "twilio",
            "sms",
            json!({"provider": "twilio", "account_sid": "AC00000000000000000000000000000000", "auth_token": AUTH_TOKEN}),
        ),
        (
            "mitake",
            "sms",
            json!({"provider": "mitake", "callback_token": CALLBACK_TOKEN}),
        ),
    ];
    let mut doors = vec![
        Door::new("line", scene.line, Signer::Line(LINE_CHANNEL_SECRET.to_owned()), people),
        Door::new("store", shop_app, Signer::Store(STORE_SECRET.to_owned()), people),
    ];
    for (provider, channel, credentials) in credentials {
        let sender = scene.sender(channel, &credentials).await;
        let signer = match provider {
            "twilio" => Signer::Twilio(AUTH_TOKEN.to_owned(), format!("{url}/webhooks/twilio/{sender}")),
            "mitake" => Signer::Mitake(CALLBACK_TOKEN.to_owned()),
            _ => Signer::Meta(APP_SECRET.to_owned()),
        };
        let mut door = Door::new(provider, sender, signer, people);
        broadcast(scene, &mut door, channel, people * 2 / 3).await;
        doors.push(door);
    }
    doors
}

/// Moves the sender to a shop of its own, whose broadcast has gone to so many of its people.
async fn broadcast(scene: &Scene, door: &mut Door, channel: &str, recipients: usize) {
    let (world, sender, shop) = (&scene.world, door.sender, Uuid::now_v7());
    let addresses: Vec<String> = (0..recipients).map(|person| door.address(person)).collect();
    world
        .run(&format!(
            "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'https://tea.example', 'core');
             update sender set shop_id = '{shop}', sends_templates = true where id = '{sender}';
             with c as (insert into customer (shop_id) select '{shop}' from generate_series(1, {recipients}) returning id),
                  n as (select id, row_number() over (order by id) as nr from c)
             insert into address (shop_id, sender_id, customer_id, address)
             select '{shop}', '{sender}', n.id, t.address
               from n join unnest('{{{}}}'::text[]) with ordinality as t (address, nr) using (nr);
             select ledger_refill('{shop}', '2999-11', 10000000)",
            addresses.join(",")
        ))
        .await;
    let customers: Vec<i64> = world
        .one(&format!(
            "select array_agg(id order by id) from customer where shop_id = '{shop}'"
        ))
        .await;
    let shop = Shop {
        id: shop,
        customers,
        pool: world.pool().clone(),
    };
    let id = shop.opened(&[(channel, TOKENS)], 50).await;
    while let Some(mut claimed) = claim(world.pool(), id, channel, 1_000, 0.0).await {
        let mut left = claimed.customers.clone();
        let place = |customer: &i64| shop.customers.binary_search(customer).unwrap();
        for outcome in ["accepted", "unknown", "failed"] {
            let whose: Vec<i64> = claimed
                .customers
                .iter()
                .copied()
                .filter(|one| sent_as(place(one)) == outcome)
                .collect();
            left.retain(|customer| !whose.contains(customer));
            if !whose.is_empty() {
                settle(
                    world.pool(),
                    id,
                    channel,
                    &claimed,
                    (&whose, outcome),
                    (Some(&left), None),
                )
                .await;
                claimed.intent_no += 1;
            }
        }
    }
    let ids: Vec<String> = (0..recipients)
        .filter(|person| sent_as(*person) != "unknown")
        .map(|person| door.provider_id(person))
        .collect();
    let whose: Vec<String> = (0..recipients)
        .filter(|person| sent_as(*person) != "unknown")
        .map(|person| shop.customers[person].to_string())
        .collect();
    world
        .run(&format!(
            "update broadcast set sending_at = '{at}'::timestamptz - interval '1 hour' where id = '{id}';
             update delivery_result set settled_at = '{at}' where broadcast_id = '{id}';
             update delivery_result d set provider_id = u.provider_id
               from unnest('{{{}}}'::bigint[], '{{{}}}'::text[]) as u (customer_id, provider_id)
              where d.broadcast_id = '{id}' and d.customer_id = u.customer_id",
            whose.join(","),
            ids.join(","),
            at = moment(SENT_AT).to_rfc3339()
        ))
        .await;
    door.broadcast = Some((id, shop.customers));
}
