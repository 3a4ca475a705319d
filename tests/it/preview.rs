//! What `carillon broadcast preview` shows is what arrives, byte for byte, and it shows it for the right customers.

use carillon::{
    app::ProcessKind,
    broadcast::{
        self, CreateError, MessagePreview, Mode, NewBroadcast, Preview, PreviewSetup, Who, preview_new, preview_stored,
    },
    channel::Channel,
};
use carillon_jobs::{BroadcastId, ShopId};
use carillon_sandbox::{Channel as Provider, ReceivedMessage, ReceivedQuery};
use uuid::Uuid;

use crate::{
    cli::run,
    meta_scene::{number, page, sender},
    sms_scene::{self, mitake},
    world::World,
};

const ALL: [&str; 6] = ["app", "line", "messenger", "whatsapp", "sms", "email"];
const TEXT: &str = "{first_name}{last_name} 您好，\\\"全館\\\" 5 折\\n只到週日";

/// A world that can send on every channel.
async fn world() -> (World, crate::meta_scene::Prices) {
    let (world, prices) = crate::meta_scene::world(&sms_scene::SETTINGS).await;
    let id = sender(&world, "sms", &mitake(&world.sandbox)).await;
    world
        .run(&format!(
            "select record_sms_identity('{id}', 'EasyStore', 'tests', 'approved')"
        ))
        .await;
    (world, prices)
}

/// Customers by first and last name, reachable on every channel of the shop.
async fn people(world: &World, names: &[(&str, &str)]) -> Vec<i64> {
    let mut ids = Vec::new();
    for (first, last) in names {
        let id: i64 = world
            .one(&format!(
                "insert into customer (shop_id, first_name, last_name) values ('{}', '{first}', '{last}') returning id",
                world.shop
            ))
            .await;
        ids.push(id);
        world
            .run(&format!(
                "insert into address (shop_id, sender_id, customer_id, address, last_inbound_at)
                 select shop_id, id, {id}, case channel when 'line' then 'U' || md5('{id}')
                          when 'app' then 'token-' || md5('{id}') || ':APA91b' || md5('{id}')
                          when 'messenger' then '7' || lpad('{id}', 15, '0') when 'whatsapp' then '+8860' || lpad('{id}', 8, '0')
                          when 'sms' then '09' || lpad('{id}', 8, '0') else 'customer{id}@mail.example' end, now()
                   from sender where shop_id = '{}'",
                world.shop
            ))
            .await;
    }
    ids
}

/// A draft with a button and an image on these channels.
async fn draft(world: &World, channels: &[&str], text: &str, whole: bool) -> BroadcastId {
    let id = world.draft("priority_single", channels, "x").await;
    world
        .run(&format!(
            "update broadcast set content = content || '{{\"text\": \"{text}\"}}'::jsonb where id = '{id}'"
        ))
        .await;
    if whole {
        world
            .run(&format!(
                "update broadcast set content = content || '{{\"button\": {{\"label\": \"逛逛\", \"url\": \"https://shop.example/sale\"}},
                    \"image_url\": \"https://shop.example/a.png\"}}'::jsonb where id = '{id}'"
            ))
            .await;
    }
    id
}

async fn previewed(world: &World, id: BroadcastId) -> Preview {
    let app = world.app(ProcessKind::Command);
    let setup = PreviewSetup {
        config: &app.config.broadcast,
        secrets: &app.secrets,
        public_url: &app.config.web.public_url,
    };
    preview_stored(world.pool(), setup, id)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

fn message(preview: &Preview, channel: Channel, who: Who) -> &MessagePreview {
    let channel = preview.channels.iter().find(|one| one.channel == channel).unwrap();
    channel.messages.iter().find(|one| one.who == who).unwrap()
}

/// With the link that unsubscribes, which is somebody's own, put aside in the bodies of a mail.
fn without_links(mail: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mail = mail.replace("\r\n", "\n");
    let mut sections = mail.split("Content-Transfer-Encoding: base64\n\n");
    let mut plain = sections.next().unwrap().to_owned();
    for section in sections {
        let (encoded, rest) = section.split_once("\n--").unwrap();
        let text = engine.decode(encoded.replace('\n', "")).unwrap();
        plain.push_str(&String::from_utf8(text).unwrap());
        plain.push_str(rest);
    }
    let mut parts = plain.split("/u/");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_.".contains(c)));
    }
    out
}

