//! A Facebook page and a WhatsApp number in a world, and people who wrote to them.

use std::path::PathBuf;

use carillon::{app::ProcessKind, secret::Secrets};
use carillon_sandbox::{META_APP_ID, META_APP_SECRET, PAGE_ID, PAGE_TOKEN, PHONE_NUMBER_ID, WHATSAPP_TOKEN};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{fixture_db::service, world::World};

/// What Meta's challenge must carry.
pub(crate) const VERIFY_TOKEN: &str = "meta-verify-token-of-the-tests";

/// What the sandbox knows its page by.
pub(crate) fn page() -> Value {
    json!({"page_id": PAGE_ID, "access_token": PAGE_TOKEN, "app_id": META_APP_ID, "app_secret": META_APP_SECRET,
        "verify_token": VERIFY_TOKEN})
}

/// What the sandbox knows its number by.
pub(crate) fn number() -> Value {
    json!({"phone_number_id": PHONE_NUMBER_ID, "access_token": WHATSAPP_TOKEN, "app_secret": META_APP_SECRET,
        "verify_token": VERIFY_TOKEN})
}

/// A world with a page and a number, and with a price for WhatsApp, which has none otherwise.
pub(crate) async fn world(settings: &[(&str, &str)]) -> (World, Prices) {
    on_redis(&service("CARILLON_TEST_REDIS_URL"), settings).await
}

/// The same on a Redis of the test's own.
pub(crate) async fn on_redis(redis: &str, settings: &[(&str, &str)]) -> (World, Prices) {
    let prices = priced();
    let folder = prices.0.to_str().unwrap().to_owned();
    let mut all = vec![("PRICES__FOLDER", folder.as_str())];
    all.extend(settings);
    let world = World::on_redis(redis, &all).await;
    sender(&world, "messenger", &page()).await;
    sender(&world, "whatsapp", &number()).await;
    (world, prices)
}

/// A folder of price tables, gone with the value.
pub(crate) struct Prices(PathBuf);

impl Drop for Prices {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The shipped price tables with one row more.
fn priced() -> Prices {
    let folder = std::env::temp_dir().join(format!("carillon-prices-{}", Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prices");
    for file in std::fs::read_dir(shipped).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        let mut text = std::fs::read_to_string(&path).unwrap();
        if name.to_str().unwrap().starts_with("token-costs") {
            text = text.replace("email = 2", "email = 2\nwhatsapp = 4");
        }
        std::fs::write(folder.join(name), text).unwrap();
    }
    Prices(folder)
}

/// Connects an account.
pub(crate) async fn sender(world: &World, channel: &str, credentials: &Value) -> Uuid {
    let id = Uuid::now_v7();
    let secrets = Secrets::new(&world.app(ProcessKind::Command).config.secret.keys).unwrap();
    sqlx::query(
        "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
         values ($1, $2, $3::text::channel, $3, true, $4, 100000)",
    )
    .bind(id)
    .bind(world.shop)
    .bind(channel)
    .bind(secrets.seal(credentials.to_string().as_bytes(), id).unwrap())
    .execute(world.pool())
    .await
    .unwrap();
    id
}

/// Adds `n` customers on a channel, who wrote so long ago.
pub(crate) async fn customers(world: &World, n: i32, channel: &str, wrote: &str) {
    world
        .run(&format!(
            "with c as (insert into customer (shop_id, first_name, last_name)
                        select '{shop}', '小' || i, '陳' from generate_series(1, {n}) i returning id)
             insert into address (shop_id, sender_id, customer_id, address, last_inbound_at)
             select '{shop}', s.id, c.id, case s.channel when 'messenger' then '7' || lpad(c.id::text, 15, '0')
                                                         else '+8860' || lpad(c.id::text, 8, '0') end, now() - interval '{wrote}'
               from c cross join sender s where s.shop_id = '{shop}' and s.channel = '{channel}'",
            shop = world.shop
        ))
        .await;
}
