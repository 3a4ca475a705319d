//! Rows that were written before a rule: what the migration that brings it, and the housekeeping behind it, make of them.

use std::collections::BTreeMap;

use carillon::{db::PgPool, delivery::phones};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture_db::{TestDb, empty_database},
    migrating::files,
    scene::{LINE, claim, one, run, settle, shop},
};

/// A database as it was after this migration, and what is to be run to bring it up to date.
async fn as_of(last: u32) -> (TestDb, Vec<String>) {
    let db = empty_database().await;
    let mut later = Vec::new();
    for (number, text) in files() {
        if number <= last {
            run(&db.pool, &text).await;
        } else {
            later.push(text);
        }
    }
    (db, later)
}

async fn migrate(pool: &PgPool, later: &[String]) {
    for text in later {
        run(pool, &format!("begin; {text}; commit")).await;
    }
}

/// All that can be normalised now.
async fn normalise(pool: &PgPool) {
    while phones::normalise(pool).await.unwrap() > 0 {}
}

async fn lines(pool: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(pool)
        .await
        .unwrap()
}

/// A shop with a text message sender of its own, or of the platform's, from before numbers had one form.
struct Before {
    db: TestDb,
    later: Vec<String>,
    shop: Uuid,
    sender: Uuid,
}

impl Before {
    async fn new() -> Self {
        let (db, later) = as_of(25).await;
        let before = Self {
            db,
            later,
            shop: Uuid::now_v7(),
            sender: Uuid::now_v7(),
        };
        run(
            &before.db.pool,
            &format!(
                "insert into shop (id, name, url, plan) values ('{shop}', 'Tea', 'https://tea.example', 'core');
                 insert into sender (id, shop_id, channel, name, is_primary, credentials)
                 values ('{sender}', null, 'sms', 'sms', true, '')",
                shop = before.shop,
                sender = before.sender
            ),
        )
        .await;
        before
    }

    fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    async fn shop(&self) -> Uuid {
        let id = Uuid::now_v7();
        let sql =
            format!("insert into shop (id, name, url, plan) values ('{id}', 'Cake', 'https://cake.example', 'core')");
        run(self.pool(), &sql).await;
        id
    }

    async fn customer(&self, shop: Uuid) -> i64 {
        let sql = format!("insert into customer (shop_id) values ('{shop}') returning id");
        one(self.pool(), &sql).await
    }

    /// An address as it was stored; `state` and why, as in `opted_out stop`.
    async fn address(&self, customer: i64, address: &str, state: &str, is_current: bool) -> i64 {
        let (state, reason) = state
            .split_once(' ')
            .map_or((state, "null".to_owned()), |(state, reason)| {
                (state, format!("'{reason}'"))
            });
        let sql = format!(
            "insert into address (shop_id, sender_id, customer_id, address, state, state_reason, is_current)
             select shop_id, '{}', id, '{address}', '{state}', {reason}, {is_current} from customer where id = {customer} returning id",
            self.sender
        );
        one(self.pool(), &sql).await
    }

    /// A broadcast under way with a delivery to this address.
    async fn awaits(&self, address: i64) -> Uuid {
        let id = Uuid::now_v7();
        run(
            self.pool(),
            &format!(
                "insert into broadcast (id, shop_id, name, mode, content, audience, state, plan_epoch, sending_at)
                 select '{id}', shop_id, 'b', 'priority_single', '{{}}', '{{}}', 'sending', 1, now() from address where id = {address};
                 insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens, planned)
                 values ('{id}', 0, 'sms', '{sender}', 32, 1);
                 insert into delivery (broadcast_id, channel, customer_id, address_id)
                 select '{id}', 'sms', customer_id, id from address where id = {address}",
                sender = self.sender
            ),
        )
        .await;
        id
    }

    /// Every address as `id address state reason`, with a star if it is the current one.
    async fn addresses(&self, customer: i64) -> Vec<String> {
        let sql = format!(
            "select concat_ws(' ', address, state, state_reason) || case when is_current then ' *' else '' end
               from address where customer_id = {customer} order by id"
        );
        lines(self.pool(), &sql).await
    }
}

