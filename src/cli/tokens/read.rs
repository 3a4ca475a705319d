//! `carillon tokens balance|ledger|usage|export`: reading, nothing else.

use std::io::{self, BufWriter};

use carillon_jobs::ShopId;
use serde_json::json;

use super::known;
use crate::{
    app::App,
    cli::{
        CliError, plain, say,
        table::{self, Align, Table, number},
    },
    ledger::{self, Entry, ExportError, Page, Period, Usage},
};

const OPERATION_CHARS: usize = 60;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Balance {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Ledger {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
    /// Only entries older than this one: the number of the last line shown
    #[arg(long, value_name = "ENTRY")]
    before: Option<i64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct UsageArgs {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
    /// How many months, this one included
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    months: u16,
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Export {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
    /// Only this month by the shop's clock, such as 2026-11
    #[arg(long, value_name = "MONTH")]
    month: Option<Period>,
}

pub(super) async fn balance(app: &App, args: Balance) -> Result<(), CliError> {
    known(app, args.shop).await?;
    let balance = ledger::balance(&app.db, args.shop).await?;
    if args.json {
        return say(&json!({
            "shop_id": args.shop, "period": balance.period, "allowance": balance.allowance, "extra": balance.extra,
            "held_allowance": balance.held_allowance, "held_extra": balance.held_extra, "available": balance.available(),
        })
        .to_string());
    }
    let mut table = Table::new(&["tokens", "balance", "held", "to spend"]);
    for (name, has, held) in [
        ("allowance", balance.allowance, balance.held_allowance),
        ("extra", balance.extra, balance.held_extra),
        ("together", balance.allowance + balance.extra, balance.held()),
    ] {
        table.row([name.to_owned(), number(has), number(held), number(has - held)]);
    }
    table.lines().iter().try_for_each(|line| say(line))?;
    match balance.period {
        Some(period) => say(&format!(
            "\nthe allowance is that of {period}; extra tokens do not expire"
        )),
        None => say("\nno allowance was granted yet; extra tokens do not expire"),
    }
}

pub(super) async fn ledger(app: &App, args: Ledger) -> Result<(), CliError> {
    known(app, args.shop).await?;
    let page = Page {
        before: args.before,
        limit: args.limit,
    };
    let entries = ledger::entries(&app.db, args.shop, page).await?;
    if args.json {
        return say(&json!(entries).to_string());
    }
    if entries.is_empty() {
        return say("no entries");
    }
    let heads = [
        ("entry", Align::Right),
        ("at", Align::Left),
        ("kind", Align::Left),
        ("allowance", Align::Right),
        ("extra", Align::Right),
        ("held", Align::Right),
        ("to spend after", Align::Right),
        ("cause", Align::Left),
    ];
    table::print(&heads, entries.iter().map(entry_row).collect())?;
    match entries.last() {
        Some(last) if entries.len() == usize::from(args.limit) => say(&format!(
            "\nolder: carillon tokens ledger --shop {} --before {}",
            args.shop, last.id
        )),
        _ => Ok(()),
    }
}

fn entry_row(entry: &Entry) -> Vec<String> {
    let after = entry.allowance_after - entry.held_allowance_after + entry.extra_after - entry.held_extra_after;
    let cause = match entry.channel {
        Some(channel) => format!("{} ({channel})", entry.operation),
        None => entry.operation.clone(),
    };
    vec![
        entry.id.to_string(),
        plain::moment(entry.at),
        entry.kind.as_str().to_owned(),
        signed(entry.allowance),
        signed(entry.extra),
        signed(entry.held_allowance + entry.held_extra),
        number(after),
        plain::cell(&cause, OPERATION_CHARS),
    ]
}

/// A change: with its sign, and nothing where nothing moved.
pub(super) fn signed(tokens: i64) -> String {
    match tokens {
        0 => String::new(),
        1.. => format!("+{}", number(tokens)),
        _ => number(tokens),
    }
}

pub(super) async fn usage(app: &App, args: UsageArgs) -> Result<(), CliError> {
    known(app, args.shop).await?;
    let usage = ledger::usage(&app.db, args.shop, args.months).await?;
    if args.json {
        return say(&json!(usage).to_string());
    }
    if usage.is_empty() {
        return say("nothing was spent");
    }
    let mut table = Table::aligned(&[
        ("month", Align::Left),
        ("channel", Align::Left),
        ("captured", Align::Right),
        ("refunded", Align::Right),
        ("spent", Align::Right),
    ]);
    for month in usage.chunk_by(|one, next| one.month == next.month) {
        for one in month {
            let channel = one
                .channel
                .map_or_else(|| "-".to_owned(), |channel| channel.to_string());
            table.row(usage_row(&one.month, &channel, std::slice::from_ref(one)));
        }
        if let [first, _, ..] = month {
            table.row(usage_row(&first.month, "together", month));
        }
    }
    table.lines().iter().try_for_each(|line| say(line))
}

fn usage_row(month: &str, channel: &str, of: &[Usage]) -> [String; 5] {
    let sum = |tokens: fn(&Usage) -> i64| number(of.iter().map(tokens).sum());
    [
        month.to_owned(),
        channel.to_owned(),
        sum(|one| one.captured),
        sum(|one| one.refunded),
        sum(|one| one.spent),
    ]
}

pub(super) async fn export(app: &App, args: Export) -> Result<(), CliError> {
    known(app, args.shop).await?;
    // Not the lock of standard output: it may not be held while waiting for the next page.
    let mut out = BufWriter::new(io::stdout());
    match ledger::export(&app.db, args.shop, args.month, &mut out).await {
        Ok(_) => Ok(()),
        // A reader that went away (`| head`) is no error.
        Err(ExportError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(ExportError::Output(error)) => Err(error.into()),
        Err(ExportError::Ledger(error)) => Err(error.into()),
    }
}
