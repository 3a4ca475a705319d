//! `carillon sender`: which accounts send, why one does not, and how fast each may.
//!
//! It shows no credentials, ever.

mod check;

use carillon_jobs::{SenderId, ShopId};
use serde_json::{Value, json};

use super::{
    CliError, need_schema, plain, say, sender_sms,
    table::{self, Align},
};
use crate::{
    app::App,
    channel::Channel,
    delivery::senders::{self, SenderFilter, SenderOverview, SenderState},
    limit::LimitStatus,
};

const REASON_CHARS: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show the senders: shop, channel, whether each sends, and if not, why
    List {
        #[command(flatten)]
        which: Which,
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Text message senders: who they are, and what they have registered with the carriers
    #[command(subcommand)]
    Sms(sender_sms::Command),
    /// Ask the provider whether an account is connected as it has to be: token, ids, webhook, secret
    #[command(after_help = "Exit code: 0 when nothing is wrong, 1 when something is or the provider did not answer.")]
    Check(check::Args),
    /// As `carillon limits`
    Limits(LimitsArgs),
}

/// Show how fast each sender may send, what its provider last refused, and what waits
#[derive(Debug, clap::Args)]
pub(super) struct LimitsArgs {
    #[command(flatten)]
    which: Which,
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

/// Which senders.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Only these senders
    #[arg(value_name = "ID")]
    ids: Vec<SenderId>,
    /// Only senders of this shop
    #[arg(long, value_name = "ID")]
    shop: Option<ShopId>,
    /// Only senders on this channel: app, line, messenger, whatsapp, sms or email
    #[arg(long)]
    channel: Option<Channel>,
    /// Only paused ones
    #[arg(long)]
    paused: bool,
}

impl Which {
    async fn find(self, app: &App) -> Result<Vec<SenderOverview>, CliError> {
        need_schema(app).await?;
        let asked = self.ids.clone();
        let filter = SenderFilter {
            ids: (!asked.is_empty()).then_some(self.ids),
            shop: self.shop,
            channel: self.channel,
            state: self.paused.then_some(SenderState::Paused),
        };
        let found = senders::list(&app.db, &filter).await?;
        match asked.iter().find(|id| !found.iter().any(|sender| sender.id == **id)) {
            // With a filter beside it, a sender that exists may simply not match.
            Some(id) if filter.shop.is_none() && filter.channel.is_none() && filter.state.is_none() => Err(nobody(*id)),
            _ => Ok(found),
        }
    }
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    match args {
        Args::List { which, json } => list(&which.find(&app).await?, json),
        Args::Sms(command) => sender_sms::run(&app, command).await,
        Args::Check(args) => check::run(&app, args).await,
        Args::Limits(args) => limits(app, args).await,
    }
}

fn list(senders: &[SenderOverview], as_json: bool) -> Result<(), CliError> {
    if as_json {
        let all = senders.iter().map(|sender| {
            json!({
                "id": sender.id, "shop_id": sender.shop.as_ref().map(|(id, _)| id),
                "shop": sender.shop.as_ref().map(|(_, name)| name), "channel": sender.channel, "name": sender.name,
                "is_primary": sender.is_primary, "state": sender.state, "reason": sender.reason,
                "rate_per_sec": sender.rate_per_sec, "waiting": sender.waiting,
            })
        });
        return say(&Value::Array(all.collect()).to_string());
    }
    if senders.is_empty() {
        return say("no senders");
    }
    let rows: Vec<Vec<String>> = senders
        .iter()
        .map(|sender| {
            vec![
                sender.id.to_string(),
                shop(sender),
                sender.channel.to_string(),
                plain::cell(&sender.name, 30),
                sender.state.as_str().to_owned(),
                sender
                    .rate_per_sec
                    .map_or_else(|| "default".to_owned(), |rate| format!("{rate}/s")),
                sender.waiting.to_string(),
                plain::cell(sender.reason.as_deref().unwrap_or("-"), REASON_CHARS),
            ]
        })
        .collect();
    let heads = [
        ("sender", Align::Left),
        ("shop", Align::Left),
        ("channel", Align::Left),
        ("name", Align::Left),
        ("state", Align::Left),
        ("rate", Align::Right),
        ("waiting", Align::Right),
        ("reason", Align::Left),
    ];
    table::print(&heads, rows)
}

/// `carillon limits`: rates are from Redis, names and what waits from Postgres.
pub(super) async fn limits(app: App, args: LimitsArgs) -> Result<(), CliError> {
    let LimitsArgs { which, json: as_json } = args;
    let delivery = app.delivery()?;
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for sender in which.find(&app).await? {
        for call in senders::calls(sender.channel) {
            let key = delivery.limit_key(sender.id, sender.channel, *call, sender.rate_per_sec);
            let status: LimitStatus = delivery.limits.status(&key).await?;
            objects.push(json!({
                "id": sender.id, "channel": sender.channel, "name": sender.name, "call": call.to_string(),
                "configured_per_sec": status.configured_per_sec, "effective_per_sec": status.effective_per_sec,
                "closed_until": status.closed_until, "last_throttled_at": status.last_throttled_at,
                "waiting": sender.waiting, "state": sender.state, "resting_lanes": sender.resting,
                "probes_at": sender.probes_at,
            }));
            rows.push(vec![
                sender.id.to_string(),
                shop(&sender),
                sender.channel.to_string(),
                call.to_string(),
                format!("{}/s", rounded(status.configured_per_sec)),
                format!("{}/s", rounded(status.effective_per_sec)),
                plain::moment_or_dash(status.closed_until),
                plain::moment_or_dash(status.last_throttled_at),
                sender.waiting.to_string(),
                breaker(&sender),
            ]);
        }
    }
    if as_json {
        return say(&Value::Array(objects).to_string());
    }
    if rows.is_empty() {
        return say("no senders");
    }
    let heads = [
        ("sender", Align::Left),
        ("shop", Align::Left),
        ("channel", Align::Left),
        ("call", Align::Left),
        ("configured", Align::Right),
        ("now", Align::Right),
        ("closed until", Align::Left),
        ("last 429", Align::Left),
        ("waiting", Align::Right),
        ("state", Align::Left),
    ];
    table::print(&heads, rows)
}

/// Whether it sends: paused by a person or its provider, or resting because nothing gets through.
fn breaker(sender: &SenderOverview) -> String {
    match (sender.state, sender.resting) {
        (SenderState::Connected, 0) => "sends".to_owned(),
        (SenderState::Connected, lanes) => format!(
            "nothing gets through ({lanes} lanes), probes at {}",
            plain::moment_or_dash(sender.probes_at)
        ),
        (state, _) => state.as_str().to_owned(),
    }
}

/// Two digits are enough for a person.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

fn shop(sender: &SenderOverview) -> String {
    let name = sender.shop.as_ref().map(|(_, name)| plain::cell(name, 30));
    name.unwrap_or_else(|| "(platform)".to_owned())
}

fn nobody(id: SenderId) -> CliError {
    CliError::Wrong(format!("there is no sender {id}: `carillon sender list` shows them"))
}
