//! Webhooks from the disk to the end of their job: worked through once, whatever is lost, and one that cannot be keeps no other
//! waiting.

use carillon::{
    app::ProcessKind,
    inbox::webhook,
    queue::dead::{self, DeadFilter},
};
use carillon_jobs::{Kind, WebhookId, WebhookIngest};
use carillon_sandbox::{
    LINE_BOT_USER_ID,
    webhooks::{Request, Signer, line, messenger},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cli::run_with,
    redis_server::{Memory, RedisServer},
    wait::{eventually, until},
    webhook_scene::{APP_SECRET, Scene, VERIFY_TOKEN, line_signer, line_text},
    world::World,
};

const AT_MS: i64 = 1_790_000_000_000;

async fn ready(scene: &Scene) -> u64 {
    let queue = scene.world.app(ProcessKind::Command).queue().unwrap();
    let depths = queue.depths().await.unwrap();
    let depth = depths.iter().find(|depth| depth.kind == Kind::WebhookIngest).unwrap();
    depth.ready + depth.running + depth.delayed
}

async fn messages(scene: &Scene) -> i64 {
    scene.world.one("select count(*) from message").await
}

async fn reason(scene: &Scene) -> String {
    scene
        .world
        .one("select coalesce(max(reason), '') from webhook_with_state where state = 'failed'")
        .await
}

