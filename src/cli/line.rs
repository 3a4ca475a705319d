//! `carillon line`: what LINE's plans cost, and what is left of an account's month.

use carillon_jobs::SenderId;
use serde_json::{Value, json};

use super::{
    CliError, need_schema, plain, say,
    table::{self, Align, number},
};
use crate::{
    app::App,
    broadcast::{Asked, QuotaView, quota_view},
    channel::Channel,
    db,
    delivery::senders::{self, SenderFilter, SenderState},
    prices::LinePlans,
};

/// Look at LINE's plans and quotas
#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Say what a month costs on each of LINE's plans, and which is the cheapest that is enough
    Plan(PlanArgs),
    /// Show what is left of each account's month: asks LINE, and says of when its figure is
    Quota(QuotaArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// Friends who get each message
    #[arg(long, value_name = "N")]
    friends: u32,
    /// Messages to all of them a month
    #[arg(long, value_name = "N")]
    sends: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct QuotaArgs {
    /// Only these accounts
    #[arg(value_name = "ID")]
    ids: Vec<SenderId>,
    /// Show what was last said, without asking
    #[arg(long)]
    stored: bool,
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    match args {
        Args::Plan(args) => plan(&app, &args),
        Args::Quota(args) => quota(&app, args).await,
    }
}

/// Needs neither database nor Redis.
fn plan(app: &App, args: &PlanArgs) -> Result<(), CliError> {
    let day = app.clock.now().with_timezone(&chrono_tz::Asia::Taipei).date_naive();
    let plans = app.config.broadcast.prices.line_plans_at(day);
    let plans = plans.ok_or_else(|| CliError::Wrong("no price table says what LINE charges: add one".to_owned()))?;
    let messages = u64::from(args.friends) * u64::from(args.sends);
    let offers = plans.offers(messages);
    let cheapest = LinePlans::cheapest(&offers);
    if args.json {
        let best = cheapest.map(|offer| &offer.plan);
        return say(&json!({ "messages": messages, "plans": offers, "cheapest": best }).to_string());
    }
    say(&format!("{} messages a month", count(messages)))?;
    let heads = [
        ("plan", Align::Left),
        ("messages", Align::Right),
        ("extra", Align::Right),
        ("TWD a month", Align::Right),
        ("", Align::Left),
    ];
    let rows = offers.iter().map(|offer| {
        let note = match offer.total_milli_twd {
            None => "too small, and has no extra messages",
            Some(_) if cheapest == Some(offer) => "the cheapest that is enough",
            Some(_) => "",
        };
        vec![
            offer.plan.clone(),
            count(offer.messages.into()),
            count(offer.extra_messages),
            offer.total_milli_twd.map_or_else(|| "-".to_owned(), twd),
            note.to_owned(),
        ]
    });
    table::print(&heads, rows.collect())
}

async fn quota(app: &App, args: QuotaArgs) -> Result<(), CliError> {
    need_schema(app).await?;
    let filter = SenderFilter {
        ids: (!args.ids.is_empty()).then_some(args.ids),
        channel: Some(Channel::Line),
        ..SenderFilter::default()
    };
    let asks = app.line_quota()?;
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for sender in senders::list(&app.db, &filter).await? {
        if sender.state == SenderState::Disconnected {
            continue;
        }
        let trouble = if args.stored {
            None
        } else {
            trouble(asks.ask(sender.id).await?)
        };
        let mut conn = db::begin(&app.db).await?;
        let view = quota_view(&mut conn, sender.id).await?;
        drop(conn);
        objects.push(json!({
            "id": sender.id, "name": sender.name, "quota": view, "left": view.as_ref().and_then(QuotaView::left),
            "trouble": trouble,
        }));
        rows.push(row(sender.id, &sender.name, view.as_ref(), trouble.as_deref()));
    }
    if args.json {
        return say(&Value::Array(objects).to_string());
    }
    if rows.is_empty() {
        return say("no LINE accounts");
    }
    let heads = [
        ("account", Align::Left),
        ("name", Align::Left),
        ("limit", Align::Right),
        ("used", Align::Right),
        ("reserved", Align::Right),
        ("left", Align::Right),
        ("as of", Align::Left),
        ("trouble", Align::Left),
    ];
    table::print(&heads, rows)
}

fn trouble(asked: Asked) -> Option<String> {
    match asked {
        Asked::Answered => None,
        Asked::Refused(problem) => Some(problem),
        Asked::Silent(_) => Some("LINE did not answer".to_owned()),
    }
}

fn row(id: SenderId, name: &str, view: Option<&QuotaView>, trouble: Option<&str>) -> Vec<String> {
    let dash = || "-".to_owned();
    let known = view.filter(|view| view.read_at.is_some());
    let limit = |view: &QuotaView| view.may_send.map_or_else(|| "none".to_owned(), number);
    vec![
        id.to_string(),
        plain::cell(name, 30),
        known.map_or_else(dash, limit),
        known.and_then(|view| view.used).map_or_else(dash, number),
        view.map_or_else(dash, |view| number(view.reserved)),
        known.and_then(QuotaView::left).map_or_else(dash, number),
        plain::moment_or_dash(known.and_then(|view| view.read_at)),
        plain::cell(trouble.unwrap_or("-"), 60),
    ]
}

/// Thousandths of a TWD as a person reads them: whole, or with two digits.
pub(super) fn twd(milli: u64) -> String {
    let cents = milli.div_ceil(10);
    match cents % 100 {
        0 => count(cents / 100),
        rest => format!("{}.{rest:02}", count(cents / 100)),
    }
}

fn count(n: u64) -> String {
    number(i64::try_from(n).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::twd;

    #[test]
    fn money_is_whole_or_has_two_digits() {
        assert_eq!(
            [0, 200, 1_200_000, 4_000_150].map(twd),
            ["0", "0.20", "1,200", "4,000.15"]
        );
    }
}