/// What arrived, as the part of the request that a preview holds.
fn request_of(channel: Channel, got: &ReceivedMessage) -> String {
    match channel {
        Channel::Line => format!(r#""messages":{},"customAggregationUnits":["{}"]"#, got.body, got.marker),
        Channel::Sms => got.text.clone(),
        _ => got.body.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_is_what_arrives_byte_for_byte_on_every_channel() {
    let (world, _prices) = world().await;
    people(&world, &[("小美", "陳"), ("歐陽娜娜", "司徒"), ("", "")]).await;
    let _working = world.work();
    for (name, provider) in ALL.into_iter().zip([
        Provider::Fcm,
        Provider::Line,
        Provider::Messenger,
        Provider::Whatsapp,
        Provider::Mitake,
        Provider::Smtp,
    ]) {
        let channel: Channel = name.parse().unwrap();
        let id = draft(&world, &[name], TEXT, true).await;
        let preview = previewed(&world, id).await;
        assert!(preview.people.iter().all(|person| !person.made_up));
        world.send(id).await;
        world.ended(id, 30).await;
        assert_eq!(world.count(id, "accepted").await, 3, "{name}");
        let received = world.sandbox.handle().received(provider, &ReceivedQuery::default());
        assert_eq!(received.len(), 3, "{name}");
        for who in Who::ALL {
            let shown = &message(&preview, channel, who).request;
            let mut arrived = received.iter().map(|one| request_of(channel, one));
            let same = match channel {
                Channel::Line | Channel::Sms => arrived.any(|one| one == *shown),
                Channel::Email => {
                    let shown = without_links(shown);
                    assert!(shown.contains("取消訂閱 Unsubscribe"), "{shown}");
                    arrived.any(|one| without_links(&one).ends_with(&shown))
                }
                // Before it stands who gets it.
                _ => arrived.any(|one| one.ends_with(&format!(",{shown}}}"))),
            };
            assert!(same, "{name} {who:?}: {shown}\n{received:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_is_for_a_sample_the_longest_name_and_an_empty_one() {
    let (world, _prices) = world().await;
    let too_long = "很".repeat(21);
    let ids = people(
        &world,
        &[
            ("", "林"),
            ("小美", ""),
            ("阿里山的姑娘美如水呀", ""),
            (&too_long, ""),
            ("  ", ""),
        ],
    )
    .await;
    let id = draft(&world, &["line", "sms"], "{first_name} 您好", false).await;
    let preview = previewed(&world, id).await;
    let chosen: Vec<_> = preview.people.iter().map(|one| one.customer.map(|id| id.0)).collect();
    // Only the first name is used: who has but a last one has none here.
    assert_eq!(chosen, [Some(ids[1]), Some(ids[2]), Some(ids[0])]);
    let empty = message(&preview, Channel::Line, Who::EmptyName);
    assert_eq!(empty.reading.text, "您 您好");
    assert_eq!(empty.warnings, ["the first name is empty: `您` stands in its place"]);
    assert!(message(&preview, Channel::Line, Who::Sample).warnings.is_empty());

    // Nobody but one with a name nobody can print, and nobody without: the rest is made up.
    world
        .run(&format!(
            "update broadcast set audience = '{{\"customers\": [{}]}}' where id = '{id}'",
            ids[3]
        ))
        .await;
    let preview = previewed(&world, id).await;
    let made_up: Vec<bool> = preview.people.iter().map(|one| one.made_up).collect();
    assert_eq!(made_up, [false, false, true]);
    let longest = message(&preview, Channel::Sms, Who::LongestName);
    assert_eq!(longest.reading.text, "EasyStore 您 您好");
    assert_eq!(
        longest.warnings,
        ["the first name cannot stand here: `您` stands in its place"]
    );
    world
        .run(&format!(
            "update broadcast set audience = '{{\"customers\": []}}' where id = '{id}'"
        ))
        .await;
    let preview = previewed(&world, id).await;
    assert!(preview.people.iter().all(|one| one.made_up && one.customer.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_and_estimate_tell_of_a_name_that_costs_a_second_segment() {
    let (world, _prices) = world().await;
    people(&world, &[("小美", ""), (&"阿".repeat(20), ""), ("", "")]).await;
    let text = format!("{{first_name}} {}", "折".repeat(55));
    let id = draft(&world, &["sms"], &text, true).await;
    let preview = previewed(&world, id).await;
    let sms = |who| message(&preview, Channel::Sms, who);
    let sample = sms(Who::Sample).sms.as_ref().unwrap();
    assert_eq!(
        (sample.segments, sample.characters_left, sample.prefix.as_str()),
        (1, 2, "EasyStore")
    );
    let longest = sms(Who::LongestName);
    assert_eq!(longest.sms.as_ref().unwrap().segments, 2);
    assert!(longest.warnings.iter().any(|one| one.starts_with("takes 2 segments")));
    assert!(longest.reading.text.starts_with("EasyStore 阿阿"));
    assert_eq!(
        preview.channels[0].warnings,
        ["a text message has neither button nor image: they are left out here"]
    );
    let app = world.app(ProcessKind::Command);
    let estimate = broadcast::estimate_stored(world.pool(), &app.config.broadcast, id)
        .await
        .unwrap();
    let told = estimate
        .warnings
        .iter()
        .filter(|one| one.contains("for the longest name"));
    assert_eq!(told.count(), 1, "{:?}", estimate.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_on_the_command_line_fits_a_screen_and_holds_no_secret() {
    let (world, _prices) = world().await;
    people(&world, &[("小美", "陳"), ("歐陽娜娜", "司徒"), ("", "")]).await;
    let id = draft(&world, &ALL, TEXT, true).await.to_string();
    let shown = run(&world, &["broadcast", "preview", &id]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<&str> = shown.out.lines().collect();
    let mut headings: Vec<usize> = ALL
        .iter()
        .map(|name| lines.iter().position(|line| line == name).unwrap())
        .collect();
    headings.push(lines.len());
    for channel in headings.windows(2) {
        assert!(channel[1] - channel[0] <= 30, "{}", shown.out);
    }
    assert!(shown.out.contains("小美陳 您好") && shown.out.contains("[逛逛] https://shop.example/sale"));

    let json = run(&world, &["broadcast", "preview", &id, "--json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["channels"].as_array().unwrap().len(), 6);
    assert_eq!(value["channels"][4]["messages"][0]["sms"]["alphabet"], "ucs2");
    for secret in [
        page()["access_token"].as_str().unwrap(),
        number()["access_token"].as_str().unwrap(),
        carillon_sandbox::LINE_TOKEN,
        carillon_sandbox::SMTP_PASSWORD,
        "@mail.example",
        "token-",
        "+8860",
    ] {
        assert!(!json.out.contains(secret) && !shown.out.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_of_what_is_wrong_or_disconnected_says_so() {
    let (world, _prices) = world().await;
    let app = world.app(ProcessKind::Command);
    let setup = PreviewSetup {
        config: &app.config.broadcast,
        secrets: &app.secrets,
        public_url: &app.config.web.public_url,
    };
    let nobody = preview_stored(world.pool(), setup, BroadcastId(Uuid::nil())).await;
    assert!(matches!(nobody, Err(CreateError::Refused(problems)) if problems.0[0].id == "broadcast_not_found"));
    let mut new = NewBroadcast {
        shop: ShopId(world.shop),
        name: "Sale".into(),
        mode: Mode::PrioritySingle,
        channels: vec![(Channel::Line, None)],
        content: serde_json::json!({"text": "{frist_name} hi"}),
        audience: carillon::broadcast::Audience::All,
        budget_tokens: None,
        at: None,
        deadline_hours: None,
    };
    assert!(matches!(
        preview_new(world.pool(), setup, &new).await,
        Err(CreateError::Refused(_))
    ));
    new.content = serde_json::json!({"text": "hi"});
    let preview = preview_new(world.pool(), setup, &new)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(message(&preview, Channel::Line, Who::Sample).reading.text, "hi");
    assert_eq!(preview.broadcast, None);

    let id = draft(&world, &["line"], "hi", false).await;
    world
        .run("update sender set state = 'disconnected', credentials = 'x' where channel = 'line'")
        .await;
    let preview = previewed(&world, id).await;
    assert!(preview.channels[0].messages.is_empty());
    assert_eq!(
        preview.channels[0].warnings.len(),
        2,
        "{:?}",
        preview.channels[0].warnings
    );
}
