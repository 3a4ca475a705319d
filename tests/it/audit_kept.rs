//! Audits that nobody watches: run as a job, again and again by a command, kept, and shown.

use std::time::Duration;

use carillon::{app::ProcessKind, fleet, ledger};
use carillon_jobs::{AuditPeriod, Kind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::run,
    process::{Process, STOP_LIMIT},
    scene::{LINE, send_rest, shop},
    wait::{eventually, until},
    world::World,
};

const LIE: &str = "set local session_replication_role = replica; update token_account set extra = extra + 7";

async fn rung(world: &World, period: &str) {
    let text = format!(r#"{{"args":{{"period":"{period}"}}}}"#);
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    queue.push_raw(Kind::Audit.name(), text.as_bytes()).await.unwrap();
    until("the job is done", async || {
        let backlog = &queue.backlogs().await.unwrap()[Kind::Audit as usize];
        backlog.depth.ready + backlog.depth.running + backlog.depth.delayed == 0
    })
    .await;
}

async fn kept(world: &World) -> i64 {
    world.one("select count(*) from audit_report").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_audited_once_kept_and_shown() {
    let world = World::new(&[]).await;
    let shop = shop(world.pool(), 3, 100).await;
    let done = shop.opened(&[LINE], 5).await;
    send_rest(world.pool(), done, "line").await;
    let app = world.app(ProcessKind::Scheduler);
    assert_eq!(fleet::look(&app).await.unwrap().audit, None);
    let mut worker = world.process("worker");
    rung(&world, "2026-11-22").await;
    rung(&world, "2026-11-22").await;
    assert_eq!(kept(&world).await, 1, "a period is audited once");
    let seen = fleet::look(&app).await.unwrap().audit.unwrap();
    assert_eq!((seen.broken, seen.off_by), (0, 0));

    world.run(LIE).await;
    rung(&world, "2026-11-22").await;
    assert_eq!(
        fleet::look(&app).await.unwrap().audit.unwrap().broken,
        0,
        "what was true then"
    );
    rung(&world, "2026-11-23").await;
    let seen = fleet::look(&app).await.unwrap().audit.unwrap();
    // The scene's shop and the world's own.
    let accounts: i64 = world.one("select count(*) from token_account").await;
    assert_eq!((seen.broken, seen.off_by), (accounts, 7 * accounts));
    let checks: Value = world
        .one("select checks from audit_report where period = '2026-11-23'")
        .await;
    let broken = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["broken"] != 0)
        .unwrap();
    assert_eq!(
        (broken["name"].as_str(), broken["first"][0]["what"].as_str()),
        (Some("balance_is_sum_of_entries"), Some("extra"))
    );
    assert_eq!(worker.stop().await, 0);
    assert_eq!(worker.said("The audit found drift"), 1, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_audit_ends_at_once_and_keeps_nothing() {
    let world = World::new(&[]).await;
    let halt = CancellationToken::new();
    // An audit waits here as a long one would: the table it begins with is locked.
    let mut lock = world.pool().begin().await.unwrap();
    sqlx::raw_sql("lock table token_account in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let (pool, stop) = (world.pool().clone(), halt.clone());
    let audit = tokio::spawn(async move { ledger::audit_until(&pool, None, &stop).await });
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    until("it waits", async || world.one::<i64>(waiting).await == 1).await;
    halt.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), audit).await.unwrap();
    assert!(matches!(ended.unwrap(), Err(ledger::AuditError::Stopped)));
    eventually("its query ended too", 20, async || world.one::<i64>(waiting).await == 0).await;
    lock.rollback().await.unwrap();
    // The connection it had is as good as new.
    assert!(ledger::audit(world.pool(), None).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_until_it_is_stopped_and_ends_like_its_last_audit() {
    let world = World::new(&[]).await;
    let args = ["audit", "--watch", "--every", "1", "--keep"];
    let mut watch = Process::start(&world.env, &args);
    until("it goes on", async || kept(&world).await >= 2).await;
    assert_eq!(watch.stop().await, 0, "{}", watch.log());

    let mut watch = Process::start(&world.env, &args);
    world.run(LIE).await;
    until("it sees what changed", async || {
        world
            .one::<bool>("select exists (select from audit_report where broken > 0)")
            .await
    })
    .await;
    watch.signal("-TERM");
    assert_eq!(watch.exit_code(STOP_LIMIT).await, 1, "{}", watch.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_kept_by_hand_and_never_of_one_shop() {
    let world = World::new(&[]).await;
    assert_eq!(run(&world, &["audit", "--keep"]).await.code, 0);
    assert_eq!(kept(&world).await, 1);
    for wrong in [
        &["audit", "--keep", "--shop", &world.shop.to_string()][..],
        &["audit", "--every", "5"],
        &["audit", "--watch", "--every", "0"],
    ] {
        assert_eq!(run(&world, wrong).await.code, 2, "{wrong:?}");
    }
    let of_a_shop = ledger::audit(world.pool(), Some(carillon_jobs::ShopId(world.shop)))
        .await
        .unwrap();
    let period: AuditPeriod = "2026-11-22".parse().unwrap();
    assert!(!ledger::keep(world.pool(), &of_a_shop, Some(&period)).await.unwrap());
    assert_eq!(kept(&world).await, 1);
}
