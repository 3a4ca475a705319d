//! What a benchmark of broadcasts runs on: a database of its own, a shop with customers and senders whose rate limits
//! are out of the way, the sandbox as a process, and a real worker and scheduler. Gone with the value.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use carillon::{
    app::{App, ProcessKind},
    channel::Channel,
    config::{Config, Sources},
};
use carillon_jobs::BroadcastId;
use carillon_sandbox::{
    FCM_DEMO_KEY_JSON, LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN, META_APP_SECRET, MITAKE_PASSWORD, MITAKE_USER,
    PAGE_ID, PAGE_TOKEN, PHONE_NUMBER_ID, SMTP_PASSWORD, SMTP_USER, WHATSAPP_TOKEN,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

const KEY: &str = "bench:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// A rate no machine reaches: the limiter works as always and never says wait.
const RATE_PER_SEC: u32 = 10_000_000;

/// A process that ends with its owner.
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// This very program once more, in another role.
    pub fn again(role: &str, env: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(role).envs(env.iter().map(|(name, value)| (name, value)));
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sandbox and where it listens.
pub struct Sandbox {
    pub process: Process,
    pub http: String,
    pub smtp: String,
    client: reqwest::Client,
}

impl Sandbox {
    /// This very program once more, in its other role (see `serve`): one build, and a process of its own.
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("sandbox")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the sandbox says where it listens");
        Self {
            process: Process(child),
            http: format!("http://{}", ready["http"].as_str().unwrap()),
            smtp: ready["smtp"].as_str().unwrap().to_owned(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Forgets what arrived, so that the next round starts with empty hands.
    pub async fn reset(&self) {
        let url = format!("{}/_sandbox/reset", self.http);
        assert!(self.client.post(url).send().await.unwrap().status().is_success());
    }

    /// What arrived on a channel: messages, recipients, the most to one.
    pub async fn arrived(&self, channel: Channel) -> (u64, u64, u64) {
        let url = format!("{}/_sandbox/summary", self.http);
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        let summary: Value = serde_json::from_str(&text).unwrap();
        let name = match channel {
            Channel::App => "fcm",
            Channel::Email => "smtp",
            Channel::Sms => "mitake",
            other => other.as_str(),
        };
        let count = |field: &str| summary[name][field].as_u64().expect("the sandbox counts");
        (
            count("messages"),
            count("distinct_recipients"),
            count("max_to_one_recipient"),
        )
    }
}

/// The sandbox's process: one thread, as `carillon-sandbox` has by default.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = carillon_sandbox::SandboxConfig {
            keep_bodies: false,
            ..Default::default()
        };
        let running = carillon_sandbox::Sandbox::start(config).await.unwrap();
        let (http, smtp) = (running.http_addr.to_string(), running.smtp_addr.to_string());
        println!("{}", json!({ "http": http, "smtp": smtp }));
        std::future::pending::<()>().await;
    });
}

/// The whole bed.
pub struct Bed {
    pub pool: PgPool,
    pub sandbox: Sandbox,
    pub shop: Uuid,
    /// The environment of the worker and the scheduler.
    env: BTreeMap<String, String>,
    admin: String,
    database: String,
    /// A folder of price tables.
    prices: PathBuf,
}