/// Whatever was closed in either form is closed, whichever was current, and whoever waits for a message keeps their row.
#[tokio::test]
async fn two_forms_of_one_number_become_one_address_and_the_closed_one_wins() {
    // From open to most closed.
    const STATES: [&str; 4] = ["active", "suppressed bounced", "opted_out stop", "opted_out person"];
    let before = Before::new().await;
    let mut wanted = BTreeMap::new();
    for (place, old) in STATES.iter().enumerate() {
        for (other, new) in STATES.iter().enumerate() {
            for (current, awaited) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                let customer = before.customer(before.shop).await;
                let national = 912_000_000 + customer;
                let old = before
                    .address(customer, &format!("0{national}"), old, current == 0)
                    .await;
                let new = before
                    .address(customer, &format!("+886{national}"), new, current == 1)
                    .await;
                if awaited > 0 {
                    before.awaits(if awaited == 1 { old } else { new }).await;
                }
                let kept = if awaited == 1 { old } else { new };
                wanted.insert(
                    customer,
                    format!("{kept} +886{national} {} true", STATES[place.max(other)]),
                );
            }
        }
    }
    migrate(before.pool(), &before.later).await;
    normalise(before.pool()).await;
    let found = lines(
        before.pool(),
        "select customer_id || ':' || concat_ws(' ', id, address, state, state_reason, is_current::text) from address order by customer_id, id",
    )
    .await;
    let wanted: Vec<String> = wanted
        .iter()
        .map(|(customer, line)| format!("{customer}:{line}"))
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(
        one::<i64>(before.pool(), "select count(*) from phone_to_normalise").await,
        0
    );
}

#[tokio::test]
async fn one_number_of_several_people_is_one_telephone() {
    let before = Before::new().await;
    let (a, b, alone) = (
        before.customer(before.shop).await,
        before.customer(before.shop).await,
        before.customer(before.shop).await,
    );
    let stranger = before.customer(before.shop().await).await;
    before.address(a, "0912-345-678", "active", true).await;
    before.address(b, "+886912345678", "opted_out stop", true).await;
    before.address(alone, "0912 345 679", "active", true).await;
    before.address(alone, "no number", "active", false).await;
    before.address(stranger, "(0912) 345678", "active", true).await;
    // Said by the number that now goes, of which something else is on its way.
    let (said, number) = (before.customer(before.shop).await, "+886922000111");
    let old = before.address(said, "0922-000-111", "active", true).await;
    before.address(said, number, "opted_out stop", false).await;
    before.awaits(old).await;
    let sql = format!(
        "insert into address_standing (sender_id, address, wanted, wanted_at) values ('{}', '{number}', false, now())",
        before.sender
    );
    run(before.pool(), &sql).await;

    migrate(before.pool(), &before.later).await;
    normalise(before.pool()).await;
    for who in [a, b, stranger] {
        assert_eq!(before.addresses(who).await, ["+886912345678 opted_out stop *"]);
    }
    assert_eq!(
        before.addresses(alone).await,
        ["+886912345679 active *", "no number active"]
    );
    let twins = "select count(*) filter (where twin_of is not null) from address where address = '+886912345678' and shop_id = ";
    let of = |shop: Uuid| format!("{twins} '{shop}'");
    assert_eq!(one::<i64>(before.pool(), &of(before.shop)).await, 2);
    assert_eq!(before.addresses(said).await, [format!("{number} opted_out stop *")]);
    let said = format!("select wanted from address_standing where address = '{number}'");
    assert!(!one::<bool>(before.pool(), &said).await, "what was said is kept");
}

