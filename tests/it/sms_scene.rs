//! A shop that sends text messages: a Mitake or Twilio sender on the world's sandbox, with its identity recorded, and customers with phones.

use carillon::{app::ProcessKind, secret::Secrets};
use carillon_sandbox::{MITAKE_PASSWORD, MITAKE_USER, TWILIO_AUTH_TOKEN, TWILIO_FROM, TWILIO_SID};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::World;

pub(crate) const CALLBACK_TOKEN: &str = "callback-token-of-the-tests";
/// A world's settings: short time-outs, and an address at which providers could reach it.
pub(crate) const SETTINGS: [(&str, &str); 3] = [
    ("CHANNEL__HTTP__CONNECT_TIMEOUT_SECS", "1"),
    ("CHANNEL__SMS__TIMEOUT_SECS", "2"),
    ("WEB__PUBLIC_URL", "https://carillon.example"),
];

pub(crate) fn mitake(sandbox: &carillon_sandbox::Running) -> Value {
    json!({
        "provider": "mitake", "username": MITAKE_USER, "password": MITAKE_PASSWORD, "callback_token": CALLBACK_TOKEN,
        "base_url": format!("{}/b2c/mtk", sandbox.http_url()),
    })
}

pub(crate) fn twilio() -> Value {
    json!({"provider": "twilio", "account_sid": TWILIO_SID, "auth_token": TWILIO_AUTH_TOKEN, "from": TWILIO_FROM})
}

/// A world whose shop sends text messages by this provider.
pub(crate) async fn world(provider: &str) -> (World, Uuid) {
    let mut world = World::new(&SETTINGS).await;
    let url = world.sandbox.http_url();
    world.env.insert("CARILLON__CHANNEL__SMS__TWILIO_BASE_URL".into(), url);
    let credentials = match provider {
        "mitake" => mitake(&world.sandbox),
        _ => twilio(),
    };
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
         values ($1, $2, 'sms', 'sms', true, $3, 100000)",
    )
    .bind(id)
    .bind(world.shop)
    .bind(seal(&world, id, &credentials))
    .execute(world.pool())
    .await
    .unwrap();
    world
        .run(&format!(
            "select record_sms_identity('{id}', 'EasyStore', 'tests', 'approved')"
        ))
        .await;
    (world, id)
}

/// Credentials as they are stored.
pub(crate) fn seal(world: &World, sender: Uuid, credentials: &Value) -> Vec<u8> {
    let secrets = Secrets::new(&world.app(ProcessKind::Command).config.secret.keys).unwrap();
    secrets.seal(credentials.to_string().as_bytes(), sender).unwrap()
}

/// Adds customers with a mobile number each.
pub(crate) async fn customers(world: &World, n: i32) {
    world
        .run(&format!(
            "with c as (insert into customer (shop_id, first_name, last_name)
                        select '{shop}', '小' || i, '陳' from generate_series(1, {n}) i returning id)
             insert into address (shop_id, sender_id, customer_id, address)
             select '{shop}', s.id, c.id, '09' || lpad(c.id::text, 8, '0')
               from c cross join sender s where s.shop_id = '{shop}' and s.channel = 'sms'",
            shop = world.shop
        ))
        .await;
}
