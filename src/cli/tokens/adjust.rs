//! `carillon tokens adjust`: corrections of a balance by hand. One person asks and says why, another one approves.
//!
//! Names are what people give with `--by`; whoever may run this command is trusted to give their own.

use carillon_jobs::ShopId;
use serde_json::json;

use super::{known, read::signed};
use crate::{
    app::App,
    cli::{
        CliError, plain, say,
        table::{self, Align},
    },
    ledger::{self, AdjustError, AdjustmentState, Decided, Decision, NewAdjustment},
};

const TEXT_CHARS: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Ask for a correction; nothing moves until another person approves it
    Request {
        /// The shop's id
        #[arg(long, value_name = "ID")]
        shop: ShopId,
        /// Tokens to add to the allowance; -N takes away
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        allowance: i64,
        /// Tokens to add to the extra tokens; -N takes away
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        extra: i64,
        /// Why, for whoever approves it and whoever asks later
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        who: Who,
    },
    /// Show requests, the newest first
    List {
        /// Only of this shop
        #[arg(long, value_name = "ID")]
        shop: Option<ShopId>,
        /// Only those that wait for a second person
        #[arg(long)]
        waiting: bool,
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Agree to a request: its tokens move at once. Not by the person who asked
    Approve {
        /// The request's number
        id: i64,
        #[command(flatten)]
        who: Who,
    },
    /// Refuse a request, or take it back
    Reject {
        /// The request's number
        id: i64,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Who {
    /// Who does it; it stands in the operators' log
    #[arg(long, value_name = "NAME")]
    by: String,
    /// One JSON object: {"id": …, "state": …, "changed": …}
    #[arg(long)]
    json: bool,
}

impl From<AdjustError> for CliError {
    fn from(error: AdjustError) -> Self {
        match error {
            AdjustError::Database(cause) => cause.into(),
            AdjustError::NoRequest(_) => Self::Wrong(format!("{error}: `carillon tokens adjust list` shows them")),
            AdjustError::NoAccount(_)
            | AdjustError::Overdrawn
            | AdjustError::SamePerson
            | AdjustError::Nothing
            | AdjustError::Text => Self::Wrong(format!("{error}; nothing was changed")),
        }
    }
}

pub(super) async fn run(app: &App, command: Command) -> Result<(), CliError> {
    match command {
        Command::Request {
            shop,
            allowance,
            extra,
            reason,
            who,
        } => {
            known(app, shop).await?;
            let new = NewAdjustment {
                shop,
                allowance,
                extra,
                reason,
                by: who.by,
            };
            let id = ledger::request_adjustment(&app.db, &new).await?;
            if who.json {
                return told(id, AdjustmentState::Requested, true);
            }
            say(&format!("adjustment {id} is requested; nothing has moved"))?;
            say(&format!(
                "next: another person approves it: carillon tokens adjust approve {id} --by NAME"
            ))
        }
        Command::List { shop, waiting, json } => list(app, shop, waiting, json).await,
        Command::Approve { id, who } => decide(app, id, Decision::Approve, &who).await,
        Command::Reject { id, reason, who } => decide(app, id, Decision::Reject(reason), &who).await,
    }
}

async fn decide(app: &App, id: i64, decision: Decision, who: &Who) -> Result<(), CliError> {
    let wanted = match decision {
        Decision::Approve => AdjustmentState::Applied,
        Decision::Reject(_) => AdjustmentState::Rejected,
    };
    let changed = match ledger::decide_adjustment(&app.db, id, decision, &who.by).await? {
        Decided::Done => true,
        Decided::Repeated => false,
        Decided::Otherwise(state) => {
            return Err(CliError::Wrong(format!(
                "adjustment {id} was {} before and stays so; ask for another one",
                state.as_str()
            )));
        }
    };
    if who.json {
        return told(id, wanted, changed);
    }
    let before = if changed { "" } else { " already" };
    say(&format!("adjustment {id} is{before} {}", wanted.as_str()))
}

fn told(id: i64, state: AdjustmentState, changed: bool) -> Result<(), CliError> {
    say(&json!({"id": id, "state": state, "changed": changed}).to_string())
}

async fn list(app: &App, shop: Option<ShopId>, waiting: bool, as_json: bool) -> Result<(), CliError> {
    if let Some(shop) = shop {
        known(app, shop).await?;
    }
    let all = ledger::adjustments(&app.db, shop, waiting).await?;
    if as_json {
        return say(&json!(all).to_string());
    }
    if all.is_empty() {
        return say("no adjustments");
    }
    let heads = [
        ("id", Align::Right),
        ("shop", Align::Left),
        ("allowance", Align::Right),
        ("extra", Align::Right),
        ("state", Align::Left),
        ("asked by", Align::Left),
        ("at", Align::Left),
        ("decided by", Align::Left),
        ("reason", Align::Left),
    ];
    let rows = all.iter().map(|one| {
        vec![
            one.id.to_string(),
            one.shop_id.to_string(),
            signed(one.allowance),
            signed(one.extra),
            one.state.as_str().to_owned(),
            plain::cell(&one.requested_by, TEXT_CHARS),
            plain::moment(one.requested_at),
            plain::cell(one.decided_by.as_deref().unwrap_or("-"), TEXT_CHARS),
            plain::cell(one.decided_why.as_deref().unwrap_or(&one.reason), TEXT_CHARS),
        ]
    });
    table::print(&heads, rows.collect())
}
