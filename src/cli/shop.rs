//! `carillon shop`: the rules a shop sets for its own broadcasts.

use carillon_jobs::ShopId;
use chrono::NaiveTime;
use chrono_tz::Tz;
use serde_json::json;

use super::{CliError, complain, need_schema, say};
use crate::{
    app::App,
    broadcast::{
        CapSpan, FrequencyCap,
        rules::{self, Rules},
    },
    channel::Channel,
    db,
    delivery::quiet::QuietHours,
    reconcile,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show a shop's rules
    Rules {
        /// The shop's id
        #[arg(value_name = "ID")]
        id: ShopId,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Set how many marketing broadcasts one customer may get, or lift it
    #[command(
        after_help = "Counted: what arrived, what may have, and what is still on its way. Tests do not count and are not held back."
    )]
    Cap(CapArgs),
    /// Set when nobody is disturbed on a channel, or lift it
    #[command(
        after_help = "Times are on the customer's clock where it is known, else on the shop's. What is sent then waits, until its deadline."
    )]
    Quiet(QuietArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct CapArgs {
    /// The shop's id
    #[arg(value_name = "ID")]
    id: ShopId,
    /// So many in a calendar month of the shop's clock, or in --days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000), required_unless_present = "off")]
    broadcasts: Option<u16>,
    /// In the last so many days, instead of the month
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=366), requires = "broadcasts")]
    days: Option<u16>,
    /// No cap
    #[arg(long, conflicts_with = "broadcasts")]
    off: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct QuietArgs {
    /// The shop's id
    #[arg(value_name = "ID")]
    id: ShopId,
    /// The channel: app, line, messenger, whatsapp, sms or email
    #[arg(long)]
    channel: Channel,
    /// From this time of day on: 22:00
    #[arg(long, value_name = "HH:MM", value_parser = time_of_day, requires = "until", required_unless_present = "off")]
    from: Option<NaiveTime>,
    /// Up to this one: 08:00
    #[arg(long, value_name = "HH:MM", value_parser = time_of_day, requires = "from")]
    until: Option<NaiveTime>,
    /// No quiet hours on it
    #[arg(long, conflicts_with_all = ["from", "until"])]
    off: bool,
}

fn time_of_day(text: &str) -> Result<NaiveTime, String> {
    NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| "write it like 22:00".to_owned())
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    match args {
        Args::Rules { id, json } => {
            let rules = read(&app, id).await?;
            tell(id, &rules, json)
        }
        Args::Cap(args) => {
            read(&app, args.id).await?;
            let cap = args.broadcasts.map(|broadcasts| FrequencyCap {
                broadcasts,
                span: args.days.map_or(CapSpan::Month, CapSpan::Days),
            });
            rules::set_cap(&app.db, args.id, cap).await?;
            say(&format!(
                "{}; it holds for broadcasts planned from now on",
                cap_says(cap)
            ))
        }
        Args::Quiet(args) => {
            read(&app, args.id).await?;
            let hours = args
                .from
                .zip(args.until)
                .map(|(from, until)| QuietHours::new(from, until));
            let hours = hours.transpose().map_err(|error| CliError::Wrong(error.to_string()))?;
            rules::set_quiet(&app.db, args.id, args.channel, hours).await?;
            // What waited may go; the scheduler would ring within seconds.
            if let Err(error) = reconcile::look(&app.db, &app.queue()?, &app.config.delivery).await {
                complain(&format!(
                    "{error}; the scheduler rings for what waits when that is over"
                ));
            }
            say(&quiet_says(args.channel, hours))
        }
    }
}

async fn read(app: &App, id: ShopId) -> Result<Rules, CliError> {
    let mut conn = db::begin(&app.db).await?;
    let rules = rules::read(&mut conn, id).await?;
    rules.ok_or_else(|| CliError::Wrong(format!("there is no shop {id}")))
}

fn tell(id: ShopId, rules: &Rules, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say(&json!({ "shop_id": id, "rules": rules }).to_string());
    }
    say(&format!("clock: {}", rules.time_zone))?;
    say(&cap_says(rules.frequency_cap))?;
    if rules.quiet.is_empty() {
        return say("no quiet hours");
    }
    let zone: Tz = rules.time_zone.parse().unwrap_or(Tz::UTC);
    for one in &rules.quiet {
        let now = match one.hours.until(rules.now, zone) {
            Some(until) => format!(" (now, until {})", until.with_timezone(&zone).format("%Y-%m-%d %H:%M")),
            None => String::new(),
        };
        say(&format!("{}{now}", quiet_says(one.channel, Some(one.hours))))?;
    }
    Ok(())
}

fn cap_says(cap: Option<FrequencyCap>) -> String {
    match cap {
        None => "no frequency cap".to_owned(),
        Some(FrequencyCap {
            broadcasts,
            span: CapSpan::Month,
        }) => format!("at most {broadcasts} broadcasts a customer and calendar month"),
        Some(FrequencyCap {
            broadcasts,
            span: CapSpan::Days(days),
        }) => format!("at most {broadcasts} broadcasts a customer in any {days} days"),
    }
}

fn quiet_says(channel: Channel, hours: Option<QuietHours>) -> String {
    match hours {
        None => format!("{channel}: no quiet hours"),
        Some(hours) => format!(
            "{channel}: quiet from {} to {}",
            hours.starts().format("%H:%M"),
            hours.ends().format("%H:%M")
        ),
    }
}
