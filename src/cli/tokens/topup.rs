//! `carillon tokens topup`: orders of extra tokens, from the request to the refund.
//!
//! Whoever changes an order gives a name, and it stands in the order's history and in the operators' log. A refused call says
//! why and has changed nothing; one that repeats what was done says so and is no error.

use carillon_jobs::{ShopId, TopUpId};
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    app::App,
    cli::{
        CliError, need_schema, plain, say,
        table::{self, Align},
    },
    top_up::{self, HistoryEntry, Moved, NewTopUp, Operator, Order, OrderFilter, TopUpError, TopUpState},
};

const TEXT_CHARS: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Place an order of one package, or several of it, at today's price
    Request {
        /// The shop's id
        #[arg(long, value_name = "ID")]
        shop: ShopId,
        /// Which package of the price list, in blocks
        #[arg(long, value_name = "BLOCKS", allow_negative_numbers = true)]
        package: i32,
        /// How many of it
        #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
        quantity: i32,
        #[command(flatten)]
        who: Who,
    },
    /// Show orders, the newest first
    List {
        /// Only of this shop
        #[arg(long, value_name = "ID")]
        shop: Option<ShopId>,
        /// Only in this state: requested, charged, settled, failed or refunded
        #[arg(long)]
        state: Option<TopUpState>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show one order and everything that happened to it
    Show {
        /// The order's id
        id: TopUpId,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say that an order was paid; its tokens come at the time the calendar gives for that
    MarkCharged {
        /// The order's id
        id: TopUpId,
        /// What the payment is called where it was taken; no card number, no person's name
        #[arg(long, value_name = "TEXT")]
        reference: String,
        /// When it was taken, with its offset: 2026-12-01T09:00:00+08:00; now if not given
        #[arg(long, value_name = "TIME", value_parser = time)]
        at: Option<DateTime<Utc>>,
        #[command(flatten)]
        who: Who,
    },
    /// End an order that was not paid
    Fail {
        /// The order's id
        id: TopUpId,
        /// Why, for whoever finds it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        who: Who,
    },
    /// Give an order back: take back its tokens, as many as the shop has left
    Refund {
        /// The order's id
        id: TopUpId,
        /// Take back only so many of its tokens; all of them if not given
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        tokens: Option<i64>,
        /// Why, for whoever finds it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Who {
    /// Your name
    #[arg(long, value_name = "NAME")]
    by: String,
    /// One JSON object: {"changed": …, "order": {…}}
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|_| "write a time with its offset: 2026-12-01T09:00:00+08:00".to_owned())
}

pub(in crate::cli) async fn run(app: App, command: Command) -> Result<(), CliError> {
    need_schema(&app).await?;
    let db = &app.db;
    match command {
        Command::Request {
            shop,
            package,
            quantity,
            who,
        } => {
            let new = NewTopUp {
                shop,
                package_blocks: package,
                quantity,
                by: who.by,
            };
            let order = top_up::request(db, &new).await?;
            let changed = true;
            tell(&app, Moved { changed, order }, who.json, "placed")
        }
        Command::List {
            shop,
            state,
            limit,
            json,
        } => list(&top_up::list(db, OrderFilter { shop, state, limit }).await?, json),
        Command::Show { id, json } => {
            let order = top_up::order(db, id).await?;
            show(&app, &order, &top_up::history(db, id).await?, json)
        }
        Command::MarkCharged { id, reference, at, who } => {
            let operator = Operator {
                by: who.by,
                reference,
                charged_at: at,
            };
            let moved = top_up::charge(db, &app.config.top_up, &operator, id).await?;
            // The same payment again is no error while the order waits; later it is a mistake to be told of.
            if !moved.changed && moved.order.state != TopUpState::Charged {
                let (state, asked) = (moved.order.state, "charged");
                return Err(TopUpError::WrongState {
                    order: id,
                    state,
                    asked,
                }
                .into());
            }
            tell(&app, moved, who.json, "charged")
        }
        Command::Fail { id, reason, who } => {
            tell(&app, top_up::fail(db, id, &reason, &who.by).await?, who.json, "failed")
        }
        Command::Refund {
            id,
            tokens,
            reason,
            who,
        } => tell(
            &app,
            top_up::refund(db, id, tokens, &reason, &who.by).await?,
            who.json,
            "refunded",
        ),
    }
}

fn tell(app: &App, moved: Moved, as_json: bool, done: &str) -> Result<(), CliError> {
    let Moved { changed, order } = moved;
    if as_json {
        return say(&json!({ "changed": changed, "order": order }).to_string());
    }
    if !changed {
        return say(&format!("order {} was {done} before; nothing has changed", order.id));
    }
    say(&format!(
        "order {} is {done}: {} tokens for {} TWD",
        order.id,
        table::number(order.tokens),
        table::number(order.price_twd)
    ))?;
    match order.state {
        TopUpState::Requested => say(&format!(
            "next: charge the shop {} TWD, then carillon tokens topup mark-charged {} --reference TEXT --by NAME",
            order.price_twd, order.id
        )),
        TopUpState::Charged => say(&format!("its tokens come at {}", local(app, order.credit_at))),
        TopUpState::Refunded => say(&format!(
            "taken back: {} tokens",
            table::number(order.refunded_tokens.unwrap_or(0))
        )),
        TopUpState::Settled | TopUpState::Failed => Ok(()),
    }
}

fn list(orders: &[Order], as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say_json(&orders);
    }
    if orders.is_empty() {
        return say("no orders");
    }
    let rows = orders.iter().map(|order| {
        vec![
            order.id.to_string(),
            order.shop_id.to_string(),
            order.state.to_string(),
            format!("{} × {}", order.quantity, order.package_blocks),
            table::number(order.tokens),
            table::number(order.price_twd),
            plain::moment(order.requested_at),
            plain::moment_or_dash(order.settled_at.or(order.credit_at)),
        ]
    });
    let heads = [
        ("order", Align::Left),
        ("shop", Align::Left),
        ("state", Align::Left),
        ("blocks", Align::Right),
        ("tokens", Align::Right),
        ("TWD", Align::Right),
        ("requested", Align::Left),
        ("credited, or will be", Align::Left),
    ];
    table::print(&heads, rows.collect())
}