/// Stores as a frontend does, without a bell.
async fn stored_by_frontend(scene: &Scene, request: &Request) -> Result<Uuid, sqlx::Error> {
    let headers: Value = request
        .headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    sqlx::query_scalar("select store_webhook($1, 'line', $2, $3)")
        .bind(scene.line)
        .bind(headers)
        .bind(&request.body)
        .fetch_one(scene.world.pool())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_webhook_is_stored_rung_for_and_becomes_a_message() {
    let scene = Scene::new(&[]).await;
    assert_eq!(scene.line_text(1).await, 200);
    assert_eq!((scene.count("stored").await, scene.count("done").await), (1, 0));
    until("the bell is out", async || ready(&scene).await == 1).await;
    let _working = scene.world.work();
    until("it is done", async || scene.count("done").await == 1).await;
    assert_eq!(messages(&scene).await, 1);
    assert_eq!(scene.world.one::<i64>("select count(*) from webhook_pending").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_twenty_times_at_once_counts_once() {
    let scene = Scene::new(&[]).await;
    let _working = (scene.world.work(), scene.world.work());
    let request = line_text(7);
    let told = (0..20).map(|_| scene.tell("line", scene.line, &request));
    let answers = futures::future::join_all(told).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    until("all are done", async || scene.count("done").await == 20).await;
    assert_eq!(messages(&scene).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_bell_the_scheduler_rings_once_for_all_that_wait() {
    let scene = Scene::new(&[]).await;
    for nr in 0..120 {
        stored_by_frontend(&scene, &line_text(nr)).await.unwrap();
    }
    let _working = scene.world.work();
    eventually("they are done", 60, async || scene.count("done").await == 120).await;
    assert_eq!(messages(&scene).await, 120);
    until("nothing is left in the queue", async || ready(&scene).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frontend_stored_is_believed_only_when_it_is_signed() {
    let scene = Scene::new(&[]).await;
    stored_by_frontend(&scene, &line_text(1)).await.unwrap();
    let forged = Signer::Line("another secret".to_owned()).json(&line::body(LINE_BOT_USER_ID, &[]));
    let id = WebhookId(stored_by_frontend(&scene, &forged).await.unwrap());
    let nobody = sqlx::query("select store_webhook(gen_random_uuid(), 'line', '{}', '')");
    let error = nobody.execute(scene.world.pool()).await.unwrap_err();
    assert!(error.to_string().contains("there is no sender"), "{error}");

    let queue = scene.world.app(ProcessKind::Command).queue().unwrap();
    queue.ring(WebhookIngest { webhook_id: Some(id) }).await.unwrap();
    let _working = scene.world.work();
    until("both have ended", async || {
        (scene.count("done").await, scene.count("failed").await) == (1, 1)
    })
    .await;
    assert_eq!(reason(&scene).await, "its signature is not the provider's");
    assert_eq!(messages(&scene).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_read_is_put_aside_and_can_be_tried_again() {
    let scene = Scene::new(&[]).await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    for body in [&b"{\"destination\":\"x\"}"[..], b"[]", deep.as_bytes()] {
        let request = line_signer().sign(String::new(), "application/json", body.to_vec());
        assert_eq!(scene.tell("line", scene.line, &request).await, 200);
    }
    assert_eq!(scene.line_text(1).await, 200);
    let _working = scene.world.work();
    until("all have ended", async || {
        (scene.count("done").await, scene.count("failed").await) == (1, 3)
    })
    .await;
    let dead = dead::count(scene.world.pool(), &DeadFilter::default()).await.unwrap();
    assert_eq!(dead, 0, "a webhook that cannot be read is no dead job");

    let filter = webhook::Filter {
        state: Some(webhook::State::Failed),
        ..webhook::Filter::default()
    };
    let failed = webhook::list(scene.world.pool(), &filter, 10).await.unwrap();
    assert!(
        failed
            .iter()
            .all(|webhook| webhook.reason.is_some() && webhook.attempts == 0),
        "{failed:?}"
    );
    let ids: Vec<WebhookId> = failed.iter().map(|webhook| WebhookId(webhook.id)).collect();
    assert_eq!(webhook::replay(scene.world.pool(), &ids).await.unwrap(), 3);
    assert_eq!((scene.count("stored").await, scene.count("failed").await), (3, 0));
    eventually("they are put aside again", 40, async || {
        scene.count("failed").await == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_postgres_refuses_is_tried_five_times_and_keeps_nobody_waiting() {
    let scene = Scene::new(&[]).await;
    scene
        .world
        .run(
            "create function refuse() returns trigger language plpgsql as $$
             begin if new.text like '%poison%' then raise exception 'the text was %', new.text; end if; return new; end $$;
             create trigger refuse before insert on message for each row execute function refuse()",
        )
        .await;
    let event = line::text("01POISON", "U1", AT_MS, "1", "poison");
    let poison = line_signer().json(&line::body(LINE_BOT_USER_ID, &[event]));
    assert_eq!(scene.tell("line", scene.line, &poison).await, 200);
    let _working = scene.world.work();
    for nr in 10..30 {
        assert_eq!(scene.line_text(nr).await, 200);
    }
    until("the others are done", async || scene.count("done").await == 20).await;
    // Its rests between the tries are a minute together: here they are over at once.
    eventually("it is put aside", 60, async || {
        scene
            .world
            .run("update webhook_pending set due_at = now() where failed_at is null")
            .await;
        scene.count("failed").await == 1
    })
    .await;
    assert_eq!(
        reason(&scene).await,
        "PostgreSQL refused (P0001)",
        "a reason quotes nothing"
    );
    assert_eq!(scene.world.one::<i32>("select attempts from webhook_pending").await, 5);

    scene.world.run("drop trigger refuse on message").await;
    let ids: Vec<Uuid> = vec![scene.world.one("select webhook_id from webhook_pending").await];
    webhook::replay(scene.world.pool(), &[WebhookId(ids[0])]).await.unwrap();
    until("it is done", async || scene.count("done").await == 21).await;
    assert_eq!(messages(&scene).await, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_events_of_one_body_are_applied_in_bounded_transactions_each_once() {
    let scene = Scene::new(&[]).await;
    let event = |n: i64| {
        line::text(
            &format!("01T{n:023}"),
            &format!("U{:032}", n % 7),
            AT_MS + n,
            &n.to_string(),
            "hi",
        )
    };
    let events: Vec<Value> = (0..1_000).map(event).collect();
    let request = line_signer().json(&line::body(LINE_BOT_USER_ID, &events));
    assert_eq!(scene.tell("line", scene.line, &request).await, 200);
    assert_eq!(scene.tell("line", scene.line, &request).await, 200);
    let _working = (scene.world.work(), scene.world.work());
    until("both are done", async || scene.count("done").await == 2).await;
    assert_eq!(messages(&scene).await, 1_000);
    let transactions: i64 = scene
        .world
        .one("select count(distinct xmin::text) from webhook_event")
        .await;
    assert!((10..=20).contains(&transactions), "{transactions} transactions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_for_a_webhook_that_was_never_stored_is_a_dead_job() {
    let scene = Scene::new(&[]).await;
    let queue = scene.world.app(ProcessKind::Command).queue().unwrap();
    let bell = WebhookIngest {
        webhook_id: Some(WebhookId::new()),
    };
    queue.ring(bell).await.unwrap();
    let _working = scene.world.work();
    until("it is dead", async || {
        dead::count(scene.world.pool(), &DeadFilter::default()).await.unwrap() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_account_go_to_its_sender_only_if_its_own_secret_signed_them() {
    let scene = Scene::new(&[]).await;
    let (first, second) = (scene.messenger("page-1").await, scene.messenger("page-2").await);
    let foreign = json!({"page_id": "page-3", "app_secret": "of another app", "verify_token": VERIFY_TOKEN});
    let foreign = scene.sender("messenger", &foreign).await;
    let signer = Signer::Meta(APP_SECRET.to_owned());
    for (nr, page) in ["page-1", "page-2", "page-3", "page-4"].into_iter().enumerate() {
        let text = messenger::text(page, "psid", AT_MS, &format!("m_{nr}"), "hi");
        let request = signer.json(&messenger::body(page, AT_MS, &[text]));
        assert_eq!(scene.tell("messenger", first, &request).await, 200);
    }
    let _working = scene.world.work();
    until("all have ended", async || {
        (scene.count("done").await, scene.count("failed").await) == (2, 2)
    })
    .await;
    let of = async |sender: Uuid| -> i64 {
        let sql = format!(
            "select count(*) from message m join conversation c on c.id = m.conversation_id where c.sender_id = '{sender}'"
        );
        scene.world.one(&sql).await
    };
    assert_eq!([of(first).await, of(second).await, of(foreign).await], [1, 1, 0]);
    assert_eq!(reason(&scene).await, "1 events are of accounts that no sender has");

    // Connected since: the same request is worked through again.
    let fourth = scene.messenger("page-4").await;
    let failed = "select array_agg(webhook_id) from webhook_pending";
    let ids: Vec<Uuid> = scene.world.one(failed).await;
    let ids: Vec<WebhookId> = ids.into_iter().map(WebhookId).collect();
    webhook::replay(scene.world.pool(), &ids).await.unwrap();
    eventually("one more is done", 40, async || {
        (scene.count("done").await, scene.count("failed").await) == (3, 1)
    })
    .await;
    assert_eq!((of(fourth).await, of(foreign).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_flushed_again_and_again_loses_no_webhook() {
    let redis = RedisServer::start(Memory::Kept).await;
    let mut flush = redis.connect().await;
    let scene = Scene::of(World::on_redis(&redis.url(), &[]).await).await;
    let _working = scene.world.work();
    for nr in 0..100 {
        assert_eq!(scene.line_text(nr).await, 200);
        if nr % 10 == 0 {
            redis::cmd("FLUSHALL").exec_async(&mut flush).await.unwrap();
        }
    }
    eventually("all are done", 60, async || scene.count("done").await == 100).await;
    assert_eq!(messages(&scene).await, 100);
}

#[tokio::test]
async fn one_that_did_not_end_is_taken_alone() {
    let scene = Scene::new(&[]).await;
    for nr in 0..5 {
        stored_by_frontend(&scene, &line_text(nr)).await.unwrap();
    }
    let take = async |limit: i32| -> Vec<Uuid> {
        scene
            .world
            .run("update webhook_pending set due_at = now() - attempts * interval '1 s'")
            .await;
        let sql = format!("select coalesce(array_agg(t), '{{}}') from take_due_webhooks({limit}, 60) t");
        scene.world.one(&sql).await
    };
    assert_eq!(take(10).await.len(), 5, "nobody is suspect yet");
    let alone = take(10).await;
    assert_eq!(alone.len(), 1);
    assert_eq!(take(10).await, alone, "the one tried most often is due longest");
    scene
        .world
        .run("update webhook_pending set due_at = now() + interval '1 hour'")
        .await;
    let none: i64 = scene.world.one("select count(*) from take_due_webhooks(10, 60)").await;
    assert_eq!(none, 0);
}

#[tokio::test]
async fn old_days_go_whole_and_one_that_still_waits_keeps_its_day() {
    let scene = Scene::new(&[]).await;
    let pool = scene.world.pool();
    let days = "select count(*) from pg_inherits where inhparent = 'webhook'::regclass";
    let ahead: i64 = scene.world.one(days).await;
    for (age, state) in [(40, "done"), (39, "stored"), (38, "failed"), (29, "done")] {
        scene
            .world
            .run(&format!(
                "select ensure_webhook_day(now() - interval '{age} days');
                 with w as (insert into webhook (id, sender_id, provider, body, is_verified)
                            select broadcast_id_floor(now() - interval '{age} days'), gen_random_uuid(), 'line', '', true returning id)
                 insert into webhook_pending (webhook_id, due_at, failed_at, reason)
                 select id, now(), case when '{state}' = 'failed' then now() - interval '{age} days' end, 'x' from w where '{state}' <> 'done'"
            ))
            .await;
    }
    let config = scene.app.config.webhook.clone();
    assert_eq!(webhook::keep_house(pool, &config).await.unwrap(), 2);
    assert_eq!(scene.world.one::<i64>(days).await, ahead + 2);
    let left: i64 = scene.world.one("select count(*) from webhook_pending").await;
    assert_eq!(left, 1, "what waits is kept, what was put aside went with its day");
    assert_eq!(webhook::keep_house(pool, &config).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_what_came_and_works_through_it_again() {
    let scene = Scene::new(&[]).await;
    let broken = line_signer().sign(String::new(), "application/json", b"{\"text\":\"0912345678\"}".to_vec());
    assert_eq!(scene.tell("line", scene.line, &broken).await, 200);
    assert_eq!(scene.line_text(1).await, 200);
    {
        let _working = scene.world.work();
        until("both have ended", async || {
            (scene.count("done").await, scene.count("failed").await) == (1, 1)
        })
        .await;
    }
    let run = async |arguments: &[&str]| {
        let ran = run_with(&scene.world.env, arguments, "").await;
        (ran.code, ran.out)
    };
    let (code, table) = run(&["webhooks", "list"]).await;
    assert!(
        code == 0 && table.contains("failed") && table.contains("done"),
        "{table}"
    );
    let (_, failed) = run(&["webhooks", "list", "--state", "failed", "--json"]).await;
    let failed: Value = serde_json::from_str(&failed).unwrap();
    let id = failed[0]["id"].as_str().unwrap();
    assert_eq!(
        (failed.as_array().unwrap().len(), &failed[0]["provider"]),
        (1, &json!("line"))
    );
    let (_, shown) = run(&["webhooks", "show", id]).await;
    assert!(
        shown.contains("state     failed") && !shown.contains("0912345678"),
        "{shown}"
    );
    let (_, body) = run(&["webhooks", "show", id, "--body"]).await;
    assert_eq!(body, "{\"text\":\"0912345678\"}\n");
    let (code, replayed) = run(&["webhooks", "replay", "--failed"]).await;
    assert_eq!((code, replayed.as_str()), (0, "1 are worked through again\n"));
    assert_eq!((scene.count("stored").await, ready(&scene).await), (1, 1));
    let (code, _) = run(&["webhooks", "show", &Uuid::now_v7().to_string()]).await;
    assert_eq!(code, 2);
    let (code, _) = run(&["webhooks", "list", "--state", "lost"]).await;
    assert_eq!(code, 2);
}
