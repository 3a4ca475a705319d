//! The door for webhooks: every route's every answer, without an account anywhere; on disk before 200, whatever Redis does.

use axum::{body::Body, http::Request as HttpRequest};
use bytes::Bytes;
use carillon::{
    app::{App, ProcessKind},
    config::{Config, Sources},
    secret,
};
use carillon_sandbox::{
    LINE_BOT_USER_ID, LINE_CHANNEL_SECRET,
    webhooks::{Request, Signer, line, messenger, mitake, twilio, whatsapp},
};
use proptest::prelude::*;
use serde_json::json;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    wait::until,
    webhook_scene::{
        APP_SECRET, AUTH_TOKEN, CALLBACK_TOKEN, STORE_SECRET, Scene, VERIFY_TOKEN, ask, line_signer, line_text,
    },
};

const AT_MS: i64 = 1_790_000_000_000;

fn empty() -> Request {
    line_signer().json(&line::body(LINE_BOT_USER_ID, &[]))
}

fn get(query: &str) -> Request {
    Request {
        method: "GET",
        query: query.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_signatures_are_401_wrong_json_400_unknown_senders_404_and_nothing_is_kept() {
    let scene = Scene::new(&[]).await;
    let good = line_text(1);
    let signed_as = |value: &str| Request {
        headers: vec![("x-line-signature", value.to_owned())],
        ..good.clone()
    };
    let unsigned = Request {
        headers: Vec::new(),
        ..good.clone()
    };
    let mut changed = good.clone();
    changed.body.push(b' ');
    let other = Signer::Line("another secret".to_owned()).json(&line::body(LINE_BOT_USER_ID, &[]));
    let long = "A".repeat(100_000);
    let garbage = ["", "x", "AAAA", "sha256=deadbeef", "!!!", "ÄÖ", &long];
    let mut refused: Vec<Request> = garbage.into_iter().map(signed_as).collect();
    refused.extend([unsigned, changed, other]);
    for request in refused {
        let (status, text) = scene.send("line", scene.line, &request).await;
        assert_eq!(
            (status, text.as_str()),
            (401, "the signature is missing or wrong\n"),
            "{:?}",
            request.headers
        );
    }
    for body in [&b""[..], b"{", b"{}{}", b"\xff", b"a=b", b"{\"a\":}"] {
        let request = line_signer().sign(String::new(), "application/json", body.to_vec());
        assert_eq!(scene.tell("line", scene.line, &request).await, 400, "{body:?}");
    }
    for (provider, sender) in [
        ("line", Uuid::now_v7().to_string()),
        ("line", "no-uuid".to_owned()),
        ("nobody", scene.line.to_string()),
        ("messenger", scene.line.to_string()),
        ("LINE", scene.line.to_string()),
    ] {
        assert_eq!(scene.tell(provider, &sender, &good).await, 404, "{provider} {sender}");
    }
    assert_eq!(scene.tell("line", scene.line, &get("")).await, 405);
    assert_eq!(scene.world.one::<i64>("select count(*) from webhook").await, 0);
    assert_eq!(
        scene.tell("line", scene.line, &empty()).await,
        200,
        "the console's Verify"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_counts_soon_and_the_previous_one_meanwhile() {
    let scene = Scene::new(&[("WEBHOOK__SECRETS_SECS", "1")]).await;
    assert_eq!(scene.line_text(1).await, 200);
    let change = |secret: &str, previous: &str| json!({"channel_id": "1", "access_token": "t", "channel_secret": secret, "previous_channel_secret": previous});
    scene
        .change(scene.line, &change("new secret", LINE_CHANNEL_SECRET))
        .await;
    let new = || Signer::Line("new secret".to_owned()).json(&line::body(LINE_BOT_USER_ID, &[]));
    until("the new secret counts", async || {
        scene.tell("line", scene.line, &new()).await == 200
    })
    .await;
    assert_eq!(scene.line_text(2).await, 200, "the previous one counts as well");
    scene.change(scene.line, &change("new secret", "")).await;
    until("the old one does not any more", async || {
        scene.line_text(3).await == 401
    })
    .await;
    assert_eq!(scene.tell("line", scene.line, &new()).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_is_answered_its_challenge_only_with_our_token() {
    let scene = Scene::new(&[]).await;
    let page = scene.messenger("1").await;
    let question = |token: &str| {
        get(&format!(
            "hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444"
        ))
    };
    let answer = scene.send("messenger", page, &question(VERIFY_TOKEN)).await;
    assert_eq!(answer, (200, "1158201444".to_owned()));
    for wrong in [question("another"), question(""), get(""), get("hub.mode=unsubscribe")] {
        assert_eq!(scene.tell("messenger", page, &wrong).await, 403, "{}", wrong.query);
    }
    assert_eq!(scene.tell("whatsapp", page, &question(VERIFY_TOKEN)).await, 404);
    assert_eq!(scene.world.one::<i64>("select count(*) from webhook").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_is_believed_in_its_own_way_and_no_token_is_kept() {
    let scene = Scene::new(&[]).await;
    let page = scene.messenger("1").await;
    let number = json!({"phone_number_id": "2", "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN});
    let number = scene.sender("whatsapp", &number).await;
    let sid = "AC00000000000000000000000000000000";
    let texts = scene
        .sender(
            "sms",
            &json!({"provider": "twilio", "account_sid": sid, "auth_token": AUTH_TOKEN}),
        )
        .await;
    let mitake_sender = scene
        .sender("sms", &json!({"provider": "mitake", "callback_token": CALLBACK_TOKEN}))
        .await;
    let front = scene.sender("app", &json!({"secret": STORE_SECRET})).await;

    let meta = Signer::Meta(APP_SECRET.to_owned());
    let told = messenger::body("1", AT_MS, &[messenger::text("1", "7", AT_MS, "m_1", "哈囉")]);
    let message = whatsapp::body(
        "2",
        &[whatsapp::text("886912345678", AT_MS / 1000, "wamid.1", "嗨")],
        &[],
    );
    let url = format!("{}/webhooks/twilio/{texts}", scene.app.config.web.public_url);
    let status = twilio::status("SM1", "delivered", "+886912345678", None);
    let store = Signer::Store(STORE_SECRET.to_owned()).json(&json!({"events": []}));
    let callback = mitake::status("#000001", "0912345678", "4", "DELIVRD", "20261122120000");
    for (provider, sender, request) in [
        ("line", scene.line, empty()),
        ("messenger", page, meta.json(&told)),
        ("whatsapp", number, meta.json(&message)),
        (
            "twilio",
            texts,
            Signer::Twilio(AUTH_TOKEN.to_owned(), url).form("mark=abc", &status),
        ),
        (
            "mitake",
            mitake_sender,
            Signer::Mitake(CALLBACK_TOKEN.to_owned()).callback(&callback),
        ),
        ("store", front, store),
    ] {
        assert_eq!(scene.tell(provider, sender, &request).await, 200, "{provider}");
        let mut forged = request.clone();
        forged.query = forged.query.replace(CALLBACK_TOKEN, "another-token-of-some-length");
        forged.query = forged.query.replace("abc", "abd");
        if forged.query == request.query {
            forged.body.push(b' ');
        }
        assert_eq!(scene.tell(provider, sender, &forged).await, 401, "{provider}");
    }
    let kept: i64 = scene
        .world
        .one(&format!(
            "select count(*) from webhook where query like '%{CALLBACK_TOKEN}%'"
        ))
        .await;
    let all: i64 = scene.world.one("select count(*) from webhook").await;
    assert_eq!((all, kept), (6, 0));
    let query: String = scene
        .world
        .one("select query from webhook where provider = 'mitake'")
        .await;
    assert!(
        query.starts_with("msgid=%23000001&") && query.ends_with("StatusFlag=4"),
        "{query}"
    );
    let _working = scene.world.work();
    until("all are done", async || scene.count("done").await == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_megabytes_are_413_said_or_not_and_a_body_that_never_ends_is_408() {
    let scene = Scene::new(&[("WEBHOOK__BODY_TIMEOUT_SECS", "1")]).await;
    let large = line_signer().sign(String::new(), "application/json", vec![b' '; 5_000_000]);
    let path = format!("/webhooks/line/{}", scene.line);
    let call = async |body: Body, length: Option<usize>| {
        let mut request = HttpRequest::post(&path);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let response = scene.web.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(call(Body::from(large.body.clone()), Some(5_000_000)).await, 413);
    let pieces = large
        .body
        .chunks(65_536)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
    let stream = futures::stream::iter(pieces.collect::<Vec<_>>());
    assert_eq!(call(Body::from_stream(stream), None).await, 413);
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(call(Body::from_stream(never), None).await, 408);
    // In pieces of one byte it takes no more room than whole: it is refused for its signature, and not with 503.
    let dust = (0..110_000).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b" ")));
    assert_eq!(call(Body::from_stream(futures::stream::iter(dust)), None).await, 401);
    // Just below the limit it is an ordinary webhook: Meta's are that large.
    let mut full = empty();
    full.body.resize(3_145_728, b' ');
    let full = line_signer().sign(String::new(), "application/json", full.body);
    assert_eq!(scene.tell("line", scene.line, &full).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sender_that_is_told_too_much_is_told_later_and_nobody_else_is() {
    let scene = Scene::new(&[("WEBHOOK__PER_SENDER_PER_SEC", "5")]).await;
    let page = scene.messenger("1").await;
    let forged = Signer::Line("another secret".to_owned()).json(&line::body(LINE_BOT_USER_ID, &[]));
    for _ in 0..50 {
        assert_eq!(
            scene.tell("line", scene.line, &forged).await,
            401,
            "who proves nothing uses up nothing"
        );
    }
    let told = (0..40).map(|nr| scene.line_text(nr));
    let answers = futures::future::join_all(told).await;
    let taken = answers.iter().filter(|status| **status == 200).count();
    let later = answers.iter().filter(|status| **status == 429).count();
    assert!(taken >= 5 && later > 0 && taken + later == 40, "{answers:?}");
    let told = messenger::body("1", AT_MS, &[]);
    let other = Signer::Meta(APP_SECRET.to_owned()).json(&told);
    assert_eq!(scene.tell("messenger", page, &other).await, 200);
    let stored: i64 = scene
        .world
        .one("select count(*) from webhook where provider = 'line'")
        .await;
    assert_eq!(stored, i64::try_from(taken).unwrap(), "429 means that nothing was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_come_at_once_share_commits_and_none_is_lost_or_mixed_up() {
    let scene = Scene::new(&[]).await;
    let told = (0..400).map(|nr| scene.line_text(nr));
    let answers = futures::future::join_all(told).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    let (rows, bodies, commits): (i64, i64, i64) =
        sqlx::query_as("select count(*), count(distinct body), count(distinct xmin::text) from webhook")
            .fetch_one(scene.world.pool())
            .await
            .unwrap();
    assert_eq!((rows, bodies), (400, 400));
    assert!(commits < 200, "{commits} commits for 400 webhooks");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_it_is_stored_and_200() {
    // Nothing listens on port 1.
    let scene = Scene::new(&[]).await;
    let mut env = scene.world.env.clone();
    env.insert("REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned());
    let app = App::for_process(ProcessKind::Web, Config::load(&Sources::of(env)).unwrap().config).unwrap();
    let web = carillon::web::router(app);
    for nr in 0..10 {
        assert_eq!(ask(&web, "line", &scene.line.to_string(), &line_text(nr)).await.0, 200);
    }
    assert_eq!(scene.count("stored").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_provider_is_asked_to_tell_it_again() {
    let away = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x".to_owned()),
        ("REDIS_URL", "redis://127.0.0.1:1".to_owned()),
        ("CARILLON__DATABASE__ACQUIRE_TIMEOUT_SECS", "1".to_owned()),
        ("CARILLON__SECRET__KEYS", secret::new_key("k1").unwrap()),
    ];
    let app = App::for_process(ProcessKind::Web, Config::load(&Sources::of(away)).unwrap().config).unwrap();
    let web = carillon::web::router(app);
    let (status, text) = ask(&web, "line", &Uuid::now_v7().to_string(), &line_text(1)).await;
    assert_eq!((status, text.as_str()), (503, "not stored: tell it again\n"));

    // Known already, and Postgres refuses now.
    let scene = Scene::new(&[]).await;
    assert_eq!(scene.line_text(1).await, 200);
    scene
        .world
        .run("alter table webhook add constraint away check (false) not valid")
        .await;
    assert_eq!(scene.line_text(2).await, 503);
    scene.world.run("alter table webhook drop constraint away").await;
    assert_eq!(scene.line_text(3).await, 200);
    assert_eq!(scene.count("stored").await, 2);
}

#[test]
fn arbitrary_bytes_with_a_right_signature_are_taken_or_refused_and_never_more() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let scene = runtime.block_on(Scene::new(&[]));
    let json = "[\\[\\]{}\",:0-9a-z\\\\ ]{0,60}".prop_map(String::into_bytes);
    let body = prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), json];
    let config = proptest::test_runner::Config {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(body in body, query in "[ -~]{0,40}")| {
        let is_json = serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        let mut request = line_signer().sign(String::new(), "application/json", body);
        request.query = query.chars().filter(|c| !"#<>\"\\^`{|} ".contains(*c)).collect();
        let status = runtime.block_on(scene.tell("line", scene.line, &request));
        prop_assert_eq!(status, if is_json { 200 } else { 400 });
    });
    drop(scene);
}