fn show(app: &App, order: &Order, history: &[HistoryEntry], as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say_json(&json!({ "order": order, "history": history }));
    }
    let text = |text: &str| plain::cell(text, TEXT_CHARS);
    let mut lines = vec![
        format!("order {} is {}", order.id, order.state),
        format!("  shop      {}", order.shop_id),
        format!(
            "  blocks    {} of {}: {} tokens",
            order.quantity,
            order.package_blocks,
            table::number(order.tokens)
        ),
        format!(
            "  price     {} TWD, by {}",
            table::number(order.price_twd),
            text(&order.price_version)
        ),
    ];
    if let (Some(reference), Some(gateway)) = (&order.payment_reference, &order.gateway) {
        let at = plain::moment_or_dash(order.charged_at);
        lines.push(format!(
            "  payment   {} ({}), taken {at}",
            text(reference),
            text(gateway)
        ));
        lines.push(format!("  credit    {}", local(app, order.credit_at)));
    }
    if let Some(tokens) = order.refunded_tokens {
        lines.push(format!("  refunded  {} tokens taken back", table::number(tokens)));
    }
    lines.push(String::new());
    lines.iter().try_for_each(|line| say(line))?;
    let rows = history.iter().map(|entry| {
        vec![
            plain::moment(entry.at),
            entry.state.to_string(),
            text(&entry.by),
            text(&entry.why),
        ]
    });
    let heads = ["at", "state", "by", "why"].map(|head| (head, Align::Left));
    table::print(&heads, rows.collect())
}

/// A moment on the calendar that decided it.
fn local(app: &App, at: Option<DateTime<Utc>>) -> String {
    let zone = app.config.top_up.zone;
    at.map_or_else(
        || "-".to_owned(),
        |at| format!("{} {zone}", at.with_timezone(&zone).format("%a %Y-%m-%d %H:%M:%S")),
    )
}

fn say_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
    say(&text)
}

impl From<TopUpError> for CliError {
    fn from(error: TopUpError) -> Self {
        match error {
            TopUpError::Database(error) => error.into(),
            TopUpError::Uncertain(_) | TopUpError::Declined(_) | TopUpError::UnknownAnswer(_) => {
                Self::Failed(error.to_string())
            }
            TopUpError::NotFound(_)
            | TopUpError::NoShop(_)
            | TopUpError::NotSold(_)
            | TopUpError::Text { .. }
            | TopUpError::WrongState { .. }
            | TopUpError::OtherPayment(_)
            | TopUpError::ReferenceUsed
            | TopUpError::ChargedAhead
            | TopUpError::ChargedTooEarly
            | TopUpError::Amount { .. }
            | TopUpError::NotDue { .. }
            | TopUpError::OutOfRange { .. }
            | TopUpError::TooMuch { .. }
            | TopUpError::NotCredited(_) => Self::Wrong(error.to_string()),
        }
    }
}
