//! Where the run happens: a migrated database, several shops with customers and senders, and the providers' sandbox in
//! this process. The shops' senders (`accounts`) are slow on purpose, so that
//! sending goes on while things break.
//! It must never know of a fault: the town is what the faults happen to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use carillon::{prices::Prices, secret::Secrets};
use carillon_sandbox::{Handle, Latency, Running, Sandbox, SandboxConfig};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::{
    accounts, clock::Clock, dice::Dice, door::Door, load, load::Book, notes::Notes, options::Options,
    provider::Provider, services::Services, told::Arrival,
};

const KEY: &str = "chaos:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Shops; the later half has no mail relay of its own and uses the platform's.
pub const SHOPS: usize = 4;
/// Settings that differ from the defaults: a provider that hangs is given up within the run.
const SETTINGS: &[(&str, &str)] = &[
    ("CHANNEL__LINE__TIMEOUT_SECS", "6"),
    ("CHANNEL__APP__TIMEOUT_SECS", "6"),
    ("CHANNEL__MESSENGER__TIMEOUT_SECS", "6"),
    ("CHANNEL__WHATSAPP__TIMEOUT_SECS", "6"),
    ("CHANNEL__SMS__TIMEOUT_SECS", "6"),
    ("CHANNEL__EMAIL__COMMAND_TIMEOUT_SECS", "6"),
    ("CHANNEL__EMAIL__BODY_TIMEOUT_SECS", "8"),
    // Each bell that is lost doubles the wait for the next one.
    ("SCHEDULER__BELL_STALE_SECS", "5"),
    ("LOG__FORMAT", "json"),
];

/// Everything the fleet works on.
pub struct Town {
    /// The harness's own connections.
    pub pool: PgPool,
    /// Where Redis is.
    pub services: Services,
    /// The shops.
    pub shops: Vec<Uuid>,
    /// The numbers of customers an audience can have.
    pub sizes: Vec<u64>,
    /// What everything random follows from.
    pub seed: u64,
    /// The run's time.
    pub clock: Clock,
    /// The environment of the product's processes.
    pub env: BTreeMap<String, String>,
    /// What the frontends know.
    pub notes: Notes,
    /// Where providers tell what happens.
    pub door: Door,
    /// What they told.
    pub book: Book,
    sandbox: Running,
    /// When the sandbox's time began.
    sandbox_began: Instant,
}

