//! Seeded shops: the same for the same seed, and fit to be planned.

use carillon::{
    broadcast::{self, Advance, Audience, BroadcastConfig, Mode, NewBroadcast},
    channel::Channel::{Email, Line},
    cli::seed,
    secret::{Hidden, Secrets},
};
use carillon_jobs::ShopId;
use serde_json::json;

use crate::{
    broadcast_scene::{advance_fully, column, deliveries, one, planner, skipped},
    fixture_db::database,
};

#[tokio::test]
async fn a_seeded_shop_is_the_same_for_the_same_seed_and_can_be_planned() {
    let db = database().await;
    let secrets = Secrets::new(&[Hidden::new("a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")]).unwrap();
    let line = r#"{"channel_id":"2000000001","channel_secret":"5a6d0bd0c0ffee00c0ffee00c0ffee00","access_token":"t"}"#;
    let email = r#"{"host":"127.0.0.1","port":9925,"tls":"none","from":"shop@mail.example"}"#;
    let plan = |seed| seed::Plan {
        shop_name: "鐘聲選物",
        customers: 12_000,
        seed,
        sms_name: "EasyStore",
        extra_tokens: 100_000,
        credentials: vec![(Line, line.to_owned()), (Email, email.to_owned())],
    };
    let mut people = Vec::new();
    for seed in [1, 1, 2] {
        let seeded = seed::plant(&db.pool, &secrets, &plan(seed)).await.unwrap();
        let sql = format!(
            "select md5(string_agg(concat_ws(' ', external_id, last_name, first_name, tags, opted_out, n), ',' order by external_id))
               from customer c, lateral (select count(*) as n from address a where a.customer_id = c.id) x where shop_id = '{}'",
            seeded.shop
        );
        people.push(one::<String>(&db.pool, &sql).await);
        let new = NewBroadcast {
            shop: seeded.shop,
            channels: vec![(Line, None), (Email, None)],
            mode: Mode::PrioritySingle,
            ..shop_less()
        };
        let config = BroadcastConfig {
            chunk_customers: 5_000,
            ..BroadcastConfig::built_in().unwrap()
        };
        let id = broadcast::create(&db.pool, &config, &new).await.unwrap();
        broadcast::send(&db.pool, id).await.unwrap();
        assert_eq!(advance_fully(&planner(&db.pool, &config), id).await, Advance::Opened);
        let reasons: Vec<String> = column(
            &db.pool,
            &format!("select reason from tally where broadcast_id = '{id}' and stage = 'plan' order by 1"),
        )
        .await;
        assert_eq!(reasons, ["no_address", "opted_out", "same_address", "suppressed"]);
        assert_eq!(
            skipped(&db.pool, id).await.len() + deliveries(&db.pool, id).await.len(),
            12_000
        );
    }
    assert_eq!(people[0], people[1]);
    assert_ne!(people[0], people[2]);
    assert_eq!(
        one::<i64>(&db.pool, "select count(*) from sender where channel = 'email'").await,
        1
    );
    let wrong = seed::Plan {
        credentials: vec![(Line, "{}".to_owned())],
        ..plan(3)
    };
    assert!(
        seed::plant(&db.pool, &secrets, &wrong)
            .await
            .unwrap_err()
            .to_string()
            .starts_with("--line: ")
    );
}

fn shop_less() -> NewBroadcast {
    NewBroadcast {
        shop: ShopId::new(),
        name: "Sale".to_owned(),
        mode: Mode::AppPlusOne,
        channels: Vec::new(),
        content: json!({"text": "Tea"}),
        audience: Audience::All,
        budget_tokens: None,
        at: None,
        deadline_hours: None,
    }
}
