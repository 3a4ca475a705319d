//! Events as providers' files yield them, and a shop whose broadcasts they are about.

use carillon::{
    channel::{
        DeliveryMark, ErrorClass,
        webhook::{Echo, Receipt, ReceiptOf, ReceiptState, WebhookEvent, What},
    },
    db::PgPool,
    delivery::receipt::{self, Applied},
};
use carillon_jobs::{BroadcastId, CustomerId, SenderId};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::scene::{self, Claim, Shop, one, run};

/// What a message costs on Messenger.
pub(crate) const MESSENGER: (&str, i32) = ("messenger", 5);

/// A shop with these many customers on LINE, the app and Messenger, and 1,000 tokens.
pub(crate) async fn shop(pool: &PgPool, customers: i32) -> Shop {
    let shop = scene::shop(pool, customers, 1_000).await;
    run(
        pool,
        &format!(
            "insert into sender (id, shop_id, channel, name, is_primary, credentials)
             values (gen_random_uuid(), '{0}', 'messenger', 'page', true, '');
             insert into address (shop_id, sender_id, customer_id, address, last_inbound_at)
             select '{0}', s.id, c.id, 'messenger' || c.id, now() from sender s, customer c
              where s.shop_id = '{0}' and s.channel = 'messenger' and c.shop_id = '{0}'",
            shop.id
        ),
    )
    .await;
    shop
}

/// The shop's sender on a channel.
pub(crate) async fn sender(shop: &Shop, channel: &str) -> SenderId {
    let sql = format!(
        "select id from sender where shop_id = '{}' and channel = '{channel}'",
        shop.id
    );
    SenderId(one(&shop.pool, &sql).await)
}

/// The mark of one delivery.
pub(crate) const fn mark(broadcast: Uuid, customer: i64) -> DeliveryMark {
    DeliveryMark {
        broadcast: BroadcastId(broadcast),
        customer: CustomerId(customer),
    }
}

/// A permanent failure that says nothing of the address.
pub(crate) fn failed(code: &str) -> ReceiptState {
    ReceiptState::Failed {
        class: ErrorClass::Recipient,
        code: code.to_owned(),
        closes_address: false,
    }
}

/// An event with a key of its own, now.
pub(crate) fn event(from: Option<&str>, what: What) -> WebhookEvent {
    WebhookEvent {
        account: None,
        key: Uuid::now_v7().to_string(),
        at: Utc::now(),
        from: from.map(str::to_owned),
        what,
    }
}

/// The same event at another time.
pub(crate) fn at(mut event: WebhookEvent, secs: i64) -> WebhookEvent {
    event.at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(secs);
    event
}

/// A receipt that carries our mark.
pub(crate) fn marked(mark: DeliveryMark, state: ReceiptState) -> WebhookEvent {
    let of = ReceiptOf::Message {
        provider_id: None,
        mark: Some(mark),
    };
    event(None, What::Receipt(Receipt { of, state }))
}

/// A receipt that names the provider's id.
pub(crate) fn named(id: &str, state: ReceiptState) -> WebhookEvent {
    let of = ReceiptOf::Message {
        provider_id: Some(id.to_owned()),
        mark: None,
    };
    event(None, What::Receipt(Receipt { of, state }))
}

/// A watermark of a customer's address.
pub(crate) fn up_to(from: &str, until: DateTime<Utc>, state: ReceiptState) -> WebhookEvent {
    let of = ReceiptOf::UpTo(until);
    event(Some(from), What::Receipt(Receipt { of, state }))
}

/// Our own message, seen from the provider's side.
pub(crate) fn echo(mark: DeliveryMark, id: &str) -> WebhookEvent {
    let echo = Echo {
        message_id: id.to_owned(),
        mark: Some(mark),
        ..Echo::default()
    };
    event(None, What::Echo(echo))
}

/// Applies events in a transaction of their own.
pub(crate) async fn apply(pool: &PgPool, sender: SenderId, events: &[WebhookEvent]) -> Applied {
    receipt::apply(pool, sender, events).await.unwrap()
}

/// Lets everything that waits be due, and tries it.
pub(crate) async fn retry(pool: &PgPool) -> u64 {
    run(
        pool,
        "update pending_receipt set due_at = now() where due_at is not null",
    )
    .await;
    receipt::retry(pool).await.unwrap()
}

/// How one delivery stands: `state charged reason code`.
pub(crate) async fn stands(pool: &PgPool, broadcast: Uuid, channel: &str, customer: i64) -> String {
    let sql = format!(
        "select coalesce((select concat_ws(' ', state, charged_tokens, reason, code) from delivery_result
          where broadcast_id = '{broadcast}' and channel = '{channel}' and customer_id = {customer}), 'none')"
    );
    one(pool, &sql).await
}

/// Settles these members of a claim as accepted the way most windows are: their lane, counters and tokens are posted later.
pub(crate) async fn accept_unposted(
    pool: &PgPool,
    broadcast: Uuid,
    channel: &str,
    claim: &Claim,
    who: &[i64],
    next: &[i64],
) {
    let none: Vec<Option<&str>> = vec![None; who.len()];
    let state: String =
        sqlx::query_scalar("select settle_accepted($1, $2::text::channel, $3, $4, $5, $6, $7, $8, '{}', '{}', 60)")
            .bind(broadcast)
            .bind(channel)
            .bind(claim.slice_no)
            .bind(claim.epoch)
            .bind(who)
            .bind(none)
            .bind(next)
            .bind(claim.intent_no + 1)
            .fetch_one(pool)
            .await
            .unwrap();
    assert!(state == "sending" || state == "cancelled", "{state}");
}
