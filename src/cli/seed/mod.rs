//! `carillon seed`: a shop to try things with, the same one for the same seed.
//!
//! Why it exists: the demo, the tests and the benchmarks need a shop that looks like one: names as people in Taiwan have
//! them, some customers on every channel and some on none, some who opted out, dead addresses, shared mailboxes.
//!
//! It must never write anywhere but into a new shop of its own and the platform's senders.

mod people;

use carillon_jobs::{SenderId, ShopId};
use serde::Serialize;
use sqlx::types::Uuid;

use super::{CliError, need_schema, say};
use crate::{
    app::App,
    channel::{Channel, Sender},
    db::{self, PgPool},
    secret::Secrets,
};

/// A block of bought tokens.
const BLOCK_TOKENS: u32 = 12_500;

/// Make a shop with senders, tokens and customers to try things with.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Credentials are JSON, or @FILE with JSON; a channel without credentials gets no sender and nobody an address\n\
                  there. The app, text message and email senders are the platform's: seeding again gives them the new credentials.\n\
                  Example: carillon seed --customers 5000 --app @key.json \\\n  \
                  --line '{\"channel_id\":\"…\",\"channel_secret\":\"…\",\"access_token\":\"…\"}'"
)]
pub struct Args {
    /// How many customers
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,
    /// What the shop is called
    #[arg(long, default_value = "鐘聲選物")]
    pub shop_name: String,
    /// Another number makes other people; the same number the same ones
    #[arg(long, default_value_t = 1)]
    pub seed: u32,
    /// Bought tokens beside the monthly ones; by default enough for a few broadcasts to everybody
    #[arg(long, value_name = "TOKENS")]
    pub extra_tokens: Option<u32>,
    /// Credentials of the shop's LINE account
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_LINE", hide_env_values = true)]
    pub line: Option<String>,
    /// Credentials of the platform's FCM project: Google's service account key file
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_APP", hide_env_values = true)]
    pub app: Option<String>,
    /// Credentials of the platform's mail relay
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_EMAIL", hide_env_values = true)]
    pub email: Option<String>,
    /// Credentials of the shop's Facebook page; a quarter of those who wrote to it did so today
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_MESSENGER", hide_env_values = true)]
    pub messenger: Option<String>,
    /// Credentials of the shop's WhatsApp number
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_WHATSAPP", hide_env_values = true)]
    pub whatsapp: Option<String>,
    /// Credentials of the platform's text message account, Twilio's or Mitake's
    #[arg(long, value_name = "JSON", env = "CARILLON_SEED_SMS", hide_env_values = true)]
    pub sms: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to make.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Its name.
    pub shop_name: &'a str,
    /// How many customers.
    pub customers: u32,
    /// Which people.
    pub seed: u32,
    /// Bought tokens.
    pub extra_tokens: u32,
    /// The name text messages begin with: the seeded identity of their sender.
    pub sms_name: &'a str,
    /// Credentials as JSON, by channel.
    pub credentials: Vec<(Channel, String)>,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct Seeded {
    /// The shop.
    pub shop: ShopId,
    /// Its name.
    pub shop_name: String,
    /// Its senders, the platform's among them.
    pub senders: Vec<(Channel, SenderId)>,
    /// How many customers.
    pub customers: u64,
    /// How many addresses on each channel.
    pub addresses: Vec<(Channel, i64)>,
    /// Tokens it can spend.
    pub tokens: i64,
    /// How long it took.
    pub seconds: f64,
}

/// Why there is no shop.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Credentials that cannot be right; the text says which and what to do.
    #[error("{0}")]
    Credentials(String),
    /// They could not be sealed.
    #[error(transparent)]
    Secret(#[from] crate::secret::SecretError),
    /// The database.
    #[error("{}", db::describe(.0))]
    Database(#[from] sqlx::Error),
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    let credentials = [
        (Channel::Line, &args.line),
        (Channel::App, &args.app),
        (Channel::Email, &args.email),
        (Channel::Messenger, &args.messenger),
        (Channel::Whatsapp, &args.whatsapp),
        (Channel::Sms, &args.sms),
    ];
    let credentials: Result<Vec<_>, CliError> = credentials
        .into_iter()
        .filter_map(|(channel, given)| Some((channel, given.as_ref()?)))
        .map(|(channel, given)| Ok((channel, json_or_file(channel, given)?)))
        .collect();
    let enough = (args.customers / (BLOCK_TOKENS / 25) + 1).saturating_mul(BLOCK_TOKENS);
    let plan = Plan {
        shop_name: &args.shop_name,
        customers: args.customers,
        seed: args.seed,
        sms_name: &app.config.channel.sms.sender_name,
        extra_tokens: args.extra_tokens.unwrap_or(enough),
        credentials: credentials?,
    };
    let seeded = plant(&app.db, &app.secrets, &plan).await.map_err(|error| match error {
        SeedError::Credentials(_) => CliError::Wrong(error.to_string()),
        SeedError::Secret(_) | SeedError::Database(_) => CliError::Failed(error.to_string()),
    })?;
    if args.json {
        return say(&serde_json::to_string(&seeded).unwrap_or_default());
    }
    say(&format!("{}  shop {}", seeded.shop_name, seeded.shop))?;
    say(&format!(
        "{} customers, {} tokens, made in {:.1} s",
        seeded.customers, seeded.tokens, seeded.seconds
    ))?;
    for (channel, n) in &seeded.addresses {
        say(&format!("  {channel:<10}{n:>10} addresses"))?;
    }
    if seeded.senders.is_empty() {
        return say("no credentials were given, so nothing can be sent: see `carillon seed --help`");
    }
    say(&format!(
        "next: carillon broadcast estimate --shop {} --channels app --text 'Hello {{first_name}}' --fallback first_name=friend",
        seeded.shop
    ))
}

fn json_or_file(channel: Channel, given: &str) -> Result<String, CliError> {
    match given.strip_prefix('@') {
        None => Ok(given.to_owned()),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| CliError::Wrong(format!("--{channel}: cannot read {path}: {error}"))),
    }
}

/// Makes a shop.
///
/// # Errors
/// Credentials that cannot be right, before anything is written; or the database.
pub async fn plant(pool: &PgPool, secrets: &Secrets, plan: &Plan<'_>) -> Result<Seeded, SeedError> {
    let started = std::time::Instant::now();
    for (channel, json) in &plan.credentials {
        Sender::parse(SenderId::new(), *channel, json)
            .map_err(|error| SeedError::Credentials(format!("--{channel}: {error}")))?;
    }
    let shop = ShopId::new();
    let mut tx = db::begin(pool).await?;
    sqlx::query("insert into shop (id, name, url, plan) values ($1, $2, 'https://shop.example/carillon', 'core')")
        .bind(shop.0)
        .bind(plan.shop_name)
        .execute(&mut *tx)
        .await?;
    let mut senders = Vec::new();
    for (channel, json) in &plan.credentials {
        let id = sender(&mut tx, secrets, shop, *channel, json).await?;
        if *channel == Channel::Sms {
            identify(&mut tx, id, plan.sms_name).await?;
        }
        senders.push((*channel, id));
    }
    // A new shop's allowance is due at once: nobody need be running for it to be there.
    sqlx::query("select refill_shop($1)")
        .bind(shop.0)
        .execute(&mut *tx)
        .await?;
    if plan.extra_tokens > 0 {
        sqlx::query("select ledger_top_up($1, $2, 'seed')")
            .bind(shop.0)
            .bind(i64::from(plan.extra_tokens))
            .execute(&mut *tx)
            .await?;
    }
    let tokens: i64 = sqlx::query_scalar("select allowance + extra from token_account where shop_id = $1")
        .bind(shop.0)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    people::add(pool, shop, plan.customers, plan.seed, &senders).await?;
    let addresses = people::count(pool, shop).await?;
    Ok(Seeded {
        shop,
        shop_name: plan.shop_name.to_owned(),
        senders,
        customers: u64::from(plan.customers),
        addresses,
        tokens,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Tells who the text message sender is, and registers the seeded shop's own address for it.
async fn identify(conn: &mut db::PgConnection, sender: SenderId, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select record_sms_identity($1, $2, 'seed', 'a sender to try things with'),
                register_sms($1, 'link', 'shop.example/carillon', true, 'seed', 'the seeded shop')",
    )
    .bind(sender.0)
    .bind(name)
    .execute(conn)
    .await?;
    Ok(())
}

/// LINE account, page and WhatsApp number are the shop's own; app, text messages and email are the platform's, of which there is one
/// each.
async fn sender(
    conn: &mut db::PgConnection,
    secrets: &Secrets,
    shop: ShopId,
    channel: Channel,
    json: &str,
) -> Result<SenderId, SeedError> {
    let own = matches!(channel, Channel::Line | Channel::Messenger | Channel::Whatsapp);
    let owner = own.then_some(shop.0);
    let known: Option<Uuid> = sqlx::query_scalar(
        "select id from sender where channel = $1 and is_primary and shop_id is not distinct from $2 for update",
    )
    .bind(channel)
    .bind(owner)
    .fetch_optional(&mut *conn)
    .await?;
    let id = known.map_or_else(SenderId::new, SenderId);
    sqlx::query(
        "insert into sender (id, shop_id, channel, name, is_primary, credentials, sends_templates) values ($1, $2, $3, $4, true, $5, $6)
         on conflict (id) do update set credentials = excluded.credentials, state = 'connected', state_reason = null,
            sends_templates = excluded.sends_templates",
    )
    .bind(id.0)
    .bind(owner)
    .bind(channel)
    .bind(match channel {
        Channel::Line => "LINE official account",
        Channel::App => "Shopping app",
        Channel::Email => "Mail relay",
        Channel::Messenger => "Facebook page",
        Channel::Whatsapp => "WhatsApp number",
        Channel::Sms => "Text messages",
    })
    .bind(secrets.seal(json.as_bytes(), id.0)?)
    .bind(Sender::parse(id, channel, json).is_ok_and(|sender| sender.sends_templates()))
    .execute(conn)
    .await?;
    Ok(id)
}
