//! LINE's quota: asked of the sandbox, which counts for itself, reserved, given back, and what is done when it says nothing.

use carillon::{
    app::ProcessKind,
    broadcast::{self, Advance, Asked, LineQuota, Planner, QuotaView, quota_view},
    db,
};
use carillon_jobs::{BroadcastId, SenderId};
use carillon_sandbox::{
    Account, Channel as Provider, Fault, FaultKind, LINE_BOT_USER_ID, LINE_CHANNEL_ID, LINE_TOKEN, LineAccount,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::World;

const SMALL: &[(&str, &str)] = &[("BROADCAST__CHUNK_CUSTOMERS", "500")];

struct Scene {
    world: World,
    asks: LineQuota,
    sender: SenderId,
}

impl Scene {
    /// A shop with this many friends on LINE, whose account may send so many messages a month.
    async fn new(friends: i32, quota: u64) -> Self {
        let world = World::new(SMALL).await;
        world.customers(friends, "s.channel = 'line'").await;
        let sender: Uuid = world.one("select id from sender where channel = 'line'").await;
        let scene = Self {
            asks: world.app(ProcessKind::Worker).line_quota().unwrap(),
            sender: SenderId(sender),
            world,
        };
        scene.allow(Some(quota));
        scene
    }

    fn allow(&self, quota: Option<u64>) {
        let account = LineAccount {
            access_token: LINE_TOKEN.to_owned(),
            channel_id: LINE_CHANNEL_ID.to_owned(),
            bot_user_id: LINE_BOT_USER_ID.to_owned(),
            display_name: "Shop".to_owned(),
            monthly_quota: quota,
            channel_secret: None,
        };
        self.world.sandbox.handle().register(Account::Line(account)).unwrap();
    }

    fn planner(&self) -> Planner {
        self.world.app(ProcessKind::Worker).broadcast_work().unwrap().planner
    }

    async fn queued(&self) -> BroadcastId {
        let id = self.world.draft("priority_single", &["line"], "今天有特價").await;
        self.world.run(&format!("select send_broadcast('{id}')")).await;
        id
    }

    async fn view(&self) -> QuotaView {
        let mut conn = db::begin(self.world.pool()).await.unwrap();
        quota_view(&mut conn, self.sender).await.unwrap().unwrap()
    }

    async fn state(&self, id: BroadcastId) -> String {
        let sql = format!("select concat_ws(': ', state, state_reason) from broadcast where id = '{id}'");
        self.world.one(&sql).await
    }

    fn fail(&self, kind: FaultKind) -> u64 {
        let fault = Fault::new(Provider::Line, kind).at("quota");
        self.world.sandbox.handle().set_fault(fault).unwrap()
    }
}

/// Plans until it is decided.
async fn plan(planner: &Planner, id: BroadcastId) -> Advance {
    loop {
        match planner.advance(id, &CancellationToken::new()).await.unwrap() {
            Advance::Again | Advance::NotItsTurn => tokio::task::yield_now().await,
            Advance::WaitUntil(at) if at < chrono::Utc::now() => {}
            // Another planner holds it for this moment.
            Advance::WaitUntil(_) => return Advance::Again,
            done => return done,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_plans_never_share_the_last_five_hundred() {
    let scene = Scene::new(300, 500).await;
    let (first, second) = (scene.queued().await, scene.queued().await);
    let (one, other) = (scene.planner(), scene.planner());
    tokio::join!(plan(&one, first), plan(&other, second));
    let mut states = vec![scene.state(first).await, scene.state(second).await];
    states.sort();
    assert_eq!(states[1], "sending");
    let short = "failed: line_quota_short: line has 300 messages and LINE lets this account send 200 more this month: 100 are missing";
    assert!(states[0].starts_with(short), "{states:?}");
    let view = scene.view().await;
    assert_eq!(
        (view.may_send, view.used, view.reserved, view.left()),
        (Some(500), Some(0), 300, Some(200))
    );
    // Nothing was held for the one that was refused.
    let held: i64 = scene.world.one("select count(*) from token_hold").await;
    assert_eq!(held, 1);
    scene.world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_reserve_at_once_exactly_those_that_fit_do() {
    let scene = Scene::new(100, 500).await;
    scene.asks.ask(scene.sender).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..12 {
        let id = scene.world.draft("priority_single", &["line"], "今天有特價").await;
        scene
            .world
            .run(&format!(
                "update broadcast_channel set planned = 100 where broadcast_id = '{id}'"
            ))
            .await;
        ids.push(id);
    }
    let reserve = ids.iter().map(|id| {
        let (pool, id) = (scene.world.pool().clone(), *id);
        tokio::spawn(async move {
            let mut tx = db::begin(&pool).await.unwrap();
            let missing: i64 = sqlx::query_scalar("select reserve_line_quota($1, true)")
                .bind(id.0)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            // The lane as opening makes it: what is to go stands there.
            sqlx::query(
                "insert into lane (broadcast_id, sender_id, shop_id, channel, tokens, planned, remaining)
                 select c.broadcast_id, c.sender_id, b.shop_id, c.channel, 5, 100, 100
                   from broadcast_channel c join broadcast b on b.id = c.broadcast_id where c.broadcast_id = $1 and $2 = 0",
            )
            .bind(id.0)
            .bind(missing)
            .execute(&mut *tx)
            .await
            .unwrap();
            tx.commit().await.unwrap();
            missing
        })
    });
    let mut missing = Vec::new();
    for task in reserve.collect::<Vec<_>>() {
        missing.push(task.await.unwrap());
    }
    missing.sort_unstable();
    assert_eq!(missing, [0, 0, 0, 0, 0, 100, 100, 100, 100, 100, 100, 100]);
    assert_eq!(scene.view().await.left(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_in_lines_figure_and_what_never_will_be_is_free_again() {
    let scene = Scene::new(300, 1_000).await;
    let sent = scene.queued().await;
    let working = scene.world.work();
    scene.world.ended(sent, 60).await;
    working.stop().await;
    // All of it left and LINE was not asked since: still promised.
    let view = scene.view().await;
    assert_eq!((view.used, view.reserved), (Some(0), 300));
    assert_eq!(scene.asks.ask(scene.sender).await.unwrap(), Asked::Answered);
    let view = scene.view().await;
    assert_eq!((view.used, view.reserved, view.left()), (Some(300), 0, Some(700)));
    let rows: i64 = scene.world.one("select count(*) from line_reservation").await;
    assert_eq!(rows, 0);

    // Planned, and cancelled before a message left: free without asking.
    let never = scene.queued().await;
    assert_eq!(plan(&scene.planner(), never).await, Advance::Opened);
    assert_eq!(scene.view().await.reserved, 300);
    broadcast::cancel(scene.world.pool(), never).await.unwrap();
    let working = scene.world.work();
    scene.world.ended(never, 60).await;
    working.stop().await;
    assert_eq!((scene.view().await.reserved, scene.view().await.left()), (0, Some(700)));
    scene.world.audit().await;
}

#[tokio::test]
async fn the_estimate_says_what_is_left_and_what_line_charges() {
    let scene = Scene::new(300, 6_100).await;
    let id = scene.world.draft("priority_single", &["line"], "今天有特價").await;
    let config = scene.planner().config;
    let estimate = async || {
        scene.asks.ask_for_stored(id).await.unwrap();
        broadcast::estimate_stored(scene.world.pool(), &config, id)
            .await
            .unwrap()
    };
    let line = estimate().await.line.unwrap();
    assert_eq!(
        (line.plan.as_deref(), line.left, line.missing),
        (Some("high"), Some(6_100), 0)
    );
    assert_eq!(line.charge_milli_twd, Some(0));
    // What others send with the account counts, too.
    scene.world.run("update line_quota set used = 5900").await;
    let line = broadcast::estimate_stored(scene.world.pool(), &config, id)
        .await
        .unwrap()
        .line
        .unwrap();
    assert_eq!(
        (line.left, line.missing, line.charge_milli_twd),
        (Some(200), 100, Some(200 * 200))
    );

    scene.allow(Some(200));
    let told = estimate().await;
    let line = told.line.unwrap();
    assert_eq!(
        (line.plan.as_deref(), line.missing, line.charge_milli_twd),
        (Some("light"), 100, None)
    );
    assert!(
        told.warnings.iter().any(|warning| warning.contains("100 are missing")),
        "{:?}",
        told.warnings
    );
    // Another channel has no LINE account to speak of.
    let mail = scene.world.draft("priority_single", &["email"], "今天有特價").await;
    let told = broadcast::estimate_stored(scene.world.pool(), &config, mail)
        .await
        .unwrap();
    assert_eq!(told.line, None);
}

#[tokio::test]
async fn while_line_says_nothing_a_plan_waits_and_then_fails_or_goes_by_its_last_word() {
    let scene = Scene::new(300, 500).await;
    let fault = scene.fail(FaultKind::ServerError);
    let id = scene.queued().await;
    let planner = scene.planner();
    assert_eq!(plan(&planner, id).await, Advance::Again);
    assert!(
        scene
            .state(id)
            .await
            .starts_with("planning: line_quota: LINE does not say"),
        "{}",
        scene.state(id).await
    );
    scene.world.sandbox.handle().clear_fault(fault);
    assert_eq!(plan(&planner, id).await, Advance::Opened);
    assert_eq!(scene.state(id).await, "sending");

    // Its last word, of a moment ago, decides: 200 are left.
    let fault = scene.fail(FaultKind::ServerError);
    let second = scene.queued().await;
    plan(&planner, second).await;
    assert!(
        scene.state(second).await.contains("100 are missing"),
        "{}",
        scene.state(second).await
    );
    assert!(scene.view().await.failing_since.is_some());

    // A word of last week is none, and after a while nobody waits any more.
    scene
        .world
        .run("update line_quota set read_at = now() - interval '8 days', failing_since = now() - interval '11 minutes'")
        .await;
    let third = scene.queued().await;
    plan(&planner, third).await;
    assert!(
        scene.state(third).await.starts_with("failed: line_quota_unknown"),
        "{}",
        scene.state(third).await
    );
    scene.world.sandbox.handle().clear_fault(fault);
}

#[tokio::test]
async fn an_account_that_line_refuses_holds_up_nothing_but_its_own_lane() {
    let scene = Scene::new(300, 500).await;
    assert!(scene.world.sandbox.handle().revoke(Provider::Line, LINE_TOKEN));
    let asked = scene.asks.ask(scene.sender).await.unwrap();
    assert_eq!(asked, Asked::Refused("credentials: 401".to_owned()));
    let id = scene.queued().await;
    assert_eq!(plan(&scene.planner(), id).await, Advance::Opened);
    assert_eq!(scene.view().await.reserved, 300);
}

#[tokio::test]
async fn what_was_accepted_and_is_not_posted_is_counted_once() {
    let scene = Scene::new(10, 1_000).await;
    let id = scene.queued().await;
    assert_eq!(plan(&scene.planner(), id).await, Advance::Opened);
    let pool = scene.world.pool();
    let claimed = crate::scene::claim(pool, id.0, "line", 4, 82_800.0).await.unwrap();
    let settled: String = sqlx::query_scalar(
        "select settle_accepted($1, 'line', $2, $3, $4, array_fill(null::text, array[4]), $5, $6, '{}', '{}', 60)",
    )
    .bind(id.0)
    .bind(claimed.slice_no)
    .bind(claimed.epoch)
    .bind(&claimed.customers[..4])
    .bind(&claimed.customers[4..7])
    .bind(claimed.intent_no + 1)
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(settled, "sending");
    let unposted: i64 = scene.world.one("select sum(unposted) from slice").await;
    assert_eq!(unposted, 4);
    assert_eq!(scene.view().await.reserved, 10, "LINE was not asked since");
    // LINE has the four.
    let read = "select line_quota_read(sender_id, 1000, 4, asked_at, sent) from lane, line_before_asking(sender_id)";
    scene.world.run(read).await;
    assert_eq!((scene.view().await.reserved, scene.view().await.left()), (6, Some(990)));
    // Whoever posts them changes nothing.
    scene
        .world
        .run("select post_slices(broadcast_id, channel, array(select customer_id from delivery)) from lane")
        .await;
    assert_eq!((scene.view().await.reserved, scene.view().await.left()), (6, Some(990)));
}

#[tokio::test]
async fn a_silence_of_minutes_ago_is_not_the_silence_of_now() {
    let scene = Scene::new(1, 500).await;
    let silent = async || {
        let sql = "select line_quota_failed(id, 'unreachable: x') from sender where channel = 'line'";
        scene.world.one::<f64>(sql).await
    };
    let ago = async |began: &str, last: &str| {
        let sql = format!(
            "update line_quota set failing_since = now() - interval '{began}', failed_at = now() - interval '{last}'"
        );
        scene.world.run(&sql).await;
    };
    assert!(silent().await < 1.0);
    ago("20 minutes", "170 seconds").await;
    assert!(silent().await >= 1_200.0, "it was asked again and again");
    ago("20 minutes", "181 seconds").await;
    assert!(silent().await < 1.0, "nobody asked in between");
    // An answer ends it, too.
    ago("20 minutes", "1 second").await;
    scene
        .world
        .run("select line_quota_read(sender_id, 500, 0, now(), '{}') from line_quota")
        .await;
    assert!(silent().await < 1.0);
}