impl Bed {
    /// Everything but customers, and with no process of ours running yet.
    pub async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; bin/bench does it"));
        let admin = variable("CARILLON_TEST_DATABASE_URL");
        let database = format!("carillon_bench_{}", Uuid::new_v4().simple());
        admin_run(&admin, &format!("create database {database}")).await;
        let mut url: url::Url = admin.parse().expect("CARILLON_TEST_DATABASE_URL is an address");
        url.set_path(&database);
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .connect(url.as_str())
            .await
            .unwrap();
        carillon::db::MIGRATOR.run(&pool).await.unwrap();
        let sandbox = Sandbox::start();
        let prices = priced();
        let env = [
            ("DATABASE_URL", url.to_string()),
            ("REDIS_URL", variable("CARILLON_TEST_REDIS_URL")),
            (
                "CARILLON__REDIS__KEY_PREFIX",
                format!("bench{}", Uuid::new_v4().simple()),
            ),
            ("CARILLON__SECRET__KEYS", KEY.to_owned()),
            ("CARILLON__LOG__FILTER", "warn".to_owned()),
            ("CARILLON__WEB__PUBLIC_URL", "https://shop.example".to_owned()),
            ("CARILLON__CHANNEL__LINE__BASE_URL", sandbox.http.clone()),
            ("CARILLON__CHANNEL__APP__BASE_URL", sandbox.http.clone()),
            ("CARILLON__CHANNEL__APP__TOKEN_URL", format!("{}/token", sandbox.http)),
            ("CARILLON__CHANNEL__MESSENGER__BASE_URL", sandbox.http.clone()),
            ("CARILLON__CHANNEL__WHATSAPP__BASE_URL", sandbox.http.clone()),
            ("CARILLON__PRICES__FOLDER", prices.to_string_lossy().into_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        // What the caller wants to try: CARILLON__DELIVERY__PARALLEL_SLICES=3 bin/bench broadcast
        .chain(std::env::vars().filter(|(name, _)| name.starts_with("CARILLON__")))
        .collect();
        let bed = Self {
            pool,
            sandbox,
            shop: Uuid::now_v7(),
            env,
            admin,
            database,
            prices,
        };
        bed.open_shop().await;
        bed
    }

    /// A real process of the product.
    pub fn process(&self, kind: &str) -> Process {
        self.process_with(kind, &[])
    }

    /// The same, with these settings over the others.
    pub fn process_with(&self, kind: &str, settings: &[(&str, String)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command
            .arg(kind)
            .envs(&self.env)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Process(command.spawn().unwrap())
    }

    /// Where its database is.
    pub fn database_url(&self) -> String {
        self.env["DATABASE_URL"].clone()
    }

    /// The configuration its processes have.
    pub fn config(&self) -> Config {
        Config::load(&Sources::of(self.env.clone())).unwrap().config
    }

    /// The parts of a command, to ring and to seal.
    pub fn app(&self) -> App {
        App::for_process(ProcessKind::Command, self.config()).unwrap()
    }

    /// What the sandbox knows a sender by.
    pub fn credentials(&self, channel: Channel) -> String {
        let (host, port) = self.sandbox.smtp.split_once(':').unwrap();
        match channel {
            Channel::App => FCM_DEMO_KEY_JSON.replace("http://127.0.0.1:9900", &self.sandbox.http),
            Channel::Email => json!({"host": host, "port": port.parse::<u16>().unwrap(), "tls": "none", "username": SMTP_USER,
                "password": SMTP_PASSWORD, "from": "news@shop.example", "from_name": "好日子選物"})
            .to_string(),
            Channel::Messenger => json!({"page_id": PAGE_ID, "access_token": PAGE_TOKEN, "app_secret": META_APP_SECRET}).to_string(),
            Channel::Whatsapp => {
                json!({"phone_number_id": PHONE_NUMBER_ID, "access_token": WHATSAPP_TOKEN, "app_secret": META_APP_SECRET})
                    .to_string()
            }
            Channel::Sms => json!({"provider": "mitake", "username": MITAKE_USER, "password": MITAKE_PASSWORD,
                "callback_token": "callback-token-of-the-bench", "base_url": format!("{}/b2c/mtk", self.sandbox.http)})
            .to_string(),
            Channel::Line => json!({"channel_id": LINE_CHANNEL_ID, "channel_secret": LINE_CHANNEL_SECRET, "access_token": LINE_TOKEN})
                .to_string(),
        }
    }

    async fn open_shop(&self) {
        let app = self.app();
        self.run(&format!(
            "insert into shop (id, name, url, plan) values ('{}', '好日子選物', 'https://shop.example', 'core')",
            self.shop
        ))
        .await;
        for channel in Channel::ALL {
            let credentials = self.credentials(channel);
            let id = Uuid::now_v7();
            sqlx::query(
                "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
                 values ($1, $2, $3, $4, true, $5, $6)",
            )
            .bind(id)
            .bind(self.shop)
            .bind(channel)
            .bind(channel.as_str())
            .bind(app.secrets.seal(credentials.as_bytes(), id).unwrap())
            .bind(f64::from(RATE_PER_SEC))
            .execute(&self.pool)
            .await
            .unwrap();
        }
        self.run("select record_sms_identity(id, 'EasyStore', 'bench', 'bench') from sender where channel = 'sms'")
            .await;
        self.run(&format!("select ledger_top_up('{}', 1000000000, 'bench')", self.shop))
            .await;
    }

    /// Adds `n` customers, each with an address on each of these channels.
    pub async fn customers(&self, n: u32, channels: &[Channel]) {
        let channels: Vec<&str> = channels.iter().map(|channel| channel.as_str()).collect();
        self.run(&format!(
            "insert into customer (shop_id, first_name, last_name)
             select '{}', (array['雅婷', '志明', '怡君', '淑芬', '俊傑', '家豪', '美玲', 'Amy'])[1 + i % 8],
                    (array['陳', '林', '黃', '張', '李', '王'])[1 + i % 6]
               from generate_series(1, {n}) i",
            self.shop
        ))
        .await;
        self.run(&format!(
            "insert into address (shop_id, sender_id, customer_id, last_inbound_at, address)
             select s.shop_id, s.id, c.id, case when s.channel in ('messenger', 'whatsapp') then now() end, case s.channel
                      when 'line' then 'U' || md5(c.id::text)
                      when 'messenger' then '7' || lpad(c.id::text, 15, '0')
                      when 'whatsapp' then '+8860' || lpad(c.id::text, 8, '0')
                      when 'app' then 'c' || md5(c.id::text) || ':APA91b' || repeat(md5(c.id::text), 4)
                      when 'sms' then '+8869' || lpad(c.id::text, 8, '0')
                      else 'customer' || c.id || '@mail.example' end
               from customer c cross join sender s
              where s.shop_id = '{}' and s.channel::text = any ('{{{}}}') order by c.id",
            self.shop,
            channels.join(",")
        ))
        .await;
        self.run("vacuum analyze customer").await;
        self.run("vacuum analyze address").await;
    }

    /// A personalised draft to everybody.
    pub async fn draft(&self, channel: Channel, content: &Value) -> BroadcastId {
        let id = BroadcastId::new();
        sqlx::query(
            "insert into broadcast (id, shop_id, name, mode, content, audience)
             values ($1, $2, 'Sale', 'priority_single', $3, '{\"all\": true}')",
        )
        .bind(id.0)
        .bind(self.shop)
        .bind(content)
        .execute(&self.pool)
        .await
        .unwrap();
        self.run(&format!(
            "insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens)
             select '{id}', 0, channel, id, 5 from sender where shop_id = '{}' and channel = '{channel}'",
            self.shop
        ))
        .await;
        id
    }

    /// Sends a draft as a frontend would: the SQL function, then the bell.
    pub async fn send(&self, id: BroadcastId) {
        self.run(&format!("select send_broadcast('{id}')")).await;
        let queue = self.app().queue().unwrap();
        carillon::reconcile::ring(&queue, id, None).await.unwrap();
    }

    pub async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Waits until a question is answered with true, looking often enough to time what is measured in seconds.
    pub async fn wait(&self, what: &str, sql: &str, secs: u64) {
        let deadline = Instant::now() + Duration::from_secs(secs);
        while !self.one::<bool>(sql).await {
            assert!(Instant::now() < deadline, "not within {secs} s: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes the database; its processes must be gone.
    pub async fn close(self) {
        let _ = std::fs::remove_dir_all(&self.prices);
        self.pool.close().await;
        admin_run(&self.admin, &format!("drop database {} with (force)", self.database)).await;
    }
}

/// The shipped price tables in a folder of their own, with a price for WhatsApp, which has none otherwise.
fn priced() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("carillon-bench-prices-{}", Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prices")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("email = 2", "email = 2\nwhatsapp = 4");
        std::fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
    }
    folder
}

async fn admin_run(url: &str, sql: &str) {
    use sqlx::{Connection as _, Executor as _};
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    connection.close().await.unwrap();
}
