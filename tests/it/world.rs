//! A whole Carillon on private parts: a database and a key space of its own, the sandbox in this process, a shop with
//! customers, and workers and schedulers in this process or as real ones.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use carillon::db::PgPool;
use carillon::{
    app::{App, ProcessKind},
    config::{Config, Sources},
    secret::Secrets,
};
use carillon_jobs::BroadcastId;
use carillon_sandbox::{
    LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN, Running, SMTP_PASSWORD, SMTP_USER, Sandbox, SandboxConfig,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    fixture_db::{TestDb, database, service},
    process::Process,
};

pub(crate) const KEY: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Everything a test needs, gone when it ends.
pub(crate) struct World {
    pub(crate) db: TestDb,
    pub(crate) sandbox: Running,
    pub(crate) shop: Uuid,
    /// The environment of every process of this world.
    pub(crate) env: BTreeMap<String, String>,
}

impl World {
    /// A world on the shared Redis of the tests, with these settings over the defaults.
    pub(crate) async fn new(settings: &[(&str, &str)]) -> Self {
        Self::on_redis(&service("CARILLON_TEST_REDIS_URL"), settings).await
    }

    /// A world on a Redis of the test's own.
    pub(crate) async fn on_redis(redis: &str, settings: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let db = database().await;
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let mut env: BTreeMap<String, String> = [
            ("DATABASE_URL", db.url.clone()),
            ("REDIS_URL", redis.to_owned()),
            ("CARILLON__REDIS__KEY_PREFIX", format!("t{}", Uuid::new_v4().simple())),
            ("CARILLON__SECRET__KEYS", KEY.to_owned()),
            ("CARILLON__CHANNEL__LINE__BASE_URL", sandbox.http_url()),
            ("CARILLON__CHANNEL__APP__BASE_URL", sandbox.http_url()),
            (
                "CARILLON__CHANNEL__APP__TOKEN_URL",
                format!("{}/token", sandbox.http_url()),
            ),
            ("CARILLON__CHANNEL__MESSENGER__BASE_URL", sandbox.http_url()),
            ("CARILLON__CHANNEL__WHATSAPP__BASE_URL", sandbox.http_url()),
            ("CARILLON__CHANNEL__EMAIL__RELAY", String::new()),
            ("CARILLON__DATABASE__POOL_WORKER", "12".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(
            settings
                .iter()
                .map(|(name, value)| (format!("CARILLON__{name}"), (*value).to_owned())),
        );
        let shop = Uuid::now_v7();
        let world = Self { db, sandbox, shop, env };
        world.open_shop().await;
        world
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    /// The parts of one process, in this process.
    pub(crate) fn app(&self, kind: ProcessKind) -> App {
        let loaded = Config::load(&Sources::of(self.env.clone())).unwrap();
        App::for_process(kind, loaded.config).unwrap()
    }

    /// A worker and a scheduler in this process.
    pub(crate) fn work(&self) -> Working {
        let (worker, scheduler) = (self.app(ProcessKind::Worker), self.app(ProcessKind::Scheduler));
        let stop = [worker.stop.clone(), scheduler.stop.clone()];
        let tasks = vec![
            tokio::spawn(async move { carillon::worker::run(worker).await.unwrap() }),
            tokio::spawn(async move { carillon::scheduler::run(scheduler).await.unwrap() }),
        ];
        Working { stop, tasks }
    }

    /// A real process of the product's binary.
    pub(crate) fn process(&self, kind: &str) -> Process {
        Process::start(&self.env, &[kind])
    }

    async fn open_shop(&self) {
        let secrets = Secrets::new(&self.app(ProcessKind::Command).config.secret.keys).unwrap();
        let (line, app, email) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let smtp = self.sandbox.smtp_addr;
        let senders = [
            (line, "line", serde_json::json!({"channel_id": LINE_CHANNEL_ID, "channel_secret": LINE_CHANNEL_SECRET, "access_token": LINE_TOKEN}).to_string()),
            (app, "app", self.sandbox.fcm_key_json()),
            (email, "email", serde_json::json!({"host": smtp.ip().to_string(), "port": smtp.port(), "tls": "none", "username": SMTP_USER, "password": SMTP_PASSWORD, "from": "news@shop.example", "from_name": "好日子選物"}).to_string()),
        ];
        sqlx::query("insert into shop (id, name, url, plan) values ($1, '好日子選物', 'https://shop.example', 'core')")
            .bind(self.shop)
            .execute(self.pool())
            .await
            .unwrap();
        for (id, channel, credentials) in senders {
            sqlx::query(
                "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
                 values ($1, $2, $3::text::channel, $3, true, $4, 100000)",
            )
            .bind(id)
            .bind(self.shop)
            .bind(channel)
            .bind(secrets.seal(credentials.as_bytes(), id).unwrap())
            .execute(self.pool())
            .await
            .unwrap();
        }
        self.run(&format!(
            "select ledger_refill('{}', '2999-11', 5000), ledger_top_up('{}', 1000000, 'test')",
            self.shop, self.shop
        ))
        .await;
    }

    /// Adds `n` customers; customer number i is reachable on the channels `on` picks by i (of app, line, email).
    pub(crate) async fn customers(&self, n: i32, on: &str) {
        self.run(&format!(
            "with c as (insert into customer (shop_id, first_name, last_name)
                        select '{shop}', '小' || i, '陳' from generate_series(1, {n}) i returning id),
                  n as (select id, row_number() over (order by id) as i from c)
             insert into address (shop_id, sender_id, customer_id, address)
             select '{shop}', s.id, n.id, case s.channel
                      when 'line' then 'U' || md5(n.id::text)
                      when 'app' then 'token-' || md5(n.id::text) || ':APA91b' || md5(n.id::text)
                      else 'customer' || n.id || '@mail.example' end
               from n cross join sender s
              where s.shop_id = '{shop}' and ({on})",
            shop = self.shop
        ))
        .await;
    }

    /// A draft to everybody on these channels.
    pub(crate) async fn draft(&self, mode: &str, channels: &[&str], text: &str) -> BroadcastId {
        let id = BroadcastId::new();
        let content = serde_json::json!({
            "text": text, "subject": "特賣", "title": "特賣",
            "fallbacks": {"first_name": "您", "last_name": "您", "shop_url": "https://shop.example"},
        });
        sqlx::query(
            "insert into broadcast (id, shop_id, name, mode, content, audience) values ($1, $2, 'Sale', $3, $4, '{\"all\": true}')",
        )
        .bind(id.0)
        .bind(self.shop)
        .bind(mode)
        .bind(content)
        .execute(self.pool())
        .await
        .unwrap();
        for (position, channel) in channels.iter().enumerate() {
            self.run(&format!(
                "insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens)
                 select '{id}', {position}, channel, id, case channel when 'app' then 1 when 'line' then 5 when 'messenger' then 5 when 'whatsapp' then 4 else 2 end
                   from sender where shop_id = '{}' and channel = '{channel}'",
                self.shop
            ))
            .await;
        }
        id
    }

    /// Sends a draft as a frontend would: the SQL function, then the bell.
    pub(crate) async fn send(&self, id: BroadcastId) {
        self.run(&format!("select send_broadcast('{id}')")).await;
        let queue = self.app(ProcessKind::Command).queue().unwrap();
        // Where Redis is away the bell is lost, and reconcile rings.
        let _ = carillon::reconcile::ring(&queue, id, None).await;
    }

    pub(crate) async fn run(&self, sql: &str) {
        crate::scene::run(self.pool(), sql).await;
    }

    pub(crate) async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        crate::scene::one(self.pool(), sql).await
    }

    pub(crate) async fn state(&self, id: BroadcastId) -> String {
        self.one(&format!("select state from broadcast where id = '{id}'"))
            .await
    }

    /// Waits until the broadcast has ended, its lanes drained.
    pub(crate) async fn ended(&self, id: BroadcastId, secs: u64) {
        let done = format!("select finished_at is not null and not purge from broadcast where id = '{id}'");
        let deadline = Instant::now() + Duration::from_secs(secs);
        while !self.one::<bool>(&done).await {
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "not within {secs} s: the broadcast ends\n{}",
                self.left(id).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a broadcast still waits for.
    async fn left(&self, id: BroadcastId) -> String {
        self.one(&format!(
            "select concat_ws(E'\n', now()::text,
                (select json_agg(b) from (select state, state_reason, plan_cursor, plan_lease_until, rung_at from broadcast
                    where id = '{id}') b)::text,
                (select string_agg(row_to_json(l)::text, E'\n') from lane l where broadcast_id = '{id}'),
                (select string_agg(row_to_json(s)::text, E'\n') from (select * from slice
                    where broadcast_id = '{id}' and state <> 'settled' limit 5) s),
                (select string_agg(row_to_json(s)::text, E'\n') from (select channel, state, state_reason from sender) s))"
        ))
        .await
    }

    /// How many deliveries are in a state.
    pub(crate) async fn count(&self, id: BroadcastId, state: &str) -> i64 {
        self.one(&format!(
            "select count(*) from delivery_with_state where broadcast_id = '{id}' and state = '{state}'"
        ))
        .await
    }

    /// Proves the books; panics with what is wrong.
    pub(crate) async fn audit(&self) {
        let report = carillon::ledger::audit(self.pool(), None).await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }
}

/// A worker and a scheduler running in this process; told to stop when dropped.
pub(crate) struct Working {
    stop: [CancellationToken; 2],
    tasks: Vec<JoinHandle<()>>,
}

impl Working {
    /// Tells both to stop and waits until they have.
    pub(crate) async fn stop(mut self) {
        self.stop.iter().for_each(CancellationToken::cancel);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stop.iter().for_each(CancellationToken::cancel);
    }
}