/// Who is put off is met again; a lock that somebody has is never waited for.
#[tokio::test]
async fn what_cannot_be_done_now_is_done_later_and_keeps_nobody_waiting() {
    let before = Before::new().await;
    let [both, held, free] = [
        before.customer(before.shop).await,
        before.customer(before.shop).await,
        before.customer(before.shop().await).await,
    ];
    let mut broadcasts = Vec::new();
    for address in ["0912345678", "+886912345678"] {
        let address = before.address(both, address, "active", broadcasts.is_empty()).await;
        broadcasts.push(before.awaits(address).await);
    }
    let locked = before.address(held, "0922-345-678", "active", true).await;
    before.address(free, "0933-345-678", "active", true).await;
    migrate(before.pool(), &before.later).await;

    let mut holder = carillon::db::begin(before.pool()).await.unwrap();
    one::<i64>(
        &mut *holder,
        &format!("select id from address where id = {locked} for update"),
    )
    .await;
    for _ in 0..3 {
        phones::normalise(before.pool()).await.unwrap();
    }
    assert_eq!(
        before.addresses(both).await,
        ["0912345678 active *", "+886912345678 active"]
    );
    assert_eq!(before.addresses(held).await, ["0922-345-678 active *"]);
    assert_eq!(before.addresses(free).await, ["+886933345678 active *"]);
    holder.commit().await.unwrap();

    let again = "update phone_to_normalise set due_at = now()";
    run(before.pool(), again).await;
    normalise(before.pool()).await;
    assert_eq!(before.addresses(held).await, ["+886922345678 active *"]);
    assert_eq!(before.addresses(both).await.len(), 2);

    let ended = format!(
        "update broadcast set state = 'completed', finished_at = now() where id = '{}'",
        broadcasts[0]
    );
    run(before.pool(), &ended).await;
    // A plan that is being made reads addresses this very moment.
    run(
        before.pool(),
        &format!(
            "update broadcast set state = 'paused', resume_state = 'planning' where id = '{}'",
            broadcasts[1]
        ),
    )
    .await;
    run(before.pool(), again).await;
    normalise(before.pool()).await;
    assert_eq!(before.addresses(both).await.len(), 2);
    run(
        before.pool(),
        &format!(
            "update broadcast set resume_state = 'sending' where id = '{}'",
            broadcasts[1]
        ),
    )
    .await;
    run(before.pool(), again).await;
    normalise(before.pool()).await;
    assert_eq!(before.addresses(both).await, ["+886912345678 active *"]);
    assert_eq!(
        one::<i64>(before.pool(), "select count(*) from phone_to_normalise").await,
        0
    );
}

/// It opened when nothing was reserved: until LINE has been asked all of it counts, then what is still to go.
#[tokio::test]
async fn a_line_broadcast_that_was_under_way_reserves_what_is_left_of_it() {
    let (db, later) = as_of(26).await;
    let shop = shop(&db.pool, 10, 100).await;
    let broadcast = shop.opened(&[LINE], 5).await;
    let claimed = claim(&db.pool, broadcast, "line", 5, 82_800.0).await.unwrap();
    settle(
        &db.pool,
        broadcast,
        "line",
        &claimed,
        (&claimed.customers, "accepted"),
        (None, None),
    )
    .await;
    let over = shop.opened(&[LINE], 10).await;
    run(&db.pool, &format!("select cancel_broadcast('{over}')")).await;
    while one::<bool>(&db.pool, &format!("select drain_slice('{over}', 'line', 'cancelled')")).await {}
    migrate(&db.pool, &later).await;
    let sender: Uuid = one(&db.pool, "select id from sender where channel = 'line'").await;
    let reserved = format!("select line_reserved('{sender}')");
    let rows = lines(
        &db.pool,
        "select broadcast_id || ' ' || messages || ' ' || counted from line_reservation",
    )
    .await;
    assert_eq!(rows, [format!("{broadcast} 10 0")]);
    assert_eq!(one::<i64>(&db.pool, &reserved).await, 10);
    let read =
        format!("select line_quota_read('{sender}', 100, 5, asked_at, sent) from line_before_asking('{sender}')");
    run(&db.pool, &read).await;
    assert_eq!(one::<i64>(&db.pool, &reserved).await, 5);
}