impl Town {
    /// Builds it; `biggest` is the size of the largest audience, `files` a folder for what the processes read. The run's
    /// time begins when it stands.
    pub async fn build(services: Services, options: &Options, biggest: u64, files: &Path) -> Self {
        let seed = options.seed;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pool = PgPoolOptions::new()
            .max_connections(6)
            .acquire_timeout(Duration::from_secs(2))
            .connect(&services.database_url)
            .await
            .unwrap();
        carillon::db::MIGRATOR.run(&pool).await.unwrap();
        let price_tables = priced(files);
        let prices = Prices::read(&price_tables).unwrap();
        carillon::prices::publish(&pool.clone().into(), &prices).await.unwrap();
        let sandbox_began = Instant::now();
        let config = SandboxConfig {
            seed,
            keep_bodies: false,
            keep_marks: true,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await.unwrap();
        let schedules = files.join("schedule.toml");
        std::fs::write(&schedules, load::schedules()).unwrap();
        let env = environment(&services, &sandbox, &schedules, &price_tables);
        let mut town = Self {
            pool,
            services,
            shops: (0..SHOPS).map(|_| Uuid::now_v7()).collect(),
            sizes: [20, biggest / 4, biggest].into(),
            seed,
            clock: Clock::start(),
            env,
            notes: Notes::default(),
            door: Door::new(options.fleet.webs),
            book: Book::default(),
            sandbox,
            sandbox_began,
        };
        for provider in Provider::ALL {
            let (fixed_ms, jitter_ms) = if provider.is_http() { (20, 60) } else { (2, 10) };
            town.providers()
                .set_latency(provider.wire(), Latency { fixed_ms, jitter_ms });
        }
        town.settle_in(biggest).await;
        town.clock = Clock::start();
        town
    }

    /// Drives the providers.
    pub fn providers(&self) -> Handle {
        self.sandbox.handle()
    }

    /// Everything the providers took, in order of time.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let of = |provider: Provider| {
            let messages = self
                .providers()
                .received(provider.wire(), &carillon_sandbox::ReceivedQuery::default());
            messages.into_iter().map(move |message| Arrival {
                at_ms: self.clock.after(self.sandbox_began, message.at_ms.into()),
                provider,
                recipient: provider.stored(message.recipient),
                text: message.text,
            })
        };
        let mut all: Vec<Arrival> = Provider::ALL.into_iter().flat_map(of).collect();
        all.sort_by_key(|arrival| arrival.at_ms);
        all
    }

    /// Runs one statement; for the beginning, when nothing breaks yet.
    async fn run(&self, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    async fn settle_in(&self, customers: u64) {
        let mut dice = Dice::of(self.seed, &[7]);
        for (number, shop) in self.shops.iter().enumerate() {
            // Its month ends while messages of it are under way, so that what they hold is of a period that is over.
            let refill_in_ms = dice.between(6_000, 25_000);
            self.run(format!(
                "insert into shop (id, name, url, plan) values ('{shop}', '好日子選物 {number}', 'https://shop.example', 'core');
                 select ledger_top_up('{shop}', 1000000000, 'chaos');
                 select ledger_refill('{shop}', to_char(now() at time zone 'Asia/Taipei' - interval '1 month', 'YYYY-MM'), 5000);
                 update token_account set refill_due_at = now() + {refill_in_ms} * interval '1 millisecond' where shop_id = '{shop}'"
            ))
            .await;
        }
        for (number, shop) in self.shops.iter().enumerate() {
            for provider in accounts::of_shop(number, number < self.shops.len() / 2) {
                self.sender(Some(*shop), provider, accounts::rate(provider)).await;
            }
        }
        self.sender(None, Provider::Email, 80.0).await;
        self.run(
            "select record_sms_identity(id, 'EasyStore', 'chaos', 'chaos') from sender where channel = 'sms'"
                .to_owned(),
        )
        .await;
        for shop in &self.shops {
            self.people(*shop, customers).await;
        }
        self.run("analyze".to_owned()).await;
    }

    async fn sender(&self, shop: Option<Uuid>, provider: Provider, rate: f64) {
        let credentials = accounts::credentials(provider, &self.sandbox).to_string();
        let config = carillon::config::Config::load(&carillon::config::Sources::of(self.env.clone()));
        let secrets = Secrets::new(&config.unwrap().config.secret.keys).unwrap();
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into sender (id, shop_id, channel, name, is_primary, credentials, rate_per_sec)
             values ($1, $2, $3, $4, true, $5, $6)",
        )
        .bind(id)
        .bind(shop)
        .bind(provider.channel())
        .bind(provider.name())
        .bind(secrets.seal(credentials.as_bytes(), id).unwrap())
        .bind(rate)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Customer number i of a shop has the tag `nSIZE` of every size ≥ i. All have mail, most the app and a phone, half LINE and
    /// WhatsApp, a third Messenger. Of these last two some have not written for a day, or will not have within the run: nothing may be
    /// sent to them.
    async fn people(&self, shop: Uuid, customers: u64) {
        let sizes: Vec<String> = self.sizes.iter().map(u64::to_string).collect();
        self.run(format!(
            "with c as (insert into customer (shop_id, first_name, last_name, tags)
                        select '{shop}', (array['雅婷', '志明', '怡君', '淑芬', 'Amy'])[1 + i % 5] || i, '陳',
                               array(select 'n' || n from unnest(array[{}]) n where n >= i)
                          from generate_series(1, {customers}) i returning id),
                  n as (select id, row_number() over (order by id) as i from c)
             insert into address (shop_id, sender_id, customer_id, address, last_inbound_at)
             select '{shop}', s.id, n.id, case s.channel
                      when 'line' then 'U' || md5(n.id::text)
                      when 'app' then 'token-' || md5(n.id::text) || ':APA91b' || md5(n.id::text)
                      when 'messenger' then '7' || lpad(n.id::text, 15, '0')
                      when 'whatsapp' then '+8869' || lpad(n.id::text, 8, '0')
                      when 'sms' then '+8869' || lpad(n.id::text, 8, '0')
                      else 'customer' || n.id || '@mail.example' end,
                    case when s.channel in ('messenger', 'whatsapp') then now() - case n.i % 12
                      when 5 then interval '25 hours'
                      when 6 then interval '24 hours' - n.i * interval '100 milliseconds'
                      else interval '0' end end
               from n cross join sender s
              where (s.shop_id = '{shop}' or s.shop_id is null and not exists (select from sender o
                        where o.shop_id = '{shop}' and o.channel = s.channel))
                and case s.channel when 'line' then n.i % 2 = 0 when 'app' then n.i % 5 <> 0 when 'messenger' then n.i % 3 = 0
                      when 'whatsapp' then n.i % 4 in (1, 2) when 'sms' then n.i % 7 <> 0 else true end",
            sizes.join(",")
        ))
        .await;
    }
}

/// The shipped price tables in a folder of their own, with a price for WhatsApp, which has none otherwise.
fn priced(files: &Path) -> PathBuf {
    let folder = files.join("prices");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prices")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("email = 2", "email = 2\nwhatsapp = 4");
        std::fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
    }
    folder
}

fn environment(services: &Services, sandbox: &Running, schedules: &Path, prices: &Path) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("DATABASE_URL", services.database_url.clone()),
        ("REDIS_URL", services.redis_url.clone()),
        ("CARILLON__SECRET__KEYS", KEY.to_owned()),
        ("CARILLON__CHANNEL__LINE__BASE_URL", sandbox.http_url()),
        ("CARILLON__CHANNEL__APP__BASE_URL", sandbox.http_url()),
        (
            "CARILLON__CHANNEL__APP__TOKEN_URL",
            format!("{}/token", sandbox.http_url()),
        ),
        ("CARILLON__CHANNEL__MESSENGER__BASE_URL", sandbox.http_url()),
        ("CARILLON__CHANNEL__WHATSAPP__BASE_URL", sandbox.http_url()),
        ("CARILLON__CHANNEL__SMS__TWILIO_BASE_URL", sandbox.http_url()),
        ("CARILLON__WEB__PUBLIC_URL", accounts::PUBLIC_URL.to_owned()),
        ("CARILLON__PRICES__FOLDER", prices.display().to_string()),
        ("CARILLON__SCHEDULER__SCHEDULE_FILE", schedules.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(
        SETTINGS
            .iter()
            .map(|(name, value)| (format!("CARILLON__{name}"), (*value).to_owned())),
    );
    // What the caller wants to try: CARILLON__DELIVERY__PARALLEL_SLICES=1 bin/chaos
    env.extend(std::env::vars().filter(|(name, _)| name.starts_with("CARILLON__")));
    env
}
